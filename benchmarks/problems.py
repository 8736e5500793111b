"""The numbers of the workloads, from numpy alone: no side's generator decides what the others get."""

from __future__ import annotations

import numpy as np

from benchmarks.workload import Numbers, layers

__all__ = ["classes", "glyphs", "images", "layers", "lstm", "texts", "waves"]


def waves(count: int, shots: int, seed: int = 1) -> dict[str, Numbers]:
    """Amplitude 0.1 to 5, phase 0 to pi, inputs -5 to 5: float32[count, shots, 1], support and query."""
    random = np.random.default_rng(seed)
    amplitude, phase = random.uniform(0.1, 5.0, (count, 1, 1)), random.uniform(0.0, np.pi, (count, 1, 1))
    xs, xq = random.uniform(-5.0, 5.0, (2, count, shots, 1))
    found = {"xs": xs, "ys": amplitude * np.sin(xs + phase), "xq": xq, "yq": amplitude * np.sin(xq + phase)}
    return {name: value.astype("float32") for name, value in found.items()}


def images(count: int, size: int, held: int, seed: int = 2) -> dict[str, Numbers]:
    """Inputs float32[., size], labels int64[.]: `count` for training (x, y), `held` for validation (u, v)."""
    random = np.random.default_rng(seed)
    found: dict[str, Numbers] = {}
    for inputs, labels, number in (("x", "y", count), ("u", "v", held)):
        found[inputs] = random.normal(size=(number, size)).astype("float32")
        found[labels] = random.integers(0, 10, number)
    return found


def classes(count: int, size: int, seed: int = 4) -> dict[str, Numbers]:
    """Normal features float64[count, size] with classes 0 and 1 of a noisy plane: training (x, y), validation (u, v)."""
    random = np.random.default_rng(seed)
    plane = random.normal(size=size)
    found: dict[str, Numbers] = {}
    for inputs, labels in (("x", "y"), ("u", "v")):
        found[inputs] = random.normal(size=(count, size))
        found[labels] = (found[inputs] @ plane + 2 * random.normal(size=count) > 0).astype("float64")
    return found


def glyphs(count: int, ways: int, shots: int, queries: int, seed: int = 5) -> dict[str, Numbers]:
    """A pattern 28 x 28 for every class of every task, with noise: real[count, ways * shots, 1, 28, 28] and labels."""
    random = np.random.default_rng(seed)
    patterns = random.normal(size=(count, ways, 1, 1, 28, 28))
    found: dict[str, Numbers] = {}
    for inputs, labels, number in (("xs", "ys", shots), ("xq", "yq", queries)):
        noisy = patterns + 0.5 * random.normal(size=(count, ways, number, 1, 28, 28))
        found[inputs] = noisy.reshape(count, ways * number, 1, 28, 28).astype("float32")
        found[labels] = np.tile(np.repeat(np.arange(ways), number), (count, 1))
    return found


def texts(count: int, length: int, words: int, seed: int = 6) -> dict[str, Numbers]:
    """Tokens int64[count, length] and one of four classes: training (x, y), validation (u, v)."""
    random = np.random.default_rng(seed)
    found: dict[str, Numbers] = {}
    for inputs, labels in (("x", "y"), ("u", "v")):
        found[inputs] = random.integers(0, words, (count, length))
        found[labels] = found[inputs][:, : length // 2].sum(1) % 4
    return found


def lstm(hidden: int, seed: int = 3) -> dict[str, Numbers]:
    """A coordinate LSTM of two inputs and its linear layer, in the order of torch: uniform within 1 / sqrt(hidden)."""
    random = np.random.default_rng(seed)
    bound = hidden**-0.5
    shapes: dict[str, tuple[int, ...]] = {
        "cell.weight_ih": (4 * hidden, 2),
        "cell.weight_hh": (4 * hidden, hidden),
        "cell.bias_ih": (4 * hidden,),
        "cell.bias_hh": (4 * hidden,),
        "output.weight": (1, hidden),
        "output.bias": (1,),
    }
    return {f"lstm.{n}": random.uniform(-bound, bound, shape).astype("float32") for n, shape in shapes.items()}
