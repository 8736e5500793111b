"""Problems whose levels are quadratic: iterates are matrix powers, and every hypergradient here is derived by hand.

A step of gradient descent on 0.5 w'Hw - h'w is w -> M w + r h with M = I - r H, so that the derivative of w@T in
anything that enters step t is M^(T-1-t) times its derivative in that step.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.problem import Array, Problem

RANDOM = np.random.default_rng(7)
A, B = RANDOM.normal(size=(6, 3)), RANDOM.normal(size=6)
V, Y = RANDOM.normal(size=(5, 3)), RANDOM.normal(size=5)
H, h = A.T @ A, A.T @ B
I3 = np.eye(3)
MATRICES = {"A": A, "b": B, "V": V, "y": Y}
USES = "use A : real[6, 3]\nuse b : real[6]\nuse V : real[5, 3]\nuse y : real[5]\n"
FIT = "0.5 * sqnorm(dot(A, w) - b)"
OUTER = "minimize 0.5 * sqnorm(dot(V, w) - y)\n  by sgd(lr = 0.1) for 2 steps"


def outer(w: Any) -> Any:
    """The objective of the outer level."""
    return 0.5 * np.sum((V @ w - Y) ** 2)


def outer_gradient(w: Array) -> Array:
    return V.T @ (V @ w - Y)


def descend(matrix: Any, vector: Any, w: Any, rate: Any, steps: int) -> list[Any]:
    """The iterates w@0..w@steps of gradient descent, by its recursion."""
    found = [w]
    for _ in range(steps):
        found.append(found[-1] - rate * (matrix @ found[-1] - vector))
    return found


def powers(matrix: Array, count: int) -> list[Array]:
    """matrix^0 .. matrix^count."""
    return [np.linalg.matrix_power(matrix, k) for k in range(count + 1)]


def iterates(matrix: Array, shift: Array, w: Array, steps: int) -> list[Array]:
    """w@t = M^t w@0 + (M^0 + .. + M^(t-1)) shift, t = 0..steps."""
    some = powers(matrix, steps)
    return [some[t] @ w + sum(some[:t], np.zeros_like(matrix)) @ shift for t in range(steps + 1)]


# ---- penalties -----------------------------------------------------------------------------------------------


def ridge_solution(penalty: Any, steps: int, rate: float = 0.05) -> tuple[Array, Array]:
    """w@T from w@0 = 0.1 and its derivative in one penalty, in the eigenvectors of H, where all is scalar."""
    eigenvalues, Q = np.linalg.eigh(H)
    s = eigenvalues + penalty
    p, first, target = 1 - rate * s, Q.T @ np.full(3, 0.1), Q.T @ h
    dp = -rate * steps * p ** (steps - 1)
    w = p**steps * first + (1 - p**steps) / s * target
    dw = dp * first - (dp / s + (1 - p**steps) / s**2) * target
    return Q @ w, Q @ dw


RIDGE_ONE = Problem(
    f"""recipe ridge_one
{USES}
level tune {{
  lam : real in positive from 0.3
  level fit {{
    w : real[3] from 0.1
    minimize {FIT} + 0.5 * lam * sqnorm(w)
    by sgd(lr = 0.05) for 7 steps
  }}
  {OUTER}
}}""",
    start={"lam": np.log(0.3)},
    value=lambda lam: outer(descend(H + np.exp(lam) * I3, h, np.full(3, 0.1), 0.05, 7)[-1]),
    gradient=lambda lam: {
        "lam": outer_gradient(ridge_solution(np.exp(lam), 7)[0]) @ ridge_solution(np.exp(lam), 7)[1] * np.exp(lam)
    },
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)


def ridge_many(lam: Array) -> dict[str, Array]:
    """d w@T / d lam_i = - r sum_t M^(T-1-t) e_i w@t_i."""
    penalty = np.exp(lam)
    M = I3 - 0.05 * (H + np.diag(penalty))
    w, power = iterates(M, 0.05 * h, np.full(3, 0.1), 7), powers(M, 7)
    cotangent = outer_gradient(w[7])
    return {"lam": -0.05 * penalty * sum((power[6 - t].T @ cotangent) * w[t] for t in range(7))}


RIDGE_MANY = Problem(
    f"""recipe ridge_many
{USES}
level tune {{
  lam : real[3] in positive from [0.3, 0.2, 0.7]
  level fit {{
    w : real[3] from 0.1
    minimize {FIT} + 0.5 * sum(lam * w^2)
    by sgd(lr = 0.05) for 7 steps
  }}
  {OUTER}
}}""",
    start={"lam": np.log([0.3, 0.2, 0.7])},
    value=lambda lam: outer(descend(H + np.diag(np.exp(lam)), h, np.full(3, 0.1), 0.05, 7)[-1]),
    gradient=ridge_many,
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)

RIDGE_MAXIMIZED = Problem(
    f"""recipe ridge_maximized
{USES}
level tune {{
  lam : real from 0.3
  level fit {{
    w : real[3] from 0.1
    maximize -{FIT} - 0.5 * lam * sqnorm(w)
    by sgd(lr = 0.05) for 7 steps
  }}
  maximize -0.5 * sqnorm(dot(V, w) - y)
  by sgd(lr = 0.1) for 2 steps
}}""",
    start={"lam": 0.3},
    value=lambda lam: -outer(descend(H + lam * I3, h, np.full(3, 0.1), 0.05, 7)[-1]),
    gradient=lambda lam: {"lam": -outer_gradient(ridge_solution(lam, 7)[0]) @ ridge_solution(lam, 7)[1]},
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)

# ---- starts, rates, momentum ---------------------------------------------------------------------------------


LEARNED_START = Problem(
    f"""recipe learned_start
{USES}
level tune {{
  x : real[3] from [0.5, -1, 2]
  level fit {{
    w : real[3] from x
    minimize {FIT}
    by sgd(lr = 0.05) for 6 steps
  }}
  {OUTER}
}}""",
    start={"x": np.array([0.5, -1.0, 2.0])},
    value=lambda x: outer(descend(H, h, x, 0.05, 6)[-1]),
    gradient=lambda x: {
        "x": np.linalg.matrix_power(I3 - 0.05 * H, 6).T @ outer_gradient(iterates(I3 - 0.05 * H, 0.05 * h, x, 6)[-1])
    },
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)


def learned_rates(rate: Array, w: Array, steps: int) -> Array:
    """d w@T / d r_i = - sum_t M^(T-1-t) e_i (H w@t - h)_i, with a rate for every weight."""
    M = I3 - rate[:, None] * H
    found, power = iterates(M, rate * h, w, steps), powers(M, steps)
    cotangent = outer_gradient(found[-1])
    terms = [(power[steps - 1 - t].T @ cotangent) * (H @ found[t] - h) for t in range(steps)]
    return -np.sum(terms, axis=0)  # type: ignore[no-any-return]


RATE = Problem(
    f"""recipe rate
{USES}
level tune {{
  r : real from 0.04
  level fit {{
    w : real[3] from 1
    minimize {FIT}
    by sgd(lr = r) for 6 steps
  }}
  {OUTER}
}}""",
    start={"r": 0.04},
    value=lambda r: outer(descend(H, h, np.ones(3), r, 6)[-1]),
    gradient=lambda r: {"r": learned_rates(np.full(3, r), np.ones(3), 6).sum()},
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)

RATES = Problem(
    f"""recipe rates
{USES}
level tune {{
  r : real[3] in positive from [0.04, 0.02, 0.05]
  level fit {{
    w : real[3] from 1
    minimize {FIT}
    by sgd(lr = r) for 6 steps
  }}
  {OUTER}
}}""",
    start={"r": np.log([0.04, 0.02, 0.05])},
    value=lambda r: outer(descend(H, h, np.ones(3), np.exp(r), 6)[-1]),
    gradient=lambda r: {"r": learned_rates(np.exp(r), np.ones(3), 6) * np.exp(r)},
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)


def heavy_ball(r: Any, m: Any) -> Any:
    w, v = np.full(3, 0.1), np.zeros(3)
    for _ in range(8):
        v = m * v + H @ w - h
        w = w - r * v
    return outer(w)


def heavy_ball_gradient(r: float, m: float) -> dict[str, Any]:
    """One linear map K moves the pair (w, v); its powers carry the derivative of each step to the end."""
    K = np.block([[I3 - r * H, -r * m * I3], [H, m * I3]])
    z = iterates(K, np.concatenate([r * h, -h]), np.concatenate([np.full(3, 0.1), np.zeros(3)]), 8)
    power = powers(K, 8)
    cotangent = np.concatenate([outer_gradient(z[8][:3]), np.zeros(3)])
    found = {"r": 0.0, "m": 0.0}
    for t in range(8):
        back = power[7 - t].T @ cotangent
        found["r"] -= back[:3] @ z[t + 1][3:]
        found["m"] += back @ np.concatenate([-r * z[t][3:], z[t][3:]])
    return found


MOMENTUM = Problem(
    f"""recipe momentum
{USES}
level tune {{
  r : real from 0.03
  m : real from 0.6
  level fit {{
    w : real[3] from 0.1
    minimize {FIT}
    by sgd(lr = r, momentum = m) for 8 steps
  }}
  {OUTER}
}}""",
    start={"r": 0.03, "m": 0.6},
    value=heavy_ball,
    gradient=heavy_ball_gradient,
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)

MOMENTUM_FIXED = Problem(
    f"""recipe momentum_fixed
{USES}
level tune {{
  x : real[3] from 0.1
  level fit {{
    w : real[3] from x
    minimize {FIT}
    by sgd(lr = 0.03, momentum = 0.6) for 8 steps
  }}
  {OUTER}
}}""",
    start={"x": np.full(3, 0.1)},
    value=lambda x: outer(momentum_power(x)[0]),
    gradient=lambda x: {"x": momentum_power(x)[1].T @ outer_gradient(momentum_power(x)[0])},
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)


def momentum_power(x: Any) -> tuple[Any, Array]:
    """w@8 and d w@8 / d w@0 under momentum 0.6, rate 0.03."""
    K = np.block([[I3 - 0.03 * H, -0.018 * I3], [H, 0.6 * I3]])
    shift, z = np.concatenate([0.03 * h, -h]), np.concatenate([x, np.zeros(3)])
    for _ in range(8):
        z = K @ z + shift
    return z[:3], np.linalg.matrix_power(K, 8)[:3, :3]


QUADRATICS = (
    RIDGE_ONE,
    RIDGE_MANY,
    RIDGE_MAXIMIZED,
    LEARNED_START,
    RATE,
    RATES,
    MOMENTUM,
    MOMENTUM_FIXED,
)
