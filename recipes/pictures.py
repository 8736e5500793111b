"""The pictures of DATA.md: `python -m bilevel.recipes.pictures [NAME ...]` writes one PNG for each data set.

Here those of images; `derived_pictures` has what is made out of them, `number_pictures` all else. Fixed keys, so that a picture changes only when its data does.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from bilevel.backends.torch_func.keyed import make_key
from bilevel.recipes.digits import digits
from bilevel.recipes.glyph_store import glyph_images
from bilevel.recipes.glyphs import glyphs
from bilevel.recipes.noise import corrupted, symmetric
from bilevel.recipes.records import Samples

FOLDER = Path(__file__).with_name("pictures")


def mosaic(images: Tensor, gap: int = 2) -> Tensor:
    """Images real[rows, columns, height, width] side by side with white between, real[..., ...]; ink 1 is black."""
    framed = torch.nn.functional.pad(1.0 - images, (0, gap, 0, gap), value=1.0)
    rows, columns, height, width = framed.shape
    return framed.permute(0, 2, 1, 3).reshape(rows * height, columns * width)


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


def draw_corrupted() -> Figure:
    """Training images by the label that is given; wrong ones have a dark background."""
    train = corrupted(digits(28), symmetric(0.5)).train
    rows = []
    for label in range(10):
        some = torch.nonzero(train.y == label)[:12, 0]
        wrong = (train.clean[some] != label)[:, None, None]
        images = train.x[some, 0]
        rows.append(torch.where(wrong, 0.35 + 0.65 * images, images))
    return _picture([("given labels 0-9, half of them wrong (grey)", mosaic(torch.stack(rows)))], (4.2, 3.8))


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


def write_pictures(names: Sequence[str]) -> None:
    """The pictures of these data sets, or all, into `FOLDER`."""
    from bilevel.recipes import derived_pictures, number_pictures

    FOLDER.mkdir(exist_ok=True)
    every = {"digits": draw_digits, "corrupted": draw_corrupted, "glyphs": draw_glyphs}
    every |= number_pictures.PICTURES | derived_pictures.PICTURES
    for name in names or every:
        every[name]().savefig(FOLDER / f"{name}.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    write_pictures(sys.argv[1:])
