"""The built-in registry: every model, data set, solver and estimator that a recipe may name without more ado.

Only lists names; each is defined, and documented, in its own module. `zoo.bilevel.json` beside this file is its
manifest, written by `python -m bilevel.recipes.zoo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bilevel.recipes.digits import digits
from bilevel.recipes.domains import coloured, digit_sources, rotated
from bilevel.recipes.few_shot import few_shot
from bilevel.recipes.gaussians import toy_gaussians
from bilevel.recipes.glyphs import glyphs, glyphs_fixed_labels
from bilevel.recipes.long_tails import class_balanced, glyphs_balanced, glyphs_long_tailed
from bilevel.recipes.networks import conv4, coordinate_lstm, mlp
from bilevel.recipes.noise import asymmetric, corrupted, symmetric
from bilevel.recipes.pendulum import pendulum
from bilevel.recipes.planets import planets
from bilevel.recipes.problems import quadratic_sums, sparse_text
from bilevel.recipes.published import cifar10, cifar100, fashion, kmnist, mnist, svhn, usps
from bilevel.recipes.published_tasks import mini_imagenet, omniglot
from bilevel.recipes.quadratics import random_quadratics
from bilevel.recipes.scenes import glyph_scenes
from bilevel.recipes.sine import sine
from bilevel.recipes.solvers import addsign, powersign, two_sided
from bilevel.recipes.victims import victim, victim_gradients
from bilevel.recipes.views import viewed

__all__ = [
    "addsign",
    "asymmetric",
    "cifar10",
    "cifar100",
    "class_balanced",
    "coloured",
    "conv4",
    "coordinate_lstm",
    "corrupted",
    "digit_sources",
    "digits",
    "fashion",
    "few_shot",
    "glyph_scenes",
    "glyphs",
    "glyphs_balanced",
    "glyphs_fixed_labels",
    "glyphs_long_tailed",
    "kmnist",
    "mini_imagenet",
    "mlp",
    "mnist",
    "omniglot",
    "pendulum",
    "planets",
    "powersign",
    "quadratic_sums",
    "random_quadratics",
    "rotated",
    "sine",
    "sparse_text",
    "svhn",
    "symmetric",
    "toy_gaussians",
    "two_sided",
    "usps",
    "victim",
    "victim_gradients",
    "viewed",
]


NAME = "bilevel.zoo"
MANIFEST = Path(__file__).with_name("zoo.bilevel.json")


def _write() -> None:
    from bilevel.manifest import write_manifest

    MANIFEST.write_text(write_manifest(sys.modules[__name__], NAME), encoding="utf-8")


if __name__ == "__main__":
    _write()
