"""Readers of published files, on tiny files in their formats: what is read, what is missing, what is damaged."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.errors import Diagnostic, RecipeError
from bilevel.recipes import published, published_tasks
from bilevel.recipes.noise import symmetric

GENERATOR = np.random.default_rng(0)
TRAIN, TEST = 200, 30


def pixels(*shape: int) -> np.ndarray[Any, Any]:
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def labels(count: int) -> np.ndarray[Any, Any]:
    return (np.arange(count) % 10).astype(np.uint8)


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


def write_idx(folder: Path, zipped: bool = True) -> dict[str, Any]:
    folder.mkdir(parents=True)
    written = {}
    for prefix, count in (("train", TRAIN), ("t10k", TEST)):
        written[prefix] = (pixels(count, 28, 28), labels(count))
        for kind, array in zip(("images-idx3-ubyte", "labels-idx1-ubyte"), written[prefix], strict=True):
            path = folder / f"{prefix}-{kind}"
            if zipped:
                (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                path.write_bytes(idx(array))
    return written


def write_usps(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    written = {}
    for file, prefix, count in (("zip.train.gz", "train", TRAIN), ("zip.test.gz", "t10k", TEST)):
        images, own = pixels(count, 16, 16), labels(count)
        rows = np.column_stack([own, images.reshape(count, -1) / 127.5 - 1.0])
        text = "\n".join(" ".join(f"{number:.6f}" for number in row) for row in rows)
        (folder / file).write_bytes(gzip.compress(text.encode()))
        written[prefix] = (images, own)
    return written


def write_svhn(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    written = {}
    for split, prefix, count in (("train", "train", TRAIN), ("test", "t10k", TEST)):
        images, own = pixels(count, 3, 32, 32), labels(count)
        called = np.where(own == 0, 10, own)[:, None]
        savemat(folder / f"{split}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": called})
        written[prefix] = (images, own)
    return written


def write_cifar(folder: Path, name: str = "cifar10") -> dict[str, Any]:
    inside, key = {"cifar10": ("cifar-10-batches-py", "labels"), "cifar100": ("cifar-100-python", "fine_labels")}[name]
    place = folder / inside
    place.mkdir(parents=True)
    images, own = {"train": pixels(TRAIN, 3, 32, 32), "t10k": pixels(TEST, 3, 32, 32)}, {}
    own = {"train": labels(TRAIN), "t10k": labels(TEST)}
    if name == "cifar10":
        files = {f"data_batch_{i}": ("train", slice(40 * (i - 1), 40 * i)) for i in range(1, 6)}
        files["test_batch"] = ("t10k", slice(None))
    else:
        files = {"train": ("train", slice(None)), "test": ("t10k", slice(None))}
    for file, (split, part) in files.items():
        content = {"data": images[split][part].reshape(-1, 3072), key: own[split][part].tolist()}
        (place / file).write_bytes(pickle.dumps(content, protocol=2))
    return {split: (images[split], own[split]) for split in images}


WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "mnist": write_idx,
    "kmnist": write_idx,
    "fashion": lambda folder: write_idx(folder, zipped=False),
    "usps": write_usps,
    "svhn": write_svhn,
    "cifar10": write_cifar,
    "cifar100": lambda folder: write_cifar(folder, "cifar100"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_published_images_and_labels_are_read(name: str, tmp_path: Path) -> None:
    written = WRITERS[name](tmp_path / name)
    data = getattr(published, name)(data_root=str(tmp_path))
    assert [len(split.y) for split in data] == [TRAIN - 20, 20, TEST]
    assert torch.bincount(data.val.y).tolist() == [2] * 10

    def listed(images: Any, own: Any) -> list[tuple[Any, ...]]:
        whole = np.asarray(images).reshape(len(own), -1)
        return sorted((int(label), *image[:60].tolist()) for image, label in zip(whole, own, strict=True))

    found = [((split.x * 255).round().byte().numpy(), split.y.numpy()) for split in data]
    train = [np.concatenate(parts) for parts in zip(*found[:2], strict=True)]
    assert listed(*train) == listed(*written["train"])
    assert listed(*found[2]) == listed(*written["t10k"])


def test_size_limit_and_noise(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist")
    data = published.mnist(str(tmp_path), size=14, limit=50)
    assert data.train.x.shape == (50, 1, 14, 14)
    assert len(data.val.y) == 20
    clean, noisy = published.mnist(str(tmp_path)), published.mnist(str(tmp_path), noise=symmetric(0.5))
    assert float((clean.train.y != noisy.train.y).double().mean()) == pytest.approx(0.5, abs=0.01)
    assert torch.equal(clean.test.y, noisy.test.y)


def told(build: Callable[[], object]) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        build()
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


@pytest.mark.parametrize("name", [*WRITERS, "omniglot", "mini_imagenet"])
def test_a_missing_folder_is_told_with_what_to_put_there(name: str, tmp_path: Path) -> None:
    reader = getattr(published, name, None) or getattr(published_tasks, name)
    diagnostic = told(lambda: reader(data_root=str(tmp_path)))
    assert diagnostic.code == "B608"
    assert str(tmp_path / name) in diagnostic.message
    assert "data_root" in diagnostic.fix


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of the pickle was run",)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02nothing", pickle.dumps({"data": Harmful(), "labels": []}), pickle.dumps([1]), pickle.dumps({})],
)
def test_a_pickle_that_is_not_plain_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar(tmp_path / "cifar10")
    (tmp_path / "cifar10" / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    assert told(lambda: published.cifar10(str(tmp_path))).code == "B608"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"no such thing", idx(pixels(3, 28, 28))[:-5], idx(labels(TRAIN - 1))])
def test_a_damaged_idx_file_is_told(content: bytes, tmp_path: Path) -> None:
    write_idx(tmp_path / "fashion", zipped=False)
    (tmp_path / "fashion" / "train-labels-idx1-ubyte").write_bytes(content)
    diagnostic = told(lambda: published.fashion(str(tmp_path)))
    assert diagnostic.code == "B608"
    assert "cannot read" in diagnostic.message


def test_damaged_matrices_and_tables_are_told(tmp_path: Path) -> None:
    write_svhn(tmp_path / "svhn")
    (tmp_path / "svhn" / "test_32x32.mat").write_bytes(b"MATLAB no")
    assert told(lambda: published.svhn(str(tmp_path))).code == "B608"
    write_usps(tmp_path / "usps")
    (tmp_path / "usps" / "zip.test.gz").write_bytes(gzip.compress(b"1 2 3\n4 5 6\n"))
    assert told(lambda: published.usps(str(tmp_path))).code == "B608"


# ---- folders of images ---------------------------------------------------------------------------------------


def write_images(folder: Path, count: int, shade: int, mode: str) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        value = shade if mode == "L" else (shade, 255 - shade, number)
        Image.new(mode, (21, 21), value).save(folder / f"{number:02}.png")


def test_omniglot_characters_are_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "omniglot"
    for number in range(22):
        write_images(
            root / "images_background" / f"Alphabet_{number % 3}" / f"character{number:02}", 4, 5 * number, "L"
        )
    for number in range(3):
        write_images(root / "images_evaluation" / "Other" / f"character{number:02}", 4, 200 + 5 * number, "L")
    splits = published_tasks.omniglot(str(tmp_path), ways=2, shots=1, queries=2)
    keys = fold(make_key(0), torch.arange(200))
    shades = []
    for stream in splits:
        task = stream.sample(keys)
        assert task.support.x.shape == (200, 2, 1, 28, 28)
        first = ((1.0 - task.support.x[:, :, 0, 0, 0]) * 255).round()
        again = ((1.0 - task.query.x[:, ::2, 0, 0, 0]) * 255).round()
        assert torch.equal(first, again)  # support and query of a class are of one character
        shades.append({int(shade) for shade in first.flatten()})
    assert [len(s) for s in shades] == [20, 2, 3]
    assert not shades[0] & shades[1]
    assert shades[2] == {200, 205, 210}


def test_mini_imagenet_keeps_what_it_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "mini_imagenet"
    for place, split in enumerate(("train", "val", "test")):
        for number in range(2):
            write_images(root / split / f"n{number:02}", 4, 40 * place + 10 * number, "RGB")

    def build() -> Any:
        return published_tasks.mini_imagenet(str(tmp_path), ways=2, shots=1, queries=3, size=16)

    task = build().test.sample(make_key(0))
    assert task.query.x.shape == (6, 3, 16, 16)
    assert {round(float(shade) * 255) for shade in task.query.x[:, 0, 0, 0]} == {80, 90}
    assert "once" in capsys.readouterr().err
    build()
    assert capsys.readouterr().err == ""
    write_images(root / "train" / "n02", 4, 7, "RGB")
    build()
    assert "once" in capsys.readouterr().err  # another class: read again
    (root / "val" / "n00" / "00.png").write_bytes(b"not a png")
    assert told(build).code == "B608"
