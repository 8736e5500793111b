"""Whether the planner is right: every admissible exact mode measured on a grid of problems.

    python -m benchmarks.planner_regret [--quick] [--only TEXT] [--calibration reference] [--compile fx] [--resume] [--json FILE]

For each problem the modes that the plan admits are run (those predicted above 5 seconds, which `--longest` changes, or
above twice the memory limit, are not) in rounds, each mode once a round, so that a slower minute of the machine is met
by all of them: the median of at least five hypergradients, and the most bytes alive at once (`live_bytes`).
*Regret* is the time of the mode that was chosen over that of the fastest. *tau* is Kendall's rank correlation between
predicted and measured times within one problem (tau-b). *tau of pairs told apart* counts only pairs of modes whose
measured interquartile ranges do not overlap: (in order - out of order) / both. Targets: regret at most 1.15 in 90 % of
the problems and never above 2, also under limits on memory that the mode chosen without them does not fit; tau 0.8 in
the mean; predicted peaks within 25 % of the measured in 90 % of all modes.
Functions run as kernels by fx, or with `--compile` as they are or by another kind, which times and bytes are predicted for.
Bytes are those of a step when kernels are made; that a first step fits is what a limit asks for as well.
The file is written after every problem; `--resume` leaves out those that are in it. Run it on a quiet machine: all
problems take about a quarter of an hour there, of which half is making kernels, five with `--quick` a minute.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

import bilevel
from benchmarks.live_bytes import peak_bytes
from benchmarks.machine import machine
from benchmarks.planner_cells import Cell, cells
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.trace.compilers import KINDS, Kind
from bilevel.costs import Calibration, current, reference
from bilevel.limits import Limit
from bilevel.plan import Candidate
from bilevel.table import TIMES

Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "process": time.process_time}
"""with one thread and on a machine that others use, the process's own time is the steadier one"""
LONGEST = 5.0
"""seconds of one hypergradient: a mode that is predicted to take longer is not run, one that does is run once"""
REPEATS = 5
BUDGET = 1.0
"""seconds for repeats of one mode, where five take less"""
CLOSE, NEAR = 1.15, 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """One mode on one problem; no times and no bytes where it was not run, with the reason.

    `times`: seconds of every round. `work`: what was counted without numbers.
    """

    mode: str
    chosen: bool
    seconds_predicted: float | None
    peak_predicted: float | None
    times: tuple[float, ...] = ()
    peak: float | None = None
    skipped: str = ""
    work: dict[str, float] | None = None
    needs_predicted: float | None = None
    """bytes that the first step fits into as well, which calls functions as they are"""

    @property
    def needed(self) -> float | None:
        """Predicted bytes that a limit has to allow."""
        return self.peak_predicted if self.needs_predicted is None else self.needs_predicted

    @property
    def seconds(self) -> float | None:
        """The median."""
        return statistics.median(self.times) if self.times else None

    @property
    def quartiles(self) -> tuple[float, float]:
        """Seconds below which a quarter and three quarters of the rounds lie."""
        low, high = np.quantile(self.times, (0.25, 0.75))
        return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Judged:
    """One problem with all its modes."""

    kind: str
    name: str
    modes: tuple[Measured, ...]

    @property
    def run(self) -> list[Measured]:
        return [one for one in self.modes if one.times]

    @property
    def regret(self) -> float | None:
        """Time of the chosen mode over that of the fastest; None where the chosen one was not run."""
        chosen = next((one.seconds for one in self.run if one.chosen), None)
        return None if chosen is None else chosen / min(one.seconds or math.inf for one in self.run)

    @property
    def regrets_short(self) -> list[float]:
        """The same under every limit on memory that leaves two modes or more, but not the one that was chosen.

        The mode of least predicted time among those that fit is the planner's choice then; nothing is measured anew.
        """
        rows = [(row.needed, row) for row in self._compared if row.needed is not None]
        limits = sorted({needed for needed, _ in rows})
        found = ([row for needed, row in rows if needed <= limit] for limit in limits)
        return [_regret(fit) for fit in found if len(fit) > 1 and not any(row.chosen for row in fit)]

    @property
    def _compared(self) -> list[Measured]:
        return [one for one in self.run if one.seconds_predicted is not None]

    @property
    def tau(self) -> float | None:
        """Rank correlation of predicted and measured times; None for fewer than two modes."""
        pairs = [(one.seconds_predicted, one.seconds) for one in self._compared]
        return float(kendalltau(*zip(*pairs, strict=True)).statistic) if len(pairs) > 1 else None

    @property
    def tau_apart(self) -> float | None:
        """The same over the pairs that were told apart; None where there are none."""
        signs = [_agreement(one, other) for one, other in itertools.combinations(self._compared, 2)]
        found = [sign for sign in signs if sign is not None]
        return statistics.fmean(found) if found else None


def _regret(fit: Sequence[Measured]) -> float:
    """Time of the mode with the least predicted time over that of the fastest."""
    chosen = min(fit, key=lambda row: row.seconds_predicted or math.inf)
    return (chosen.seconds or math.nan) / min(row.seconds or math.inf for row in fit)


def _agreement(one: Measured, other: Measured) -> float | None:
    """1 where the predicted order is the measured one, -1 where not, 0 for equal predictions; None: not told apart."""
    if one.quartiles[0] > other.quartiles[0]:
        one, other = other, one
    if one.quartiles[1] >= other.quartiles[0]:
        return None
    return float(np.sign((other.seconds_predicted or 0.0) - (one.seconds_predicted or 0.0)))


def judge(
    cell: Cell,
    limit: Limit,
    calibration: Calibration,
    longest: float = LONGEST,
    clock: Clock = time.perf_counter,
    kernels: Kind = "none",
) -> Judged:
    """All admissible exact modes of one problem, the chosen one among them."""
    recipe = bilevel.parse(cell.text, f"{cell.name}.bl")
    program = bilevel.compile(recipe, limit=limit, calibration=calibration, compile=kernels)
    (choice,) = program.explained.choices.values()
    taken = program.plan.choices[choice.level].mode
    wanted = [one for one in choice.candidates if one.exactness == "exact" and one.verdict.ok]
    rows = [_row(one, taken, limit, longest) for one in wanted]
    works = [_work(recipe, choice.level, row.mode, kernels) for row in rows if not row.skipped]
    with torch.no_grad():
        times = iter(timed(works, clock))
        peaks = iter([float(peak_bytes(work)) for work in works])
    modes = (row if row.skipped else replace(row, times=next(times), peak=next(peaks)) for row in rows)
    return Judged(cell.kind, cell.name, tuple(modes))


def _row(one: Candidate, taken: str, limit: Limit, longest: float) -> Measured:
    """What is predicted of a mode, and why it is not run."""
    cost = one.cost
    seconds, peak, needs = (None, None, None) if cost is None else (cost.seconds, cost.peak, cost.needs)
    skipped = f"predicted {seconds:.0f} s" if seconds is not None and seconds > longest else ""
    if needs is not None and needs > 2 * limit.memory:
        skipped = f"predicted {needs / 1e9:.1f} GB"
    work = None if cost is None or cost.work is None else asdict(cost.work)
    return Measured(one.title, one.title == taken, seconds, peak, skipped=skipped, work=work, needs_predicted=needs)


def _work(recipe: Any, level: str, mode: str, kernels: Kind) -> Callable[[], object]:
    """One hypergradient of the outermost level with a level differentiated by `mode`."""
    phase = bilevel.compile(recipe, decided={level: mode}, compile=kernels).phases[-1]
    key = make_key(0)
    state = phase.begin(key)
    return lambda: phase.hypergradient(state, key)


def timed(works: Sequence[Callable[[], object]], clock: Clock) -> list[tuple[float, ...]]:
    """Seconds of at least five calls of each, in rounds after a warm-up; of more where those are quick.

    A mode whose warm-up takes longer than `LONGEST` has that one time.
    """
    warm = [_once(work, clock) for work in works]
    again = [place for place, seconds in enumerate(warm) if seconds <= LONGEST]
    found: list[list[float]] = [[] if place in again else [seconds] for place, seconds in enumerate(warm)]
    while _go_on([found[place] for place in again]):
        for place in again:
            found[place].append(_once(works[place], clock))
    return [tuple(times) for times in found]


def _once(work: Callable[[], object], clock: Clock) -> float:
    before = clock()
    work()
    return clock() - before


def _go_on(found: Sequence[Sequence[float]]) -> bool:
    """Whether another round is due."""
    rounds = len(found[0]) if found else 10 * REPEATS
    return rounds < REPEATS or (rounds < 10 * REPEATS and sum(map(sum, found)) < BUDGET * len(found))


# ---- text, data, plot ----------------------------------------------------------------------------------------


def lines(found: Sequence[Judged]) -> Iterator[str]:
    """The modes of every problem, predicted against measured."""
    for one in found:
        regret = "not run" if one.regret is None else f"{one.regret:.2f}"
        yield f"{one.kind}: {one.name}    regret {regret}, tau {_signed(one.tau)}, told apart {_signed(one.tau_apart)}"
        for row in one.modes:
            yield f"  {'>' if row.chosen else ' '} {row.mode:<30} {_numbers(row)}"


def _numbers(row: Measured) -> str:
    if row.seconds is None or row.peak is None:
        return f"not run: {row.skipped}"
    time_text = f"{_ms(row.seconds_predicted):>10} predicted {_ms(row.seconds):>10} ms"
    return f"{time_text}    {_mb(row.peak_predicted):>9} predicted {_mb(row.peak):>9} MB"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.2f}"


def _mb(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.3f}"


def summary(found: Sequence[Judged]) -> dict[str, float | int]:
    """The figures that the targets are about."""
    regrets = [one.regret for one in found if one.regret is not None]
    short = [regret for one in found for regret in one.regrets_short]
    taus = [one.tau for one in found if one.tau is not None and not math.isnan(one.tau)]
    apart = [one.tau_apart for one in found if one.tau_apart is not None]
    rows = [row for one in found for row in one.run]
    peaks = [abs(row.peak_predicted / row.peak - 1) for row in rows if row.peak and row.peak_predicted is not None]
    times = [
        abs(math.log(row.seconds / row.seconds_predicted)) for row in rows if row.seconds and row.seconds_predicted
    ]
    return {
        "problems": len(found),
        "modes_run": len(rows),
        "regret_close": sum(r <= CLOSE for r in regrets) / max(1, len(regrets)),
        "regret_worst": max(regrets, default=math.nan),
        "short": len(short),
        "short_close": sum(r <= CLOSE for r in short) / max(1, len(short)),
        "short_worst": max(short, default=math.nan),
        "tau_mean": statistics.fmean(taus) if taus else math.nan,
        "tau_apart_mean": statistics.fmean(apart) if apart else math.nan,
        "peaks_near": sum(error <= NEAR for error in peaks) / max(1, len(peaks)),
        "peak_error_worst": max(peaks, default=math.nan),
        "time_factor_median": math.exp(statistics.median(times)) if times else math.nan,
    }


def said(figures: dict[str, float | int]) -> str:
    """The same in words."""
    return (
        f"{figures['problems']} problems, {figures['modes_run']} modes run\n"
        f"regret at most {CLOSE} in {figures['regret_close']:.0%} of the problems (target 90%), "
        f"worst {figures['regret_worst']:.2f} (target 2)\n"
        f"under {figures['short']} limits on memory that the chosen mode does not fit: at most {CLOSE} in "
        f"{figures['short_close']:.0%}, worst {figures['short_worst']:.2f}\n"
        f"mean tau {figures['tau_mean']:+.2f} (target 0.8), over pairs told apart {figures['tau_apart_mean']:+.2f}; "
        f"predicted times off by a factor of {figures['time_factor_median']:.2f} (median)\n"
        f"peaks within {NEAR:.0%} in {figures['peaks_near']:.0%} of the modes (target 90%), "
        f"worst off by {figures['peak_error_worst']:.0%}"
    )


def markdown(found: Sequence[Judged], kernels: Kind = "none") -> Iterator[str]:
    """The figures, then a row for each problem: the chosen mode, predicted and measured, and how it compares."""
    found_here = machine()
    skipped = sum(bool(row.skipped) for one in found for row in one.modes)
    yield from ("# The planner against the clock", "")
    yield "Written by `python -m benchmarks.planner_regret`, whose help says what the words mean. Every problem in"
    yield "`planner_cells.py` was run with every exact mode that its plan admits and that is not predicted to take too long"
    yield f"({skipped} of {sum(len(one.modes) for one in found)} are not run); predicted and run: {TIMES[kernels]}."
    yield "A level that stops by itself is predicted at the most steps that it may take, so its times are `at most`."
    yield from (
        "",
        f"{found_here['processor']}, {found_here['system']}, torch {torch.__version__}, {found_here['date']}.",
        "",
    )
    yield from (f"- {line}" for line in said(summary(found)).splitlines())
    yield from ("", "![predicted against measured](plots/planner_regret.png)", "")
    yield "| problem | modes run | chosen | predicted, ms | measured, ms | fastest | regret | tau | told apart |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for one in found:
        chosen = next(row for row in one.modes if row.chosen)
        fastest = min(one.run, key=lambda row: row.seconds or math.inf, default=None)
        cells = (
            f"{one.kind}: {one.name}",
            f"{len(one.run)} of {len(one.modes)}",
            chosen.mode,
            f"{'at most ' * (one.kind == 'until')}{_ms(chosen.seconds_predicted)}",
            _ms(chosen.seconds),
            "-" if fastest is None else fastest.mode,
            "-" if one.regret is None else f"{one.regret:.2f}",
            _signed(one.tau),
            _signed(one.tau_apart),
        )
        yield f"| {' | '.join(cells)} |"


def plot(found: Sequence[Judged], path: Path) -> None:
    """Predicted against measured, and the regret of every problem."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), layout="constrained")
    times, peaks, regrets = figure.subplots(1, 3)
    for axes, unit, said_name, name in (
        (times, "seconds", "seconds_predicted", "seconds"),
        (peaks, "peak bytes", "peak_predicted", "peak"),
    ):
        for kind in dict.fromkeys(one.kind for one in found):
            rows = [row for one in found if one.kind == kind for row in one.run if getattr(row, said_name)]
            axes.scatter([getattr(r, said_name) for r in rows], [getattr(r, name) for r in rows], s=12, label=kind)
        axes.set(xscale="log", yscale="log", xlabel=f"predicted {unit}", ylabel=f"measured {unit}")
        axes.axline((1.0, 1.0), (10.0, 10.0), color="grey", linewidth=0.8)
    times.legend(fontsize=8)
    for ordered, name in (
        (sorted(one.regret for one in found if one.regret is not None), "where all fit"),
        (sorted(regret for one in found for regret in one.regrets_short), "where memory is short"),
    ):
        regrets.step([(i + 1) / len(ordered) for i in range(len(ordered))], ordered, where="post", label=name)
    regrets.axhline(CLOSE, color="grey", linewidth=0.8)
    regrets.axvline(0.9, color="grey", linewidth=0.8)
    regrets.legend(fontsize=8)
    regrets.set(xlabel="share of problems", ylabel="regret (chosen over fastest)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)


def content(
    found: Sequence[Judged], calibration: Calibration, threads: int, kernels: Kind = "none"
) -> dict[str, object]:
    """What the file holds: figures, problems with modes, and what they were measured with."""
    problems = [{**asdict(one), "regret": one.regret, "tau": one.tau, "tau_apart": one.tau_apart} for one in found]
    return {
        "summary": summary(found),
        "problems": problems,
        "calibration": {**calibration.to_json(), "hash": calibration.identity},
        "threads": threads,
        "kernels": kernels,
        "torch": torch.__version__,
    }


def resumed(path: Path, calibration: Calibration, threads: int, kernels: Kind = "none") -> list[Judged]:
    """The problems of a file that was measured with the same calibration, threads, kernels and torch, or none."""
    if not path.exists():
        return []
    held = json.loads(path.read_text("utf-8"))
    same = (calibration.identity, threads, kernels, torch.__version__)
    if (held["calibration"]["hash"], held["threads"], held.get("kernels", "none"), held["torch"]) != same:
        return []
    return [_judged(one) for one in held["problems"]]


def _judged(held: dict[str, Any]) -> Judged:
    modes = tuple(Measured(**{**mode, "times": tuple(mode["times"])}) for mode in held["modes"])
    return Judged(held["kind"], held["name"], modes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small problems")
    parser.add_argument("--only", default="", help="problems with this in their name")
    parser.add_argument("--calibration", choices=("here", "reference"), default="here")
    parser.add_argument("--memory", type=float, default=8e9, help="limit in bytes (8e9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=float, default=LONGEST, help="predicted seconds of a mode that is run (5)")
    parser.add_argument("--compile", choices=KINDS, default="fx", help="kernels, as in `bilevel run` (fx)")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--resume", action="store_true", help="keep what the file holds already")
    parser.add_argument("--json", type=Path, default=Path("planner_regret.json"))
    parser.add_argument("--markdown", type=Path, default=Path("planner_regret.md"))
    parser.add_argument("--plot", type=Path, default=Path("planner_regret.png"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    calibration = reference() if given.calibration == "reference" else current()
    found = resumed(given.json, calibration, given.threads, given.compile) if given.resume else []
    known = {one.name for one in found}
    began = time.perf_counter()
    for cell in cells(given.quick):
        if given.only in cell.name and cell.name not in known:
            found.append(
                judge(cell, Limit(given.memory), calibration, given.longest, CLOCKS[given.clock], given.compile)
            )
            print("\n".join(lines(found[-1:])), flush=True)
            held = json.dumps(content(found, calibration, given.threads, given.compile), indent=1)
            given.json.write_text(f"{held}\n", encoding="utf-8")
    took = time.perf_counter() - began
    print(f"\n{said(summary(found))}\n{took:.0f} s, {given.threads} threads, `{calibration.name}`")
    given.markdown.write_text("".join(f"{line}\n" for line in markdown(found, given.compile)), encoding="utf-8")
    plot(found, given.plot)


if __name__ == "__main__":
    main()
