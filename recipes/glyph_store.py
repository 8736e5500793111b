"""The images of `glyphs`, drawn once and kept in a cache folder.

Output: uint8 images of the three splits. A kept file is read only where its hashes are right; any other is drawn
anew with a message. The file's name holds all that the images depend on, so a new FreeType draws a new file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from PIL import features
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from bilevel.errors import RecipeError, fail
from bilevel.recipes import glyph_classes, glyph_writers

DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
Advance = Callable[[int], None]


class GlyphImages(NamedTuple):
    """Images uint8[classes, writers, 28, 28] of each split, ink 255 on 0; no class is in two splits."""

    train: Tensor
    val: Tensor
    test: Tensor


def glyph_images(writers: int = 20, classes: int | None = None) -> GlyphImages:
    """The images, from the cache folder, or drawn and kept there; `classes` takes that many of each split.

    Cost: drawing about 20 s for the full set on one core, reading 0.3 s; 9 MB on disk, 30 MB in memory.
    Fails when: the cache folder cannot be written to (B608).
    """
    codes = some_classes(classes)
    path = cache_folder() / f"glyphs-{_name(codes, writers)}.npz"
    console = Console(stderr=True)
    if path.exists():
        try:
            return _read(path)
        except DAMAGE as error:
            console.print(f"glyphs: {path} is damaged ({error}); drawing the images again", soft_wrap=True)
    with _room(path) as unfinished:
        count = sum(len(some) for some in codes.values()) * writers
        with _progress(console, count) as advance:
            images = GlyphImages(*(glyph_writers.draw_classes(some, writers, advance) for some in codes.values()))
        _keep(images, unfinished, path)
    return images


def some_classes(classes: int | None) -> dict[str, Sequence[int]]:
    """Code points of each split: all, or `classes` of them at even distances, so that alphabets stay mixed."""
    every = glyph_classes.read_classes()
    if classes is None:
        return dict(every)
    return {
        split: [codes[i * len(codes) // classes] for i in range(classes)] if classes < len(codes) else codes
        for split, codes in every.items()
    }


def cache_folder() -> Path:
    """`bilevel` in the user's cache folder: XDG_CACHE_HOME, or ~/.cache where that is not set."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "bilevel"


def split_hash(images: Tensor) -> str:
    """SHA-256 of the images of a split, in hexadecimal."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def _name(codes: Mapping[str, Sequence[int]], writers: int) -> str:
    """What the images depend on, in twelve letters: classes, writers, the code that draws, fonts, FreeType."""
    digest = hashlib.sha256(f"{sorted(codes.items())} {writers} {features.version('freetype2')}".encode())
    for source in (glyph_classes.__file__, glyph_writers.__file__):
        digest.update(Path(source).read_bytes())
    for font in glyph_classes.FONTS:
        digest.update(glyph_classes.font_path(font).read_bytes())
    return digest.hexdigest()[:12]


# ---- the file ------------------------------------------------------------------------------------------------


def _read(path: Path) -> GlyphImages:
    # Opened here, since numpy leaves the file of a damaged archive open; as an archive, since `load` takes more.
    with path.open("rb") as handle, NpzFile(handle, allow_pickle=False) as file:
        images = GlyphImages(*(torch.from_numpy(file[name]) for name in GlyphImages._fields))
        if [split_hash(split) for split in images] != list(file["hashes"]):
            raise ValueError("the images do not have the hashes they were kept with")
    return images


@contextmanager
def _room(path: Path) -> Iterator[Path]:
    """A new file beside `path`, removed at the end unless it became `path`.

    Made before the images are drawn: a folder that cannot be written to should be known before the work.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".npz")
    except OSError as error:
        raise _not_kept(path, error) from error
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _keep(images: GlyphImages, unfinished: Path, path: Path) -> None:
    """Write all, then rename: another process sees the whole file or none."""
    hashes = np.array([split_hash(split) for split in images])
    train, val, test = (split.numpy() for split in images)
    try:
        np.savez_compressed(unfinished, hashes=hashes, train=train, val=val, test=test)
        unfinished.replace(path)
    except OSError as error:
        raise _not_kept(path, error) from error


def _not_kept(path: Path, error: OSError) -> RecipeError:
    return fail(
        "B608",
        f"`glyphs` cannot keep its images in {path.parent}",
        why=error.strerror or str(error),
        fix="make 20 MB of room there, or set XDG_CACHE_HOME to a folder that can be written to",
    )


# ---- what the user sees --------------------------------------------------------------------------------------


@contextmanager
def _progress(console: Console, count: int) -> Iterator[Advance]:
    """A bar on a terminal, otherwise a line at the start and at every quarter."""
    title = f"glyphs: drawing {count:,} images, once"
    if not console.is_terminal:
        yield _lines(console, title, count)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=count)
        yield lambda more: bar.advance(task, more)


def _lines(console: Console, title: str, count: int) -> Advance:
    console.print(title, soft_wrap=True)
    ready = 0

    def advance(more: int) -> None:
        nonlocal ready
        before, ready = ready, ready + more
        if 4 * ready // count > 4 * before // count:
            console.print(f"glyphs: {ready:,} of {count:,}", soft_wrap=True)

    return advance
