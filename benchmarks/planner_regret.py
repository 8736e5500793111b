"""Whether the planner is right: every admissible exact mode measured on a grid of problems.

    python -m benchmarks.planner_regret [--quick] [--calibration reference] [--json FILE] [--plot FILE]

For each problem the modes that the plan admits are run (those predicted above 60 seconds, or above twice the memory
limit, are not): the median of at least five hypergradients, and the most bytes alive at once (`live_bytes`).
*Regret* is the time of the mode that was chosen over that of the fastest; tau is Kendall's rank correlation between
predicted and measured times within one problem. Targets: regret at most 1.15 in 90 % of the problems and never above
2, predicted peaks within 25 % of the measured in 90 % of all modes. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau

import bilevel
from benchmarks.live_bytes import peak_bytes
from benchmarks.planner_cells import Cell, cells
from bilevel.backends.torch_func.keyed import make_key
from bilevel.costs import Calibration, current, reference
from bilevel.limits import Limit
from bilevel.plan import Candidate

LONGEST = 60.0
"""predicted seconds of one hypergradient beyond which a mode is not run"""
REPEATS = 5
BUDGET = 1.0
"""seconds for repeats of one mode, where five take less"""
CLOSE, NEAR = 1.15, 0.25


@dataclass(frozen=True, slots=True)
class Measured:
    """One mode on one problem; seconds and bytes None where it was not run, with the reason."""

    mode: str
    chosen: bool
    seconds_predicted: float | None
    peak_predicted: float | None
    seconds: float | None = None
    peak: float | None = None
    skipped: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One problem with all its modes."""

    kind: str
    name: str
    modes: tuple[Measured, ...]

    @property
    def run(self) -> list[Measured]:
        return [one for one in self.modes if one.seconds is not None]

    @property
    def regret(self) -> float | None:
        """Time of the chosen mode over that of the fastest; None where the chosen one was not run."""
        chosen = next((one.seconds for one in self.run if one.chosen), None)
        return None if chosen is None else chosen / min(one.seconds or math.inf for one in self.run)

    @property
    def tau(self) -> float | None:
        """Rank correlation of predicted and measured times; None for fewer than two modes."""
        pairs = [(one.seconds_predicted, one.seconds) for one in self.run if one.seconds_predicted is not None]
        return float(kendalltau(*zip(*pairs, strict=True)).statistic) if len(pairs) > 1 else None


def judge(cell: Cell, limit: Limit, calibration: Calibration) -> Judged:
    """All admissible exact modes of one problem, the chosen one among them."""
    recipe = bilevel.parse(cell.text, f"{cell.name}.bl")
    program = bilevel.compile(recipe, limit=limit, calibration=calibration)
    (choice,) = program.explained.choices.values()
    taken = program.plan.choices[choice.level].mode
    wanted = [one for one in choice.candidates if one.exactness == "exact" and one.verdict.ok]
    return Judged(cell.kind, cell.name, tuple(_judge(recipe, choice.level, one, taken, limit) for one in wanted))


def _judge(recipe: Any, level: str, one: Candidate, taken: str, limit: Limit) -> Measured:
    cost = one.cost
    seconds, peak = (None, None) if cost is None else (cost.seconds, cost.peak)
    row = Measured(one.title, one.title == taken, seconds, peak)
    if seconds is not None and seconds > LONGEST:
        return _skipped(row, f"predicted {seconds:.0f} s")
    if peak is not None and peak > 2 * limit.memory:
        return _skipped(row, f"predicted {peak / 1e9:.1f} GB")
    phase = bilevel.compile(recipe, decided={level: one.title}).phases[-1]
    key = make_key(0)
    state = phase.begin(key)

    def work() -> object:
        return phase.hypergradient(state, key)

    with torch.no_grad():
        return Measured(row.mode, row.chosen, seconds, peak, timed(work), float(peak_bytes(work)))


def _skipped(row: Measured, reason: str) -> Measured:
    return Measured(row.mode, row.chosen, row.seconds_predicted, row.peak_predicted, skipped=reason)


def timed(work: Callable[[], object]) -> float:
    """Median seconds of at least five calls after a warm-up, of more where those are quick."""
    work()
    found: list[float] = []
    while len(found) < REPEATS or (sum(found) < BUDGET and len(found) < 10 * REPEATS):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


# ---- text, data, plot ----------------------------------------------------------------------------------------


def lines(found: Sequence[Judged]) -> Iterator[str]:
    """The modes of every problem, predicted against measured."""
    for one in found:
        regret = "not run" if one.regret is None else f"{one.regret:.2f}"
        tau = "-" if one.tau is None else f"{one.tau:+.2f}"
        yield f"{one.kind}: {one.name}    regret {regret}, tau {tau}"
        for row in one.modes:
            yield f"  {'>' if row.chosen else ' '} {row.mode:<30} {_numbers(row)}"


def _numbers(row: Measured) -> str:
    if row.seconds is None or row.peak is None:
        return f"not run: {row.skipped}"
    time_text = f"{_ms(row.seconds_predicted):>10} predicted {_ms(row.seconds):>10} ms"
    return f"{time_text}    {_mb(row.peak_predicted):>9} predicted {_mb(row.peak):>9} MB"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:,.2f}"


def _mb(count: float | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.3f}"


def summary(found: Sequence[Judged]) -> dict[str, float | int]:
    """The figures that the targets are about."""
    regrets = [one.regret for one in found if one.regret is not None]
    taus = [one.tau for one in found if one.tau is not None and not math.isnan(one.tau)]
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
        "tau_mean": statistics.fmean(taus) if taus else math.nan,
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
        f"mean tau {figures['tau_mean']:+.2f}; predicted times off by a factor of {figures['time_factor_median']:.2f} "
        f"(median)\n"
        f"peaks within {NEAR:.0%} in {figures['peaks_near']:.0%} of the modes (target 90%), "
        f"worst off by {figures['peak_error_worst']:.0%}"
    )


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
    ordered = sorted(one.regret for one in found if one.regret is not None)
    regrets.step([(i + 1) / len(ordered) for i in range(len(ordered))], ordered, where="post")
    regrets.axhline(CLOSE, color="grey", linewidth=0.8)
    regrets.axvline(0.9, color="grey", linewidth=0.8)
    regrets.set(xlabel="share of problems", ylabel="regret (chosen over fastest)")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few small problems")
    parser.add_argument("--calibration", choices=("here", "reference"), default="here")
    parser.add_argument("--memory", type=float, default=8e9, help="limit in bytes (8e9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, default=Path("planner_regret.json"))
    parser.add_argument("--plot", type=Path, default=Path("planner_regret.png"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    calibration = reference() if given.calibration == "reference" else current()
    found: list[Judged] = []
    began = time.perf_counter()
    for cell in cells(given.quick):
        found.append(judge(cell, Limit(given.memory), calibration))
        print("\n".join(lines(found[-1:])), flush=True)
    figures = summary(found)
    print(f"\n{said(figures)}\n{time.perf_counter() - began:.0f} s, {given.threads} threads, `{calibration.name}`")
    content = {
        "summary": figures,
        "problems": [{**asdict(one), "regret": one.regret, "tau": one.tau} for one in found],
        "calibration": {**calibration.to_json(), "hash": calibration.identity},
        "threads": given.threads,
        "torch": torch.__version__,
    }
    given.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    plot(found, given.plot)


if __name__ == "__main__":
    main()
