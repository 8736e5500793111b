"""Pickles that hold plain data and numpy arrays, read without running any code that they name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np


def _reconstruct(kind: object, shape: tuple[int, ...], typecode: bytes | str) -> np.ndarray[Any, Any]:
    """What numpy's own function of this name does, for plain arrays alone."""
    code = typecode.decode("ascii") if isinstance(typecode, bytes) else typecode
    if kind is not np.ndarray or code not in ("b", "B"):
        raise pickle.UnpicklingError("it holds an array of another kind than plain bytes")
    return np.ndarray(shape, np.int8)


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
}


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The few names that an array needs; anything else could run code."""
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which plain data do not need")
        return ALLOWED[module, name]


def read_plain_pickle(path: Path) -> Any:
    """The content of a pickle of Python 2 or 3; fails with UnpicklingError where it names anything but arrays."""
    with path.open("rb") as file:
        return _Plain(file, encoding="latin1").load()
