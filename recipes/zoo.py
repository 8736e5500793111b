"""The built-in registry: every model, data set, solver and estimator that a recipe may name without more ado.

Only lists names; each is defined, and documented, in its own module. `zoo.bilevel.json` beside this file is its
manifest, written by `python -m bilevel.recipes.zoo`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bilevel.recipes.certificates import certified_radius, vote
from bilevel.recipes.conditional import conditional
from bilevel.recipes.digits import digits
from bilevel.recipes.domains import coloured, digit_sources, rotated
from bilevel.recipes.few_shot import few_shot
from bilevel.recipes.gaussians import toy_gaussians
from bilevel.recipes.glyphs import glyphs, glyphs_fixed_labels
from bilevel.recipes.images import cnn4, image_to_gradient, lenet, resnet_small
from bilevel.recipes.long_tails import class_balanced, glyphs_balanced, glyphs_long_tailed
from bilevel.recipes.losses import (
    baikal,
    bi_tempered,
    bootstrap,
    carlini_wagner,
    forward_correction,
    gce,
    huber,
    label_smoothing,
    mae,
    nce_mae,
    nfl_mae,
    sce,
)
from bilevel.recipes.mixtures import mixture_density, mixture_likelihood
from bilevel.recipes.networks import conv4, coordinate_lstm, mlp
from bilevel.recipes.noise import asymmetric, corrupted, symmetric
from bilevel.recipes.pendulum import pendulum
from bilevel.recipes.planet_parts import energy_and_momentum, planet_mlp
from bilevel.recipes.planets import planets
from bilevel.recipes.problems import quadratic_sums, sparse_text
from bilevel.recipes.published import cifar10, cifar100, fashion, kmnist, mnist, svhn, usps
from bilevel.recipes.published_tasks import mini_imagenet, omniglot
from bilevel.recipes.quadratics import random_quadratics
from bilevel.recipes.scenes import glyph_scenes
from bilevel.recipes.sine import sine
from bilevel.recipes.solvers import addsign, powersign, two_sided
from bilevel.recipes.tailoring_losses import contrastive, cosine_distance
from bilevel.recipes.taylor_losses import arl_loss, itl_loss, taylor_loss
from bilevel.recipes.victims import victim, victim_gradients
from bilevel.recipes.views import viewed

__all__ = [
    "addsign",
    "arl_loss",
    "asymmetric",
    "baikal",
    "bi_tempered",
    "bootstrap",
    "carlini_wagner",
    "certified_radius",
    "cifar10",
    "cifar100",
    "class_balanced",
    "cnn4",
    "coloured",
    "conditional",
    "contrastive",
    "conv4",
    "coordinate_lstm",
    "corrupted",
    "cosine_distance",
    "digit_sources",
    "digits",
    "energy_and_momentum",
    "fashion",
    "few_shot",
    "forward_correction",
    "gce",
    "glyph_scenes",
    "glyphs",
    "glyphs_balanced",
    "glyphs_fixed_labels",
    "glyphs_long_tailed",
    "huber",
    "image_to_gradient",
    "itl_loss",
    "kmnist",
    "label_smoothing",
    "lenet",
    "mae",
    "mini_imagenet",
    "mixture_density",
    "mixture_likelihood",
    "mlp",
    "mnist",
    "nce_mae",
    "nfl_mae",
    "omniglot",
    "pendulum",
    "planet_mlp",
    "planets",
    "powersign",
    "quadratic_sums",
    "random_quadratics",
    "resnet_small",
    "rotated",
    "sce",
    "sine",
    "sparse_text",
    "svhn",
    "symmetric",
    "taylor_loss",
    "toy_gaussians",
    "two_sided",
    "usps",
    "victim",
    "victim_gradients",
    "viewed",
    "vote",
]

NAME = "bilevel.zoo"
MANIFEST = Path(__file__).with_name("zoo.bilevel.json")


def _write() -> None:
    from bilevel.manifest import write_manifest

    MANIFEST.write_text(write_manifest(sys.modules[__name__], NAME), encoding="utf-8")


if __name__ == "__main__":
    _write()
