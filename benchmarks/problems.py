"""The numbers of the workloads, from numpy alone: no side's generator decides what the others get."""

from __future__ import annotations

import numpy as np

from benchmarks.workload import Numbers, layers

__all__ = ["images", "layers", "waves"]


def waves(count: int, shots: int, seed: int = 1) -> dict[str, Numbers]:
    """Amplitude 0.1 to 5, phase 0 to pi, inputs -5 to 5: float32[count, shots, 1], support and query."""
    random = np.random.default_rng(seed)
    amplitude, phase = random.uniform(0.1, 5.0, (count, 1, 1)), random.uniform(0.0, np.pi, (count, 1, 1))
    xs, xq = random.uniform(-5.0, 5.0, (2, count, shots, 1))
    found = {"xs": xs, "ys": amplitude * np.sin(xs + phase), "xq": xq, "yq": amplitude * np.sin(xq + phase)}
    return {name: value.astype("float32") for name, value in found.items()}


def images(count: int, size: int, seed: int = 2) -> dict[str, Numbers]:
    """Inputs float32[count, size], labels int64[count], of training (x, y) and of validation (u, v)."""
    random = np.random.default_rng(seed)
    found: dict[str, Numbers] = {}
    for inputs, labels in (("x", "y"), ("u", "v")):
        found[inputs] = random.normal(size=(count, size)).astype("float32")
        found[labels] = random.integers(0, 10, count)
    return found
