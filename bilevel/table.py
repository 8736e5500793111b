"""The part of a plan that says how a level is differentiated: every mode with its cost, and why it was not taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bilevel import ir
from bilevel.costs import Cost, flop_text, pretty, size_text, time_text
from bilevel.facts import Fact
from bilevel.plan import Candidate, Choice, Plan
from bilevel.structure import properties


def table(plan: Plan, choice: Choice) -> Iterator[str]:
    """The table of one level; with numbers where the plan has them."""
    level = plan.program.level(choice.level)
    limit = plan.numbers.limit if plan.numbers is not None else None
    head = f"how `{choice.level}` is differentiated"
    yield (
        head if limit is None else f"{head}{'':<8}limit {size_text(limit.memory)}{'' if limit.asked else ', free here'}"
    )
    rows = [_row(plan, choice, level, candidate) for candidate in choice.candidates]
    if plan.numbers is None:
        titles: tuple[str, ...] = ("mode", "class", "work per step", "peak memory", "")
    else:
        parent = _outermost(plan, level)
        titles = ("mode", "class", f"work per step of {parent}", "", "peak memory", "", "time", "")
    widths = [max(len(row[i]) for row in [titles, *rows]) for i in range(len(titles))]
    for mark, row in zip((" ", *(">" if c.chosen else " " for c in choice.candidates)), (titles, *rows), strict=True):
        cells = (
            f"{cell:{'>' if _is_number(titles, i) else '<'}{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"  {mark} {'  '.join(cells)}".rstrip()
    for name, size in plan.chunks.items():
        yield f"  all with {size} {'copy' if size == 1 else 'copies'} of {name} at a time: with all of them none that is allowed fits"
    if choice.changes:
        yield "  would change the choice:"
        yield from (f"    {change}" for change in choice.changes)


def _is_number(titles: Sequence[str], place: int) -> bool:
    """Numbers stand to the right of their column; the last column is text."""
    return len(titles) > 5 and place in (3, 5, 6)


def _outermost(plan: Plan, level: ir.Level) -> str:
    while level.parent is not None:
        level = plan.program.level(level.parent)
    return level.name


def _row(plan: Plan, choice: Choice, level: ir.Level, candidate: Candidate) -> tuple[str, ...]:
    cost = candidate.cost
    work, memory = ("", "") if cost is None else (pretty(cost.formula.work), pretty(cost.formula.memory))
    said = verdict(level, choice, candidate)
    if plan.numbers is None:
        return candidate.title, candidate.exactness, work, memory, said
    return candidate.title, candidate.exactness, work, _flop(cost), memory, _peak(cost), _time(cost), said


def _flop(cost: Cost | None) -> str:
    return "" if cost is None or cost.work is None else flop_text(cost.work.flop)


def _peak(cost: Cost | None) -> str:
    return "" if cost is None or cost.peak is None else size_text(cost.peak)


def _time(cost: Cost | None) -> str:
    return "" if cost is None or cost.seconds is None else time_text(cost.seconds)


def verdict(level: ir.Level, choice: Choice, candidate: Candidate) -> str:
    """One candidate's fate in a sentence, with the reason codes in brackets."""
    if candidate.chosen:
        return f"chosen: {_reason(choice, candidate)}"
    if not candidate.verdict.ok:
        return f"not applicable [{candidate.verdict.reason}]: {candidate.note}"
    words = [candidate.note] if candidate.note else []
    words += (
        [f"not traced ({candidate.cost.untraced})"] if candidate.cost is not None and candidate.cost.untraced else []
    )
    note = f": {'; '.join(words)}" if words else ""
    if set(candidate.reasons) & {"memory", "work"}:
        return f"rejected [{', '.join(candidate.reasons)}]{note}"
    if "pinned" in candidate.reasons or "path" in candidate.reasons:
        return f"not taken [{', '.join(candidate.reasons)}]{note}"
    if candidate.reasons:
        return f"not allowed [{', '.join(candidate.reasons)}]{note}"
    return _compared(choice, candidate)


def _compared(choice: Choice, candidate: Candidate) -> str:
    """A mode that could have been taken, against the one that was."""
    best, own = choice.cost, candidate.cost
    if own is not None and own.untraced:
        return f"could be taken; not traced ({own.untraced})"
    if best is None or own is None or not best.seconds or own.seconds is None:
        return "could be taken; sizes decide"
    more = own.seconds / best.seconds - 1
    less = (
        ""
        if not own.peak or not best.peak or own.peak >= best.peak
        else f", {1 - own.peak / best.peak:.0%} less memory"
    )
    return f"fits; {more:.0%} more time{less}"


def _reason(choice: Choice, candidate: Candidate) -> str:
    if choice.pinned and choice.at is not None:
        return f"named at {choice.at.source.name.rpartition('/')[2]}:{choice.at.line}"
    if choice.exactness == "values":
        return "a search compares values alone"
    if choice.adjoint is None:
        return "its solution reaches no objective un-stopped"
    if candidate.cost is not None and candidate.cost.seconds is not None:
        word = "exact" if choice.exactness == "exact" else "allowed"
        return f"the fastest {word} mode that fits" if len(_open(choice)) > 1 else f"the only {word} mode"
    if candidate.cost is not None and candidate.cost.untraced:
        return f"{choice.exactness}, by its kind; not traced ({candidate.cost.untraced})"
    others = [c for c in _open(choice) if not c.chosen]
    return f"{choice.exactness}; sizes may favour another" if others else choice.exactness


def _open(choice: Choice) -> list[Candidate]:
    """The modes between which sizes decide."""
    return [c for c in choice.candidates if c.chosen or (c.verdict.ok and not set(c.reasons) - {"memory", "work"})]


# ---- facts ---------------------------------------------------------------------------------------------------

MEANINGS = {
    "n": "numbers wanted",
    "m": "numbers solved for",
    "T": "steps",
    "P": "copies",
    "K": "products of the linear solver",
    "g": "one inner step",
    "b": "the way back through it",
    "r": "both, with its graph kept",
    "G": "all that is not inner steps",
    "s": "one state",
    "h": "a state with the graph of its step",
    "A": "all else at the peak",
}


def fact_lines(plan: Plan) -> Iterator[str]:
    """Facts of every level: sizes in one line, what was traced for each copy, and what it is made of."""
    head = "facts"
    for level in plan.program.walk_levels():
        rows = [*_number_lines(plan, level.name), *_property_lines(plan, level)]
        width = len(level.name)
        for place, row in enumerate(rows):
            yield f"{head:<10}{level.name if place == 0 else '':<{width}}    {row}"
            head = ""


def _number_lines(plan: Plan, name: str) -> Iterator[str]:
    facts = () if plan.numbers is None else plan.numbers.facts.get(name, ())
    sizes = [f for f in facts if not f.unit]
    if sizes:
        yield "    ".join(f"{f.symbol} = {f.value:,.0f}{_of(f)}" for f in sizes)
    for fact in (f for f in facts if f.unit):
        value = flop_text(fact.value) if fact.unit == "FLOP" else size_text(fact.value)
        yield f"{fact.symbol} = {value:<12} {MEANINGS[fact.symbol]} [{fact.origin}]"


def _property_lines(plan: Plan, level: ir.Level) -> Iterator[str]:
    """Each with its origin, and the line that it rests on."""
    for one in properties(plan.program, plan.facts, level):
        yield f"{_WORDS.get(one.what, '')}{one.text} [{one.origin}; {one.span.source.name.rpartition('/')[2]}:{one.span.line}]"


_WORDS = {"smooth": "objective ", "degree": "objective ", "symmetric": "gradient: "}


def _of(fact: Fact) -> str:
    names = f"{', '.join(fact.names)}; " if fact.names else ""
    return f" ({names}{fact.origin})"


def totals(plan: Plan) -> Iterator[str]:
    """What one step and all steps of every outermost level take."""
    if plan.numbers is None:
        return
    for name, cost in plan.numbers.steps.items():
        if cost.work is None or cost.seconds is None:
            yield f"one step of {name}: not traced ({cost.untraced})"
            continue
        steps, about = _steps(plan.program.level(name)), "at most" if is_capped(plan, name) else "about"
        whole = f", {steps:,} steps {about} {time_text(steps * cost.seconds)}" if steps else ""
        yield f"one step of {name} {about} {time_text(cost.seconds)}{whole}, peak {size_text(cost.work.peak)}{_in_the_first(cost)}"
    calibration = plan.numbers.calibration
    yield f"times of {TIMES[plan.numbers.kernels]}, by the calibration `{calibration.name}` ({calibration.identity})"


def _in_the_first(cost: Cost) -> str:
    """What the first step holds, where that is more: it calls every function as it is once."""
    if cost.needs is None or not cost.peak or cost.needs < MORE * cost.peak:
        return ""
    return f"; {size_text(cost.needs)} in the first, which compares the kernels with their functions"


MORE = 1.05
"""times the peak of a step, from which on that of the first is said"""
TIMES = {
    "none": "functions as they are",
    "fx": "fx kernels",
    "inductor": "Inductor kernels",
    "fx+graphs": "fx kernels without their graphs",
    "inductor+graphs": "Inductor kernels without their graphs",
}
"""what times are predicted for"""


def is_capped(plan: Plan, name: str) -> bool:
    """Whether a level inside stops by itself: its steps are counted as the most that it may take."""
    inner = list(plan.program.level(name).levels)
    for level in inner:
        inner += level.levels
    return any(isinstance(level.phases[-1].duration, ir.Until) for level in inner)


def _steps(level: ir.Level) -> int | None:
    duration = level.phases[-1].duration
    count = duration.count if isinstance(duration, ir.Steps) and duration.unit == "steps" else None
    return int(count.value) if isinstance(count, ir.Constant) and not isinstance(count.value, str) else None
