"""Readers of published data sets, in the files that their authors give out, from a folder of the user's.

Nothing is downloaded: a missing file is an error that says what to put where. Pickles are read without running any
code in them. `published_tasks` has those that are few-shot tasks.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, permutation
from bilevel.dsl.datatypes import Record, integer, real, record, records
from bilevel.errors import RecipeError, fail
from bilevel.recipes.noise import Noise, noisy
from bilevel.recipes.plain_pickle import read_plain_pickle
from bilevel.recipes.records import Samples, SampleSplits, bad_argument, require_positive
from bilevel.registry import data

VAL_SHARE = 10  # one in so many training samples of every class goes to val
Read = tuple[Tensor, Tensor]
"""Images uint8[n, channels, height, width] and labels int64[n]."""


def missing(name: str, path: Path, what: str) -> RecipeError:
    """The error of a file that is not there, to be raised."""
    return fail(
        "B608",
        f"`{name}` finds no {path}",
        why="its files are not part of this package, and nothing is downloaded",
        fix=f"put {what}\ninto {path.parent}, or name another folder with data_root",
    )


def damaged(name: str, path: Path, error: object) -> RecipeError:
    """The error of a file that is not what it should be, to be raised."""
    return fail("B608", f"`{name}` cannot read {path}", why=str(error), fix="copy the file again from its source")


def _found(name: str, folder: Path, names: tuple[str, ...], what: str) -> Path:
    for candidate in names:
        if (folder / candidate).is_file():
            return folder / candidate
    raise missing(name, folder / names[0], what)


# ---- formats -------------------------------------------------------------------------------------------------


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of bytes in the IDX format of MNIST, gzipped or not."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        content = file.read()
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError("it does not begin as an IDX file of bytes")
    axes = content[3]
    shape = tuple(int(n) for n in np.frombuffer(content, ">i4", axes, 4))
    flat = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    if len(flat) != int(np.prod(shape)):
        raise ValueError(f"it has {len(flat)} bytes where its head promises {shape}")
    return flat.reshape(shape)


def _idx_pair(name: str, folder: Path, split: str) -> Read:
    prefix = {"train": "train", "test": "t10k"}[split]
    what = f"{prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte (or .gz)"
    paths = [
        _found(name, folder, (f"{prefix}-{kind}", f"{prefix}-{kind}.gz"), what)
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    ]
    images, labels = (_reading(name, path, read_idx) for path in paths)
    return _checked(name, paths[0], torch.tensor(images)[:, None], torch.tensor(labels).long())


def _usps(name: str, folder: Path, split: str) -> Read:
    file = {"train": "zip.train.gz", "test": "zip.test.gz"}[split]
    path = _found(name, folder, (file,), "zip.train.gz and zip.test.gz of The Elements of Statistical Learning")
    rows = _reading(name, path, lambda p: np.loadtxt(p, ndmin=2))
    if rows.shape[1] != 257:
        raise damaged(name, path, f"its lines have {rows.shape[1]} numbers instead of 257")
    grey = np.clip((rows[:, 1:] + 1.0) / 2.0 * 255.0, 0.0, 255.0).round().astype(np.uint8)
    return _checked(name, path, torch.tensor(grey).reshape(-1, 1, 16, 16), torch.tensor(rows[:, 0]).long())


def _svhn(name: str, folder: Path, split: str) -> Read:
    from scipy.io import loadmat

    path = _found(name, folder, (f"{split}_32x32.mat",), "train_32x32.mat and test_32x32.mat (cropped digits)")
    content = _reading(name, path, loadmat)
    if "X" not in content or "y" not in content:
        raise damaged(name, path, "it has no X and y")
    images, labels = torch.tensor(content["X"]).permute(3, 2, 0, 1), torch.tensor(content["y"]).reshape(-1).long()
    return _checked(name, path, images, labels % 10)  # the file calls zero 10


def _cifar(name: str, folder: Path, split: str) -> Read:
    inside, files, key = {
        ("cifar10", "train"): ("cifar-10-batches-py", [f"data_batch_{i}" for i in range(1, 6)], "labels"),
        ("cifar10", "test"): ("cifar-10-batches-py", ["test_batch"], "labels"),
        ("cifar100", "train"): ("cifar-100-python", ["train"], "fine_labels"),
        ("cifar100", "test"): ("cifar-100-python", ["test"], "fine_labels"),
    }[name, split]
    place = folder / inside if (folder / inside).is_dir() else folder
    parts = []
    for file in files:
        path = _found(name, place, (file,), f"the files of the Python version: {inside}/{file}, ...")
        content = _reading(name, path, read_plain_pickle)
        if not isinstance(content, dict) or key not in content or "data" not in content:
            raise damaged(name, path, f"it has no `data` and `{key}`")
        images = torch.tensor(np.asarray(content["data"], np.uint8)).reshape(-1, 3, 32, 32)
        parts.append(_checked(name, path, images, torch.tensor(content[key]).long()))
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def _reading(name: str, path: Path, read: Callable[[Path], Any]) -> Any:
    """What a reader makes of a file; whatever it says of a damaged one becomes a message."""
    try:
        return read(path)
    except RecipeError:
        raise
    except Exception as error:  # zlib, numpy, scipy and pickle have a type for every way to be damaged
        raise damaged(name, path, error) from error


def _checked(name: str, path: Path, images: Tensor, labels: Tensor) -> Read:
    if images.dtype != torch.uint8 or len(images) != len(labels) or not len(labels):
        raise damaged(name, path, f"it has {len(images)} images of {images.dtype} and {len(labels)} labels")
    return images, labels


# ---- registrations -------------------------------------------------------------------------------------------

READERS: Mapping[str, Callable[[str, Path, str], Read]] = {
    "mnist": _idx_pair,
    "kmnist": _idx_pair,
    "fashion": _idx_pair,
    "usps": _usps,
    "svhn": _svhn,
    "cifar10": _cifar,
    "cifar100": _cifar,
}


def _yields(channels: int) -> Record:
    split = records("?", x=real(channels, "size", "size"), y=integer())
    return record(train=split, val=split, test=split)


def read_splits(name: str, data_root: str, size: int, limit: int | None, noise: Noise | None) -> SampleSplits:
    """Train, val (a tenth of every class of the published training part) and the published test part.

    `limit` takes that many of each, in a fixed random order. Images are made real and resized after that.
    """
    require_positive(name, {"size": size} | ({} if limit is None else {"limit": limit}))
    folder, read = Path(data_root).expanduser() / name, READERS[name]
    images, labels = read(name, folder, "train")
    in_val = _in_val(name, labels)
    chosen = {"train": (images, labels, ~in_val), "val": (images, labels, in_val)}
    images, labels = read(name, folder, "test")
    chosen["test"] = (images, labels, torch.ones(len(labels), dtype=torch.bool))
    train, val, test = (_samples(name, split, *some, size, limit) for split, some in chosen.items())
    if not len(val.y):
        raise bad_argument(name, "data_root", f"a folder with {VAL_SHARE} or more samples of a class", data_root)
    return SampleSplits(noisy(train, noise), val, test)


def _in_val(name: str, labels: Tensor) -> Tensor:
    """Every tenth sample of each class, in a fixed random order."""
    order = permutation(fold(make_key(0), "published", name), len(labels))
    marks = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        own = order[labels[order] == label]
        marks[own[VAL_SHARE - 1 :: VAL_SHARE]] = True
    return marks


def _samples(
    name: str, split: str, images: Tensor, labels: Tensor, chosen: Tensor, size: int, limit: int | None
) -> Samples:
    positions = torch.nonzero(chosen)[:, 0]
    order = permutation(fold(make_key(0), "published", name, split), len(positions))
    positions = positions[order][:limit]
    return Samples(resized(images[positions], size), labels[positions])


def resized(images: Tensor, size: int) -> Tensor:
    """Images real[n, c, size, size] in 0..1 of uint8[n, c, h, w]; bilinear, with antialiasing."""
    x = images.to(torch.get_default_dtype()) / 255.0
    if x.shape[-2:] == (size, size):
        return x
    return functional.interpolate(x, size=(size, size), mode="bilinear", antialias=True).clamp(0.0, 1.0)


@data(yields=_yields(1))
def mnist(
    data_root: str = "data", size: int = 28, limit: int | None = None, noise: Noise | None = None
) -> SampleSplits:
    """MNIST from `data_root`/mnist: the four idx files, gzipped or not."""
    return read_splits("mnist", data_root, size, limit, noise)


@data(yields=_yields(1))
def kmnist(
    data_root: str = "data", size: int = 28, limit: int | None = None, noise: Noise | None = None
) -> SampleSplits:
    """Kuzushiji-MNIST from `data_root`/kmnist: the four idx files, gzipped or not."""
    return read_splits("kmnist", data_root, size, limit, noise)


@data(yields=_yields(1))
def fashion(
    data_root: str = "data", size: int = 28, limit: int | None = None, noise: Noise | None = None
) -> SampleSplits:
    """Fashion-MNIST from `data_root`/fashion: the four idx files, gzipped or not."""
    return read_splits("fashion", data_root, size, limit, noise)


@data(yields=_yields(1))
def usps(data_root: str = "data", size: int = 16, limit: int | None = None, noise: Noise | None = None) -> SampleSplits:
    """USPS from `data_root`/usps: zip.train.gz and zip.test.gz of The Elements of Statistical Learning."""
    return read_splits("usps", data_root, size, limit, noise)


@data(yields=_yields(3))
def svhn(data_root: str = "data", size: int = 32, limit: int | None = None, noise: Noise | None = None) -> SampleSplits:
    """Street View House Numbers from `data_root`/svhn: train_32x32.mat and test_32x32.mat."""
    return read_splits("svhn", data_root, size, limit, noise)


@data(yields=_yields(3))
def cifar10(
    data_root: str = "data", size: int = 32, limit: int | None = None, noise: Noise | None = None
) -> SampleSplits:
    """CIFAR-10 from `data_root`/cifar10: the folder cifar-10-batches-py of the Python version."""
    return read_splits("cifar10", data_root, size, limit, noise)


@data(yields=_yields(3))
def cifar100(
    data_root: str = "data", size: int = 32, limit: int | None = None, noise: Noise | None = None
) -> SampleSplits:
    """CIFAR-100 with its fine labels from `data_root`/cifar100: the folder cifar-100-python of the Python version."""
    return read_splits("cifar100", data_root, size, limit, noise)
