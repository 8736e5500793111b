"""Glyphs: the choice of classes, images that depend on their key alone, tasks with true labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import features
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes.glyph_classes import FILE, FONTS, classes_text, font_path, fonts_of, read_classes
from bilevel.recipes.glyph_store import glyph_images, some_classes
from bilevel.recipes.glyph_writers import draw_classes
from bilevel.recipes.glyphs import GlyphTasks, glyphs
from bilevel.recipes.records import Task, TaskSplits
from bilevel.recipes.store import tensor_hash

KEYS = fold(make_key(0), torch.arange(6).reshape(2, 3))
WAYS, SHOTS, QUERIES, WRITERS, CLASSES = 3, 2, 3, 6, 5


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def splits(own_cache: Path) -> TaskSplits:
    return glyphs(ways=WAYS, shots=SHOTS, queries=QUERIES, writers=WRITERS, classes=CLASSES)


def fields(task: Task) -> list[Tensor]:
    return [*task.support, *task.query]


# ---- classes -------------------------------------------------------------------------------------------------


def test_splits_have_no_character_in_common() -> None:
    classes = read_classes()
    assert {split: len(codes) for split, codes in classes.items()} == {"train": 1458, "val": 158, "test": 266}
    assert len({code for codes in classes.values() for code in codes}) == 1458 + 158 + 266


def test_the_fonts_are_there_and_have_every_class() -> None:
    assert len(FONTS) == 16
    assert all(font_path(name).exists() for name in FONTS)
    fonts = fonts_of(code for codes in read_classes().values() for code in codes)
    assert min(len(names) for names in fonts.values()) >= 2
    four = [code for code, names in fonts.items() if len(names) >= 4]
    assert len(fonts) - len(four) == 101  # N'Ko, Ogham and Tifinagh


def test_a_few_classes_are_spread_over_the_alphabets() -> None:
    few, every = some_classes(4), read_classes()
    assert [len(codes) for codes in few.values()] == [4, 4, 4]
    assert all(set(few[split]) <= set(every[split]) for split in every)
    assert max(few["train"]) > 0x2000
    assert some_classes(10_000) == some_classes(None) == every


@pytest.mark.slow
def test_committed_classes_equal_the_code() -> None:
    assert FILE.read_text(encoding="utf-8") == classes_text(), (
        "write them again: python -m bilevel.recipes.glyph_classes"
    )


# ---- images --------------------------------------------------------------------------------------------------


def test_an_image_depends_on_its_character_and_writer_alone() -> None:
    codes = [0x41, 0x3A9, 0x5D0]
    together = draw_classes(codes, 5, lambda more: None)
    assert together.shape == (3, 5, 28, 28)
    assert together.dtype == torch.uint8
    alone = draw_classes(codes[1:2], 9, lambda more: None)
    assert torch.equal(together[1], alone[0, :5])


def test_images_have_ink_inside_and_differ_between_writers() -> None:
    for split in glyph_images(WRITERS, CLASSES):
        ink = split.float().mean((-1, -2)) / 255.0
        assert float(ink.min()) > 0.01
        assert float(ink.max()) < 0.6
        edges = torch.cat([split[..., 0, :], split[..., -1, :], split[..., 0], split[..., -1]], -1)
        assert float(edges.float().mean()) < 5.0
        flat = split.flatten(0, 1).flatten(1)
        assert len(torch.unique(flat, dim=0)) == len(flat)


# ---- tasks ---------------------------------------------------------------------------------------------------


def test_shapes_types_and_range(splits: TaskSplits) -> None:
    shapes = [tuple(value.shape) for value in fields(splits.train.sample(KEYS))]
    assert shapes == [(2, 3, 6, 1, 28, 28), (2, 3, 6), (2, 3, 9, 1, 28, 28), (2, 3, 9)]
    assert tuple(splits.val.sample(make_key(0)).support.x.shape) == (6, 1, 28, 28)
    task = splits.test.to("cpu", torch.float64).sample(KEYS)
    assert task.query.x.dtype == torch.float64
    assert task.query.y.dtype == torch.int64
    assert float(task.query.x.min()) == 0.0
    assert float(task.query.x.max()) == 1.0


def test_a_batch_of_keys_is_the_single_keys(splits: TaskSplits) -> None:
    together = fields(splits.train.sample(KEYS))
    for row in range(2):
        for column in range(3):
            alone = fields(splits.train.sample(KEYS[row, column]))
            assert all(torch.equal(many[row, column], one) for many, one in zip(together, alone, strict=True))


def origin(stream: GlyphTasks, image: Tensor) -> tuple[int, int]:
    """Class and writer of an image of a task."""
    found = (stream.images == (image * 255.0).round().to(torch.uint8)).all(-1).all(-1).nonzero()
    assert len(found) == 1
    return int(found[0, 0]), int(found[0, 1])


def test_labels_are_the_classes_and_no_image_occurs_twice(splits: TaskSplits) -> None:
    stream = splits.train
    assert isinstance(stream, GlyphTasks)
    for key in KEYS.flatten():
        task = stream.sample(key)
        origins = [(origin(stream, x[0]), int(y)) for d in task for x, y in zip(d.x, d.y, strict=True)]
        assert len({place for place, _ in origins}) == WAYS * (SHOTS + QUERIES)
        class_of_label = {label: place[0] for place, label in origins}
        assert sorted(class_of_label) == [0, 1, 2]
        assert len(set(class_of_label.values())) == WAYS
        assert all(class_of_label[label] == place[0] for place, label in origins)
        assert torch.bincount(task.support.y).tolist() == [SHOTS] * WAYS
        assert torch.bincount(task.query.y).tolist() == [QUERIES] * WAYS


def test_every_class_takes_every_label(splits: TaskSplits) -> None:
    stream = splits.val
    assert isinstance(stream, GlyphTasks)
    support = stream.sample(fold(make_key(1), torch.arange(100))).support
    pairs = {
        (origin(stream, x[0])[0], int(y)) for x, y in zip(support.x.flatten(0, 1), support.y.flatten(), strict=True)
    }
    assert len(pairs) == CLASSES * WAYS


def test_splits_have_no_image_in_common(splits: TaskSplits) -> None:
    flat = [split.flatten(0, 1).flatten(1) for split in glyph_images(WRITERS, CLASSES)]
    assert len(torch.unique(torch.cat(flat), dim=0)) == 3 * CLASSES * WRITERS


@pytest.mark.parametrize(
    ("ways", "shots", "queries", "classes"), [(6, 1, 1, CLASSES), (0, 1, 1, CLASSES), (3, 4, 3, CLASSES), (3, 1, 1, 0)]
)
def test_bad_arguments_are_told(ways: int, shots: int, queries: int, classes: int, splits: TaskSplits) -> None:
    with pytest.raises(RecipeError) as caught:
        glyphs(ways=ways, shots=shots, queries=queries, writers=WRITERS, classes=classes)
    assert caught.value.diagnostics[0].code == "B606"


# ---- the whole set -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("ways", "shots", "expected"), [(5, 1, 70.0), (20, 1, 48.0), (5, 5, 88.0), (20, 5, 72.0)])
def test_nearest_neighbour_is_as_calibrated(ways: int, shots: int, expected: float) -> None:
    """Accuracy of one nearest neighbour on 300 test tasks, per cent; the tables of results rest on this difficulty."""
    stream = glyphs(ways=ways, shots=shots, queries=15).test
    right = []
    for some in torch.split(fold(make_key(0), torch.arange(300)), 50):
        support, query = stream.sample(some)
        nearest = torch.cdist(query.x.flatten(2), support.x.flatten(2)).argmin(-1)
        right.append((support.y.gather(1, nearest) == query.y).double().mean())
    assert 100.0 * float(torch.stack(right).mean()) == pytest.approx(expected, abs=2.5)


@pytest.mark.slow
@pytest.mark.skipif(features.version("freetype2") != "2.14.3", reason="another FreeType draws other bytes")
def test_images_are_those_of_the_published_hashes() -> None:
    found = {name: tensor_hash(split)[:16] for name, split in glyph_images()._asdict().items()}
    assert found == {"train": "1629060269ef18b0", "val": "eb71c6918bba4df4", "test": "74b9b64db0aee559"}
