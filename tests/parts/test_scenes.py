"""Glyph scenes: counts, ranges, characters that stand out, and splits that share no pixel of a photograph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import RecipeError
from bilevel.recipes import photographs
from bilevel.recipes.scenes import brightness, glyph_scenes


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_counts_shapes_and_range() -> None:
    data = glyph_scenes(classes=3, per_class=20)
    assert [len(split.y) for split in data] == [36, 12, 12]
    for split, count in zip(data, (12, 4, 4), strict=True):
        assert split.x.shape[1:] == (3, 32, 32)
        assert torch.bincount(split.y).tolist() == [count] * 3
        assert 0.0 <= float(split.x.min()) <= float(split.x.max()) <= 1.0


def test_grey_scenes_are_the_brightness_of_the_coloured() -> None:
    colour, grey = glyph_scenes(classes=3, per_class=20), glyph_scenes(channels=1, classes=3, per_class=20)
    assert grey.train.x.shape[1:] == (1, 32, 32)
    assert torch.equal(grey.train.x, brightness(colour.train.x))


def test_a_second_call_reads_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    first = glyph_scenes(classes=3, per_class=20)
    capsys.readouterr()
    assert torch.equal(first.test.x, glyph_scenes(classes=3, per_class=20).test.x)
    assert capsys.readouterr() == ("", "")


def test_patches_of_splits_come_from_parts_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs whose pixels are their column: a patch then says where it comes from."""
    columns = torch.arange(640.0).expand(3, 427, 640) / 640.0
    monkeypatch.setattr(photographs, "_photographs", lambda: [columns, columns])
    keys = fold(make_key(0), torch.arange(60))
    for split, (low, high) in photographs.PARTS.items():
        found = photographs.patches(split, 16, keys)
        assert low - 1e-3 <= float(found.min()) <= float(found.max()) <= high + 1e-3


def test_the_same_key_gives_the_same_patch() -> None:
    keys = fold(make_key(0), torch.arange(4))
    assert torch.equal(photographs.patches("train", 8, keys)[2], photographs.patches("train", 8, keys[2:3])[0])


@pytest.mark.parametrize(
    "build",
    [
        lambda: glyph_scenes(size=0),
        lambda: glyph_scenes(channels=2),
        lambda: glyph_scenes(classes=0),
        lambda: glyph_scenes(classes=100_000),
        lambda: glyph_scenes(per_class=2),
    ],
)
def test_bad_arguments_are_told(build: Callable[[], object]) -> None:
    with pytest.raises(RecipeError) as caught:
        build()
    assert caught.value.diagnostics[0].code == "B606"
