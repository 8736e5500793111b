"""What is kept between processes in the user's cache folder, to be made again wherever it is not as it should be."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path


def cache_folder() -> Path:
    """`bilevel` in the user's cache folder: XDG_CACHE_HOME, or ~/.cache where that is not set; raises OSError."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "bilevel"
    except RuntimeError as error:
        raise FileNotFoundError(2, "there is no home folder") from error


def recall(name: str, depends: str) -> bytes | None:
    """What was kept under a name, None where nothing was, it was made from something else, or the file is damaged.

    What another user wrote into a folder that is shared is not read: what is kept may be objects, which are code.
    """
    try:
        path = cache_folder() / name
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return None
        content = path.read_bytes()
    except OSError:
        return None
    return content[32:] if content[:32] == _digest(depends, content[32:]) else None


def keep(name: str, depends: str, content: bytes) -> None:
    """Keep it for later processes; nothing happens where the folder cannot be written to.

    `depends`: all that the content was made from. The file appears whole or not at all, whoever else writes it.
    """
    with suppress(OSError):
        folder = cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=f"{name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(depends, content) + content)
            Path(unfinished).replace(folder / name)
        finally:
            Path(unfinished).unlink(missing_ok=True)


def _digest(depends: str, content: bytes) -> bytes:
    return sha256(sha256(depends.encode()).digest() + content).digest()
