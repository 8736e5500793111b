"""Estimates beside measurements: some steps of a program are run on copies, and every function of a step is measured.

Nothing is written but the calibration of the machine, and that by the caller. The estimates are those of the plan:
the same functions counted without numbers, with the same cut numbers of steps, at the plan's calibration.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from bilevel import ir, pipeline
from bilevel.backends.torch_func.keyed import make_key
from bilevel.calibrating import fitted
from bilevel.costs import Calibration, Work
from bilevel.errors import RecipeError, pass_on
from bilevel.estimates import Estimator
from bilevel.measuring import Allocator, Clock, Counter, Path, Reading, Recorder, watching
from bilevel.meter import Meter, layers
from bilevel.modes import Unroll
from bilevel.plan import Plan, repeats_of
from bilevel.residuals import failure
from bilevel.tracing import LONGEST, Untraced, cut, load, without_numbers

if TYPE_CHECKING:
    from bilevel.gradcheck import Gradcheck
    from bilevel.program import Program

FLAGGED = 1.5
"""ratios beyond it, or below its inverse, are flagged"""
SMALL = 0.01
"""share of a step below which time outside all watched functions is not worth a line"""


@dataclass(frozen=True, slots=True)
class Row:
    """One function of a step: seconds of one step, bytes alive at its peak; estimates None where nothing was traced."""

    step: str
    level: str
    depth: int
    calls: int
    seconds: float
    peak: float
    seconds_estimated: float | None = None
    peak_estimated: float | None = None
    untraced: str = ""

    @property
    def ratio(self) -> float | None:
        """Measured over estimated seconds."""
        return None if not self.seconds_estimated else self.seconds / self.seconds_estimated

    @property
    def flags(self) -> tuple[str, ...]:
        """What is further from its estimate than `FLAGGED`: `time`, `memory`."""
        pairs = (("time", self.seconds, self.seconds_estimated), ("memory", self.peak, self.peak_estimated))
        return tuple(name for name, found, said in pairs if said and abs(_log(found / said)) > _log(FLAGGED))


@dataclass(frozen=True, slots=True)
class Analysis:
    """All rows, outermost level by outermost level; the calibration before and after; the gradient check."""

    program: Program
    steps: Mapping[str, int]
    rows: tuple[Row, ...]
    before: Calibration
    after: Calibration
    gradcheck: Gradcheck | None = field(default=None)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def analyze(program: Program, steps: int = 20, seed: int = 0, check: bool = True) -> Analysis:
    """Run `steps` steps of every outermost level, measure them, and check hypergradients in float64 on a small copy.

    Functions are measured as they are, without kernels. Times are medians over the steps, one more being run before as a warm-up; bytes are counted in one more step, by a
    dispatch mode or on a GPU by its allocator. Cost: steps + 2 steps of every outermost level. Reports B7xx as a run does.
    """
    numbers = program.plan.numbers
    assert numbers is not None
    key = make_key(seed, program.parts.device)
    known: dict[str, Any] = {}
    rows: list[Row] = []
    timed: list[list[tuple[Work, float]]] = []
    taken: dict[str, int] = {}
    with torch.no_grad(), program.kernels.resting():  # inside a kernel no function could be told from another
        for phase in program.phases:
            given = [known[n] for n in phase.reads]
            found = _measured(program, phase, key, given, min(steps, phase.steps))
            estimates = _estimated(program.plan, phase.name, program, numbers.calibration)
            rows += _rows(program.plan, phase.name, found, estimates)
            timed.append([(found.counted[path].work, found.seconds(path)) for path in found.counted])
            known |= phase.values(found.state)
            taken[phase.name] = len(found.timed)
    after = fitted(numbers.calibration, _name(program), timed)
    checked = program.gradcheck(against="fd") if check and _has_gradients(program) else None
    return Analysis(program, taken, tuple(rows), numbers.calibration, after, checked)


def _name(program: Program) -> str:
    return f"{program.parts.device}, measured on {program.recipe.name}"


def _has_gradients(program: Program) -> bool:
    """Whether some outermost level follows a gradient."""
    from bilevel.kinds import is_searched

    return not any(map(is_searched, program.plan.program.levels))


# ---- measurements --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Found:
    """Readings of one outermost level: seconds step by step, work and bytes of one step, and where it ended."""

    timed: list[dict[Path, Reading]]
    counted: dict[Path, Reading]
    state: Any

    def seconds(self, path: Path) -> float:
        """Of one step, in this function alone: the median over the steps."""
        return median(one[path].seconds if path in one else 0.0 for one in self.timed)

    def calls(self, path: Path) -> int:
        """In all steps together."""
        return sum(one[path].calls for one in self.timed if path in one)


def _measured(program: Program, phase: Any, key: torch.Tensor, given: list[Any], steps: int) -> _Found:
    checked, root = program.plan.program, f"{phase.name}_step"
    device = program.parts.device

    def stepped(state: Any, recorder: Recorder) -> Any:
        with watching(checked, recorder, phase.step), recorder.inside(root):
            try:
                return phase.step(state, key, *given)[0]
            except ArithmeticError as error:
                said = failure(program.plan, error, phase.name, state.step)
                if said is None:
                    raise
                raise RecipeError([said]) from error

    state = phase.begin(key, *given)
    stepped(state, Recorder(Clock(device)))  # a warm-up: kernels are loaded, memory is taken from the system
    timed = []
    for _ in range(steps):
        recorder = Recorder(Clock(device))
        state = stepped(state, recorder)
        timed.append(recorder.found)
    meter = Meter()
    gauge = Allocator(meter, device) if device.type == "cuda" else Counter(meter)
    counting = Recorder(gauge)
    with meter, layers(phase.step, meter):
        kept = stepped(state, counting)
    del kept
    return _Found(timed, counting.found, state)


# ---- estimates -----------------------------------------------------------------------------------------------


def _estimated(
    plan: Plan, phase: str, program: Program, calibration: Calibration
) -> dict[Path, tuple[float, float]] | str:
    """Seconds and peak of every function without those inside it; why not, where the plan has no numbers itself."""
    estimator = Estimator(plan.program, plan.facts, program.parts, calibration)
    try:
        found: dict[Path, tuple[Work, float]] = {}
        for weight, shorter in _points(estimator, plan, phase):
            for path, (work, peak) in _traced(shorter, phase, program).items():
                before = found.get(path, (Work(), 0.0))
                found[path] = before[0] + weight * work, before[1] + weight * peak
    except Untraced as error:
        return str(error)
    return {path: (max(0.0, calibration.seconds(work)), max(0.0, peak)) for path, (work, peak) in found.items()}


def _points(estimator: Estimator, plan: Plan, phase: str) -> Iterator[tuple[float, Plan]]:
    """The plans that are traced and what each counts; modes that keep few states grow with no fixed step."""
    if any(isinstance(c.adjoint, Unroll) and c.adjoint.sparse for c in plan.choices.values()):
        if max(estimator.steps.values(), default=0) > LONGEST:
            raise Untraced(f"more than {LONGEST} steps between checkpoints; the plan has the whole step")
        yield 1.0, plan
        return
    for weight, point, knobs in estimator.tracer.points(plan, phase, estimator.steps, estimator.products(plan)):
        yield weight, cut(plan, knobs, point)


def _traced(plan: Plan, phase: str, program: Program) -> dict[Path, tuple[Work, float]]:
    """What every function does, counted without numbers."""
    meter = Meter()
    recorder = Recorder(Counter(meter))
    try:
        phases = load(pipeline.emit(plan), without_numbers(program.parts))
        known: dict[str, Any] = {}
        key = make_key(0, "meta")
        for one in phases:
            given = [known[n] for n in one.reads]
            state = one.begin(key, *given)
            if one.name == phase:
                told = watching(plan.program, recorder, one.hypergradient)
                inner = layers(one.hypergradient, meter)
                with torch.no_grad(), told, meter, inner, recorder.inside(f"{phase}_step"):
                    one.hypergradient(state, key, *given)
                break
            known |= one.values(state)
    except Untraced:
        raise
    except Exception as error:  # whatever a part does with tensors becomes a reason
        pass_on(error)
        raise Untraced(f"{type(error).__name__}: {str(error).partition(chr(10))[0][:100]}") from error
    return {path: (reading.work, reading.own_peak) for path, reading in recorder.found.items()}


# ---- rows ----------------------------------------------------------------------------------------------------


def _rows(plan: Plan, phase: str, found: _Found, estimates: Mapping[Path, tuple[float, float]] | str) -> Iterator[Row]:
    """The step, then its functions in the order of the plan; the gradient's own share stands between both ways."""
    said = {} if isinstance(estimates, str) else estimates
    untraced = estimates if isinstance(estimates, str) else ""
    root: Path = (f"{phase}_step",)

    def row(path: Path, depth: int, label: str, whole: bool) -> Row:
        paths = [p for p in found.counted if p == path or (whole and p[: len(path)] == path)]
        own = [p for p in said if p == path or (whole and p[: len(path)] == path)]
        return Row(
            label,
            path[-1].rpartition("_")[0],
            depth,
            found.calls(path),
            sum(map(found.seconds, paths)),
            max(found.counted[p].own_peak for p in paths),
            sum(said[p][0] for p in own) if own else None,
            max(said[p][1] for p in own) if own else None,
            untraced,
        )

    def inside(path: Path, depth: int) -> Iterator[Row]:
        for child in _children(found.counted, path):
            level, _, operation = child[-1].rpartition("_")
            if operation != "gradient":
                yield row(child, depth, _label(plan, level, operation), True)
                yield from inside(child, depth + 1)
                continue
            own = row(child, depth, _label(plan, level, operation), False)
            below = list(inside(child, depth))
            back = next((i for i, one in enumerate(below) if one.step.startswith(f"{one.level} backward")), len(below))
            yield from (*below[:back], own, *below[back:])

    whole = row(root, 0, f"one step of {phase}", True)
    yield whole
    yield from inside(root, 1)
    rest = row(root, 1, "all else", False)
    if rest.seconds > SMALL * whole.seconds:
        yield rest


def _children(found: Mapping[Path, Reading], path: Path) -> list[Path]:
    return [p for p in found if len(p) == len(path) + 1 and p[:-1] == path]


def _label(plan: Plan, name: str, operation: str) -> str:
    """A function in the words of the plan."""
    level: ir.Level = plan.program.level(name)
    match operation:
        case "draw":
            return f"draw {', '.join([*(i.name for i in level.indices), *(d.name for d in level.draws)])}"
        case "forward":
            steps = "" if level.phases[-1].duration is None else f", {repeats_of(level)} steps"
            return f"{name} forward{steps}"
        case "pullback":
            return f"{name} backward, {plan.choices[name].mode}"
        case "update":
            return level.phases[0].solvers[0].name
    return "outer value and its gradient"
