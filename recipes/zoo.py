"""The built-in registry: every model, data set, solver and estimator that a recipe may name without more ado.

Only lists names; each is defined, and documented, in its own module. `zoo.bilevel.json` beside this file is its
manifest, written by `python -m bilevel.recipes.zoo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bilevel.recipes.digits import digits
from bilevel.recipes.glyphs import glyphs
from bilevel.recipes.networks import conv4, coordinate_lstm, mlp
from bilevel.recipes.sine import sine
from bilevel.recipes.solvers import addsign, powersign, two_sided

__all__ = ["addsign", "conv4", "coordinate_lstm", "digits", "glyphs", "mlp", "powersign", "sine", "two_sided"]

NAME = "bilevel.zoo"
MANIFEST = Path(__file__).with_name("zoo.bilevel.json")


def _write() -> None:
    from bilevel.manifest import write_manifest

    MANIFEST.write_text(write_manifest(sys.modules[__name__], NAME), encoding="utf-8")


if __name__ == "__main__":
    _write()
