"""Data that takes long to make, made once and kept in a cache folder.

Input: a name, what the data depend on, and a function that makes them; output: named tensors. A kept file is read
only where its hashes are right; any other is made anew with a message. The file's name holds all that its content
depends on, so that other arguments or other code make another file.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from bilevel.errors import RecipeError, fail
from bilevel.kept import cache_folder

if TYPE_CHECKING:
    from rich.console import Console

DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept under which name, and the words that tell a user about it."""

    name: str  # of the data set, and the beginning of the file's name
    what: str  # "images"
    making: str  # "drawing"
    depends: str  # all arguments that the content depends on
    sources: Sequence[Path | str]  # files whose bytes the content depends on: code, fonts
    fields: Sequence[str]
    count: int  # how many units of work there are to be ready
    unit: str = ""  # what is counted, where it is not `what`

    @property
    def path(self) -> Path:
        """The file, in the cache folder."""
        digest = hashlib.sha256(self.depends.encode())
        for source in self.sources:
            digest.update(Path(source).read_bytes())
        return cache_folder() / f"{self.name}-{digest.hexdigest()[:12]}.npz"


def kept(entry: Kept, make: Callable[[Advance], Sequence[Tensor]]) -> tuple[Tensor, ...]:
    """The tensors of `entry.fields`, from the cache folder, or made and kept there.

    `make` is given a function to tell how many more units are ready. Cost: reading takes a fraction of a second.
    Fails when: the cache folder cannot be written to (B608).
    """
    from rich.console import Console

    path, console = entry.path, Console(stderr=True)
    if path.exists():
        try:
            return _read(path, entry.fields)
        except DAMAGE as error:
            told = f"{entry.name}: {path} is damaged ({error}); {entry.making} the {entry.what} again"
            console.print(told, soft_wrap=True)
    with _room(entry, path) as unfinished:
        with progress(console, entry) as advance:
            made = tuple(tensor.contiguous() for tensor in make(advance))
        _keep(entry, dict(zip(entry.fields, made, strict=True)), unfinished, path)
    return made


def tensor_hash(tensor: Tensor) -> str:
    """SHA-256 of the bytes of a tensor, in hexadecimal."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


# ---- the file ------------------------------------------------------------------------------------------------


def _read(path: Path, fields: Sequence[str]) -> tuple[Tensor, ...]:
    # Opened here, since numpy leaves the file of a damaged archive open; as an archive, since `load` takes more.
    with path.open("rb") as handle, NpzFile(handle, allow_pickle=False) as file:
        read = tuple(torch.from_numpy(file[name]) for name in fields)
        if [tensor_hash(tensor) for tensor in read] != list(file["hashes"]):
            raise ValueError("its content does not have the hashes it was kept with")
    return read


@contextmanager
def _room(entry: Kept, path: Path) -> Iterator[Path]:
    """A new file beside `path`, removed at the end unless it became `path`.

    Made before the work is done: a folder that cannot be written to should be known before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}-", suffix=".npz")
    except OSError as error:
        raise _not_kept(entry, path, error) from error
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _keep(entry: Kept, made: Mapping[str, Tensor], unfinished: Path, path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in made.items()}
    arrays["hashes"] = np.array([tensor_hash(tensor) for tensor in made.values()])
    try:
        np.savez_compressed(unfinished, allow_pickle=False, **arrays)
        unfinished.replace(path)
    except OSError as error:
        raise _not_kept(entry, path, error) from error


def _not_kept(entry: Kept, path: Path, error: OSError) -> RecipeError:
    return fail(
        "B608",
        f"`{entry.name}` cannot keep its {entry.what} in {path.parent}",
        why=error.strerror or str(error),
        fix="make room there (most data sets need less than 50 MB), or set XDG_CACHE_HOME to a folder that can be written to",
    )


# ---- what the user sees --------------------------------------------------------------------------------------


@contextmanager
def progress(console: Console, entry: Kept) -> Iterator[Advance]:
    """A bar on a terminal, otherwise a line at the start and at every quarter."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    title = f"{entry.name}: {entry.making} {entry.count:,} {entry.unit or entry.what}, once"
    if not console.is_terminal:
        yield _lines(console, title, entry)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(title, total=entry.count)
        yield lambda more: bar.advance(task, more)


def _lines(console: Console, title: str, entry: Kept) -> Advance:
    console.print(title, soft_wrap=True)
    ready, count = 0, entry.count

    def advance(more: int) -> None:
        nonlocal ready
        before, ready = ready, ready + more
        if 4 * ready // count > 4 * before // count:
            console.print(f"{entry.name}: {ready:,} of {count:,}", soft_wrap=True)

    return advance
