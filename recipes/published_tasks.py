"""Few-shot tasks of published data sets, from folders of images of the user's: Omniglot and mini-ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bilevel.backends.torch_func.keyed import fold, make_key, permutation
from bilevel.dsl.datatypes import Record, Size, integer, real, record, records, stream
from bilevel.recipes.few_shot import task_splits
from bilevel.recipes.published import damaged, missing
from bilevel.recipes.records import Samples, SampleSplits, TaskSplits, require_positive
from bilevel.recipes.store import Advance, Kept, kept
from bilevel.registry import tasks

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
VAL_CLASSES = 10  # one in so many background characters of Omniglot goes to val


def _task(channels: int, size: Size) -> Record:
    def part(length: str) -> object:
        return records(length, x=real(channels, size, size), y=integer())

    return record(support=part("ways*shots"), query=part("ways*queries"))  # type: ignore[arg-type]


def class_folders(name: str, folder: Path, depth: int, what: str) -> list[Path]:
    """The folders of classes `depth` levels below `folder`, in alphabetical order; there must be some."""
    if not folder.is_dir():
        raise missing(name, folder, what)
    found = [folder]
    for _ in range(depth):
        found = sorted(inner for outer in found for inner in outer.iterdir() if inner.is_dir())
    if not found:
        raise missing(name, folder / "CLASS", what)
    return found


def image_files(folder: Path) -> list[Path]:
    """The images of one class, in alphabetical order."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)


def read_folders(name: str, folders: Sequence[Path], size: int, mode: str, advance: Advance) -> tuple[Tensor, Tensor]:
    """Images uint8[n, channels, size, size] of some class folders, and labels int64[n], the places of the folders."""
    images, labels = [], []
    for label, folder in enumerate(folders):
        files = image_files(folder)
        if not files:
            raise damaged(name, folder, "it has no images")
        images += [_read_image(name, file, size, mode) for file in files]
        labels += [label] * len(files)
        advance(1)
    return torch.stack(images), torch.tensor(labels)


def _read_image(name: str, path: Path, size: int, mode: str) -> Tensor:
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1).astype(np.float32)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow calls a damaged PNG a SyntaxError
        raise damaged(name, path, error) from error
    channels = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    scaled = functional.interpolate(channels, size=(size, size), mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0.0, 255.0).to(torch.uint8)


def _kept_splits(name: str, folders: dict[str, list[Path]], size: int, mode: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Images and labels of each split, read once and kept; known again by the names, sizes and times of all files."""
    files = [file for some in folders.values() for folder in some for file in image_files(folder)]
    stamps = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    depends = f"{[(split, [str(f) for f in some]) for split, some in folders.items()]} {stamps} {size} {mode}"
    fields = [f"{split}_{part}" for split in folders for part in ("images", "labels")]
    count = sum(len(some) for some in folders.values())
    entry = Kept(name, "images", "reading", depends, (__file__,), fields, count, "classes")

    def read(advance: Advance) -> list[Tensor]:
        return [part for some in folders.values() for part in read_folders(name, some, size, mode, advance)]

    found = dict(zip(fields, kept(entry, read), strict=True))
    return {split: (found[f"{split}_images"], found[f"{split}_labels"]) for split in folders}


def _tasks(
    name: str, splits: dict[str, tuple[Tensor, Tensor]], sizes: tuple[int, int, int], change: Callable[[Tensor], Tensor]
) -> TaskSplits:
    dtype = torch.get_default_dtype()
    samples = {split: Samples(change(images.to(dtype) / 255.0), labels) for split, (images, labels) in splits.items()}
    return task_splits(name, SampleSplits(**samples), *sizes)


@tasks(yields=record(train=stream(_task(1, "size")), val=stream(_task(1, "size")), test=stream(_task(1, "size"))))
def omniglot(data_root: str = "data", ways: int = 5, shots: int = 1, queries: int = 15, size: int = 28) -> TaskSplits:
    """Few-shot tasks of Omniglot from `data_root`/omniglot: folders images_background and images_evaluation.

    Each holds ALPHABET/character/*.png. Ink is 1. The characters of images_background are train, but for every tenth
    in a fixed random order, which are val; those of images_evaluation are test. Cost: 32,460 files are read once and
    kept in the cache folder.
    """
    require_positive("omniglot", {"size": size})
    folder = Path(data_root).expanduser() / "omniglot"
    what = "the unpacked folders images_background and images_evaluation, ALPHABET/character/*.png in each"
    background = class_folders("omniglot", folder / "images_background", 2, what)
    order = [int(place) for place in permutation(fold(make_key(0), "omniglot"), len(background))]
    held = set(order[VAL_CLASSES - 1 :: VAL_CLASSES])
    folders = {
        "train": [one for place, one in enumerate(background) if place not in held],
        "val": [one for place, one in enumerate(background) if place in held],
        "test": class_folders("omniglot", folder / "images_evaluation", 2, what),
    }
    if not folders["val"]:
        raise damaged("omniglot", folder / "images_background", f"it has fewer than {VAL_CLASSES} characters")
    splits = _kept_splits("omniglot", folders, size, "L")
    return _tasks("omniglot", splits, (ways, shots, queries), lambda x: 1.0 - x)


@tasks(yields=record(train=stream(_task(3, "size")), val=stream(_task(3, "size")), test=stream(_task(3, "size"))))
def mini_imagenet(
    data_root: str = "data", ways: int = 5, shots: int = 1, queries: int = 15, size: int = 84
) -> TaskSplits:
    """Few-shot tasks of mini-ImageNet from `data_root`/mini_imagenet: folders train, val and test of class folders.

    Each class folder holds its images (png or jpg), as tools that unpack the set write them; 64, 16 and 20 classes of
    600 images in the split of Ravi and Larochelle 2017. Cost: 60,000 files are read once and kept in the cache folder
    (1.3 GB at size 84); 4.9 GB of memory.
    """
    require_positive("mini_imagenet", {"size": size})
    folder = Path(data_root).expanduser() / "mini_imagenet"
    what = "the folders train, val and test, CLASS/*.jpg in each"
    folders = {split: class_folders("mini_imagenet", folder / split, 1, what) for split in ("train", "val", "test")}
    splits = _kept_splits("mini_imagenet", folders, size, "RGB")
    return _tasks("mini_imagenet", splits, (ways, shots, queries), lambda x: x)
