"""Variables on the edge of their domain: in free coordinates nothing moves them any more. Reports B703.

Takes values of the outermost variables; only domains whose free coordinates the solver steps in have such edges.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel import ir
from bilevel.backends.torch_func.tree import leaves
from bilevel.errors import Diagnostic, Span


def edge_warnings(level: ir.Level, values: Mapping[str, Any]) -> dict[str, Diagnostic]:
    """B703 by variable, for every variable of a level that has numbers on the edge of its domain."""
    found: dict[str, Diagnostic] = {}
    for variable in level.variables:
        if variable.domain is None or variable.name not in values:
            continue
        parts = leaves(values[variable.name])
        count = sum(on_edge(part, variable.domain, variable.domain_arguments) for part in parts)
        if count:
            found[variable.name] = _warning(variable, count, sum(part.numel() for part in parts))
    return found


def on_edge(value: Tensor, domain: str, bounds: tuple[float, ...]) -> int:
    """How many numbers are so close to the edge that the derivative of the domain's map is 0 to rounding.

    For `psd` the numbers are eigenvalues; an orthogonal matrix has no edge.
    """
    noise = torch.finfo(value.dtype).eps
    match domain:
        case "positive" | "nonnegative" | "simplex":
            return int((value <= noise * noise).sum())
        case "unit":
            return int(((value <= noise * noise) | (value >= 1 - noise)).sum())
        case "between":
            width = (bounds[1] - bounds[0]) * noise
            return int(((value <= bounds[0] + width) | (value >= bounds[1] - width)).sum())
        case "psd":
            eigenvalues = torch.linalg.eigvalsh(value)
            return int((eigenvalues <= noise * eigenvalues.amax(-1, keepdim=True)).sum())
    return 0


def _warning(variable: ir.Variable, count: int, total: int) -> Diagnostic:
    span = Span(variable.span.source, variable.span.start, variable.span.start + len(variable.name))
    return Diagnostic(
        "B703",
        f"`{variable.name}` sits on the edge of its domain ({count} of {total} numbers)",
        span,
        f"in {variable.domain}",
        why="in free coordinates the derivative there is 0, so these numbers do not move any more",
        fix="a start inside the domain, or a smaller step size; pgd(lr) steps in the variable's own coordinates",
        severity="warning",
    )
