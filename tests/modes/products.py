"""Structures of nested problems, each with its loop in plain torch; any solver can be put into any of them.

In a text, BY stands for the solver with rate r and momentum (or first decay) m; `reference` is the outer objective as
a function of the outer variables in free coordinates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key, normal, uniform
from tests.modes.loops import solve, tensor
from tests.zoo.problem import points
from tests.zoo.quadratics import MATRICES, A, B, V, Y

SOLVERS = {
    "sgd": "sgd(lr = r)",
    "momentum": "sgd(lr = r, momentum = m)",
    "adam": "adam(lr = r, beta1 = m)",
    "adamw": "adamw(lr = r, beta1 = m, weight_decay = 0.1)",
    "rmsprop": "rmsprop(lr = r, alpha = m)",
    "powersign": "powersign(lr = r, beta = m)",
    "addsign": "addsign(lr = r, beta = m, alpha = 1.5)",
    "heavy": "heavy(lr = r, momentum = m, power = 1 + m)",
}
TA, TB, TV, TY = tensor(A.tolist()), tensor(B.tolist()), tensor(V.tolist()), tensor(Y.tolist())
USES = "use A : real[6, 3]\nuse b : real[6]\nuse V : real[5, 3]\nuse y : real[5]"
MEMORY = "m : real in unit from 0.4"
R, M = np.log(0.03), np.log(0.4 / 0.6)  # free coordinates of r = 0.03 and m = 0.4
Reference = Callable[..., Tensor]


@dataclass(frozen=True)
class Structure:
    """`levels`: the inner levels, innermost first. `rate`: what the solver's rate is in the text."""

    name: str
    text: str
    reference: Callable[[str], Reference]
    start: Mapping[str, Any]
    levels: tuple[str, ...] = ("fit",)
    parts: Mapping[str, Any] = field(default_factory=dict)
    rate: str = "r"


def fit(w: Tensor) -> Tensor:
    return 0.5 * ((TA @ w - TB) ** 2).sum()


def outer(w: Tensor) -> Tensor:
    return 0.5 * ((TV @ w - TY) ** 2).sum()


OUTER = "minimize 0.5 * sqnorm(dot(V, w) - y) + 0.1 * m^2 + 0.1 * r\n  by sgd(lr = 0.1) for 2 steps"


def extra(r: Tensor, m: Tensor) -> Tensor:
    """What the outer objective says of the settings themselves, so that every solver reads both."""
    return 0.1 * torch.sigmoid(m) ** 2 + 0.1 * r.exp()


# ---- one level inside ----------------------------------------------------------------------------------------


def one_level(
    name: str, variables: str, start: str, objective: str, outer_text: str = OUTER, duration: str = "7 steps"
) -> str:
    return f"""recipe {name}
{USES}
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  {variables}
  level fit {{
    w : real[3] from {start}
    minimize {objective}
    by BY for {duration}
  }}
  {outer_text}
}}"""


FIT = "0.5 * sqnorm(dot(A, w) - b)"


def learned_start(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        w = solve(lambda w, _: fit(w) + 0.1 * (w**4).sum(), x * 2, 7, solver, r.exp(), m.sigmoid())
        return outer(w[-1]) + extra(r, m)

    return value


START = Structure(
    "learned_start",
    one_level("product_start", "x : real[3] from [0.2, -0.1, 0.4]", "2 * x", f"{FIT} + 0.1 * sum(w^4)"),
    learned_start,
    {"r": R, "m": M, "x": [0.2, -0.1, 0.4]},
    parts=MATRICES,
)


def learned_rates(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor) -> Tensor:
        w = solve(lambda w, _: fit(w), tensor([0.3] * 3), 7, solver, r.exp(), m.sigmoid())
        return outer(w[-1]) + 0.1 * (m.sigmoid() ** 2).sum() + 0.1 * r.exp().sum()

    return value


RATES = Structure(
    "learned_rates",
    f"""recipe product_rates
{USES}
level tune {{
  r : real[3] in positive from [0.03, 0.02, 0.05]
  m : real[3] in unit from [0.4, 0.3, 0.6]
  level fit {{
    w : real[3] from 0.3
    minimize {FIT}
    by BY for 7 steps
  }}
  minimize 0.5 * sqnorm(dot(V, w) - y) + 0.1 * sum(m^2) + 0.1 * sum(r)
  by sgd(lr = 0.1) for 2 steps
}}""",
    learned_rates,
    {"r": np.log([0.03, 0.02, 0.05]), "m": np.log([0.4 / 0.6, 0.3 / 0.7, 0.6 / 0.4])},
    parts=MATRICES,
)


def learned_penalty(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, lam: Tensor) -> Tensor:
        w = solve(
            lambda w, _: fit(w) + 0.5 * (lam.exp() * w**2).sum(),
            tensor([0.1] * 3),
            7,
            solver,
            r.exp(),
            m.sigmoid(),
        )
        return outer(w[-1]) + extra(r, m)

    return value


PENALTY = Structure(
    "learned_penalty",
    one_level(
        "product_penalty", "lam : real[3] in positive from [0.3, 0.2, 0.7]", "0.1", f"{FIT} + 0.5 * sum(lam * w^2)"
    ),
    learned_penalty,
    {"r": R, "m": M, "lam": np.log([0.3, 0.2, 0.7])},
    parts=MATRICES,
)


def counted(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        w = solve(
            lambda w, step: (step + 3) * 0.2 * fit(w) + x * (w**2).sum(),
            tensor([0.1] * 3),
            5,
            solver,
            lambda step: r.exp() / (step + 3) * 3,
            m.sigmoid(),
        )
        return outer(w[-1]) + extra(r, m)

    return value


COUNTER = Structure(
    "named_counter",
    one_level(
        "product_counter", "x : real from 0.3", "0.1", f"k * 0.2 * ({FIT}) + x * sum(w^2)", duration="k in 3..7 steps"
    ),
    counted,
    {"r": R, "m": M, "x": 0.3},
    parts=MATRICES,
    rate="r / k * 3",
)


def domains(solver: str) -> Reference:
    """The solver moves all free coordinates; its gradient is that of the value as a function of them."""

    def values(free: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return free[:2].exp(), torch.sigmoid(free[2]), -1 + 3 * torch.sigmoid(free[3])

    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        def objective(free: Tensor, _: int) -> Tensor:
            p, u, s = values(free)
            return ((p - x) ** 2).sum() + (u - 0.2 * x) ** 2 * p.sum() + (s - x * u) ** 2 + 0.1 * (s + 1) * u

        start = torch.cat([torch.log(torch.stack([x, 2 * x])), tensor([0.0, 0.0])])
        p, u, s = values(solve(objective, start, 6, solver, r.exp(), m.sigmoid())[-1])
        return p.sum() * u + s**2 + extra(r, m)

    return value


DOMAINS = Structure(
    "restricted_domains",
    f"""recipe product_domains
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  x : real from 0.7
  level fit {{
    p : real[2] in positive from x * [1, 2]
    u : real in unit from 0.5
    s : real in between(-1, 2) from 0.5
    minimize sqnorm(p - x) + (u - 0.2 * x)^2 * sum(p) + (s - x * u)^2 + 0.1 * (s + 1) * u
    by BY for 6 steps
  }}
  minimize sum(p) * u + s^2 + 0.1 * m^2 + 0.1 * r
  by sgd(lr = 0.1) for 2 steps
}}""",
    domains,
    {"r": R, "m": M, "x": 0.7},
)

# ---- copies and draws ----------------------------------------------------------------------------------------


def copies(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        total = tensor(0.0)
        for c, d in zip(*map(torch.tensor, points(3)), strict=True):
            rate = r.exp() * (0.2 * d).exp()
            w = solve(
                lambda w, _, c=c, d=d: 0.5 * (w @ c - d) ** 2 + 0.1 * (w**4).sum(), x, 6, solver, rate, m.sigmoid()
            )
            total = total + ((w[-1] - 1) ** 2).sum() / 3
        return total + extra(r, m)

    return value


COPIES = Structure(
    "copies",
    f"""recipe product_copies
use d = points(count = 3)
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  x : real[3] from [0.2, -0.1, 0.4]
  each task ~ d.all[3]
  level fit {{
    w : real[3] from x
    minimize 0.5 * (dot(w, task.x) - task.y)^2 + 0.1 * sum(w^4)
    by BY for 6 steps
  }}
  minimize mean[task] sqnorm(w - 1) + 0.1 * m^2 + 0.1 * r
  by sgd(lr = 0.1) for 2 steps
}}""",
    copies,
    {"r": R, "m": M, "x": [0.2, -0.1, 0.4]},
    rate="r * exp(0.2 * task.y)",
)


def noise(steps: int, copied: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the copies and steps of `fit` in DRAWS meet: s[copies], e[steps, copies, 3], u[steps, copies, 6]."""
    key = fold(fold(make_key(0), "tune"), 0)
    s = normal(fold(key, "s"), copied, dtype=torch.float64)
    at = fold(fold(key, "fit"), torch.arange(steps))
    each = torch.arange(copied)
    e = normal(fold(fold(at, "e"), each), 3, dtype=torch.float64)
    u = uniform(fold(fold(at, "u"), each), 6, dtype=torch.float64)
    return s, e, u


def drawn(solver: str) -> Reference:
    s, e, u = noise(6, 2)

    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        total = tensor(0.0)
        for c in range(2):

            def objective(w: Tensor, step: int, c: int = c) -> Tensor:
                kept = 0.5 * (1 + torch.sign(u[step, c] - 0.5))
                return 0.5 * ((kept * (TA @ w) - TB) ** 2).sum() + x * e[step, c] @ w * s[c]

            w = solve(objective, tensor([0.1] * 3), 6, solver, r.exp(), m.sigmoid())
            total = total + outer(w[-1]) * s[c] ** 2 / 2
        return total + extra(r, m)

    return value


DRAWS = Structure(
    "draws",
    f"""recipe product_draws
{USES}
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  x : real from 0.3
  each s ~ normal(0, 1)[2]
  level fit {{
    w : real[3] from 0.1
    e ~ normal(0, 1)[3]
    u ~ uniform(0, 1)[6]
    minimize 0.5 * sqnorm(0.5 * (1 + sign(u - 0.5)) * dot(A, w) - b) + x * dot(e, w) * s
    by BY for 6 steps
  }}
  minimize mean[s] (0.5 * sqnorm(dot(V, w) - y) * s^2) + 0.1 * m^2 + 0.1 * r
  by sgd(lr = 0.1) for 2 steps
}}""",
    drawn,
    {"r": R, "m": M, "x": 0.3},
    parts=MATRICES,
)

# ---- several levels ------------------------------------------------------------------------------------------


def three_levels(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        def middle(y: Tensor, _: int) -> Tensor:
            z = solve(
                lambda z, _: ((z - x * y) ** 2).sum() + 0.2 * (z**4).sum(), 0.5 * y, 3, solver, r.exp(), m.sigmoid()
            )
            return ((z[-1] - 1) ** 2).sum() + 0.1 * ((y - x) ** 2).sum()

        y = solve(middle, x * 1.0, 4, solver, 2 * r.exp(), m.sigmoid())
        return ((y[-1] - 2) ** 2).sum() + (x**2).sum() + extra(r, m)

    return value


THREE = Structure(
    "three_levels",
    f"""recipe product_three
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  x : real[2] from [0.7, 1.2]
  level middle {{
    y : real[2] from x
    level low {{
      z : real[2] from 0.5 * y
      minimize sqnorm(z - x * y) + 0.2 * sum(z^4)
      by BY for 3 steps
    }}
    minimize sqnorm(z - 1) + 0.1 * sqnorm(y - x)
    by TWICE for 4 steps
  }}
  minimize sqnorm(y - 2) + sqnorm(x) + 0.1 * m^2 + 0.1 * r
  by sgd(lr = 0.1) for 2 steps
}}""",
    three_levels,
    {"r": R, "m": M, "x": [0.7, 1.2]},
    ("low", "middle"),
)


def side_by_side(solver: str) -> Reference:
    def value(r: Tensor, m: Tensor, x: Tensor) -> Tensor:
        start = tensor([0.1] * 3)
        w = solve(lambda w, _: fit(w) + 0.5 * x * (w**2).sum(), start, 5, solver, r.exp(), m.sigmoid())[-1]
        u = solve(lambda u, _: 0.5 * ((u - x * w) ** 2).sum() + 0.1 * (u**4).sum(), w, 4, solver, r.exp(), m.sigmoid())
        return 0.5 * ((u[-1] - 1) ** 2).sum() + 0.1 * w.sum() + extra(r, m)

    return value


BESIDE = Structure(
    "side_by_side",
    f"""recipe product_beside
use A : real[6, 3]
use b : real[6]
level tune {{
  r : real in positive from 0.03
  {MEMORY}
  x : real from 0.4
  level fit {{
    w : real[3] from 0.1
    minimize {FIT} + 0.5 * x * sqnorm(w)
    by BY for 5 steps
  }}
  level refit {{
    u : real[3] from w
    minimize 0.5 * sqnorm(u - x * w) + 0.1 * sum(u^4)
    by BY for 4 steps
  }}
  minimize 0.5 * sqnorm(u - 1) + 0.1 * sum(w) + 0.1 * m^2 + 0.1 * r
  by sgd(lr = 0.1) for 2 steps
}}""",
    side_by_side,
    {"r": R, "m": M, "x": 0.4},
    ("fit", "refit"),
    {"A": A, "b": B},
)

STRUCTURES = (START, RATES, PENALTY, COPIES, THREE, BESIDE, DOMAINS, COUNTER, DRAWS)


def text_of(structure: Structure, solver: str) -> str:
    """The recipe of a structure with a solver; a middle level steps twice as far."""
    by, twice = (SOLVERS[solver].replace("lr = r", f"lr = {rate}") for rate in (structure.rate, "2 * r"))
    return structure.text.replace("BY", by).replace("TWICE", twice)
