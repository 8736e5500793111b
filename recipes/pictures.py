"""The pictures of DATA.md: `python -m bilevel.recipes.pictures` writes one PNG for each data set.

Fixed keys, so that a picture changes only when its data does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.recipes.digits import digits
from bilevel.recipes.glyph_store import glyph_images
from bilevel.recipes.glyphs import glyphs
from bilevel.recipes.records import Samples
from bilevel.recipes.sine import sine

FOLDER = Path(__file__).with_name("pictures")


def mosaic(images: Tensor, gap: int = 2) -> Tensor:
    """Images real[rows, columns, height, width] side by side with white between, real[..., ...]; ink 1 is black."""
    framed = torch.nn.functional.pad(1.0 - images, (0, gap, 0, gap), value=1.0)
    rows, columns, height, width = framed.shape
    return framed.permute(0, 2, 1, 3).reshape(rows * height, columns * width)


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


def draw_digits() -> Figure:
    """Twelve training images of every class, at size 28."""
    train = digits(28).train
    rows = [train.x[train.y == label][:12, 0] for label in range(10)]
    return _picture([("digits(size = 28)", mosaic(torch.stack(rows)))], (4.2, 3.8))


def draw_glyphs() -> Figure:
    """Above, eight classes of each split by all writers; below, one task."""
    panels = []
    for split, images in glyph_images()._asdict().items():
        chosen = torch.arange(8) * len(images) // 8 + len(images) // 16
        panels.append((f"{split}: 8 of {len(images):,} classes, 20 writers", mosaic(images[chosen] / 255.0)))
    task = glyphs(ways=5, shots=1, queries=15).train.sample(make_key(3))
    panels.append(("a task: support, then query", torch.cat([_by_class(task.support), _by_class(task.query)], 1)))
    return _picture(panels, (6.4, 9.2))


def _by_class(samples: Samples) -> Tensor:
    """A row for each class, and room to the right."""
    return torch.nn.functional.pad(mosaic(samples.x.reshape(5, -1, 28, 28), gap=4), (0, 28), value=1.0)


def _picture(panels: list[tuple[str, Tensor]], size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    heights = [panel.shape[0] / panel.shape[1] for _, panel in panels]
    every = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (title, panel) in zip(every, panels, strict=True):
        axes.imshow(panel, cmap="gray", vmin=0.0, vmax=1.0)
        axes.set_title(title, fontsize="small")
        axes.set_axis_off()
    return figure


def write_pictures() -> None:
    """All pictures into `FOLDER`."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in (("sine", draw_sine), ("digits", draw_digits), ("glyphs", draw_glyphs)):
        draw().savefig(FOLDER / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    write_pictures()
