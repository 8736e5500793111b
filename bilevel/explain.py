"""The text of a plan: what is solved, how often, how large, and how each level is differentiated and why.

The same plan gives the same bytes; without parts (`--symbolic`) nothing of torch is imported and sizes are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from bilevel import ir
from bilevel.chunks import chunk_of, is_ragged
from bilevel.dsl.datatypes import Array, ListType, Tree
from bilevel.equations import duration, equation, one_line, solver
from bilevel.errors import fail
from bilevel.kinds import is_searched, kind
from bilevel.modes import Implicit, Leaping, Perturb, Substitute, Tangents, Unroll
from bilevel.modes.closed_form import formula
from bilevel.plan import Plan, repeats_of
from bilevel.table import fact_lines, table, totals, verdict

if TYPE_CHECKING:
    from bilevel.binding import Parts


def plan_text(plan: Plan, parts: Parts | None = None) -> str:
    """The plan as a page of text, ending in a line break; `parts` add the sizes of what they bind."""
    sections = [
        _headline(plan),
        "\n".join(_equations(plan)),
        "\n".join(_sizes(plan, parts)),
        "\n".join(fact_lines(plan)),
        "\n".join(_attention(parts)),
        *("\n".join(_one_step(plan, level)) for level in plan.program.levels),
        *("\n".join(table(plan, choice)) for choice in plan.choices.values()),
        "\n".join(_reports(plan)),
        "\n".join(totals(plan)),
    ]
    return "\n\n".join(s for s in sections if s) + "\n"


def summary(plan: Plan) -> str:
    """The plan in one line."""
    modes = ", ".join(f"{c.level}: {c.mode}" for c in plan.choices.values())
    return f"{plan.program.name}: {modes or 'one level'}; hypergradients {plan.exactness}; plan {plan.identity}"


def _headline(plan: Plan) -> str:
    levels = len(list(plan.program.walk_levels()))
    derived = sum(c.adjoint is not None for c in plan.choices.values())
    return (
        f"{plan.program.name}        {_count(levels, 'level')}, {_count(derived, 'hypergradient')}"
        f"        exactness: {plan.exactness}        plan {plan.identity}"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"


def _equations(plan: Plan) -> Iterator[str]:
    rows = []
    for level in plan.program.walk_levels():
        left, right = equation(level)
        note = f"{solver(level)}, {duration(level)}" if level.parent is None else _per(level)
        rows.append((left, right, level.name, note))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    for left, right, name, note in rows:
        yield f"  {left:<{widths[0]}} = {right:<{widths[1]}}    {name:<{widths[2]}}    {note}".rstrip()


def _per(level: ir.Level) -> str:
    return f"one per {' and '.join(level.copies)}" if level.copies else ""


# ---- sizes ---------------------------------------------------------------------------------------------------


def _sizes(plan: Plan, parts: Parts | None) -> Iterator[str]:
    """Numbers in each variable, steps and copies; what the parts decide is left as a word without them."""
    for place, level in enumerate(plan.program.walk_levels()):
        head = "sizes     " if place == 0 else "          "
        words = [f"{v.name}: {_entries(v, parts)}" for v in level.variables]
        copies = [f"{_copies(plan.program, axis)} copies ({axis})" for axis in level.copies]
        yield f"{head}{level.name}    {', '.join(words)}    {duration(level)}{''.join(f'    {c}' for c in copies)}"


def _entries(variable: ir.Variable, parts: Parts | None) -> str:
    match variable.type:
        case Array(shape):
            return str(variable.type) if shape else "1 number"
        case Tree(net=net) if parts is not None and net in parts.objects:
            return f"{tree_size(variable.type, parts):,} numbers"
    return str(variable.type)


def tree_size(type_: Tree, parts: Parts) -> int:
    """How many numbers a tree of parameters has."""
    from bilevel.trees import selected

    one = sum(p.numel() for p in selected(type_, parts).values())
    return one * math.prod(c for c in type_.count if isinstance(c, int))


def _copies(program: ir.Program, axis: str) -> str:
    index = next(i for lv in program.walk_levels() for i in lv.indices if i.name == axis)
    source = index.source
    if isinstance(source.type, ListType) and not isinstance(source, ir.Sample):
        return str(source.type.size)
    return source.count.span.text if isinstance(source, ir.Sample) and source.count is not None else axis


def _attention(parts: Parts | None) -> Iterator[str]:
    """The networks whose attention is kept from torch's fused kernels."""
    if parts is None:
        return
    from torch import nn

    from bilevel.backends.torch_func.attention import attends

    for name, part in parts.objects.items():
        listed = part if isinstance(part, list | tuple) else (part,)
        if any(isinstance(item, nn.Module) and attends(item) for item in listed):
            yield f"{name}: attention by the math kernel, since fused kernels have no second derivative"


# ---- one step ------------------------------------------------------------------------------------------------


def _one_step(plan: Plan, level: ir.Level) -> Iterator[str]:
    """What one step of an outermost level does, in order."""
    yield f"one step of {level.name}"
    for name, text, note in _rows(plan, level, 0):
        yield f"  {name:<10} {text:<64} {note}".rstrip()


def _rows(plan: Plan, level: ir.Level, depth: int) -> Iterator[tuple[str, str, str]]:
    pad = "  " * depth
    for index in level.indices:
        yield f"{pad}draw", f"{index.name} from {index.source.span.text}", _at_a_time(plan, index)
    for draw in level.draws:
        if draw.name == ir.NOISE:
            yield f"{pad}draw", f"{draw.name} of {draw.source.span.text}", f"one key{_each(level)}; none in reports"
            continue
        yield f"{pad}draw", f"{draw.name} from {draw.source.span.text}", ""
    for inner in level.levels:
        if plan.facts[inner.name].unread:
            yield f"{pad}{inner.name}", "not run: only reports read its solution", ""
            continue
        yield f"{pad}{inner.name}", _solve(inner), _kept(plan, inner)
        if inner.draws or inner.levels:
            yield from _rows(plan, inner, depth + 1)
    yield f"{pad}{level.name}", _evaluate(level), ""
    for inner in reversed(level.levels):
        if plan.choices[inner.name].adjoint is not None:
            yield f"{pad}backward", _backward(plan, inner), ""
    yield f"{pad}{level.phases[0].solvers[0].name}", f"{', '.join(level.names)}", ""


def _at_a_time(plan: Plan, index: ir.Index) -> str:
    """How the copies of an index are computed; the elements of a list may differ in shape, which no vmap takes."""
    if is_ragged(index):
        return "one after the other [ragged]"
    size = chunk_of(plan.program, index.name)
    if size is None:
        return "one vmap over its copies"
    why = ", since more do not fit" if index.name in plan.chunks else ""
    return f"{size} {'copy' if size == 1 else 'copies'} at a time{why}"


def _each(level: ir.Level) -> str:
    """The copies that have something each, members of a population left out."""
    return f" for each {' and '.join(level.copies)}" if level.copies else ""


def _solve(level: ir.Level) -> str:
    if kind(level) == "closed form":
        return _solved(level)
    start = ", ".join(dict.fromkeys(v.start.span.text if v.start is not None else "init" for v in level.variables))
    asked = "population" if is_searched(level) else "gradient"
    return f"{start} > {repeats_of(level)} x ({asked}, {level.phases[0].solvers[0].name}) > {', '.join(level.names)}"


def _solved(level: ir.Level) -> str:
    """The formula of a closed form, or where it comes from."""
    if formula(level) is None:
        return f"one linear system > {', '.join(level.names)}"
    from bilevel.modes.formulas import described

    return f"{level.names[0]} = {described(level)}"


def _kept(plan: Plan, level: ir.Level) -> str:
    """What the forward pass of a level holds until the way back."""
    copies = f" per {' and '.join(level.copies)}" if level.copies else ""
    steps = repeats_of(level)
    match plan.choices[level.name].adjoint:
        case Unroll(store="residuals", window=int() as window):
            return f"keeps the residuals of the last {window} steps{copies}"
        case Unroll(store="residuals"):
            return f"keeps the residuals of {steps} steps{copies}"
        case Unroll(store="even", pulled=True, checkpoints=count):
            kept = f"{count} states" if count is not None else f"2 sqrt({steps}) states"
            return f"keeps {kept}{copies}, computes the others again with the residuals of a run of steps"
        case Unroll(store="even" | "binomial", checkpoints=count):
            return f"keeps {count if count is not None else f'sqrt({steps})'} states{copies}, computes the others again"
        case Unroll(window=int() as window):
            return f"keeps the last {window} + 1 states{copies}"
        case Unroll(gradient="kept"):
            return f"keeps {steps} + 1 states and gradients{copies}"
        case Unroll():
            return f"keeps {steps} + 1 states{copies}"
        case Leaping(teacher=teacher, keep=keep):
            return f"keeps {teacher} + 1 teacher's states and the student's last {keep}{copies}"
        case Perturb(samples=samples):
            return f"keeps the last state{copies}, solves again {2 * samples} times"
        case Tangents():
            return f"carries one tangent for each number of {', '.join(plan.facts[level.name].targets)}"
    return f"keeps the last state{copies}"


def _evaluate(level: ir.Level) -> str:
    inside = [
        n for i in level.levels for n in i.names if level.objective is not None and n in level.objective.value.reads
    ]
    value = equation(level)[1].removeprefix("argmin  ").removeprefix("argmax  ") if level.parent is None else ""
    if level.parent is not None and level.objective is not None:
        value = level.objective.value.span.text
    return f"{', '.join(inside)} > {value}" if inside else value


def _backward(plan: Plan, level: ir.Level) -> str:
    """How the cotangents of what a level reads come from those of what it solves for."""
    targets = ", ".join(f"d {t}" for t in plan.facts[level.name].targets)
    given = f"d {', d '.join(level.names)}"
    match plan.choices[level.name].adjoint:
        case Unroll(product=product, window=window):
            steps = repeats_of(level) if window is None else str(window)
            return f"{targets} < {steps} x ({PRODUCTS[product]}) < {given}"
        case Implicit(method=method):
            return f"{targets} < vjp of the slope < linear system by {method} < {given}"
        case Perturb(samples=samples):
            return f"{targets} < {samples} pairs of perturbed solves < {given}"
        case Substitute():
            return f"{targets} < vjp of the closed form < {given}"
        case Leaping(teacher=teacher, inner=Unroll(product=product)):
            return f"{targets} < {teacher} x ({PRODUCTS[product]}) < gamma * {given}"
    return f"{targets} < products with the tangents < {given}"


PRODUCTS = {
    "mixed": "vjp of the update, jvp of the gradient",
    "reverse": "vjp of the update, vjp of the gradient",
    "none": "vjp of the update",
}


# ---- modes ---------------------------------------------------------------------------------------------------


def why(plan: Plan, level: str, mode: str) -> str:
    """The verdict on one mode of one level; raises RecipeError for a level or mode that the plan does not list."""
    choice = plan.choices.get(level)
    if choice is None:
        raise fail("B501", f"there is no level `{level}` to differentiate", note=f"levels: {', '.join(plan.choices)}")
    wanted = mode.replace(" ", "")
    found = next((c for c in choice.candidates if c.title.replace(" ", "") == wanted), None)
    if found is None:
        listed = ", ".join(c.title for c in choice.candidates)
        raise fail("B506", f"`{mode}` is not among the modes of `{level}`", note=f"modes: {listed}")
    return f"{found.title} ({found.exactness}): {verdict(plan.program.level(level), choice, found)}"


def _reports(plan: Plan) -> Iterator[str]:
    found = [r for level in plan.program.walk_levels() for r in level.reports]
    if found:
        width = max(len(r.name) for r in found)
        yield "reports"
        for r in found:
            yield f"  {r.name:<{width}}  {one_line(r.span.text.partition('=')[2])}"
