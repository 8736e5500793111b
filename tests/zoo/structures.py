"""More problems with a formula by hand: tasks, levels in levels and side by side, iterates, counters, epochs, stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import sympy

from tests.zoo.problem import Array, Problem, points, stop
from tests.zoo.quadratics import FIT, I3, MATRICES, USES, A, B, H, descend, h, iterates, powers, ridge_solution

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


ITERATE_SUM = (
    (1 - 0.7) + 2 * (1 - 0.7 * 0.6) + 3 * (1 - 0.7 * 0.6 * 0.5)
)  # of t w@t / x, iterates 0..3 of the steps 3..5

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

COUNTED_EPOCHS = Problem(
    """recipe counted_epochs
use d = points(count = 5)
level tune {
  x : real from 0.7
  level fit {
    w : real from 0
    b ~ d.all[2]
    minimize x * w * e + 0 * mean(b.y)
    by sgd(lr = 0.1) for e in 1..3 epochs
  }
  minimize 0.5 * (w - 1)^2
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=lambda x: 0.5 * (-1.2 * x - 1) ** 2,  # two batches in each of the epochs 1, 2, 3
    gradient=lambda x: {"x": 1.2 * (1.2 * x + 1)},
    adjoints={"fit": "mixed unused"},
)

COUNTED_MOMENTUM = Problem(
    """recipe counted_momentum
level tune {
  x : real from 0.7
  level fit {
    w : real from 0
    minimize x * w
    by sgd(lr = 0.1, momentum = 1 - 1 / k) for k in 1..3 steps
  }
  minimize 0.5 * (w - 1)^2
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=lambda x: (
        0.5 * (-0.45 * x - 1) ** 2
    ),  # velocities x, 3/2 x, 2 x: momentum 0 in the first step forgets nothing
    gradient=lambda x: {"x": 0.45 * (0.45 * x + 1)},
    adjoints={"fit": "mixed unused"},
)

ITERATES_OF_COUNTED = Problem(
    """recipe iterates_of_counted
level tune {
  x : real from 0.7
  level fit {
    w : real from 0
    minimize 0.5 * k * (w - x)^2
    by sgd(lr = 0.1) for k in 3..5 steps
  }
  minimize sum[t in 0..3] (t * w@t)
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=lambda x: x * ITERATE_SUM,
    gradient=lambda x: {"x": ITERATE_SUM},
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


STRUCTURES = (
    TWO_TASKS,
    FIRST_ORDER_TASKS,
    FIRST_ORDER_RATE,
    THREE_LEVELS,
    SUM_OF_ITERATES,
    SIDE_BY_SIDE,
    COUNTED,
    COUNTED_EPOCHS,
    COUNTED_MOMENTUM,
    ITERATES_OF_COUNTED,
    EPOCHS,
    STOPPED,
)
