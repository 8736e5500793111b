"""Parts: the Python objects behind the `use` lines of a program, built or taken from the caller.

Runs registered constructors, and nothing else that a recipe names. Reports B601, B602, B606, B608, B609, B617 and,
from compiled networks, B304, B305, B603.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from bilevel import ir
from bilevel.backends.torch_func.tree import leaves, tree_map
from bilevel.dsl import nodes
from bilevel.dsl.datatypes import Array, Model
from bilevel.dsl.parts import constant, not_registered
from bilevel.errors import Diagnostic, RecipeError, Span, fail
from bilevel.hidden_noise import check_noise
from bilevel.registry import Registry
from bilevel.streams import check_streams, placed_stream


@dataclass(frozen=True, slots=True)
class Parts:
    """Built parts by name, on one device and of one dtype."""

    objects: Mapping[str, Any]
    device: torch.device
    dtype: torch.dtype
    patterns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """by the name of a network, the patterns that its registration has for named groups of parameters"""


def bind(
    program: ir.Program, registry: Registry, given: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> Parts:
    """All parts of a program; raises RecipeError with every part that is missing or cannot be built."""
    numbers = {p.name: p.value for p in program.params if isinstance(p.value, int | float)}
    built: dict[str, Any] = {}
    problems: list[Diagnostic] = [*_not_wanted(program, given)]
    for use in program.uses:
        try:
            part = given[use.name] if use.name in given else _build(use, registry, built, numbers)
            check_streams(part, use)
            built[use.name] = _placed(part, use, device, dtype)
        except RecipeError as error:
            problems += error.diagnostics
    if problems:
        raise RecipeError(problems)
    patterns = {u.name: dict(u.description.parts) for u in program.uses if u.description is not None}
    return Parts(built, device, dtype, patterns)


def _not_wanted(program: ir.Program, given: Mapping[str, Any]) -> list[Diagnostic]:
    known = [u.name for u in program.uses]
    note = f"its parts: {', '.join(known)}"
    return [Diagnostic("B601", f"`{program.name}` has no part `{n}`", note=note) for n in given if n not in known]


def _build(use: ir.Use, registry: Registry, built: Mapping[str, Any], numbers: Mapping[str, int | float]) -> Any:
    if use.value is None and use.name in registry.entries:
        called = nodes.Call(nodes.Name(use.name, span=use.span), (), span=use.span)
        return _evaluate(called, registry, built, numbers)
    if use.value is None:
        raise RecipeError([_left_open(use)])
    return _evaluate(use.value, registry, built, numbers)


def _left_open(use: ir.Use) -> Diagnostic:
    given = "my_module" if isinstance(use.type, Model) else "my_tensor" if isinstance(use.type, Array) else "my_part"
    return Diagnostic(
        "B601",
        f"`{use.name}` is left open and was not given",
        use.span,
        "to be filled in by the caller",
        fix=f'bilevel.compile("{use.span.source.name}", {use.name} = {given})\n'
        f'or on the command line:  bilevel run {use.span.source.name} --with my_bindings   (which registers "{use.name}")',
    )


def _evaluate(
    value: nodes.Expr, registry: Registry, built: Mapping[str, Any], numbers: Mapping[str, int | float]
) -> Any:
    """A literal, a list, a name of another part or param, or a registered constructor with such arguments."""
    match value:
        case nodes.String(text):
            return text
        case nodes.ListOf(items):
            return [_evaluate(item, registry, built, numbers) for item in items]
        case nodes.Name(name) if name in built:
            return built[name]
        case nodes.Name(name) if name in registry.entries:
            return registry.entries[name].build
        case nodes.Call(nodes.Name("pair"), arguments):
            fields = {a.name or "": _evaluate(a.value, registry, built, numbers) for a in arguments}
            return namedtuple("Pair", fields)(**fields)
        case nodes.Call(nodes.Name(name), arguments):
            return _construct(value, name, arguments, registry, built, numbers)
    number = constant(value, numbers)
    if number is None:
        raise fail("B601", f"`{value.span.text}` was not given", value.span)
    return number


def _construct(
    value: nodes.Call,
    name: str,
    arguments: tuple[nodes.Argument, ...],
    registry: Registry,
    built: Mapping[str, Any],
    numbers: Mapping[str, int | float],
) -> Any:
    if name not in registry.entries:
        raise RecipeError([not_registered(name, value.function.span, registry.manifest)])
    positional = [_evaluate(a.value, registry, built, numbers) for a in arguments if a.name is None]
    named = {a.name: _evaluate(a.value, registry, built, numbers) for a in arguments if a.name is not None}
    try:
        return registry.entries[name].build(*positional, **named)
    except RecipeError as error:
        raise RecipeError([_at(d, value.span) for d in error.diagnostics]) from error
    except Exception as error:  # whatever a user's constructor raises becomes a message with its place
        raise RecipeError([_raised(name, value.span, error)]) from error


def _at(diagnostic: Diagnostic, span: Span) -> Diagnostic:
    from dataclasses import replace

    return diagnostic if diagnostic.span is not None else replace(diagnostic, span=span)


def _raised(name: str, span: Span, error: Exception) -> Diagnostic:
    return Diagnostic(
        "B608",
        f"`{name}` raised {type(error).__name__} while it was built",
        span,
        why=str(error) or "it gave no reason",
        fix=f"call {name}(...) in Python with these arguments to see the whole traceback",
    )


# ---- placing and checking ------------------------------------------------------------------------------------


def _placed(part: Any, use: ir.Use, device: torch.device, dtype: torch.dtype) -> Any:
    """The part on the device, real numbers in the dtype; networks and data are looked over first."""
    if isinstance(part, nn.Module):
        _check_state(part, use)
        check_noise(part, use)
        return part
    if isinstance(part, torch.Tensor) or _is_record(part):
        _check_finite(part, use)
        return tree_map(lambda leaf: _moved(leaf, device, dtype), part)
    if isinstance(part, tuple | list):
        items = [_placed(item, use, device, dtype) for item in part]
        return type(part)(*items) if hasattr(part, "_fields") else items
    return placed_stream(part, use, device, dtype)  # streams, frozen networks


def _is_record(part: Any) -> bool:
    """Whether a part is made of tensors throughout."""
    if isinstance(part, tuple) and hasattr(part, "_fields"):
        return all(isinstance(f, torch.Tensor) or _is_record(f) for f in part)
    return False


def _moved(leaf: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return leaf.to(device=device, dtype=dtype if leaf.is_floating_point() else leaf.dtype)


def _check_finite(part: Any, use: ir.Use) -> None:
    for leaf in leaves(part):
        bad = int((~torch.isfinite(leaf)).sum()) if leaf.is_floating_point() else 0
        if bad:
            message = f"`{use.name}` holds {bad} number{'s' * (bad != 1)} that {'are' if bad != 1 else 'is'} not finite"
            why = "one NaN in a batch makes every number after it a NaN"
            raise fail("B609", message, use.span, why=why, fix="clean the data, or leave those samples out")


def _check_state(module: nn.Module, use: ir.Use) -> None:
    """B603: a module that changes itself is no function of its inputs."""
    iterated = next((m for m in module.modules() if m.training and _has_spectral_norm(m)), None)
    if iterated is not None:
        raise fail(
            "B603",
            f"`{use.name}` changes itself while it runs",
            use.value.span if use.value is not None else use.span,
            label="spectral_norm makes a step of its power iteration in place in every call",
            why="a level must be a function of its inputs: the number of calls would change the numbers",
            fix="call .eval() on it before it is given, which keeps the vectors that it has",
        )
    kinds = [
        (name, m) for name, m in module.named_modules() if getattr(m, "running_mean", None) is not None and m.training
    ]
    if not kinds:
        return
    kind = type(kinds[0][1]).__name__
    count = len(kinds)
    raise fail(
        "B603",
        f"`{use.name}` changes itself while it runs",
        use.value.span if use.value is not None else use.span,
        label=f"{count} {kind} layer{'s' * (count != 1)} update running_mean and running_var in place",
        why="a level must be a function of its inputs; hidden state breaks vmap and makes the\n"
        "hypergradient wrong without any message",
        fix='a network with norm = "batch_stats", which uses the statistics of the batch only\n'
        "or call .eval() on it before it is given, which freezes the statistics",
    )


def _has_spectral_norm(module: nn.Module) -> bool:
    """Whether a weight is divided by its largest singular value: a parametrization of torch's, or its older hook."""
    kinds = (type(module), *(type(hook) for hook in module._forward_pre_hooks.values()))
    return any((k.__module__ or "").startswith("torch.nn.utils") and "SpectralNorm" in k.__name__ for k in kinds)
