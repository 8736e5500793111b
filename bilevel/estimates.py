"""Costs of candidate modes with numbers: traced once for each mode, exact counts where a rule of steps decides.

What one step of an outermost level does is traced as a whole, with one level's mode exchanged at a time, so that
costs of different modes can be compared and their peaks are those of the whole step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from bilevel import ir
from bilevel.backends.torch_func.checkpoints import (
    LARGE_STATE,
    binomial_segments,
    falling,
    root,
    segments,
    walk_back,
    walk_back_binomial,
)
from bilevel.backends.torch_func.trace.compilers import LARGEST_WHOLE, WHOLE, Kind
from bilevel.backends.torch_func.tree import leaves
from bilevel.binding import Parts
from bilevel.costs import Calibration, Cost, Work
from bilevel.dsl.datatypes import Array, Tree
from bilevel.errors import Span
from bilevel.explain import tree_size
from bilevel.facts import Fact, Facts, Origin
from bilevel.modes import Implicit, Mode, Reverse, Unroll
from bilevel.plan import Choice, Plan
from bilevel.tracing import Tracer, Untraced, inside, number, step_count

Choices = Mapping[str, Choice]
FEW = 6
"""steps of a level of which kernels with checkpoints are traced as they are: so few may be one with all around"""
TRIMMED = 2
"""runs of steps between two moments at which memory goes back to the system (`checkpoints.give_back`)"""


@dataclass
class Estimator:
    """Costs and facts of one program with built parts; what was traced once is kept."""

    program: ir.Program
    facts: Facts
    parts: Parts
    calibration: Calibration
    kernels: Kind = "none"
    """the kind of kernels that times are predicted for"""
    traced: dict[int, tuple[ir.Program, Tracer]] = field(default_factory=dict)
    """what was traced of programs before, whatever the kernels"""
    tracer: Tracer = field(init=False)
    steps: dict[str, float] = field(init=False)
    linear: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        levels = [lv for lv in self.program.walk_levels() if lv.parent is not None]
        counts = {lv.name: step_count(self.program, lv) or self._epochs(lv) for lv in levels}
        self.steps = {name: count for name, count in counts.items() if count is not None}
        self.linear = {}
        made = (self.program, Tracer(self.parts, self.steps))
        self.tracer = self.traced.setdefault(id(self.program), made)[1]
        self.tracer.kernels = self.kernels != "none"

    def cost(self, choices: Choices, level: ir.Level, mode: Mode) -> Cost:
        """One step of the outermost level around with `level` differentiated by `mode`, the others as chosen."""
        formula = mode.cost(level, self.facts[level.name])
        try:
            work, growth = self._work(choices, level, mode)
        except Untraced as error:
            return Cost(formula, untraced=str(error))
        return Cost(formula, work, self.calibration.seconds(work, self.kernels), growth=growth)

    def _work(self, choices: Choices, level: ir.Level, mode: Mode) -> tuple[Work, float | None]:
        adjoint = mode.lower(level, self.facts[level.name])
        steps = self.steps.get(level.name)
        if isinstance(adjoint, Unroll) and adjoint.sparse:
            if steps is None:
                raise Untraced(f"the number of steps of `{level.name}` is not known")
            if self._is_few(adjoint, int(steps)):
                return self._outright(choices, level, mode.title, adjoint, int(steps)), None
            if adjoint.pulled:
                return self._pulled(choices, level, adjoint, int(steps)), None
            return self._checkpointed(choices, level, adjoint, int(steps)), None
        plan = self._plan(choices, level, mode.title, adjoint)
        work = self._traced(plan, level, {})
        if steps is None or steps < 3:
            return work, None
        return work, _needs(self._traced(plan, level, {level.name: steps + 1})) - _needs(work)

    def _is_few(self, adjoint: Unroll, steps: int) -> bool:
        """Whether the steps are traced as they are: where they may be one kernel, and for peaks that parts do not give.

        For five steps of `maml_sine` with fx what is put together of one to three steps is 9% too high where iterates
        are kept between checkpoints, 31% too low where residuals are; every trace takes a tenth of a second.
        """
        if LARGEST_WHOLE[self.kernels] or (adjoint.pulled and self.kernels != "none"):
            return steps <= FEW
        return steps <= WHOLE[self.kernels]

    def _outright(self, choices: Choices, level: ir.Level, title: str, adjoint: Unroll, steps: int) -> Work:
        """Work of all steps and of their way back, traced as they are."""
        plan = self._plan(choices, level, title, adjoint)
        return self.tracer.cost(plan, self.outermost(level).name, self.steps, self.products(plan), level.name)

    def _plan(self, choices: Choices, level: ir.Level, title: str, adjoint: Any) -> Plan:
        choice = Choice(level.name, title, "exact", adjoint, False, ())
        return Plan(self.program, self.facts, {**choices, level.name: choice})

    def _traced(self, plan: Plan, level: ir.Level, steps: Mapping[str, float]) -> Work:
        top = self.outermost(level)
        return self.tracer.cost(plan, top.name, {**self.steps, **steps}, self.products(plan))

    def outermost(self, level: ir.Level) -> ir.Level:
        """The outermost level around a level."""
        while level.parent is not None:
            level = self.program.level(level.parent)
        return level

    def _checkpointed(self, choices: Choices, level: ir.Level, adjoint: Unroll, steps: int) -> Work:
        """Work of `rmd` and of the steps computed again; the peak of as many states as are alive at once."""
        plain = self._plan(choices, level, "rmd", Reverse().lower(level, self.facts[level.name]))
        forward = self._step_forth(choices, level)
        again, alive = recomputed(adjoint, steps)
        held = self._traced(plain, level, {level.name: float(alive - 1)})
        whole, extra = self._traced(plain, level, {}), float(again) * forward
        fresh = max(
            held.peak, whole.fresh - (whole.peak - held.peak) + extra.fresh
        )  # what is not kept is not asked for
        return replace(whole + extra, peak=held.peak, first=held.first, fresh=fresh)

    def _step_forth(self, choices: Choices, level: ir.Level) -> Work:
        """One step without a way back: what checkpoints compute again in three steps, over three."""
        facts, three = self.facts[level.name], {level.name: 3.0}
        plain = self._plan(choices, level, "rmd", Reverse().lower(level, facts))
        once = self._plan(choices, level, "rmd(checkpoint = 1)", Reverse(checkpoint=1).lower(level, facts))
        return (1 / 3) * (self._traced(once, level, three) - self._traced(plain, level, three))

    def _pulled(self, choices: Choices, level: ir.Level, adjoint: Unroll, steps: int) -> Work:
        """Work of `rmd(store = residuals)` and of every step once more; the peak of the run that holds most.

        Bytes of a state and of a step's residuals are what two traced steps differ by from three.
        """
        facts = self.facts[level.name]
        plain = self._plan(choices, level, "rmd", Reverse().lower(level, facts))
        kept = self._plan(choices, level, "residuals", Reverse(store="residuals").lower(level, facts))
        at = level.name
        two, three = (self._traced(plain, level, {at: steps}) for steps in (2.0, 3.0))
        low, high = (self._traced(kept, level, {at: steps}) for steps in (2.0, 3.0))
        runs = held_in_runs(adjoint, steps)
        state, peak = three.peak - two.peak, _fullest(runs, three.peak - two.peak, low.peak, high.peak)
        first = _fullest(runs, three.first - two.first, low.first, high.first)
        whole, extra = self._traced(kept, level, {}), float(steps) * self._step_forth(choices, level)
        fresh = max(peak, whole.fresh - (whole.peak - peak) + extra.fresh)  # what is not kept is not asked for
        again = len(runs) // TRIMMED if state >= LARGE_STATE else 0
        return replace(whole + extra, peak=peak, first=first, fresh=fresh + again * peak)

    def products(self, plan: Plan) -> dict[str, float]:
        """Products that linear solvers are taken to need: those asked for, or where a tolerance ends them an estimate.

        Conjugate gradients and gmres need about the square root of the steps that gradient descent needs to the same
        tolerance, a Neumann series as many (Saad, Iterative methods for sparse linear systems, 6.11.3); never more
        than one for each number.
        """
        found = {}
        for name, choice in plan.choices.items():
            adjoint = choice.adjoint
            if isinstance(adjoint, Implicit) and adjoint.method in ("cg", "gmres", "neumann"):
                level = self.program.level(name)
                most, steps = self.size(level), self._steps_needed(level)
                if adjoint.tol == 0 or most is None or steps is None:
                    found[name] = float(adjoint.steps)
                    continue
                needed = steps if adjoint.method == "neumann" else math.sqrt(steps)
                found[name] = float(min(adjoint.steps, most, math.ceil(needed)))
        return found

    def _steps_needed(self, level: ir.Level) -> float | None:
        """Steps that a level takes; for `until` the geometric mean of one and the most."""
        steps = self.steps.get(level.name)
        return math.sqrt(steps) if steps is not None and isinstance(level.phases[-1].duration, ir.Until) else steps

    # ---- sizes ----------------------------------------------------------------------------------------------

    def size(self, level: ir.Level) -> int | None:
        """Numbers in the variables of one copy of a level."""
        found = [self._numbers(v) for v in level.variables]
        return None if None in found else sum(n for n in found if n is not None)

    def _numbers(self, variable: ir.Variable) -> int | None:
        match variable.type:
            case Array(shape) if all(isinstance(n, int) for n in shape):
                return math.prod(n for n in shape if isinstance(n, int))
            case Tree(net=net) if isinstance(self.parts.objects.get(net), nn.Module):
                return tree_size(variable.type, self.parts)
        return None

    def copies(self, level: ir.Level) -> int | None:
        """Copies of a level: the product of the sizes of its indices."""
        counts = [self._count(axis) for axis in level.copies]
        return None if None in counts else math.prod(c for c in counts if c is not None)

    def _count(self, axis: str) -> int | None:
        index = next((i for lv in self.program.walk_levels() for i in lv.indices if i.name == axis), None)
        source = None if index is None else index.source
        if isinstance(source, ir.Sample):
            found = None if source.count is None else number(self.program, source.count)
            return None if found is None else int(found)
        part = None if source is None else self._object(source)
        return len(part) if isinstance(part, list | tuple) and not hasattr(part, "_fields") else self._length(part)

    def _epochs(self, level: ir.Level) -> float | None:
        """Steps of a level that counts passes over its data."""
        duration = level.phases[-1].duration
        if not isinstance(duration, ir.Steps) or duration.unit != "epochs":
            return None
        passes = number(self.program, duration.count)
        for draw in level.draws:
            source = draw.source
            if isinstance(source, ir.Sample) and source.count is not None and passes is not None:
                total, batch = self._length(self._object(source.source)), number(self.program, source.count)
                if total and batch:
                    return passes * (total // int(batch))
        return None

    def _object(self, expr: ir.Expr) -> Any:
        """A part, or a field of one, by the expression that names it."""
        match expr:
            case ir.Read(name=name):
                return self.parts.objects.get(name)
            case ir.Field(base=base, name=name):
                return getattr(self._object(base), name, None)
        return None

    def _length(self, part: Any) -> int | None:
        found = list(leaves(part)) if isinstance(part, tuple) and hasattr(part, "_fields") else []
        return int(found[0].shape[0]) if found else None

    # ---- facts for people -----------------------------------------------------------------------------------

    def known(self, choices: Choices, level: ir.Level) -> tuple[Fact, ...]:
        """Sizes of a level and, where it could be traced, what one inner step and the outer gradient cost."""
        return (*self._sizes(choices, level), *self._measures(choices, level))

    def _sizes(self, choices: Choices, level: ir.Level) -> Iterator[Fact]:
        facts = self.facts[level.name]
        around = self.program.level(level.parent or level.name)
        wanted = [v for v in around.variables if v.name in facts.targets]
        numbers = [self._numbers(v) for v in wanted]
        if wanted and None not in numbers:
            yield _fact("n", "", sum(n or 0 for n in numbers), "derived", wanted[0].span, facts.targets)
        if (size := self.size(level)) is not None:
            yield _fact("m", "", size, "derived", level.variables[0].span, level.names)
        if level.name in self.steps:
            until = isinstance(level.phases[-1].duration, ir.Until)
            yield _fact("T", "", self.steps[level.name], "assumed" if until else "declared", level.phases[-1].span)
        if (copies := self.copies(level)) is not None:
            yield _fact("P", "", copies, "declared" if level.copies else "derived", _index_span(self.program, level))
        for name, products in self.products(Plan(self.program, self.facts, choices)).items():
            if name == level.name:
                yield _fact("K", "", products, "assumed", level.phases[-1].span)

    def _measures(self, choices: Choices, level: ir.Level) -> Iterator[Fact]:
        """Work and bytes per copy, from the difference between three and two steps."""
        try:
            yield from self._per_copy(choices, level)
        except Untraced:
            return

    def _per_copy(self, choices: Choices, level: ir.Level) -> Iterator[Fact]:
        facts = self.facts[level.name]
        if not Reverse().accepts(level, facts).ok or (self.copies(level) or 0) < 1:
            return
        share = 1.0 / (self.copies(level) or 1)
        at, span = level.name, level.phases[-1].span
        plain = self._plan(choices, level, "rmd", Reverse().lower(level, facts))
        two, three = (self._traced(plain, level, {at: steps}) for steps in (2.0, 3.0))
        once = self._plan(choices, level, "rmd(checkpoint = 1)", Reverse(checkpoint=1).lower(level, facts))
        forward = (1 / 3) * (self._traced(once, level, {at: 3.0}) - three) if not facts.iterates else None
        yield _fact("s", "B", share * (three.peak - two.peak), "traced", span)
        yield _fact("G", "FLOP", share * (two.flop - 2 * (three.flop - two.flop)), "traced", span)
        yield _fact("A", "B", share * (two.peak - 2 * (three.peak - two.peak)), "traced", span)
        if forward is not None:
            yield _fact("g", "FLOP", share * forward.flop, "traced", span)
            yield _fact("b", "FLOP", share * (three.flop - two.flop - forward.flop), "traced", span)
        if Reverse(store="residuals").accepts(level, facts).ok:
            kept = self._plan(choices, level, "residuals", Reverse(store="residuals").lower(level, facts))
            low, high = (self._traced(kept, level, {at: steps}) for steps in (2.0, 3.0))
            yield _fact("r", "FLOP", share * (high.flop - low.flop), "traced", span)
            yield _fact("h", "B", share * (high.peak - low.peak), "traced", span)

    def step(self, choices: Choices, phase: ir.Level) -> Cost | None:
        """One step of an outermost level, all its levels as chosen; None where nothing is inside it."""
        inner = next(inside(phase), None)
        if inner is None:
            return None
        plan = Plan(self.program, self.facts, choices)
        checkpointed = next((c for c in map(choices.__getitem__, (i.name for i in inside(phase))) if _sparse(c)), None)
        if checkpointed is not None:
            return next(c.cost for c in checkpointed.candidates if c.chosen)
        try:
            work = self._traced(plan, inner, {})
        except Untraced as error:
            return Cost(Reverse().cost(inner, self.facts[inner.name]), untraced=str(error))
        return Cost(Reverse().cost(inner, self.facts[inner.name]), work, self.calibration.seconds(work, self.kernels))


def _needs(work: Work) -> float:
    return max(work.peak, work.first)


def _fullest(runs: list[tuple[int, int]], state: float, low: float, high: float) -> float:
    """Bytes of the run that holds most, by those of a state and of two and three steps with their residuals."""
    return max((low + (n - 2) * (high - low) + held * state for held, n in runs), default=low)


def _sparse(choice: Choice) -> bool:
    return isinstance(choice.adjoint, Unroll) and choice.adjoint.sparse


def _fact(symbol: str, unit: str, value: float, origin: Origin, span: Span, names: tuple[str, ...] = ()) -> Fact:
    return Fact(symbol, float(value), unit, origin, span, names)


def _index_span(program: ir.Program, level: ir.Level) -> Span:
    found = [i.span for lv in program.walk_levels() for i in lv.indices if i.name in level.copies]
    return found[0] if found else level.span


# ---- checkpoints ---------------------------------------------------------------------------------------------


def recomputed(adjoint: Unroll, steps: int) -> tuple[int, int]:
    """Steps computed again and states alive at once on the way back, by walking without computing anything."""
    count = adjoint.checkpoints if adjoint.checkpoints is not None else root(steps)
    walk = _Walk()
    even = adjoint.store == "even"
    runs = segments(steps, count) if even else binomial_segments(steps, count)
    kept = [walk.state() for _ in runs]
    end = walk.state()
    (walk_back if even else walk_back_binomial)(lambda states, first, last: None, walk.advance, kept, steps, count)
    del end
    return walk.again, walk.most


def held_in_runs(adjoint: Unroll, steps: int) -> list[tuple[int, int]]:
    """For every run between checkpoints that keeps its residuals: states held beside its own start, and its steps."""
    runs = falling(steps) if adjoint.checkpoints is None else segments(steps, adjoint.checkpoints)
    return [(number, last - first) for number, (first, last) in enumerate(runs)]


class _Walk:
    """States that only count themselves."""

    def __init__(self) -> None:
        self.again = self.alive = self.most = 0

    def state(self) -> _Counted:
        return _Counted(self)

    def advance(self, state: _Counted, first: int, last: int) -> list[Any]:
        """The states of a run, the given one first."""
        self.again += last - first
        return [state, *(self.state() for _ in range(last - first))]


class _Counted:
    """Alive as long as somebody holds it."""

    def __init__(self, walk: _Walk) -> None:
        self.walk = walk
        walk.alive += 1
        walk.most = max(walk.most, walk.alive)

    def __del__(self) -> None:
        self.walk.alive -= 1
