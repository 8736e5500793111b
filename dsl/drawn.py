"""Draws that use what is optimised: a draw has no derivative, so one that would have passed is lost. Reports B406.

Takes a well-typed program. Asks for every level that follows a gradient whether its objective reaches one of its
variables through a draw; `stop` around the variable in the draw says that this is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bilevel import ir
from bilevel.dsl.dependence import sources
from bilevel.dsl.solvers import SOLVERS
from bilevel.errors import Diagnostic, Related

Draw = ir.Draw | ir.Index


def check_draws(program: ir.Program) -> Iterator[Diagnostic]:
    """One message for each draw through which a derivative would have passed."""
    draws: dict[str, Draw] = {d.name: d for level in program.walk_levels() for d in level.draws}
    draws |= {i.name: i for level in program.walk_levels() for i in level.indices}
    levels = {name: level for level in program.walk_levels() for name in level.names}
    for level in reversed(list(program.walk_levels())):  # an inner level is nearer to its draws
        if not _follows_gradient(level):
            continue
        reached = _closure(_objectives(level), level, draws, levels)
        for draw in (draws[name] for name in sorted(reached & draws.keys())):
            for name in sorted(drawn_with(draw)):
                if set(level.names) & _closure(frozenset({name}), level, draws, levels):
                    yield _lost(program, level, draw, name)
                    break


def drawn_with(draw: Draw) -> frozenset[str]:
    """The variables and solutions that a draw uses, except under `stop`."""
    source = draw.source.source if isinstance(draw.source, ir.Sample) else draw.source
    return source.depends


def _follows_gradient(level: ir.Level) -> bool:
    forms = [SOLVERS.get(solver.name) for phase in level.phases for solver in phase.solvers]
    return any(form is None or form.needs == "gradient" for form in forms)


def _objectives(level: ir.Level) -> frozenset[str]:
    return live(level.objective.value) if level.objective is not None else frozenset()


def _closure(
    names: frozenset[str], level: ir.Level, draws: Mapping[str, Draw], levels: Mapping[str, ir.Level]
) -> set[str]:
    """All that some names lead to if a derivative passed through draws: through these, and through levels inside."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        if name in draws:
            waiting += drawn_with(draws[name])
        elif name in levels and _is_inside(levels[name], level):
            waiting += [n for expr in sources(levels[name]) for n in live(expr)]
    return found


def _is_inside(inner: ir.Level, level: ir.Level) -> bool:
    return any(inner == other or _is_inside(inner, other) for other in level.levels)


def live(expr: ir.Expr) -> frozenset[str]:
    """The names that an expression reads and a derivative could come from: draws too, what is under `stop` not."""
    match expr:
        case ir.Builtin(function="stop" | "warm"):
            return frozenset()
        case ir.Read(name=name):
            return frozenset({name})
        case ir.IterateOf(name=name, at=at):
            return frozenset({name}) | live(at)
        case ir.CallLet(parameters=parameters, arguments=arguments, body=body):
            inside = live(body)
            given = [live(a) for p, a in zip(parameters, arguments, strict=True) if p in inside]
            return (inside - frozenset(parameters)).union(*given)
    return frozenset[str]().union(*map(live, ir.children(expr)))


def _lost(program: ir.Program, level: ir.Level, draw: Draw, name: str) -> Diagnostic:
    source = draw.source.source if isinstance(draw.source, ir.Sample) else draw.source
    read = next((e for e in ir.walk(source) if isinstance(e, ir.Read | ir.IterateOf) and e.name == name), source)
    used = next((e for e in _expressions(program) if isinstance(e, ir.Read) and e.name == draw.name), None)
    return Diagnostic(
        "B406",
        f"`{draw.name}` is drawn with `{name}`, which `{level.name}` differentiates; no derivative passes through a draw",
        read.span,
        "the draw depends on it",
        () if used is None else (Related(used.span, f"`{draw.name}` is used here"),),
        why=f"the gradient would lack what `{name}` does to `{draw.name}`",
        fix=f"{_shifted(draw)}, a score-function term, or stop({name}) to say you mean it",
    )


def _expressions(program: ir.Program) -> Iterator[ir.Expr]:
    for level in program.walk_levels():
        for expr in sources(level):
            yield from ir.walk(expr)


def _shifted(draw: Draw) -> str:
    """The draw as a fixed one, moved and scaled."""
    source = draw.source.source if isinstance(draw.source, ir.Sample) else draw.source
    if isinstance(source, ir.Builtin) and source.function in ("normal", "uniform") and len(source.arguments) == 2:
        first, second = (a.span.text for a in source.arguments)
        shape = draw.source.span.text[len(source.span.text) :]
        if source.function == "normal":
            scaled = "e" if second == "1" else f"{second} * e"
            return f"{first} + {scaled} with e ~ normal(0, 1){shape}"
        return f"{first} + ({second} - {first}) * e with e ~ uniform(0, 1){shape}"
    return "mu + sigma * e with e ~ normal(0, 1)[n]"
