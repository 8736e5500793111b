"""What each workload is to reach (issue 6), and whether the figures of a run do.

A target is a figure of one case at one of our rows. All targets of a case are judged at the same row: the one that meets
most of them, of equals the fastest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Case: TypeAlias = Mapping[str, Any]
Row: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`figure` is None where it was not measured; met where it is at least, or at most, the bound."""

    text: str
    figure: Callable[[Case, Row], float | None]
    bound: float
    at_least: bool = True

    def met(self, case: Case, row: Row) -> bool | None:
        """Whether a row meets it."""
        found = self.figure(case, row)
        if found is None:
            return None
        return found >= self.bound if self.at_least else found <= self.bound

    def line(self, case: Case, row: Row) -> str:
        """The target, the figure and the verdict, as a line of a table."""
        found, met = self.figure(case, row), self.met(case, row)
        sign = "at least" if self.at_least else "at most"
        figure = "not measured" if found is None else f"{found:.3g}"
        return f"| {self.text} | {sign} {self.bound:g} | {figure} | {VERDICTS[met]} |"


VERDICTS = {True: "met", False: "**missed**", None: ""}


def of_side(case: Case, name: str, what: str) -> float | None:
    """A figure of a side by name."""
    return next((row.get(what) for row in case["sides"] if row["side"] == name), None)


def faster_than(*names: str) -> Callable[[Case, Row], float | None]:
    """The time of the fastest of these sides over ours."""

    def figure(case: Case, row: Row) -> float | None:
        times = [found for name in names if (found := of_side(case, name, "median"))]
        return min(times) / row["median"] if times else None

    return figure


def smaller_than(name: str) -> Callable[[Case, Row], float | None]:
    """The extra memory of a side over ours."""

    def figure(case: Case, row: Row) -> float | None:
        other, own = of_side(case, name, "bytes"), row.get("bytes")
        return other / own if other and own else None

    return figure


def share_of(name: str) -> Callable[[Case, Row], float | None]:
    """Our time over that of a side."""

    def figure(case: Case, row: Row) -> float | None:
        other = of_side(case, name, "median")
        return row["median"] / other if other else None

    return figure


def stated_gap(case: Case, row: Row) -> float | None:
    """Our time over the floor that the target of W2 was set with: 3.3 GFLOP a step, as fast as `torch.mm` is."""
    floor = case["floor"]
    return row["median"] / (3.3e9 * case["values"]["T"] * floor.get("mm", floor["seconds"]) / floor["operations"])


def error(case: Case, row: Row) -> float | None:
    """How far the worst of our modes is from the exact hypergradient, where the steps have converged."""
    return max(r["apart"] for r in case["sides"] if r["ours"] and "apart" in r) if case["values"]["T"] >= 100 else None


LOOPS = ("higher", "TorchOpt MetaSGD", "plain PyTorch, sequential loop")
TARGETS: dict[str, tuple[Target, ...]] = {
    "W0": (
        Target("times faster than higher", faster_than("higher"), 40),
        Target("times faster than TorchOpt MetaSGD", faster_than("TorchOpt MetaSGD"), 30),
        Target("times faster than TorchOpt functional", faster_than("TorchOpt functional + vmap"), 7),
        Target("times faster than JAX", faster_than("JAX jit(grad(scan))"), 1.3),
    ),
    "W1": (Target("times faster than the fastest of higher, TorchOpt and the loop", faster_than(*LOOPS), 1.3),),
    "W1 on cuda": (Target("times faster than the sequential loop", faster_than(LOOPS[-1]), 5.2),),
    "W2": (
        Target("times less memory than higher", smaller_than("higher"), 15),
        Target("times less memory than checkpointed JAX", smaller_than("JAX scan, checkpointed"), 1),
        Target("of the time of TorchOpt MetaSGD", share_of("TorchOpt MetaSGD"), 0.9, at_least=False),
        Target("times the floor of 3.3 GFLOP a step by `torch.mm`", stated_gap, 1.4, at_least=False),
    ),
    "W3": (Target("largest error of an exact mode", error, 1e-9, at_least=False),),
    "W4": (
        Target("times faster than the faster of higher and TorchOpt", faster_than("higher", "TorchOpt MetaSGD"), 2),
    ),
    "W4i": (Target("times faster than plain PyTorch", faster_than("plain PyTorch"), 2),),
    "W5": (Target("times less memory than TorchOpt", smaller_than("TorchOpt functional"), 5),),
    "W6": (Target("times faster than plain PyTorch", faster_than("plain PyTorch"), 5),),
    "W7": (Target("times faster than a loop with cma", faster_than("loop with cma"), 4),),
}


def verdicts(name: str, case: Case) -> Iterator[str]:
    """The targets of a case as a table; nothing where there are none, or none of ours ran."""
    targets, rows = TARGETS.get(name, ()), [r for r in case["sides"] if r["ours"] and "median" in r]
    if not targets or not rows:
        return
    row = max(rows, key=lambda r: (sum(t.met(case, r) is True for t in targets), -r["median"]))
    yield f"\n| target, for {row['side']} | wanted | here | |"
    yield "|---|---|---|---|"
    for target in targets:
        yield target.line(case, row)


def growth_verdicts(found: Mapping[str, Any], exponent: Callable[[Mapping[str, float]], float]) -> Iterator[str]:
    """The targets of W8."""
    late = found["late"]
    yield from _table(
        (
            ("exponent of time in T", 1.05, exponent(found["T"])),
            ("exponent of time in P", 1.05, exponent(found["P"])),
            ("exponent of checkpointed memory in T", 0.6, found["memory exponent"]),
            (f"time of a step near {late['step']:.0f} over that of an early one", 1.1, late["late"] / late["early"]),
        )
    )


def first_use_verdicts(found: Mapping[str, Any]) -> Iterator[str]:
    """The targets of W9."""
    verbs = [(f"seconds of `bilevel {name}`", 0.3, row["seconds"]) for name, row in found["verbs"].items()]
    steps = found["steps"]
    whole = {kind: row["imported"] + row["compiled"] + row["first"] for kind, row in steps.items()}
    first = [
        (f"seconds until a first step ({kind}), import and compile included", bound, whole[kind])
        for kind, bound in (("fx", 3.0), ("inductor", 15.0))
        if kind in whole
    ]
    yield from _table((*verbs, *first))


def _table(rows: Sequence[tuple[str, float, float]]) -> Iterator[str]:
    yield "\n| target | wanted | here | |"
    yield "|---|---|---|---|"
    for text, bound, here in rows:
        yield f"| {text} | at most {bound:g} | {here:.3g} | {VERDICTS[here <= bound and math.isfinite(here)]} |"
