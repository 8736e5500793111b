"""The planner: a mode for every level, and the graph of steps that follows from it.

Takes a checked program and its facts; gives a `Plan` or refuses with B404-B413, B501-B511. Imports no torch.
`choose` is pure and public; its docstring is the decision table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from bilevel import ir
from bilevel.chunks import chunk_problems, decided_before, in_chunks, planned_chunks
from bilevel.costs import Calibration, Cost, size_text
from bilevel.dsl.paths import settings as all_settings
from bilevel.errors import RecipeError, Span
from bilevel.facts import Fact, Facts, LevelFacts, derive_facts
from bilevel.kinds import is_searched, kind, tests_gradient
from bilevel.lacks import Derivatives
from bilevel.limits import Limit, limit_text
from bilevel.modes import (
    MODES,
    Class,
    ClosedForm,
    Evolve,
    Forward,
    ForwardMode,
    Implicit,
    ImplicitMode,
    Leap,
    Linear,
    Mode,
    Reverse,
)
from bilevel.modes.base import Unroll
from bilevel.modes.closed_form import degree_of
from bilevel.modes.options import auto_leap, named_mode, word
from bilevel.plan import Candidate, Choice, Numbers, Plan
from bilevel.refusals import (
    beside_windows,
    does_not_fit,
    inside_next,
    leap_not_allowed,
    no_effect,
    nothing_fits,
    outermost_line,
    refused,
    searched_inside,
    too_deep,
)
from bilevel.support import unsupported
from bilevel.symmetry import unsymmetric

if TYPE_CHECKING:
    from bilevel.backends.torch_func.trace.compilers import Kind

NOTHING: Mapping[str, Cost] = MappingProxyType({})
NOTHING_DECIDED: Mapping[str, str] = MappingProxyType({})


class Estimates(Protocol):
    """Where numbers come from: `bilevel.estimates.Estimator`, which needs built parts and torch."""

    calibration: Calibration
    kernels: Kind

    def cost(self, choices: Mapping[str, Choice], level: ir.Level, mode: Mode) -> Cost:
        """The cost of a step of the outermost level around `level`, differentiated by `mode`."""

    def known(self, choices: Mapping[str, Choice], level: ir.Level) -> tuple[Fact, ...]:
        """The facts of a level."""

    def step(self, choices: Mapping[str, Choice], phase: ir.Level) -> Cost | None:
        """The cost of a step of an outermost level as chosen."""


def plan_program(
    program: ir.Program,
    estimates: Callable[[ir.Program, Facts], Estimates] | None = None,
    limit: Limit | None = None,
    allow: Class = "exact",
    every: bool = False,
    decided: Mapping[str, str] = NOTHING_DECIDED,
    derivatives: Derivatives | None = None,
) -> Plan:
    """The plan of a program; raises RecipeError where no mode can be used, fits, or this version lacks a part.

    Without `estimates` it is symbolic: kinds of levels decide. With them the cheapest mode that fits `limit` is
    taken; `every` also costs the modes that cannot be taken, for people to read. `decided`: modes by level that an
    earlier plan took, which are taken again whatever they cost. `derivatives`: what built parts lack. Where nothing that is allowed fits, copies are taken
    a few at a time, in the chunks of least predicted time: no class changes by that.
    """
    program = decided_before(program, decided)
    try:
        return _planned(program, estimates, limit, allow, every, decided, derivatives)
    except RecipeError as error:
        if estimates is None or not _fits_nothing(error):
            raise
        last = error
    found: list[Plan] = []
    for smaller in in_chunks(program):
        try:
            found.append(_planned(smaller, estimates, limit, allow, every, decided, derivatives))
        except RecipeError as error:
            if not _fits_nothing(error):
                raise
            last = error
    if not found:
        raise last
    return min(found, key=_seconds)


def _seconds(plan: Plan) -> float:
    """Predicted seconds of one step of every outermost level."""
    steps = {} if plan.numbers is None else plan.numbers.steps
    return sum(cost.seconds or 0.0 for cost in steps.values())


def _fits_nothing(error: RecipeError) -> bool:
    return {found.code for found in error.diagnostics} == {"B510"}


def _planned(
    program: ir.Program,
    estimates: Callable[[ir.Program, Facts], Estimates] | None,
    limit: Limit | None,
    allow: Class,
    every: bool,
    decided: Mapping[str, str],
    derivatives: Derivatives | None,
) -> Plan:
    """The plan with copies as the schedule says."""
    facts = derive_facts(program, derivatives)
    outermost = {level.name for level in program.levels}
    aside = [outermost_line(entry) for entry in program.schedule if entry.target in outermost]
    problems = [*unsupported(program, facts), *chunk_problems(program), *aside]
    if problems:
        raise RecipeError(problems)
    inner = [level for level in program.walk_levels() if level.parent]
    choices = {
        level.name: choose(program, level, facts[level.name], allow=allow, decided=decided.get(level.name))
        for level in inner
    }
    _check_nesting(program, facts, choices)
    numbers = None
    if estimates is not None:
        made = estimates(program, facts)
        for level in inner:
            choices[level.name] = _weighed(
                program, level, facts[level.name], made, choices, limit, allow, every, decided
            )
        _check_nesting(program, facts, choices)
        numbers = _numbers(program, made, unsymmetric(program, choices), limit, allow, every)
    choices = unsymmetric(program, choices)
    return Plan(program, facts, choices, _replaced(program), numbers, planned_chunks(program))


def _weighed(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    estimates: Estimates,
    choices: Mapping[str, Choice],
    limit: Limit | None,
    allow: Class,
    every: bool,
    decided: Mapping[str, str],
) -> Choice:
    """The choice for one level by costs; a refusal names what fits among the modes of all classes."""
    costs = _costs(program, level, facts, estimates, choices, allow, every)
    try:
        return choose(program, level, facts, costs, limit, allow, decided.get(level.name))
    except RecipeError as error:
        if every or not {"B502", "B510"} & {d.code for d in error.diagnostics}:
            raise
    costs = _costs(program, level, facts, estimates, choices, allow, every=True)
    return choose(program, level, facts, costs, limit, allow, decided.get(level.name))


def _costs(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    estimates: Estimates,
    choices: Mapping[str, Choice],
    allow: Class,
    every: bool,
) -> dict[str, Cost]:
    """Costs by mode, of those between which there is something to decide."""
    asked = _asked(program, level, allow)
    found = {}
    for mode in _listed(level, asked):
        verdict, exactness = mode.accepts(level, facts), mode.exactness(level, facts)
        wanted = mode == asked.pinned if asked.pinned is not None else _allowed(exactness, asked.allow)
        if verdict.ok and (every or wanted):
            found[mode.title] = estimates.cost(choices, level, mode)
    return found


def _numbers(
    program: ir.Program,
    estimates: Estimates,
    choices: Mapping[str, Choice],
    limit: Limit | None,
    allow: Class,
    every: bool,
) -> Numbers:
    inner = [level for level in program.walk_levels() if level.parent]
    facts = {level.name: estimates.known(choices, level) for level in inner} if every else {}
    steps = {phase.name: cost for phase in program.levels if (cost := estimates.step(choices, phase)) is not None}
    return Numbers(facts, steps, estimates.calibration, limit, allow, estimates.kernels)


def _check_nesting(program: ir.Program, facts: Facts, choices: dict[str, Choice]) -> None:
    """The solution of an `ift` level is a function of what it reads to first order: one differentiated level around."""
    for level in program.walk_levels():
        around = list(_around(program, level))
        differentiated = [a for a in around if a.parent is not None and choices[a.name].adjoint is not None]
        if level.parent is None:
            continue
        moved = [a for a in differentiated if a.name != level.name] + [a for a in around if kind(a) == "next"]
        if is_searched(level) and (facts[level.name].targets or moved):
            raise searched_inside(level, moved)
        if isinstance(choices[level.name].adjoint, Implicit) and len(differentiated) > 1:
            raise too_deep(level, differentiated)
        if (
            around
            and kind(around[0]) in ("next", "fixed point")
            and choices[level.name].exactness not in ("exact", "-")
        ):
            raise inside_next(level, around[0], choices[level.name])
        adjoint = choices[level.name].adjoint
        if isinstance(adjoint, Unroll) and adjoint.update:
            for other in around[0].levels:
                if other is not level and not facts[other.name].unread:
                    raise beside_windows(level, other, choices[level.name])


def _around(program: ir.Program, level: ir.Level) -> Iterator[ir.Level]:
    """The levels around a level, innermost first."""
    while level.parent is not None:
        level = program.level(level.parent)
        yield level


RANKS: tuple[Class, ...] = ("exact", "biased", "surrogate")
MUCH_MORE = 10.0
"""times the predicted seconds of the mode that was chosen: then work alone speaks against a mode"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a line of the schedule, or the caller, asks for: one mode, or the best of some classes."""

    entry: ir.Entry | None
    pinned: Mode | None
    allow: Class
    leap: Leap | None = None


def _asked(program: ir.Program, level: ir.Level, allow: Class) -> Asked:
    entry = next((e for e in program.schedule if e.target == level.name), None)
    if entry is None:
        return Asked(None, None, allow)
    if entry.mode != "auto":
        return Asked(entry, named_mode(entry), allow)
    values = {a.name or "": a.value for a in entry.options}
    wider, leap = _wider(allow, word(values, "allow", RANKS)), auto_leap(entry)
    if leap is not None and wider != "surrogate":
        raise leap_not_allowed(entry)
    return Asked(entry, None, wider, leap)


def _wider(one: Class, other: str | None) -> Class:
    found: Class = next((c for c in RANKS if c == other), "exact")
    return max(one, found, key=RANKS.index)


def _allowed(exactness: Class, allow: Class) -> bool:
    """Classes without a derivative (`values`, `-`) are no matter of choice."""
    return exactness not in RANKS or RANKS.index(exactness) <= RANKS.index(allow)


def _listed(level: ir.Level, asked: Asked) -> tuple[Mode, ...]:
    """The modes that a plan lists for a level, in order."""
    more = [m for m in (asked.leap, asked.pinned) if m is not None and m not in MODES]
    settles = kind(level) == "until" and degree_of(level) == 2
    exact: list[Mode] = [ImplicitMode(Linear("exact"))] * settles
    return (*MODES, *(m for m in exact if m not in more), *more)


def choose(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    costs: Mapping[str, Cost] = NOTHING,
    limit: Limit | None = None,
    allow: Class = "exact",
    decided: str | None = None,
) -> Choice:
    """How `level` is differentiated; pure. `costs` by title of the mode, empty for a symbolic plan.

    1. The schedule names a mode: that one, or an error that says why it cannot be used (B4xx, B5xx) or does not fit
       `limit` (B502).
    2. The level around it compares the members of a population: `evolve`.
    3. The level's solution reaches no objective un-stopped: forward only.
    4. `by closed_form`: substitution.
    5. `for T steps`, `until plateau`, `until below`: with costs, the cheapest by predicted time among `rmd`, `rmd(checkpoint)`,
       `rmd(store = residuals)` and `fmd` that fits the limit; without, `rmd`.
    6. `until stationary`: `ift`, by cg where the system is symmetric and by gmres where not; with costs, for an
       objective of degree two, `ift(linear = exact)` where that is cheaper. A fixed point of `next`: `ift` by gmres.
    7. A variable that enters only through the start or the solver makes `ift` give zero: never taken, B404 if named.
    8. No exact mode fits: B510 with what the cheapest needs and what else fits; never a silent fall-back.

    9. No exact mode can be used at all, and more is allowed: the first such mode that can.

    `allow` (`--allow`, or `auto(allow = ...)`) lets rules 5 and 6 choose among biased or surrogate modes as well; a
    leap is one of them only where it is written beside `auto`. `decided`: the mode that rules 5 and 6 gave before.
    """
    asked = _asked(program, level, allow)
    if asked.entry is not None and asked.pinned is None and not facts.targets:
        raise no_effect(level, asked.entry)
    chosen = asked.pinned or _widened(asked, level, facts, _default(level, facts, asked))
    if asked.pinned is not None and asked.entry is not None and not facts.targets:
        if not isinstance(chosen, Forward | Leap | Evolve | ClosedForm):
            raise no_effect(level, asked.entry)
    if is_searched(level) and facts.targets:
        raise searched_inside(level, [])
    verdict = chosen.accepts(level, facts)
    if not verdict.ok:
        raise refused(program, level, facts, chosen, verdict, (m for m in MODES if m.accepts(level, facts).ok))
    listed = _listed(level, asked)
    again = next((m for m in listed if m.title == decided and m.accepts(level, facts).ok), None)
    if asked.pinned is None and again is not None:
        chosen = again
    elif asked.pinned is None:
        chosen = _cheapest(program, level, facts, asked, costs, limit) or chosen
    elif (own := costs.get(chosen.title)) is not None and _too_large(own, limit):
        raise does_not_fit(program, level, facts, chosen, asked.entry, costs, limit)
    chosen = _resolved(chosen, level, costs, limit)
    listed = tuple(m for m in listed if m != asked.pinned or m == chosen or m in MODES)
    listed = listed if chosen in listed else (*listed, chosen)
    candidates = tuple(_candidate(mode, level, facts, chosen, asked, costs, limit) for mode in listed)
    at = None if asked.entry is None else asked.entry.span
    adjoint, exactness = chosen.lower(level, facts), chosen.exactness(level, facts)
    changes = tuple(_changes(candidates, limit)) if asked.pinned is None else ()
    return Choice(level.name, chosen.title, exactness, adjoint, asked.pinned is not None, candidates, at, changes)


def _too_large(cost: Cost, limit: Limit | None) -> bool:
    return limit is not None and cost.needs is not None and cost.needs > limit.memory


def _cheapest(
    program: ir.Program,
    level: ir.Level,
    facts: LevelFacts,
    asked: Asked,
    costs: Mapping[str, Cost],
    limit: Limit | None,
) -> Mode | None:
    """The mode of least predicted time that fits; None where nothing was traced."""
    open_ = [m for m in _listed(level, asked) if m.accepts(level, facts).ok]
    open_ = [m for m in open_ if _allowed(m.exactness(level, facts), asked.allow)]
    seconds = {m.title: c.seconds for m in open_ if (c := costs.get(m.title)) and c.seconds is not None}
    known = [m for m in open_ if m.title in seconds]
    fitting = [m for m in known if not _too_large(costs[m.title], limit)]
    if known and not fitting:
        raise nothing_fits(program, level, facts, known, costs, limit)
    return min(fitting, key=lambda m: seconds[m.title] or 0.0, default=None)


def _resolved(mode: Mode, level: ir.Level, costs: Mapping[str, Cost], limit: Limit | None) -> Mode:
    """`checkpoint = auto`: the rule with less predicted time that fits, or the root of the number of steps."""
    if not isinstance(mode, Reverse) or mode.checkpoint != "auto":
        return mode
    if mode.store == "residuals":
        return replace(mode, checkpoint="sqrt")
    rules: list[Mode] = [replace(mode, checkpoint="sqrt"), replace(mode, checkpoint="binomial")]
    fitting = [r for r in rules if r.title in costs and not _too_large(costs[r.title], limit)]
    return min(fitting, key=lambda r: costs[r.title].seconds or 0.0, default=rules[0])


def _default(level: ir.Level, facts: LevelFacts, asked: Asked) -> Mode:
    """What the kind of level asks for."""
    if level.members:
        return Evolve()
    match kind(level):
        case "closed form":
            return ClosedForm()
        case "until" | "fixed point" if facts.targets:
            return ImplicitMode()
    if not facts.targets:
        return Forward()
    wider: list[Mode] = [m for m in (asked.leap, Reverse(order=1)) if m is not None]
    open_ = (m for m in wider if m.accepts(level, facts).ok and _allowed(m.exactness(level, facts), asked.allow))
    return next(open_, Reverse())


def _widened(asked: Asked, level: ir.Level, facts: LevelFacts, default: Mode) -> Mode:
    """The default, or where it cannot be used the first mode of a class that is allowed."""
    if asked.allow == "exact" or default.accepts(level, facts).ok:
        return default
    return next((m for m in MODES if m.exactness(level, facts) == "biased" and m.accepts(level, facts).ok), default)


def _candidate(
    mode: Mode,
    level: ir.Level,
    facts: LevelFacts,
    chosen: Mode,
    asked: Asked,
    costs: Mapping[str, Cost],
    limit: Limit | None,
) -> Candidate:
    """One row of the plan's table: verdict, cost, and the reasons against it."""
    verdict, exactness = mode.accepts(level, facts), mode.exactness(level, facts)
    cost = costs.get(mode.title, Cost(mode.cost(level, facts)) if verdict.ok else None)
    if mode == chosen:
        return Candidate(mode.title, exactness, verdict, True, cost)
    if not verdict.ok:
        return Candidate(mode.title, exactness, verdict, False, cost, (verdict.reason,), verdict.why)
    reasons, notes = [], []
    if not facts.targets:
        reasons.append("path")
        notes.append(f"no derivative of `{level.name}` is wanted")
    if asked.pinned is not None:
        reasons.append("pinned")
        notes.append("the schedule names another mode")
    if not _allowed(exactness, asked.allow):
        reasons.append("class")
        notes.append(_bias(mode, level))
    best = costs.get(chosen.title)
    if cost is not None and _too_large(cost, limit):
        reasons.append("memory")
        if cost.needs != cost.peak and not (limit and cost.peak and cost.peak > limit.memory):
            notes.append(f"{size_text(cost.needs or 0.0)} in the first step")
    if cost and best and cost.seconds and best.seconds and cost.seconds > MUCH_MORE * best.seconds:
        reasons.append("work")
        notes.append(f"{cost.seconds / best.seconds:,.0f} times the time")
    return Candidate(mode.title, exactness, verdict, False, cost, tuple(reasons), "; ".join(notes))


def _bias(mode: Mode, level: ir.Level) -> str:
    """What a mode that is not exact does."""
    match mode:
        case Leap():
            return "puts another value in place of the solution"
        case Reverse(order=1):
            return "holds the gradient inside each step constant"
        case ImplicitMode() if tests_gradient(level):
            return "its linear system is not solved to a tolerance"
        case ImplicitMode():
            return "these steps promise no stationary point"
        case Reverse() | ForwardMode() if tests_gradient(level):
            return "differentiates the steps that were taken, not the point they promise"
    return "is not exact here"


def _changes(candidates: tuple[Candidate, ...], limit: Limit | None) -> Iterator[str]:
    """What would change the choice: more memory or less, more steps, another class."""
    best = next((c for c in candidates if c.chosen), None)
    if best is None or best.cost is None or best.cost.seconds is None or limit is None:
        return
    for other in candidates:
        if other.cost is None or other.cost.seconds is None or other.cost.needs is None or other.chosen:
            continue
        less = 1 - other.cost.seconds / best.cost.seconds
        if other.reasons == ("memory",) and less > 0:
            yield f"--limit memory={limit_text(other.cost.needs)}  (then {other.title}, {less:.0%} less time)"
        elif other.reasons == ("class",) and less > 0:
            yield f"--allow {other.exactness}  (then {other.title}, {less:.0%} less time)"
    if best.cost.growth and best.cost.needs is not None and best.cost.growth > 0:
        more = int((limit.memory - best.cost.needs) / best.cost.growth)
        yield f"more than {more:,} more steps  (then {best.title} does not fit)"


def _replaced(program: ir.Program) -> dict[Span, str]:
    """The literals that reports replace, by place; their path with underscores is their name in emitted code."""
    wanted = {".".join(s.path) for lv in program.walk_levels() for r in lv.reports for s in r.settings}
    if not wanted:
        return {}
    known = all_settings(program.recipe)
    return {known[p].span: p.replace(".", "_") for p in sorted(wanted)}
