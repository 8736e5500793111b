"""Few-shot classification of characters: tasks made from keys, out of images that are drawn once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import bits, choose, fold
from bilevel.dsl.datatypes import integer, real, record, records, stream
from bilevel.recipes.glyph_store import GlyphImages, glyph_images
from bilevel.recipes.records import Samples, Task, TaskSplits, bad_argument, require_positive
from bilevel.registry import tasks

TASK = record(
    support=records("ways*shots", x=real(1, 28, 28), y=integer()),
    query=records("ways*queries", x=real(1, 28, 28), y=integer()),
)


@dataclass(frozen=True, slots=True, eq=False)
class GlyphTasks:
    """The tasks of one split; kept as bytes and made real when drawn, a quarter of the memory."""

    images: Tensor  # uint8[classes, writers, 28, 28]
    split: str
    ways: int
    shots: int
    queries: int
    dtype: torch.dtype
    fixed: bool = False  # every class has one label in all tasks, its number modulo `ways`

    def sample(self, keys: Tensor) -> Task:
        """One task per key: x real[..., ways * shots, 1, 28, 28] in 0..1, y int64[..., ways * shots]; so the query.

        Classes of a task differ, and writers of a class; samples stand class by class.
        """
        keys = fold(keys.to(self.images.device), "glyphs", self.split)
        count, writers = self.images.shape[:2]
        classes = self._slots(keys) if self.fixed else choose(fold(keys, "classes"), self.ways, count)
        each = fold(fold(keys, "writers"), torch.arange(self.ways))
        chosen = choose(each, self.shots + self.queries, writers)
        images = self.images[classes[..., None], chosen]
        return Task(self._samples(images[..., : self.shots, :, :]), self._samples(images[..., self.shots :, :, :]))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> GlyphTasks:
        """The same tasks on `device`, their images in `dtype`."""
        return replace(self, images=self.images.to(device), dtype=dtype)

    def _slots(self, keys: Tensor) -> Tensor:
        """For each label one of the classes that have it, int64[..., ways]."""
        labels = torch.arange(self.ways, device=keys.device)
        own = bits(fold(fold(keys, "slots"), labels)).remainder(len(self.images) // self.ways)
        return labels + self.ways * own

    def _samples(self, images: Tensor) -> Samples:
        """Samples of uint8[..., ways, n, 28, 28], the class's place as label."""
        leading, count = images.shape[:-4], images.shape[-3]
        labels = torch.arange(self.ways, device=images.device).repeat_interleave(count)
        x = images.reshape(*leading, self.ways * count, 1, *images.shape[-2:]).to(self.dtype) / 255.0
        return Samples(x, labels.expand(*leading, -1).clone())


@tasks(yields=record(train=stream(TASK), val=stream(TASK), test=stream(TASK)))
def glyphs(
    ways: int = 5, shots: int = 1, queries: int = 15, writers: int = 20, classes: int | None = None
) -> TaskSplits:
    """Few-shot tasks on drawn Unicode characters, in place of Omniglot; train, val and test share no alphabet.

    A task has `ways` classes, labels 0..ways-1, and for each `shots` support and `queries` query images of
    different writers, 28 x 28, ink 1 on 0. `classes` limits the classes of each split. Cost: the images (1,882
    classes of 20 writers) are drawn once, about half a minute, and kept in the user's cache folder.
    """
    images = _images("glyphs", ways, shots, queries, writers, classes)
    return TaskSplits(*(_stream(name, split, ways, shots, queries) for name, split in images._asdict().items()))


@tasks(yields=record(train=stream(TASK), val=stream(TASK), test=stream(TASK)))
def glyphs_fixed_labels(
    ways: int = 20, shots: int = 1, queries: int = 5, classes: int = 100, writers: int = 20
) -> TaskSplits:
    """`glyphs` with few training classes whose labels never change: tasks that can be memorised.

    Train has `classes` classes, dealt out to the `ways` labels once and for all, and a task takes one class of each
    label; val and test are those of `glyphs`, with labels drawn anew in every task, so that what was memorised is
    wrong there. Source: papers/001, section 4.1.2 (20-way 1-shot); Yin et al. 2019. Cost: as `glyphs`.
    """
    part = "glyphs_fixed_labels"
    require_positive(part, {"classes": classes})
    images = _images(part, ways, shots, queries, writers, None)
    if not ways <= classes <= len(images.train):
        raise bad_argument(part, "classes", f"between ways = {ways} and {len(images.train)}", classes)
    chosen = torch.arange(classes) * len(images.train) // classes  # at even distances, so that alphabets stay mixed
    train = replace(_stream("train", images.train[chosen], ways, shots, queries), fixed=True)
    return TaskSplits(train, *(_stream(name, getattr(images, name), ways, shots, queries) for name in ("val", "test")))


def _stream(name: str, images: Tensor, ways: int, shots: int, queries: int) -> GlyphTasks:
    return GlyphTasks(images, name, ways, shots, queries, torch.get_default_dtype())


def _images(part: str, ways: int, shots: int, queries: int, writers: int, classes: int | None) -> GlyphImages:
    """The images of all splits, once the numbers are found to fit."""
    require_positive(part, {"ways": ways, "shots": shots, "queries": queries, "writers": writers})
    if classes is not None:
        require_positive(part, {"classes": classes})
    if shots + queries > writers:
        raise bad_argument(part, "shots + queries", f"at most {writers}, one image for each writer", shots + queries)
    images = glyph_images(writers, classes)
    fewest = min(len(split) for split in images)
    if ways > fewest:
        raise bad_argument(part, "ways", f"at most {fewest}, the classes of the smallest split", ways)
    return images
