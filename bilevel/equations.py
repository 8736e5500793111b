"""A level as one line of mathematics, in plain text: what a plan prints first."""

from __future__ import annotations

from bilevel import ir
from bilevel.plan import repeats_of


def equation(level: ir.Level) -> tuple[str, str]:
    """Left and right side: `theta* = argmin ...` for what is trained, `phi = 5 steps of ...` for what is solved."""
    names = ", ".join(level.names)
    if level.parent is None:
        word = "argmax" if level.objective is not None and level.objective.sense == "maximize" else "argmin"
        return f"{names}*", f"{word}  {_objective(level)}"
    return names, f"{duration(level)} of {solver(level)} on {_objective(level)}{_start(level)}"


def _objective(level: ir.Level) -> str:
    return "-" if level.objective is None else one_line(level.objective.value.span.text)


def one_line(text: str) -> str:
    """A piece of a recipe with its line breaks and comments taken out."""
    joined = " ".join(part for line in text.split("\n") for part in line.partition("#")[0].split())
    return joined.replace("( ", "(").replace(" )", ")")


def _start(level: ir.Level) -> str:
    starts = [f"{v.start.span.text}" for v in level.variables if v.start is not None]
    return f", from {', '.join(dict.fromkeys(starts))}" if starts else ""


def solver(level: ir.Level) -> str:
    """The solvers as the recipe spells them."""
    return ", ".join(s.span.text for s in level.phases[0].solvers)


def duration(level: ir.Level) -> str:
    """`5 steps`, `until stationary(1e-3) within 64 steps`."""
    found = level.phases[-1].duration
    match found:
        case ir.Steps(unit=unit):
            count = repeats_of(level)
            return f"{count} {unit.rstrip('s') if count == '1' else unit}"
        case ir.Until():
            return one_line(found.span.text)
    return "closed form"
