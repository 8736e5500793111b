"""Emitted modules built with kernels in place of their marked functions."""

from __future__ import annotations

from typing import Any

import torch

from bilevel.backends.torch_func.trace.compilers import Kind
from bilevel.backends.torch_func.trace.kernels import Kernels
from tests.zoo.compiled import Compiled


def with_kernels(
    compiled: Compiled, kind: Kind = "fx", dtype: torch.dtype = torch.float64
) -> tuple[tuple[Any, ...], Kernels]:
    """The outermost levels of a compiled recipe, with kernels."""
    kernels = Kernels(kind, dtype, torch.device("cpu"))
    return compiled.module.build(*compiled.parts.values(), dtype=dtype, kernels=kernels), kernels
