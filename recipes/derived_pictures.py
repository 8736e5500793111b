"""The pictures of data sets that are made out of others: domains, scenes, long tails, victims, tasks, views."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.recipes.digits import digits
from bilevel.recipes.domains import coloured, digit_sources, rotated
from bilevel.recipes.few_shot import few_shot
from bilevel.recipes.glyphs import glyphs_fixed_labels
from bilevel.recipes.long_tails import class_balanced, glyphs_balanced, glyphs_long_tailed
from bilevel.recipes.records import Samples
from bilevel.recipes.scenes import glyph_scenes
from bilevel.recipes.victims import victim, victim_gradients
from bilevel.recipes.views import viewed

Panel = tuple[str, Tensor]


def tiled(images: Tensor, gap: int = 2) -> Tensor:
    """Images real[rows, columns, 3, height, width] side by side with white between, real[..., ..., 3]."""
    framed = functional.pad(images, (0, gap, 0, gap), value=1.0)
    rows, columns, _, height, width = framed.shape
    return framed.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, 3)


def grey(images: Tensor) -> Tensor:
    """Three equal channels of images real[..., 1, h, w], ink 1 as black."""
    return (1.0 - images).expand(*images.shape[:-3], 3, *images.shape[-2:])


def by_class(samples: Samples, classes: Sequence[int], count: int) -> Tensor:
    """The first `count` images of each class, real[classes, count, c, h, w]."""
    return torch.stack([samples.x[samples.y == label][:count] for label in classes])


def picture(panels: Sequence[Panel], size: tuple[float, float]) -> Figure:
    """Panels of colours one above the other."""
    figure = Figure(figsize=size, layout="constrained")
    heights = [panel.shape[0] / panel.shape[1] for _, panel in panels]
    every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, panel) in zip(every, panels, strict=True):
        axes.imshow(panel.clamp(0.0, 1.0), interpolation="nearest")
        axes.set_title(title, fontsize="small")
        axes.set_axis_off()
    return figure


def draw_rotated() -> Figure:
    """The same twelve digits at every angle."""
    angles = [0, 15, 30, 45, 60, 75]
    domains = rotated(digits(32), angles=angles)
    rows = torch.stack([domain.x[:12] for domain in domains])
    return picture([("rotated(digits(size = 32), angles = [0, 15, ..., 75])", tiled(grey(rows)))], (5, 2.8))


def draw_coloured() -> Figure:
    """Two rows of each domain: label 0 above label 1."""
    panels = []
    correlations = [0.9, 0.8, 0.1]
    for domain, correlation in zip(coloured(digits(28), correlations=correlations), correlations, strict=True):
        blue = functional.pad(domain.x, (0, 0, 0, 0, 0, 1))
        rows = by_class(Samples(blue, domain.y), [0, 1], 14)
        panels.append((f"correlation {correlation}: label 0, label 1", tiled(rows)))
    return picture(panels, (5, 3.4))


def draw_digit_sources() -> Figure:
    """Ten digits of each source, two of each."""
    names = ("handwritten", "printed", "handwritten_on_photos", "printed_on_photos")
    panels = []
    for name, source in zip(names, digit_sources(28), strict=True):
        rows = by_class(source.train, range(10), 2).transpose(0, 1)
        panels.append((name, tiled(grey(rows))))
    return picture(panels, (4, 4.6))


def draw_glyph_scenes() -> Figure:
    """Twelve scenes of every class of the training split."""
    return picture([("glyph_scenes(), train", tiled(by_class(glyph_scenes().train, range(10), 12)))], (4.6, 4.1))


def draw_glyphs_long_tailed() -> Figure:
    """An image of each class, and how many of each there are."""
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 1))
    for imbalance in (20, 50, 100, 200):
        counts = torch.bincount(glyphs_long_tailed(20, imbalance).train.y)
        above.plot(counts, "o-", markersize=3, label=f"imbalance {imbalance}")
    above.set(yscale="log", ylabel="images", xlim=(-0.5, 19.5), xticks=range(20))
    above.legend(fontsize="x-small")
    below.imshow(tiled(grey(by_class(glyphs_long_tailed(20).train, range(20), 1).transpose(0, 1))))
    below.set_axis_off()
    return figure


def draw_glyphs_balanced() -> Figure:
    """All ten training images of twenty classes."""
    rows = by_class(glyphs_balanced(20, 10).train, range(20), 10).transpose(0, 1)
    return picture([("glyphs_balanced(classes = 20, per_class = 10), train", tiled(grey(rows)))], (5.4, 3))


def draw_class_balanced() -> Figure:
    """The weights of twenty classes for several beta."""
    figure = Figure(figsize=(6, 2.6), layout="constrained")
    axes = figure.subplots()
    long = glyphs_long_tailed(20, 100)
    for beta in (0.9, 0.99, 0.999, 0.9999):
        axes.plot(class_balanced(long, beta), "o-", markersize=3, label=f"beta = {beta}")
    axes.set(xlabel="class, from the largest to the smallest", ylabel="weight", xticks=range(20))
    axes.legend(fontsize="x-small")
    return figure


def draw_few_shot() -> Figure:
    """A 2-way 5-shot task of two sources."""
    panels = []
    for name, data in (("digits(size = 28)", digits(28)), ("glyph_scenes()", glyph_scenes())):
        task = few_shot(data, ways=2, shots=5, queries=10).train.sample(make_key(1))
        parts = [part.x.reshape(2, -1, *part.x.shape[1:]) for part in task]
        shown = [tiled(part if part.shape[2] == 3 else grey(part)) for part in parts]
        space = torch.ones(shown[0].shape[0], 12, 3)
        panels.append((f"few_shot({name}): support, then query", torch.cat([shown[0], space, shown[1]], 1)))
    return picture(panels, (5.4, 2.4))


def draw_glyphs_fixed_labels() -> Figure:
    """The support of three training tasks: a column is a label."""
    tasks = glyphs_fixed_labels().train.sample(fold(make_key(0), torch.arange(5)))
    title = "five training tasks (20-way 1-shot): each column is a label, of one of five classes"
    return picture([(title, tiled(grey(tasks.support.x)))], (6.4, 2))


def draw_victim() -> Figure:
    """Tasks of both sources, titled with the labels that the victim knows."""
    panels = []
    for name, data in (("digits(size = 28)", digits(28)), ("glyph_scenes()", glyph_scenes())):
        made = victim(data, ways=2, shots=2)
        task = made.tasks.test.sample(make_key(2))
        images = task.support.x if made.shape[0] == 3 else grey(task.support.x)
        said = made.net(task.support.x).argmax(1).tolist()
        title = f"victim({name}): labels {task.support.y.tolist()}, the network says {said}"
        panels.append((title, tiled(images[None])))
    return picture(panels, (4.6, 3))


def draw_victim_gradients() -> Figure:
    """Images, and the gradients of three victims at them: red raises the loss, blue lowers it."""
    rows: list[Tensor] = []
    for name in ("net1", "net2", "net3"):
        tasks = victim_gradients([name], samples=10).train.sample(make_key(4))
        if not rows:
            rows.append(grey(tasks.support.x))
        strength = (tasks.support.y / 4.0).clamp(-1.0, 1.0)
        up, down = strength.clamp(min=0.0), (-strength).clamp(min=0.0)
        rows.append(torch.cat([1.0 - down, 1.0 - up - down, 1.0 - up], 1))
    return picture([("ten images, and gradients of net1, net2, net3", tiled(torch.stack(rows)))], (5, 2.4))


def draw_viewed() -> Figure:
    """Twelve digits and four views of each."""
    train = viewed(digits(28), views=4).train
    rows = torch.cat([train.x[:12, None], train.views[:12]], 1).transpose(0, 1)
    return picture([("digits, and four views of each", tiled(grey(rows)))], (5, 2.4))


PICTURES: dict[str, Callable[[], Figure]] = {
    "rotated": draw_rotated,
    "coloured": draw_coloured,
    "digit_sources": draw_digit_sources,
    "glyph_scenes": draw_glyph_scenes,
    "glyphs_long_tailed": draw_glyphs_long_tailed,
    "glyphs_balanced": draw_glyphs_balanced,
    "class_balanced": draw_class_balanced,
    "few_shot": draw_few_shot,
    "glyphs_fixed_labels": draw_glyphs_fixed_labels,
    "victim": draw_victim,
    "victim_gradients": draw_victim_gradients,
    "viewed": draw_viewed,
}
