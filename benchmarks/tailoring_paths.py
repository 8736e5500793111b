"""Figure 2 of papers/000: test error against the physics loss while predictions are optimised, method by method.

    python -m benchmarks.tailoring_paths [--full] [--seed 0] [--out tailoring_paths.png]

One training for each method, the quick child of its recipe (`--full`: the recipe itself, minutes each), and its two
reports after 0 to 50 steps at prediction time, on the same test samples.

Found with the defaults: as in the figure, meta-tailoring starts below the others, at 0.00014 against 0.00018 (with
twice the updates, see its recipe), and test-time training hardly moves. Not as in the figure: tailoring and
meta-tailoring both overfit to the physics loss after some five steps, and optimising the output does best, 35 % after
50 steps, which at its recipe's rate it cannot (the loss has kinks, and a large step jumps about them). Networks of 32
units and two planets; one seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from bilevel import compile as compile_recipe
from bilevel import parse

COUNTS = (0, 1, 2, 5, 10, 20, 50)
METHODS: Mapping[str, tuple[str, str, float]] = {
    "output_optimisation": ("adapt", "y", 1e-3),
    "test_time_training": ("adapt", "net[v](s.x)", 1e-2),
    "tailoring": ("tailor", "net[w, z](s.x)", 0.05),
    "meta_tailoring": ("tailor", "net[w, z](s.x)", 0.05),
}
"""Recipe: the level that optimises, the prediction, and a rate that is small, as the figure's is: 0.1 on outputs jumps."""

Course = Sequence[tuple[float, float]]
"""(physics loss, test error) after each of COUNTS."""


def text_of(name: str, full: bool) -> str:
    """A child with two reports for each number of steps, at the start and the end of training."""
    level, value, rate = METHODS[name]
    given = f"with s ~ data.test[held], {level}.by.lr = {rate}, {level}.steps"
    lines = [
        f"    report {title}_at_{steps} = mean[s] {loss} {given} = {steps} every 20_000 steps"
        for steps in COUNTS
        for title, loss in (("physics", f"physics({value}, s)"), ("error", f"mse({value}, s.y)"))
    ]
    parent = name if full else f"{name}_quick"
    return "\n".join([f"recipe {name}_path extends {parent}", "level learn {", *lines, "}"])


def path_of(name: str, full: bool, seed: int) -> Course:
    """Train, and read the reports at the end."""
    reports = compile_recipe(parse(text_of(name, full))).run(seed=seed).reports
    return [(reports[f"physics_at_{n}"][-1][1], reports[f"error_at_{n}"][-1][1]) for n in COUNTS]


def draw(paths: Mapping[str, Course], out: Path) -> None:
    """A line for each method, a ring where it starts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, path in paths.items():
        (line,) = axes.plot(*zip(*path, strict=True), marker=".", label=name)
        axes.plot(*path[0], "o", markerfacecolor="none", markersize=9, color=line.get_color())
    axes.set(xlabel="physics loss", ylabel="test error")
    axes.legend()
    figure.savefig(out, dpi=120)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the methods, print the table, draw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tailoring_paths", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the recipes at their own size")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("tailoring_paths.png"))
    options = parser.parse_args(arguments)
    paths = {}
    print("physics loss, test error, gain over 0 steps", *(f"{n:>7}" for n in COUNTS))
    for name in METHODS:
        paths[name] = path_of(name, options.full, options.seed)
        gains = (1.0 - error / paths[name][0][1] for _, error in paths[name])
        for title, cells in (
            ("physics", (f"{x:7.4f}" for x, _ in paths[name])),
            ("error", (f"{y:7.5f}" for _, y in paths[name])),
            ("gain", (f"{gain:7.1%}" for gain in gains)),
        ):
            print(f"{name:>22} {title:>20}", *cells, flush=True)
    draw(paths, options.out)
    print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
