"""The solvers and modes a recipe can name, with their arguments: what `check` knows without any backend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class SolverForm:
    """`positional`: arguments that may stand without a name. `defaults`: named arguments; None must be given."""

    name: str
    needs: Literal["gradient", "values", "nothing"]
    positional: tuple[str, ...] = ()
    defaults: dict[str, float | None] = field(default_factory=dict)
    linear: bool = False
    """the update is linear in the gradient"""


SOLVERS: dict[str, SolverForm] = {
    form.name: form
    for form in (
        SolverForm("sgd", "gradient", (), {"lr": None, "momentum": 0.0, "clip": 0.0}, linear=True),
        SolverForm("adam", "gradient", (), {"lr": None, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "clip": 0.0}),
        SolverForm(
            "adamw",
            "gradient",
            (),
            {"lr": None, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01, "clip": 0.0},
        ),
        SolverForm("rmsprop", "gradient", (), {"lr": None, "alpha": 0.99, "epsilon": 1e-8, "clip": 0.0}),
        SolverForm("mirror", "gradient", ("M",), {"M": None, "lr": None, "clip": 0.0}, linear=True),
        SolverForm("lbfgs", "gradient", (), {"history": 10.0}),
        SolverForm("pgd", "gradient", (), {"lr": None, "sign": 0.0, "clip": 0.0}),
        SolverForm("exponentiated", "gradient", (), {"lr": None, "clip": 0.0}),
        SolverForm("frank_wolfe", "gradient", (), {}),
        SolverForm("next", "nothing", ("value",), {"value": None}),
        SolverForm("closed_form", "nothing", (), {}),
        SolverForm("cmaes", "values", (), {"sigma": 0.3, "population": None}),
        SolverForm("random", "values", (), {"population": None}),
        SolverForm("pbt", "values", (), {"population": None, "sigma": 0.2, "share": 0.2}),
    )
}

RATES = ("linear", "cosine", "steps")
"""what `lr` may be beside a number: a schedule over the steps of the level"""

KEEPERS: dict[str, tuple[str, ...]] = {
    "pgd": ("positive", "nonnegative", "unit", "between", "simplex", "psd", "orthogonal"),
    "exponentiated": ("simplex", "positive", "nonnegative"),
    "frank_wolfe": ("simplex", "unit", "between"),
    "mirror": (),
}
"""solvers that step in the variable's own coordinates, with the domains that they keep by themselves"""

ESTIMATORS: dict[str, tuple[str, ...]] = {"zeroth": ("samples", "radius")}
"""what may stand after `with`, with its arguments in order"""

MODES: dict[str, tuple[str, ...]] = {
    "auto": ("allow", "leap"),
    "rmd": ("store", "checkpoint", "order", "window", "update"),
    "fmd": (),
    "ift": ("linear", "batch", "through", "sign"),
    "leap": ("teacher", "keep", "hull", "gamma", "choose"),
    "evolve": (),
    "es": ("samples", "sigma"),
    "closed_form": (),
    "none": (),
    "vmap": ("chunk",),
    "loop": (),
}
"""Modes of levels (and, at the end, of indices) with the options each one has."""
