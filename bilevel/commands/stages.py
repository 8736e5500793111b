"""The stages of the compiler as text, for `bilevel plan --stage`: what each of them knows that the one before did not."""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.commands.console import aligned
from bilevel.dsl.format import print_recipe
from bilevel.plan import Plan, spelled
from bilevel.recipe import Recipe


def parsed(recipe: Recipe) -> str:
    """The syntax tree of the file itself, printed as a recipe: no parent merged, no setting replaced."""
    return print_recipe(recipe.written)


def typed(program: ir.Program) -> str:
    """The checked program: every name with its type, its copies, what it reads and how smooth it is."""
    rows = [("name", "what", "type", "per", "depends on", "smoothness", "at")]
    rows += [(use.name, "part", str(use.type), "", "", "", str(use.span)) for use in program.uses]
    rows += [(one.name, "param", repr(one.value), "", "", "", str(one.span)) for one in program.params]
    for level in program.walk_levels():
        rows += _typed_level(level)
    return "\n".join(aligned(rows))


def _typed_level(level: ir.Level) -> Iterator[tuple[str, str, str, str, str, str, str]]:
    per = ", ".join(level.copies)
    place = f"inside {level.parent}" if level.parent else "outermost"
    yield level.name, "level", place, per, "", "", str(level.span)
    for variable in level.variables:
        domain = variable.kept[0] if variable.kept is not None else variable.domain
        domain = f" in {domain}" if domain else ""
        yield variable.name, "variable", f"{variable.type}{domain}", per, "", "", str(variable.span)
    for index in level.indices:
        yield index.name, "index", str(index.type), per, "", "", str(index.span)
    for draw in level.draws:
        yield draw.name, "draw", str(draw.type), per, "", "", str(draw.span)
    if level.objective is not None:
        yield level.objective.sense, "objective", *_value(level.objective.value), str(level.objective.span)
    for report in level.reports:
        yield report.name, "report", *_value(report.value), str(report.span)


def _value(value: ir.Expr) -> tuple[str, str, str, str]:
    return str(value.type), ", ".join(value.axes), ", ".join(sorted(value.depends)), value.smooth.name.lower()


def lowered(plan: Plan) -> str:
    """The steps of the plan in the order in which they are emitted; nothing of how they are differentiated."""
    rows = [("step", "runs", "per", "at")]
    rows += [(step.name, f"x {step.repeats}", ", ".join(step.copies), str(step.span)) for step in plan.steps]
    return "\n".join(aligned(rows))


def scheduled(plan: Plan) -> str:
    """The decision for every level below the outermost ones, and every step with what it waits for."""
    rows = [("level", "mode", "class", "by", "how")]
    for choice in plan.choices.values():
        by = "the schedule" if choice.pinned else "the planner"
        how = "no derivative" if choice.adjoint is None else spelled(choice.adjoint)
        rows.append((choice.level, choice.mode, choice.exactness, by, how))
    steps = [("step", "after")]
    for step in plan.steps:
        before = sorted(f"{a} ({kind})" for (a, b), kind in plan.flow.edges.items() if b == step.name)
        steps.append((step.name, ", ".join(before)))
    return "\n".join([*aligned(rows), "", *aligned(steps)])
