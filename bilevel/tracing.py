"""Counting what a hypergradient costs, on tensors without numbers: nothing is allocated and nothing is computed.

The emitted module of a plan is built on torch's `meta` device and run once under a dispatch mode that counts. Levels
are cut to two and three steps, and what was counted is carried on linearly to their own number of steps, which is how
work and bytes grow once a mode's window or teacher is full (the first step back differs from the others: nothing has
reached the solver's state yet).
"""

from __future__ import annotations

import copy
import itertools
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import ir
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.plainly import Plain
from bilevel.binding import Parts
from bilevel.costs import Work
from bilevel.errors import pass_on
from bilevel.marks import Marks
from bilevel.meter import Meter, layers
from bilevel.modes import Implicit, Leaping, Unroll
from bilevel.plan import Choice, Plan

LARGEST_GRID = 8
"""runs for one mode: two for each level whose number of steps is carried on"""
NO_STEPS: Mapping[str, float] = types.MappingProxyType({})
LONGEST = 64
"""steps of one run that are still quickly traced"""


class Untraced(Exception):
    """A plan whose cost cannot be counted; the text says why."""


# ---- running a plan without numbers --------------------------------------------------------------------------


def without_numbers(parts: Parts) -> Parts:
    """The parts on the meta device: shapes alone. Raises Untraced."""
    try:
        moved = {name: _emptied(part, parts.dtype) for name, part in parts.objects.items()}
    except Exception as error:  # a stream of the caller's may need numbers
        pass_on(error)
        raise Untraced(_reason(error)) from error
    return replace(parts, objects=moved, device=torch.device("meta"))


def _emptied(part: Any, dtype: torch.dtype) -> Any:
    if isinstance(part, nn.Module):
        own = (*part.parameters(), *part.buffers())
        memo = {id(leaf): _like(leaf) for leaf in own}
        return copy.deepcopy(part, memo)  # what the memo holds is not copied: no number is
    if isinstance(part, Tensor):
        return part.to("meta")
    if isinstance(part, tuple | list):
        items = [_emptied(item, dtype) for item in part]
        return type(part)(*items) if hasattr(part, "_fields") else type(part)(items)
    return part.to(torch.device("meta"), dtype) if hasattr(part, "sample") else part


def _like(leaf: Tensor) -> Tensor:
    empty = leaf.detach().to("meta")
    return nn.Parameter(empty, leaf.requires_grad) if isinstance(leaf, nn.Parameter) else empty


def _not_yet(value: Any) -> bool:
    """The answer to a test of copies that go on, where there are no numbers: all do."""
    return True if isinstance(value, Tensor) else bool(value)


def load(source: str, parts: Parts, kernels: Plain | None = None) -> tuple[Any, ...]:
    """The outermost levels of an emitted module without numbers; every test of numbers is answered `not yet`."""
    from bilevel.backends.torch_func.emit import HEADER, RECIPE
    from bilevel.program import argument_names

    module = types.ModuleType("bilevel_traced")
    start = source.index(HEADER)
    end = source.index(f"# {RECIPE}", start)
    for code in (_runtime(source[start:end]), compile(source[end:], "<traced module>", "exec")):
        exec(code, module.__dict__)  # noqa: S102 - our own text
    module.__dict__.update(bool=_not_yet, any_left=lambda active: True, any_broken=lambda mask: False)
    phases: tuple[Any, ...] = module.__dict__["build"](
        **argument_names(parts.objects), device=parts.device, dtype=parts.dtype, kernels=kernels or Plain()
    )
    return phases


@lru_cache(maxsize=8)
def _runtime(text: str) -> types.CodeType:
    """What stands before a recipe's own functions: most of a module's text, and the same for modes that are alike."""
    return compile(text, "<traced module>", "exec")


@dataclass(frozen=True, slots=True)
class Counted:
    """The work of functions as they are, and with kernels in their place."""

    plain: Work
    kernels: Work


def counted(plan: Plan, phase: str, parts: Parts, longer: Mapping[str, float] = NO_STEPS) -> Counted:
    """The work of one hypergradient of an outermost level, as the plan has it; raises Untraced."""
    from bilevel import pipeline

    meter = Meter()
    marks = Marks(meter, longer)
    try:
        phases = load(pipeline.emit(plan), parts, marks)
        key = make_key(0, "meta")
        known: dict[str, Any] = {}
        for one in phases:
            given = [known[n] for n in one.reads]
            with Meter():  # not for its counts: it knows the shapes that were made before
                state = one.begin(key, *given)
            if one.name == phase:
                return _run(one, state, key, given, marks)
            known |= one.values(state)
    except Exception as error:  # whatever a part does with tensors becomes a reason
        pass_on(error)
        raise Untraced(_reason(error)) from error
    raise Untraced(f"`{phase}` is no outermost level")


def _run(phase: Any, state: Any, key: Tensor, given: list[Any], marks: Marks) -> Counted:
    marks.reset()  # what began the levels is not counted
    meter = marks.meter
    with torch.no_grad(), meter, layers(phase.hypergradient, meter):
        kept = phase.hypergradient(state, key, *given)
    del kept
    return Counted(meter.work, replace(marks.work, first=meter.memory.peak))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).partition("\n")[0].split())
    return f"{type(error).__name__}: {text[:100]}" if text else type(error).__name__


# ---- fewer steps ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Knob:
    """What a trace is cut to, `low` and `high`, and the number that it stands for: steps of a level or of a solver."""

    level: str
    what: str
    low: int
    high: int
    actual: float

    @property
    def values(self) -> tuple[int, ...]:
        """The numbers to trace at; the actual one alone where that is small."""
        return (int(self.actual),) if self.actual <= self.high else (self.low, self.high)

    def weight(self, value: int) -> float:
        """What a trace at `value` counts towards the actual number."""
        if len(self.values) == 1:
            return 1.0
        ahead = (self.actual - self.low) / (self.high - self.low)
        return ahead if value == self.high else 1.0 - ahead


class Tracer:
    """Costs of plans of one program with built parts; every point that was traced is kept.

    `steps`: of every level inside, which decide what becomes a kernel. `kernels`: whether functions are kernels.
    """

    def __init__(self, parts: Parts, steps: Mapping[str, float] = NO_STEPS) -> None:
        self.steps = steps
        self.kernels = False
        self.known: dict[Any, Counted | Untraced] = {}
        self.parts = parts
        self.failed: Untraced | None = None
        try:
            self.parts = without_numbers(parts)
        except Untraced as error:
            self.failed = error

    def cost(
        self,
        plan: Plan,
        phase: str,
        steps: Mapping[str, float],
        products: Mapping[str, float],
        outright: str = "",
    ) -> Work:
        """The work of one hypergradient of an outermost level, carried on to `steps` of each level inside.

        `products`: of the linear solver of a level; `outright`: the level whose steps are all traced. Cost: 2^d runs
        without numbers for d levels. Raises Untraced.
        """
        total = Work()
        for weight, point, knobs in self.points(plan, phase, steps, products, outright):
            total += weight * self._at(plan, phase, knobs, point)
        return total

    def points(
        self,
        plan: Plan,
        phase: str,
        steps: Mapping[str, float],
        products: Mapping[str, float],
        outright: str = "",
    ) -> list[tuple[float, tuple[int, ...], list[Knob]]]:
        """What is traced in place of the plan: a weight, and a number for each knob that `cut` sets. Raises Untraced."""
        if self.failed is not None:
            raise self.failed
        knobs = list(_knobs(plan, phase, steps, products))
        knobs = [replace(k, high=int(k.actual)) if k.level == outright and k.what == "steps" else k for k in knobs]
        grid = list(itertools.product(*(knob.values for knob in knobs)))
        if len(grid) > LARGEST_GRID:
            raise Untraced(f"{len(knobs)} numbers of steps would have to be varied")
        if any(value > LONGEST for point in grid for value in point):
            raise Untraced(f"a run of {max(map(max, grid))} steps")
        weigh = [math.prod(k.weight(value) for k, value in zip(knobs, point, strict=True)) for point in grid]
        return [(weight, point, knobs) for weight, point in zip(weigh, grid, strict=True)]

    def _at(self, plan: Plan, phase: str, knobs: list[Knob], point: tuple[int, ...]) -> Work:
        shorter = cut(plan, knobs, point)
        key = (phase, point, tuple((c.level, repr(c.adjoint)) for c in shorter.choices.values()))
        if key not in self.known:
            try:
                self.known[key] = counted(shorter, phase, self.parts, self._longer(shorter, knobs, point))
            except Untraced as error:
                self.known[key] = error
        found = self.known[key]
        if isinstance(found, Untraced):
            raise found
        return found.kernels if self.kernels else found.plain

    def _longer(self, plan: Plan, knobs: list[Knob], point: tuple[int, ...]) -> dict[str, float]:
        """For every level how many times as many steps those inside it take as are traced."""
        traced = {k.level: value for k, value in zip(knobs, point, strict=True) if k.what == "steps"}
        times = {name: self.steps.get(name, float(value)) / max(1, value) for name, value in traced.items()}
        return {
            lv.name: max((times.get(i.name, 1.0) for i in inside(lv)), default=1.0) for lv in plan.program.walk_levels()
        }


def _knobs(plan: Plan, phase: str, steps: Mapping[str, float], products: Mapping[str, float]) -> Iterator[Knob]:
    for level in inside(plan.program.level(phase)):
        adjoint = plan.choices[level.name].adjoint
        if level.name in steps:
            yield Knob(level.name, "steps", *_range(adjoint), steps[level.name])
        elif level.phases[-1].duration is not None:
            raise Untraced(f"the number of steps of `{level.name}` is not known")
        if isinstance(adjoint, Implicit) and adjoint.method in ("cg", "gmres", "neumann"):
            yield Knob(level.name, "linear", 1, 2, products.get(level.name, adjoint.steps))


def _range(adjoint: object) -> tuple[int, int]:
    """Two numbers of steps from which on a mode's work and memory are linear."""
    match adjoint:
        case Unroll(window=int() as window, update=True):
            return window, 2 * window
        case Unroll(window=int() as window):
            return window + 2, window + 3
        case Leaping(teacher=teacher, keep=keep):
            return teacher + keep + 2, teacher + keep + 3
    return 2, 3


def inside(level: ir.Level) -> Iterator[ir.Level]:
    """The levels inside a level, each before those inside it."""
    for inner in level.levels:
        yield inner
        yield from inside(inner)


def step_count(program: ir.Program, level: ir.Level) -> float | None:
    """The steps of a level, for `until` the most; None for a closed form and where data decide."""
    duration = level.phases[-1].duration
    if isinstance(duration, ir.Until):
        return number(program, duration.cap)
    if not isinstance(duration, ir.Steps) or duration.unit != "steps":
        return None
    first = 1.0 if duration.first is None else number(program, duration.first)
    last = number(program, duration.count)
    return None if first is None or last is None else last - first + 1


def number(program: ir.Program, expr: ir.Expr) -> float | None:
    """A constant or a param."""
    value = expr.value if isinstance(expr, ir.Constant) else None
    if isinstance(expr, ir.Read):
        value = next((p.value for p in program.params if p.name == expr.name), None)
    return float(value) if isinstance(value, int | float) else None


def cut(plan: Plan, knobs: list[Knob], point: tuple[int, ...]) -> Plan:
    """The plan with other numbers of steps and without reports; it is traced and never run."""
    steps = {k.level: v for k, v in zip(knobs, point, strict=True) if k.what == "steps"}
    solver = {k.level: v for k, v in zip(knobs, point, strict=True) if k.what == "linear"}
    program = _with_steps(plan.program, steps)
    choices = {n: _with_products(c, solver[n]) if n in solver else c for n, c in plan.choices.items()}
    return Plan(program, plan.facts, choices, {})


def _with_products(choice: Choice, count: int) -> Choice:
    assert isinstance(choice.adjoint, Implicit)
    return replace(choice, adjoint=replace(choice.adjoint, steps=count, tol=0.0))


def _with_steps(program: ir.Program, steps: Mapping[str, int]) -> ir.Program:
    """A number of steps that is a param changes with everything else that the param stands for."""
    params = {p.name: p.value for p in program.params}
    levels = tuple(_shorter(level, steps, params) for level in program.levels)
    changed = tuple(replace(p, value=params[p.name]) for p in program.params)
    return replace(program, levels=levels, params=changed)


def _shorter(level: ir.Level, steps: Mapping[str, int], params: dict[str, Any]) -> ir.Level:
    levels = tuple(_shorter(inner, steps, params) for inner in level.levels)
    level = replace(level, levels=levels, reports=())
    if level.name not in steps:
        return level
    phase = level.phases[-1]
    duration = _lasting(phase.duration, steps[level.name], params)
    return replace(level, phases=(*level.phases[:-1], replace(phase, duration=duration)))


def _lasting(duration: ir.Steps | ir.Until | None, count: int, params: dict[str, Any]) -> ir.Steps | ir.Until | None:
    if isinstance(duration, ir.Until):
        return replace(duration, cap=_counting(duration.cap, count, params))
    assert duration is not None
    first = int(duration.first.value) if isinstance(duration.first, ir.Constant) else 1
    return replace(duration, count=_counting(duration.count, first + count - 1, params), unit="steps")


def _counting(expr: ir.Expr, value: int, params: dict[str, Any]) -> ir.Expr:
    named = {expr.name} if isinstance(expr, ir.Read) else set(expr.reads)
    if len(named & params.keys()) == 1:  # a number of steps that is a param, which iterates may be counted by as well
        params[(named & params.keys()).pop()] = value
    return ir.Constant(span=expr.span, type=expr.type, value=value)
