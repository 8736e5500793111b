"""The pictures of data sets that are not images: waves, functions, points, paths."""

from __future__ import annotations

from collections.abc import Callable

import torch
from matplotlib.figure import Figure

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.recipes.gaussians import toy_gaussians
from bilevel.recipes.pendulum import pendulum
from bilevel.recipes.planet_motion import HEIGHT, WIDTH
from bilevel.recipes.planets import planets
from bilevel.recipes.problems import quadratic_sums, sparse_text
from bilevel.recipes.quadratics import random_quadratics
from bilevel.recipes.sine import sine


def draw_sine() -> Figure:
    """Three tasks: the wave, its support and its query."""
    task = sine().train.to("cpu", torch.float64).sample(fold(make_key(5), torch.arange(3)))
    dense = sine(shots=2_000).train.to("cpu", torch.float64).sample(fold(make_key(5), torch.arange(3)))
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for position, axes in enumerate(figure.subplots(1, 3, sharey=True)):
        order = dense.support.x[position, :, 0].argsort()
        axes.plot(dense.support.x[position, order, 0], dense.support.y[position, order, 0], color="0.8")
        axes.plot(task.support.x[position], task.support.y[position], "o", label="support")
        axes.plot(task.query.x[position], task.query.y[position], "x", label="query")
        axes.set(title=f"task {position + 1}", xlabel="x")
    figure.axes[0].set_ylabel("y")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
    return figure


def draw_random_quadratics() -> Figure:
    """Three problems of each family, with start and minimum."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = figure.subplots(2, 3)
    families = ((4.0, 0.1), (4.0, 0.0034))
    for row, mean in zip(panels, families, strict=True):
        problems = random_quadratics(mean=mean).to("cpu", torch.float64).sample(fold(make_key(1), torch.arange(3)))
        for place, axes in enumerate(row):
            start, minimum = problems.start[place], problems.minimum[place]
            reach = 1.5 * float((start - minimum).abs().max()) + 1.0
            x, y = (torch.linspace(float(m) - reach, float(m) + reach, 120, dtype=torch.float64) for m in minimum)
            grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
            f = type(problems.f)(*(field[place] for field in problems.f))
            heights = (f(grid) - f(minimum)).clamp(min=1e-3).log10()
            axes.contour(x, y, heights, levels=9, cmap="Greys_r", linewidths=0.8)
            axes.plot(*start, "o", color="C2", label="start")
            axes.plot(*minimum, "x", color="C1", label="minimum")
            axes.set_title(f"mean = [{mean[0]:g}, {mean[1]:g}]", fontsize="small")
    figure.axes[0].legend(fontsize="small")
    return figure


def draw_toy_gaussians() -> Figure:
    """Both classes of the training split, and the line where the logits are equal."""
    data = toy_gaussians()
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axes = figure.subplots()
    for label in (0, 1):
        points = data.train.x[data.train.y == label]
        axes.plot(points[:, 0], points[:, 1], ".", markersize=4, label=f"class {label}")
    a, b = data.weight[1] - data.weight[0]
    ends = torch.tensor([-4.0, 4.0])
    axes.plot(ends, -a / b * ends, color="black", label="separator")
    axes.set(xlim=(-4.2, 4.2), ylim=(-4.2, 4.2), aspect="equal")
    axes.legend(fontsize="small", loc="upper left")
    return figure


def draw_planets() -> Figure:
    """Six training trajectories of 100 steps."""
    data = planets()
    states = (data.train.x * data.deviation + data.mean).reshape(-1, 100, 5, 5)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for place, axes in enumerate(figure.subplots(2, 3, sharex=True, sharey=True).flat):
        path = states[place * len(states) // 6]
        for body in range(5):
            axes.plot(path[:, body, 0], path[:, body, 1], linewidth=0.9)
            axes.plot(*path[0, body, :2], "o", color=f"C{body}", markersize=3)
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    return figure


def draw_pendulum() -> Figure:
    """Angle and velocity of two training episodes."""
    train = pendulum(episodes=2).train
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    angle = torch.atan2(train.state[:, 1], train.state[:, 0])
    curves = (("angle", angle), ("angular velocity", train.state[:, 2]), ("torque", train.x[:, 3]))
    for axes, (name, values) in zip(figure.subplots(1, 3), curves, strict=True):
        for number, part in enumerate(values.reshape(2, -1)):
            axes.plot(part, linewidth=0.9, label=f"episode {number}")
        axes.set(title=name, xlabel="step")
    figure.axes[0].legend(fontsize="small")
    return figure


def draw_sparse_text() -> Figure:
    """The words of sixty documents, and how much more often each word is in class 1."""
    train = sparse_text().train
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.spy(train.x[:60, :300], markersize=1, aspect="auto", color="black")
    left.set(xlabel="word (the first 300)", ylabel="document")
    share = [(train.x[train.y == label] > 0).float().mean(0) for label in (0, 1)]
    right.plot(share[1] - share[0], linewidth=0.6, color="black")
    right.set(xlabel="word", ylabel="difference in frequency")
    return figure


def draw_quadratic_sums() -> Figure:
    """Eigenvalues of the inner objective, asked for and found in the samples."""
    figure = Figure(figsize=(5, 2.8), layout="constrained")
    axes = figure.subplots()
    for samples in (256, 1_024, 16_384):
        u = quadratic_sums(samples=samples).train.u.double()
        axes.semilogy(torch.linalg.eigvalsh(u.T @ u / samples).flip(0), label=f"{samples:,} samples")
    axes.semilogy(torch.logspace(0, -2, 100), color="black", linestyle=":", label="covariance")
    axes.set(xlabel="eigenvalue", ylabel="curvature in z")
    axes.legend(fontsize="small")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "sine": draw_sine,
    "random_quadratics": draw_random_quadratics,
    "toy_gaussians": draw_toy_gaussians,
    "planets": draw_planets,
    "pendulum": draw_pendulum,
    "sparse_text": draw_sparse_text,
    "quadratic_sums": draw_quadratic_sums,
}
