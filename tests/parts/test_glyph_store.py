"""The cache of drawn images: used when sound, replaced when damaged, and honest when it cannot be kept."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from bilevel.errors import RecipeError
from bilevel.kept import cache_folder
from bilevel.recipes import glyph_writers
from bilevel.recipes.glyph_store import GlyphImages, glyph_images
from bilevel.recipes.store import Kept, progress


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "bilevel"


def small() -> GlyphImages:
    return glyph_images(writers=2, classes=2)


def same(left: GlyphImages, right: GlyphImages) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def forbid_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*arguments: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(glyph_writers, "draw_classes", draw)


def test_a_second_call_reads(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = small()
    assert "drawing 12 images, once" in capsys.readouterr().err
    assert len(list(own_cache.iterdir())) == 1
    forbid_drawing(monkeypatch)
    assert same(drawn, small())
    assert capsys.readouterr() == ("", "")


def test_other_arguments_are_other_files(own_cache: Path) -> None:
    small()
    glyph_images(writers=3, classes=2)
    assert len(list(own_cache.iterdir())) == 2


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 no such thing")


def flip_a_bit(path: Path) -> None:
    """The file is whole, but one image is not what was drawn."""
    with np.load(path) as file:
        content = dict(file)
    content["val"][0, 0, 14, 14] ^= 1
    np.savez_compressed(path, **content)


def drop_a_split(path: Path) -> None:
    with np.load(path) as file:
        content = {name: value for name, value in file.items() if name != "test"}
    np.savez_compressed(path, **content)


def save_a_plain_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickle_inside(path: Path) -> None:
    np.savez_compressed(path, hashes=np.array([object()]), train=np.array([object()]))


@pytest.mark.parametrize(
    "damage", [truncate, empty, garble, flip_a_bit, drop_a_split, save_a_plain_array, pickle_inside]
)
def test_a_damaged_file_is_drawn_again(
    own_cache: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = small()
    (path,) = own_cache.iterdir()
    damage(path)
    capsys.readouterr()
    assert same(drawn, small())
    assert "damaged" in capsys.readouterr().err
    forbid_drawing(monkeypatch)
    assert same(drawn, small())


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    forbid_drawing(monkeypatch)
    with pytest.raises(RecipeError) as caught:
        small()
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "B608"
    assert "XDG_CACHE_HOME" in diagnostic.fix


def test_a_full_disk_is_told_and_leaves_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*arguments: object, **arrays: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", save)
    with pytest.raises(RecipeError) as caught:
        small()
    assert caught.value.diagnostics[0].code == "B608"
    assert caught.value.diagnostics[0].why == "No space left on device"
    assert list(own_cache.iterdir()) == []


def test_an_interrupted_drawing_leaves_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(glyph_writers, "draw_classes", draw)
    with pytest.raises(KeyboardInterrupt):
        small()
    assert list(own_cache.iterdir()) == []


@pytest.mark.parametrize("value", ["", "relative/folder"])
def test_without_an_absolute_folder_the_home_is_used(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path.home() / ".cache" / "bilevel"


def test_lines_without_a_terminal_and_a_bar_on_one() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    entry = Kept("glyphs", "images", "drawing", "", (), (), 100)
    for file, terminal in ((plain, False), (coloured, True)):
        with progress(Console(file=file, force_terminal=terminal), entry) as advance:
            for _ in range(10):
                advance(10)
    assert plain.getvalue().splitlines() == [
        "glyphs: drawing 100 images, once",
        "glyphs: 30 of 100",
        "glyphs: 50 of 100",
        "glyphs: 80 of 100",
        "glyphs: 100 of 100",
    ]
    assert "\x1b[" in coloured.getvalue()
