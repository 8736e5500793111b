"""All workloads by name: those that are measured side by side with peers, and those of our own alone."""

from __future__ import annotations

import importlib

from benchmarks.workload import Workload

MODULES = {
    "W0": "w0_sine",
    "W1": "w1_glyphs",
    "W2": "w2_decay",
    "W3": "w3_exact",
    "W4": "w4_cleaning",
    "W4i": "w4_cleaning",
    "W5": "w5_transformer",
    "W6": "w6_learned",
    "W7": "w7_population",
}
ALONE = {"W8": "w8_growth", "W9": "w9_first_use"}


def workload(name: str) -> Workload:
    """A workload that has sides."""
    module = importlib.import_module(f"benchmarks.{MODULES[name]}")
    found: Workload = module.IMPLICITLY if name == "W4i" else module.WORKLOAD
    return found
