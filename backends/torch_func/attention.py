"""Attention that can be differentiated twice: which networks use the fused kernels, and how they are kept from them.

torch's fused kernels for attention have neither forward derivatives nor second ones; its composite ("math") kernel
has both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

FUSED = frozenset({"scaled_dot_product_attention"})


def attends(module: nn.Module) -> bool:
    """Whether a network calls torch's attention: by a layer of torch's, or in code of its own."""
    return any(isinstance(m, nn.MultiheadAttention) for m in module.modules()) or module_calls(module, FUSED)


def module_calls(module: nn.Module, wanted: frozenset[str]) -> bool:
    """Whether code of a network's own classes uses one of these names."""
    known: set[CodeType] = set()
    return any(class_calls(type(m), wanted, known) for m in module.modules())


def class_calls(kind: type, wanted: frozenset[str], known: set[CodeType]) -> bool:
    """Whether a method of a class that is not torch's uses one of these names; `known` are pieces of code that do not."""
    bases = [base for base in kind.__mro__ if not (base.__module__ or "").startswith(("torch.", "builtins"))]
    methods = [value for base in bases for value in vars(base).values() if isinstance(value, FunctionType)]
    return any(function_calls(method, wanted, known) for method in methods)


def function_calls(function: FunctionType, wanted: frozenset[str], known: set[CodeType]) -> bool:
    """Whether a function, or one of its module that it calls, uses one of these names."""
    if function.__code__ in known:
        return False
    known.add(function.__code__)
    names = set(code_names(function.__code__))
    if wanted & names:
        return True
    called = [function.__globals__.get(name) for name in names]
    own = [f for f in called if isinstance(f, FunctionType) and not (f.__module__ or "").startswith("torch.")]
    return any(function_calls(f, wanted, known) for f in own)


def code_names(code: CodeType) -> Iterator[str]:
    """The names that a piece of code, and the functions inside it, use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_names(constant)


@contextmanager
def unfused() -> Iterator[None]:
    """While it lasts, attention runs by the composite kernel, and torch's layers take no short cut around it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    mha: Any = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)
