"""Networks whose outputs depend on the whole batch, called on one sample: asked once the networks are built.

Takes a checked program and its parts. Reports B604: over a single sample the mean of a batch is the sample itself, so
that normalisation would leave nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from bilevel import ir
from bilevel.binding import Parts
from bilevel.errors import Diagnostic, RecipeError, Related, Span
from bilevel.facts import readers
from bilevel.recipes.networks import BatchStatistics


def check_samples(program: ir.Program, parts: Parts) -> None:
    """Raises RecipeError for every call of a network with batch statistics on one sample."""
    problems: dict[Span, Diagnostic] = {}
    for level in program.walk_levels():
        for expr in (*readers(level), *(r.value for r in level.reports)):
            for problem in _alone(parts, level, expr, None):
                assert problem.span is not None
                problems.setdefault(problem.span, problem)
    if problems:
        raise RecipeError(list(problems.values()))


def has_batch_statistics(module: object) -> bool:
    """Whether a part is a network with a layer that normalises by the statistics of its batch."""
    return isinstance(module, nn.Module) and any(map(_normalises, module.modules()))


def _normalises(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return layer.training or layer.running_mean is None
    return isinstance(layer, BatchStatistics)


def _alone(parts: Parts, level: ir.Level, expr: ir.Expr, call: ir.CallLet | None) -> Iterator[Diagnostic]:
    """The calls on one sample in an expression; `call` is the let around it."""
    if isinstance(expr, ir.Apply) and expr.single and isinstance(expr.network, ir.Read):
        if has_batch_statistics(parts.objects.get(expr.network.name)):
            yield _needs_batch(level, expr, call)
    inner = call or (expr if isinstance(expr, ir.CallLet) else None)
    for child in ir.children(expr):
        yield from _alone(parts, level, child, inner)


def _needs_batch(level: ir.Level, expr: ir.Apply, call: ir.CallLet | None) -> Diagnostic:
    axes = [axis for axis in expr.input.axes if axis in level.copies]
    what = "has one copy per sample" if axes else "gives the network one sample at a time"
    return Diagnostic(
        "B604",
        f"batch statistics need a batch: `{level.name}` {what}",
        expr.span,
        "one sample",
        () if call is None else (Related(call.span, f"`{call.name}` is called here"),),
        why="the mean over a batch of one is the sample itself, so nothing of it would be left",
        fix='norm = "layer"',
    )
