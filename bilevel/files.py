"""Files that are written for the user: as a whole or not at all, whenever the process ends. Reports B708 and B709."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.errors import fail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ELSEWHERE = "free some space, or another --out"


@contextmanager
def writing(path: Path, fix: str = ELSEWHERE) -> Iterator[None]:
    """Turns what the operating system says about files into a message (B709)."""
    try:
        yield
    except OSError as error:
        raise fail("B709", f"cannot write to `{path}`: {error.strerror or error}", fix=fix) from error


def write_whole(path: Path, content: str | bytes, fix: str = ELSEWHERE) -> None:
    """Write a file in place of what is there, or leave that as it is; raises RecipeError (B709).

    It is written under another name beside the file and then renamed: a full disk, Ctrl-C and a kill leave the old
    one. Links are followed, permissions stay. What is no file, such as /dev/stdout, is written to as it is.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path, fix):
        target = path.resolve()
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        part = target.with_name(f".{target.name}.part")
        try:
            part.write_bytes(data)
            if target.exists():
                part.chmod(target.stat().st_mode)
            part.replace(target)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def save_figure(figure: Figure, path: Path) -> Path:
    """The picture as a PNG; raises RecipeError (B709)."""
    drawn = BytesIO()
    figure.savefig(drawn, dpi=150, format="png")
    write_whole(path, drawn.getvalue())
    return path


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """While it lasts no other process goes on with the run in a folder; raises RecipeError (B708) where one does.

    The lock is on the folder itself and goes with the process, however that ends. Where a file system has no locks,
    nothing is held.
    """
    import fcntl

    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = "wait until it ends, or stop it; or another --out"
            raise fail("B708", f"another process runs in `{folder}` now", fix=fix) from error
        except OSError:  # a network's file system may have none
            pass
        yield
    finally:
        os.close(handle)
