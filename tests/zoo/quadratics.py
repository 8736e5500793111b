"""Problems whose levels are quadratic: iterates are matrix powers, and every hypergradient here is derived by hand.

A step of gradient descent on 0.5 w'Hw - h'w is w -> M w + r h with M = I - r H, so that the derivative of w@T in
anything that enters step t is M^(T-1-t) times its derivative in that step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from tests.zoo.problem import Array, Problem, points, stop

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
    value=lambda lam: outer(descend(H + lam * I3, h, np.full(3, 0.1), 0.05, 7)[-1]),
    gradient=lambda lam: {"lam": outer_gradient(ridge_solution(lam, 7)[0]) @ ridge_solution(lam, 7)[1]},
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
        "x": np.linalg.matrix_power(I3 - 0.05 * H, 6).T
        @ outer_gradient(iterates(I3 - 0.05 * H, 0.05 * h, x, 6)[-1])
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


# ---- tasks ---------------------------------------------------------------------------------------------------


def task_steps(x: Any, rate: Any, steps: int = 4) -> list[tuple[Array, Array, list[Any]]]:
    """For each of two tasks: its Hessian, its vector, and the iterates from x."""
    return [
        (np.outer(a, a), a * t, descend(np.outer(a, a), a * t, x, rate, steps)) for a, t in zip(*points(2), strict=True)
    ]


TASKS_TEXT = """
use d = points(count = 2)
let L(w, t) = 0.5 * (dot(w, t.x) - t.y)^2
level meta {
  x : real[3] from [0.3, -0.2, 0.6]
  RATE
  each task ~ d.all[2]
  level adapt {
    w : real[3] from x
    minimize L(w, task)
    by sgd(lr = LR) for 4 steps
  }
  minimize mean[task] 0.5 * sqnorm(w - 1)
  by sgd(lr = 0.1) for 3 steps
}
"""
TASKS_START = np.array([0.3, -0.2, 0.6])
FIRST_ORDER = "schedule { adapt : rmd(order = 1) }"


def tasks_text(name: str, rate: str = "", lr: str = "0.1", schedule: str = "") -> str:
    return f"recipe {name}\n{TASKS_TEXT.replace('RATE', rate).replace('LR', lr)}{schedule}"


def tasks_value(x: Any, r: Any = 0.1) -> Any:
    return np.mean([0.5 * np.sum((w[-1] - 1) ** 2) for _, _, w in task_steps(x, r)])


def held_value(x: Any, r: Any = 0.1) -> Any:
    """The same value; the gradients inside the steps have no derivative."""
    total = 0
    for matrix, vector, _ in task_steps(stop(x), stop(r)):
        w = x
        for _ in range(4):
            w = w - r * stop(matrix @ w - vector)
        total += 0.5 * np.sum((w - 1) ** 2) / 2
    return total


TWO_TASKS = Problem(
    tasks_text("two_tasks"),
    start={"x": TASKS_START},
    value=tasks_value,
    gradient=lambda x: {
        "x": np.mean(
            [np.linalg.matrix_power(I3 - 0.1 * S, 4).T @ (w[-1] - 1) for S, _, w in task_steps(x, 0.1)], axis=0
        )
    },
    adjoints={"adapt": "mixed unused"},
)

FIRST_ORDER_TASKS = Problem(
    tasks_text("first_order_tasks", schedule=FIRST_ORDER),
    start={"x": TASKS_START},
    value=held_value,
    gradient=lambda x: {"x": np.mean([w[-1] - 1 for _, _, w in task_steps(x, 0.1)], axis=0)},
    adjoints={"adapt": "none unused"},
)


def first_order_rate(x: Array, r: float) -> dict[str, Any]:
    """With the gradient held, w@T = x - r sum_t g_t: the start passes unchanged, the rate meets the sum."""
    some = task_steps(x, r)
    ends = [w[-1] - 1 for _, _, w in some]
    sums = [sum(S @ v - s for v in w[:-1]) for S, s, w in some]
    return {
        "x": np.mean(ends, axis=0),
        "r": -np.mean([end @ total for end, total in zip(ends, sums, strict=True)]),
    }


FIRST_ORDER_RATE = Problem(
    tasks_text("first_order_rate", "r : real from 0.1", "r", FIRST_ORDER),
    start={"x": TASKS_START, "r": 0.1},
    value=held_value,
    gradient=first_order_rate,
    adjoints={"adapt": "none kept"},
)

# ---- three levels, iterates, levels side by side -------------------------------------------------------------


def three_levels() -> tuple[sympy.Expr, sympy.Symbol]:
    """z@3 = x y + 0.8^3 (y - x y), which is y s; y@4 is a geometric series in its own factor; all exact."""
    x = sympy.Symbol("x", real=True)
    s = x + sympy.Rational(8, 10) ** 3 * (1 - x)
    rate, pull = sympy.Rational(1, 20), sympy.Rational(1, 10)
    factor = 1 - rate * (2 * s**2 + 2 * pull)
    shift = rate * (2 * s + 2 * pull * x)
    y = factor**4 * x + shift * sum(factor**k for k in range(4))
    return (y - 2) ** 2 + x**2, x


def three_levels_loop(x: Any) -> Any:
    y = x
    for _ in range(4):
        z, dz = y, 1.0
        for _ in range(3):
            z, dz = z - 0.2 * (z - x * y), dz - 0.2 * (dz - x)
        y = y - 0.05 * (2 * (z - 1) * dz + 0.2 * (y - x))
    return (y - 2) ** 2 + x**2


THREE_LEVELS = Problem(
    """recipe three_levels
level top {
  x : real from 0.7
  level middle {
    y : real from x
    level low {
      z : real from y
      minimize (z - x * y)^2
      by sgd(lr = 0.1) for 3 steps
    }
    minimize (z - 1)^2 + 0.1 * (y - x)^2
    by sgd(lr = 0.05) for 4 steps
  }
  minimize (y - 2)^2 + x^2
  by adam(lr = 0.1) for 5 steps
}""",
    start={"x": 0.7},
    value=three_levels_loop,
    gradient=lambda x: {"x": float(sympy.diff(*three_levels()).subs(three_levels()[1], sympy.Float(x, 40)))},
    adjoints={"low": "mixed unused", "middle": "reverse unused"},
)


def sum_of_iterates_gradient(x: Array) -> dict[str, Any]:
    """Every iterate has its own cotangent: sum_k (M^k)' k (w@k - 1), k = 1..5, and that of w@0 in the last term."""
    M = I3 - 0.05 * H
    w, power = iterates(M, 0.05 * h, x, 5), powers(M, 5)
    return {"x": sum(k * power[k].T @ (w[k] - 1) for k in range(1, 6)) + 2 * w[0]}


SUM_OF_ITERATES = Problem(
    f"""recipe sum_of_iterates
{USES}
level tune {{
  x : real[3] from [0.5, -1, 2]
  level fit {{
    w : real[3] from x
    minimize {FIT}
    by sgd(lr = 0.05) for 5 steps
  }}
  minimize 0.5 * sum[k in 1..5] (k * sqnorm(w@k - 1)) + sqnorm(w@0)
  by sgd(lr = 0.1) for 2 steps
}}""",
    start={"x": np.array([0.5, -1.0, 2.0])},
    value=lambda x: 0.5 * sum(k * np.sum((w - 1) ** 2) for k, w in enumerate(descend(H, h, x, 0.05, 5))) + np.sum(x**2),
    gradient=sum_of_iterates_gradient,
    adjoints={"fit": "mixed unused"},
    parts=MATRICES,
)


def side_by_side(x: Any) -> Any:
    u = w = descend(H + x * I3, h, np.full(3, 0.1), 0.05, 4)[-1]
    for _ in range(3):
        u = u - 0.2 * (u - x * w)
    return 0.5 * np.sum((u - 1) ** 2) + 0.1 * np.sum(w)


def side_by_side_gradient(x: float) -> dict[str, Any]:
    """u@3 = (q + (1 - q) x) w with q = 0.8^3."""
    w, dw = ridge_solution(x, 4)
    q = 0.8**3
    scale = q + (1 - q) * x
    return {"x": (scale * w - 1) @ (scale * dw + (1 - q) * w) + 0.1 * dw.sum()}


SIDE_BY_SIDE = Problem(
    f"""recipe side_by_side
use A : real[6, 3]
use b : real[6]
level tune {{
  x : real from 0.4
  level fit {{
    w : real[3] from 0.1
    minimize {FIT} + 0.5 * x * sqnorm(w)
    by sgd(lr = 0.05) for 4 steps
  }}
  level refit {{
    u : real[3] from w
    minimize 0.5 * sqnorm(u - x * w)
    by sgd(lr = 0.2) for 3 steps
  }}
  minimize 0.5 * sqnorm(u - 1) + 0.1 * sum(w)
  by sgd(lr = 0.1) for 2 steps
}}""",
    start={"x": 0.4},
    value=side_by_side,
    gradient=side_by_side_gradient,
    adjoints={"fit": "mixed unused", "refit": "mixed unused"},
    parts={"A": A, "b": B},
)

# ---- counters, epochs, stop ----------------------------------------------------------------------------------


def counted(x: float, r: float) -> dict[str, Any]:
    """w@5 - x = (w@0 - x) times the product of 1 - r k."""
    factors = [1 - r * k for k in range(1, 6)]
    product = np.prod(factors)
    w = x + (2 - x) * product
    slope = product * sum(-k / f for k, f in zip(range(1, 6), factors, strict=True))
    return {"x": 2 * w * (1 - product) + 1, "r": 2 * w * (2 - x) * slope}


def counted_loop(x: Any, r: Any) -> Any:
    w = 2.0
    for k in range(1, 6):
        w = w - r / k * (k**2 * (w - x))
    return w**2 + x


COUNTED = Problem(
    """recipe counted
level tune {
  x : real from 0.7
  r : real from 0.1
  level fit {
    w : real from 2
    minimize 0.5 * k^2 * (w - x)^2
    by sgd(lr = r / k) for k in 1..5 steps
  }
  minimize w^2 + x
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7, "r": 0.1},
    value=counted_loop,
    gradient=counted,
    adjoints={"fit": "mixed again"},
)


def whole_epochs(x: Any) -> Any:
    """The inner objective is linear: all that counts is that every sample is met once in each of three passes."""
    w = -x * 0.1 * 3 * points(6)[0].sum(0) / 2
    return 0.5 * np.sum((w - 1) ** 2)


def whole_epochs_gradient(x: float) -> dict[str, Any]:
    direction = -0.3 * points(6)[0].sum(0) / 2
    return {"x": (x * direction - 1) @ direction}


EPOCHS = Problem(
    """recipe whole_epochs
use d = points(count = 6)
level tune {
  x : real from 0.7
  level fit {
    w : real[3] from 0
    b ~ d.all[2]
    minimize x * mean(dot(b.x, w))
    by sgd(lr = 0.1) for 3 epochs
  }
  minimize 0.5 * sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=whole_epochs,
    gradient=whole_epochs_gradient,
    adjoints={"fit": "mixed unused"},
)

STOPPED = Problem(
    """recipe stopped
level tune {
  x : real from 0.7
  level fit {
    w : real from 2
    minimize 0.5 * (w - stop(x) * x)^2
    by sgd(lr = 0.2) for 3 steps
  }
  minimize stop(w) * w + 0.3 * x
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=lambda x: stop(stopped(x)) * stopped(x) + 0.3 * x,
    gradient=lambda x: {"x": stopped(x) * (1 - 0.8**3) * x + 0.3},
    adjoints={"fit": "mixed unused"},
)


def stopped(x: Any) -> Any:
    """w@3 = 0.8^3 w@0 + (1 - 0.8^3) x x, of which only one factor has a derivative."""
    return 0.8**3 * 2 + (1 - 0.8**3) * stop(x) * x


QUADRATICS = (
    RIDGE_ONE,
    RIDGE_MANY,
    RIDGE_MAXIMIZED,
    LEARNED_START,
    RATE,
    RATES,
    MOMENTUM,
    MOMENTUM_FIXED,
    TWO_TASKS,
    FIRST_ORDER_TASKS,
    FIRST_ORDER_RATE,
    THREE_LEVELS,
    SUM_OF_ITERATES,
    SIDE_BY_SIDE,
    COUNTED,
    EPOCHS,
    STOPPED,
)
