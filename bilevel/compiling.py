"""Which kind of kernels a program gets, and what became of its functions, as lines of a plan.

`auto` is decided from numbers in the recipe, never by a measurement: the same recipe has the same kernels, and with
them the same bits, in every run on a machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from bilevel import ir
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.trace.compilers import KINDS, Kind, base, has_graphs, why_not
from bilevel.backends.torch_func.trace.cuda import CudaGraphs
from bilevel.backends.torch_func.trace.kernels import Kernels, Made
from bilevel.backends.torch_func.trace.replays import Replays
from bilevel.costs import making, reference, size_text, time_text
from bilevel.errors import fail
from bilevel.kinds import is_searched
from bilevel.plan import Plan
from bilevel.table import is_capped

if TYPE_CHECKING:
    from bilevel.program import Program

Asked: TypeAlias = Literal["auto"] | Kind
ASKED: tuple[Asked, ...] = ("auto", *KINDS)

TRACING, COMPILING = 2_000, 100_000
"""Steps, of all levels and both ways, from which tracing and compiling pay back where nothing says what a step takes."""
SHORT = 5.0
"""predicted seconds of a run as it is, up to which nothing is asked of a compiler"""
UNKNOWN = 20
"""steps that a level is taken to need where the recipe does not say"""


def kernels_for(
    plan: Plan, asked: Asked, device: torch.device, dtype: torch.dtype, known: tuple[Kind, str] | None = None
) -> Kernels:
    """The compiler of kernels that was asked for (B712 where it cannot be had); `auto` waits until a run begins.

    `known`: what `auto` is, and why, where what a step takes has been predicted (`paying`).
    """
    if asked not in ASKED:
        raise fail("B712", f"there are no kernels `{asked}`", fix=f"one of: {', '.join(ASKED)}")
    if asked == "auto":
        kind, reason = _chosen(plan, device) if known is None else known
        return Kernels(kind, dtype, device, idle=True, reason=reason, replays=_replays(kind, device))
    missing = why_not(asked, device)
    if missing is not None:
        raise fail("B712", f"no {asked} kernels here: {missing}", fix=_instead(asked, device))
    return Kernels(asked, dtype, device, reason="asked for", replays=_replays(asked, device))


# ---- what pays -----------------------------------------------------------------------------------------------

CANDIDATES: tuple[Kind, ...] = ("none", "fx", "inductor")
"""on a processor; of a GPU nothing has been measured, there the number of steps decides"""
SAID: Mapping[Kind, str] = {"none": "as they are", "fx": "with fx", "inductor": "with Inductor"}


@dataclass(frozen=True, slots=True)
class Whole:
    """A run with kernels of one kind, in predicted seconds: until its kernels are made, and of all its steps."""

    kind: Kind
    before: float
    after: float
    steps: int

    @property
    def seconds(self) -> float:
        return self.before + self.after

    def __str__(self) -> str:
        made = f" ({time_text(self.before)} of it to make them)" if self.before else ""
        return f"{time_text(self.seconds)} {SAID[self.kind]}{made}"


def whole(plan: Plan, kind: Kind) -> Whole | None:
    """What a run of a plan takes at the speed of the reference, which is the same everywhere; None if not predicted."""
    if plan.numbers is None or not plan.numbers.steps:
        return None
    before = after = 0.0
    total = 0
    for name, cost in plan.numbers.steps.items():
        if cost.work is None:
            return None
        steps = _steps(plan.program, plan.program.level(name))
        before += making(cost.work, kind)
        after += steps * reference().seconds(cost.work, kind)
        total += steps
    return Whole(kind, before, after, total)


def paying(found: Sequence[Whole], plan: Plan, device: torch.device) -> tuple[Kind, str]:
    """The kind with which a run is over first, and why; `found`: with functions as they are, then with kernels."""
    best = min(found, key=lambda one: one.seconds)
    steps = f"{found[0].steps:,} step{'s' * (found[0].steps != 1)}"
    about = "at most" if any(is_capped(plan, level.name) for level in plan.program.levels) else "about"
    if len(found) == 1:
        return best.kind, f"{steps} take {about} {time_text(best.seconds)} as they are: too short to make kernels for"
    missing = why_not("inductor", device)
    told = f"{steps} take {about} {', '.join(map(str, found))}"
    return best.kind, told if missing is None else f"{told}; no Inductor: here is {missing}"


def _replays(kind: Kind, device: torch.device) -> Replays | None:
    """What records kernels, for a kind with graphs."""
    return Replays(CudaGraphs(device), device) if has_graphs(kind) else None


def _instead(asked: Kind, device: torch.device) -> str:
    """What to type in place of kernels that cannot be had."""
    if has_graphs(asked) and device.type != "cuda":
        return f"--compile {base(asked)}; or --device cuda, on a machine that has a GPU"
    install = "install g++ (on Debian and Ubuntu: apt install g++)" if device.type == "cpu" else "pip install triton"
    return f"--compile {asked.replace('inductor', 'fx')}, which needs none; or {install}"


def _chosen(plan: Plan, device: torch.device) -> tuple[Kind, str]:
    """The kind that pays back, and why."""
    count = step_calls(plan)
    told = f"about {count:,} steps of levels in a run; tracing pays from {TRACING:,}, Inductor from {COMPILING:,}"
    if count < TRACING:
        return "none", told
    fx, inductor = _tracing(device)
    told += ", and a GPU is asked for a kernel at once" * has_graphs(fx)
    if count < COMPILING:
        return fx, told
    missing = why_not(inductor, device)
    return (inductor, told) if missing is None else (fx, f"{told}, but here is {missing}")


def _tracing(device: torch.device) -> tuple[Kind, Kind]:
    """The kinds that are traced alone, and compiled as well, as a device is asked for them best."""
    return ("fx+graphs", "inductor+graphs") if device.type == "cuda" else ("fx", "inductor")


def step_calls(plan: Plan) -> int:
    """How many steps of levels a run takes, those of the way back counted too."""
    return sum(_calls(plan, level) for level in plan.program.levels)


def _calls(plan: Plan, level: ir.Level) -> int:
    choice = plan.choices.get(level.name)
    ways = 2 if choice is None or choice.adjoint is not None else 1
    inside = sum(_calls(plan, inner) for inner in level.levels if not plan.facts[inner.name].unread)
    return _steps(plan.program, level) * ways * max(1, inside)


def _steps(program: ir.Program, level: ir.Level) -> int:
    """The steps of a level where they are a number, or a param that is one."""
    duration = level.phases[-1].duration
    count = duration.cap if isinstance(duration, ir.Until) else duration.count if duration is not None else None
    if isinstance(count, ir.Constant):
        return max(1, int(count.value))
    numbers = {p.name: p.value for p in program.params if isinstance(p.value, int)}
    named = next(iter(count.reads), "") if count is not None else ""
    return max(1, int(numbers.get(named, UNKNOWN)))


# ---- before a run --------------------------------------------------------------------------------------------


def prepare(program: Program, seed: int = 0) -> None:
    """Make the kernels of the first step of every outermost level, so that what cannot be one is known before a run.

    No step is taken; earlier levels stand at their starts. Costs a hypergradient of each level, and the tracing.
    """
    if program.kernels.kind == "none":
        return
    key, known = make_key(seed, program.parts.device), dict[str, object]()
    with program.kernels.running(), torch.no_grad():
        for phase in program.phases:
            given = [known[name] for name in phase.reads]
            state = phase.begin(key, *given)
            known |= phase.values(state)
            if is_searched(program.plan.program.level(phase.name)):
                continue
            try:
                phase.hypergradient(state, key, *given)
            except ArithmeticError:
                continue  # a linear system that cannot be solved: the run says so, with its place


def kernel_line(kernels: Kernels) -> str:
    """The kind of kernels and why."""
    return f"kernels    {kernels.kind}        {kernels.reason}"


def kernel_lines(program: Program) -> Iterator[str]:
    """What runs as a kernel, level by level, and what does not and why; what graphs hold."""
    kernels = program.kernels
    yield kernel_line(kernels)
    if kernels.replays is not None:
        held = kernels.replays
        yield f"  {held.count} graphs, which hold {size_text(held.bytes)} in buffers beside what the plan counts"
    for level in program.plan.program.walk_levels():
        made = list(_made(program, level.name))
        if kernels.kind == "none" or not made:
            continue
        yield f"  {level.name:<8} {'; '.join(made)}"


def _made(program: Program, level: str) -> Iterator[str]:
    """The functions of one level."""
    names = [lv.name for lv in program.plan.program.walk_levels()]
    mine = [m for m in program.kernels.made if _level(m, names) == level]
    used = [_part(m, level) for m in mine if m.run is not None]
    steps = program.kernels.sizes.get(level, 1)
    several = f", {steps} steps each" if steps > 1 else ""
    if used:
        yield f"{', '.join(dict.fromkeys(used))}{several}"
    for one in {_part(m, level): m for m in mine if m.unrecorded}.values():
        yield f"no graph of {_part(one, level)} [{one.unrecorded}]"
    for one in {_part(m, level): m for m in mine if m.run is None}.values():
        yield f"none for {_part(one, level)} [{one.reason}]"


def _level(made: Made, names: list[str]) -> str:
    return max((name for name in names if made.name.startswith(f"{name}_")), key=len, default="")


def _part(made: Made, level: str) -> str:
    return made.name.removeprefix(f"{level}_")
