"""Theorem 1 of papers/004 (eq. 11): how far the meta-gradients of LFT and L2O are apart, against the size of the data.

    python -m benchmarks.meta_gradients [--sizes 1 2 5 10 20 50 100] [--batches 30] [--out meta_gradients.png]

The same solver, tasks and starts; one outer loss on the data that the solver saw (L2O), one on as many others (LFT),
both means over K = 10 steps and D samples, at the solver as it is drawn (the theorem holds at any). The bound is a
constant, which is not known, times D^(-1/2): what can be measured is the exponent, and where a curve of that slope
through the first point lies.

Found with the defaults: 4.2 at one sample, 1.3 at 10, 0.11 at 100, about D^(-1/2) up to 10 samples, faster after
(D^(-0.68 +- 0.03) over all): nothing against the bound, which is not tight in D here.

The gap is the norm of an expectation over tasks. With differences d_b of B independent batches its square is estimated
without bias by the mean of d_a' d_b over a != b; the norm of the mean would grow with the noise. Errors are those of
the jackknife over batches.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bilevel import compile as compile_recipe
from bilevel import parse
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.backends.torch_func.tree import leaves
from bilevel.program import Program

RECIPE = """recipe meta_gradients
use opt   = coordinate_lstm(hidden = 10)
use net   = mlp(1, 10, 10, 1)
use tasks = sine(shots = SIZE, queries = SIZE)
let L(w, d) = mean(mse(net[w](d.x), d.y))
level learn {
  psi : params(opt)
  each task ~ tasks.train[32]
  level fit {
    phi : params(net) from init(net)
    minimize L(phi, task.support)
    by opt[psi] for 10 steps
  }
  minimize mean[task] mean[k in 1..10] L(phi@k, task.DATA)
  by adam(lr = 1e-2, clip = 1) for 1 step
  report val = mean[task] L(phi, task.query) with task ~ tasks.val[100]
}
schedule { fit : rmd }"""


@dataclass(frozen=True, slots=True)
class Gap:
    """The distance of the two meta-gradients at one size of data, its standard error, and the length of L2O's."""

    size: int
    distance: float
    error: float
    length: float


def program(size: int, data: str) -> Program:
    """The recipe with `size` samples, and the outer loss on `support` or `query`."""
    text = RECIPE.replace("SIZE", str(size)).replace("DATA", data)
    return compile_recipe(parse(text), device="cpu")


def gap(size: int, state: object, batches: int) -> Gap:
    """The gap at the solver of `state`; both programs draw the same tasks and starts."""
    phases = [program(size, data).phases[0] for data in ("support", "query")]
    keys = [fold(make_key(1), "batch", number) for number in range(batches)]
    seen, other = (torch.stack([_flat(phase, state, key) for key in keys]) for phase in phases)
    apart = other - seen
    squared, error = _squared(apart)
    distance = math.sqrt(max(squared, 0.0))
    return Gap(size, distance, error / (2.0 * distance) if distance else math.inf, float(seen.mean(0).norm()))


def _flat(phase: object, state: object, key: Tensor) -> Tensor:
    """One hypergradient as a row."""
    found = phase.hypergradient(state, key)[0]  # type: ignore[attr-defined]
    return torch.cat([leaf.flatten().double() for leaf in leaves(found)])


def _squared(rows: Tensor) -> tuple[float, float]:
    """An unbiased estimate of |E d|^2 from independent rows d, real[n, size], and its jackknife error."""
    products, n = rows @ rows.T, len(rows)
    apart = products - torch.diag(products.diagonal())
    total = apart.sum()
    without = (total - 2.0 * apart.sum(1)) / ((n - 1) * (n - 2))
    error = math.sqrt((n - 1) / n * float((without - without.mean()).square().sum()))
    return float(total / (n * (n - 1))), error


def exponent(gaps: Sequence[Gap]) -> tuple[float, float]:
    """The slope of log distance against log size by least squares weighted with the errors, and its error."""
    x, y = (
        torch.tensor([math.log(v) for v in values])
        for values in zip(*((g.size, g.distance) for g in gaps), strict=True)
    )
    weight = torch.tensor([(g.distance / g.error) ** 2 for g in gaps])
    middle = (weight * x).sum() / weight.sum()
    spread = (weight * (x - middle) ** 2).sum()
    return float((weight * (x - middle) * y).sum() / spread), float(spread**-0.5)


def draw(gaps: Sequence[Gap], path: Path) -> None:
    """Measured gaps, and the bound's shape through the first of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    sizes = [g.size for g in gaps]
    axes.errorbar(sizes, [g.distance for g in gaps], [g.error for g in gaps], marker="o", label="measured")
    shape = [gaps[0].distance * math.sqrt(gaps[0].size / size) for size in sizes]
    axes.plot(sizes, shape, "--", color="grey", label="shape of eq. 11, through the first point")
    axes.set(
        xscale="log", yscale="log", xlabel="samples in each of the two sets", ylabel="distance of the meta-gradients"
    )
    axes.legend()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and the sentence, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.meta_gradients", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 5, 10, 20, 50, 100])
    parser.add_argument("--batches", type=int, default=30, help="batches of 32 tasks for each size")
    parser.add_argument("--out", type=Path, default=Path("meta_gradients.png"))
    options = parser.parse_args(arguments)
    state = program(1, "support").phases[0].begin(make_key(0))
    gaps = []
    print(f"{'samples':>8}{'distance':>12}{'error':>10}{'of length':>12}")
    for size in sorted(options.sizes):
        gaps.append(gap(size, state, options.batches))
        print(f"{size:>8}{gaps[-1].distance:>12.4g}{gaps[-1].error:>10.2g}{gaps[-1].length:>12.4g}", flush=True)
    seen = [g for g in gaps if g.distance > 3.0 * g.error]
    if len(seen) > 1:
        slope, error = exponent(seen)
        print(
            f"the gap falls as D^({slope:.2f} +- {error:.2f}), by the {len(seen)} sizes where it is seen; eq. 11 allows D^(-0.5)"
        )
    draw(gaps, options.out)
    print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
