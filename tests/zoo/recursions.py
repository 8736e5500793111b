"""Problems without a formula for the solution: solvers with a state, domains, levels in levels.

Each value is a loop written by hand from the definition of the solver, with the inner gradients derived on paper;
the complex step differentiates it. The loops share nothing with the emitted code but the definitions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.zoo.problem import Problem, points, sigmoid, stop
from tests.zoo.quadratics import FIT, MATRICES, OUTER, USES, H, h, outer

# ---- solvers -------------------------------------------------------------------------------------------------


def adam_step(t: int, state: Any, g: Any, beta1: Any = 0.9, beta2: Any = 0.999, epsilon: float = 1e-8) -> Any:
    """Direction and state of Adam's step t = 1, 2, ..; epsilon stands inside the root."""
    m = beta1 * state[0] + (1 - beta1) * g
    v = beta2 * state[1] + (1 - beta2) * g * g
    return (m / (1 - beta1**t)) / np.sqrt(v / (1 - beta2**t) + epsilon**2), (m, v)


def fit_text(name: str, solver: str, variables: str, schedule: str = "") -> str:
    return f"""recipe {name}
{USES}
level tune {{
  x : real[3] from [0.2, -0.1, 0.4]
  {variables}
  level fit {{
    w : real[3] from x
    minimize {FIT} + 0.5 * sum(x * w^2)
    by {solver} for 6 steps
  }}
  {OUTER}
}}
{schedule}"""


X = np.array([0.2, -0.1, 0.4])


def adam_loop(x: Any, r: Any, m: Any, hold: Any = np.array) -> Any:
    w, state = x, (0.0, 0.0)
    for t in range(1, 7):
        direction, state = adam_step(t, state, hold(H @ w - h + x * w), beta1=m)
        w = w - r * direction
    return outer(w)


ADAM = Problem(
    fit_text("adaptive", "adam(lr = r, beta1 = m)", "r : real from 0.1\n  m : real in unit from 0.8"),
    start={"x": X, "r": 0.1, "m": np.log(4.0)},
    value=lambda x, r, m: adam_loop(x, r, sigmoid(m)),
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)

ADAM_PER_WEIGHT = Problem(
    fit_text(
        "adaptive_per_weight", "adam(lr = r, beta1 = m)", "r : real[3] from [0.1, 0.2, 0.05]\n  m : real[3] from 0.8"
    ),
    start={"x": X, "r": np.array([0.1, 0.2, 0.05]), "m": np.full(3, 0.8)},
    value=adam_loop,
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)

ADAM_HELD = Problem(
    fit_text(
        "adaptive_held",
        "adam(lr = r, beta1 = m)",
        "r : real from 0.1\n  m : real from 0.8",
        "schedule { fit : rmd(order = 1) }",
    ),
    start={"x": X, "r": 0.1, "m": 0.8},
    value=lambda x, r, m: adam_loop(x, r, m, hold=stop),
    adjoints={"fit": "none kept"},
    parts=MATRICES,
)


def adamw_loop(x: Any, r: Any, c: Any) -> Any:
    w, state = x, (0.0, 0.0)
    for t in range(1, 7):
        direction, state = adam_step(t, state, H @ w - h + x * w)
        w = (1 - r * c) * w - r * direction
    return outer(w)


ADAMW = Problem(
    fit_text("decayed", "adamw(lr = r, weight_decay = c)", "r : real from 0.1\n  c : real in nonnegative from 0.3"),
    start={"x": X, "r": 0.1, "c": np.log(np.expm1(0.3))},
    value=lambda x, r, c: adamw_loop(x, r, np.log1p(np.exp(c))),
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)


def rmsprop_loop(x: Any, r: Any, a: Any) -> Any:
    w, v = x, 0.0
    for _ in range(6):
        g = H @ w - h + x * w
        v = a * v + (1 - a) * g * g
        w = w - r * g / np.sqrt(v + 1e-16)
    return outer(w)


RMSPROP = Problem(
    fit_text(
        "root_mean_square", "rmsprop(lr = r, alpha = a)", "r : real from 0.02\n  a : real in between(0.5, 1) from 0.9"
    ),
    start={"x": X, "r": 0.02, "a": np.log(4.0)},
    value=lambda x, r, a: rmsprop_loop(x, r, 0.5 + 0.5 * sigmoid(a)),
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)


def clipped_loop(x: Any, r: Any) -> Any:
    """The first gradients are longer than 2, the last ones shorter: both branches are met."""
    w, v, norms = x, np.zeros(3), []
    for _ in range(6):
        g = H @ w - h + x * w
        norm = np.sqrt(np.sum(g * g))
        norms.append(np.real(norm))
        v = 0.5 * v + (2 / norm if np.real(norm) > 2 else 1) * g
        w = w - r * v
    assert max(norms) > 2 > min(norms)
    return outer(w)


CLIPPED = Problem(
    fit_text("shortened", "sgd(lr = r, momentum = 0.5, clip = 2)", "r : real from 0.08"),
    start={"x": X, "r": 0.08},
    value=clipped_loop,
    adjoints={"fit": "mixed again"},
    parts=MATRICES,
)


def momentum_held_loop(x: Any, m: Any) -> Any:
    w, v = x, np.zeros(3)
    for _ in range(6):
        v = m * v + stop(H @ w - h + x * w)
        w = w - 0.03 * v
    return outer(w)


MOMENTUM_HELD = Problem(
    fit_text("momentum_held", "sgd(lr = 0.03, momentum = m)", "m : real from 0.6", "schedule { fit : rmd(order = 1) }"),
    start={"x": X, "m": 0.6},
    value=momentum_held_loop,
    adjoints={"fit": "none kept"},
    parts=MATRICES,
)

# ---- several variables, domains ------------------------------------------------------------------------------


def several_loop(x: Any, r: Any) -> Any:
    a, b, v, state = x, 0.5, np.zeros(3), (0.0, 0.0)
    for t in range(1, 6):
        common = H @ a - h
        da, db = b * common, 0.5 * a @ H @ a - h @ a + b - x[0]
        v = 0.5 * v + da
        direction, state = adam_step(t, state, db)
        a, b = a - r * v, b - 0.1 * direction
    return outer(a) + b**2


SEVERAL = Problem(
    """recipe several
use H : real[3, 3]
use h : real[3]
use V : real[5, 3]
use y : real[5]
level tune {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real from 0.03
  level fit {
    a : real[3] from x
    b : real from 0.5
    minimize b * (0.5 * quad(H, a) - dot(h, a)) + 0.5 * (b - x[0])^2
    by a : sgd(lr = r, momentum = 0.5), b : adam(lr = 0.1) for 5 steps
  }
  minimize 0.5 * sqnorm(dot(V, a) - y) + b^2
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": X, "r": 0.03},
    value=several_loop,
    adjoints={"fit": "mixed again"},
    parts={"H": H, "h": h, "V": MATRICES["V"], "y": MATRICES["y"]},
)


def domains_loop(x: Any) -> Any:
    """Every solver steps in free coordinates: its gradient is that of the value times the slope of the map."""
    x = -1 + 2 * sigmoid(x)
    y, u, s = np.full(2, 0.0), np.log(0.3 / 0.7), np.log(np.expm1(0.7))
    p, v, state = np.log(0.4), 0.0, (0.0, 0.0)
    for t in range(1, 5):
        Y, U, S, P = -1 + 3 * sigmoid(y), sigmoid(u), np.log1p(np.exp(s)), np.exp(p)
        dy = (Y - x + P) * (Y + 1) * (2 - Y) / 3
        du = 2 * (U - x) * S * U * (1 - U)
        ds = ((U - x) ** 2 + S - x * x) * sigmoid(s)
        dp = (np.sum(Y) + 4 * P) * P
        v = 0.5 * v + dy
        direction, state = adam_step(t, state, du)
        y, u, s, p = y - 0.3 * v, u - 0.2 * direction, s - 0.1 * ds, p - 0.1 * dp
    Y, U, S, P = -1 + 3 * sigmoid(y), sigmoid(u), np.log1p(np.exp(s)), np.exp(p)
    return np.sum(Y * Y) * U + S * x + P**2


DOMAINS = Problem(
    """recipe domains
level tune {
  x : real in between(-1, 1) from 0.4
  level fit {
    y : real[2] in between(-1, 2) from 0.5
    u : real in unit from 0.3
    s : real in nonnegative from 0.7
    p : real in positive from 0.4
    minimize 0.5 * sqnorm(y - x) + p * sum(y) + 2 * p^2 + (u - x)^2 * s + 0.5 * (s - x^2)^2
    by y : sgd(lr = 0.3, momentum = 0.5), u : adam(lr = 0.2), s : sgd(lr = 0.1), p : sgd(lr = 0.1) for 4 steps
  }
  minimize sqnorm(y) * u + s * x + p^2
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": np.log(0.7 / 0.3)},
    value=domains_loop,
    adjoints={"fit": "reverse again"},
)


def path_loop(x: Any) -> Any:
    """Iterates of a restricted variable, each read in its own coordinates."""
    y, found = np.log(x * x), []
    for _ in range(3):
        found.append(np.exp(y))
        y = y - 0.2 * (np.exp(y) - x) * np.exp(y)
    return sum((k + 1) * (value - 1) ** 2 for k, value in enumerate([*found, np.exp(y)])) + x * np.exp(y)


PATH = Problem(
    """recipe path_of_positive
level tune {
  x : real from 0.7
  level fit {
    y : real in positive from x^2
    minimize 0.5 * (y - x)^2
    by sgd(lr = 0.2) for 3 steps
  }
  minimize sum[k in 0..3] ((k + 1) * (y@k - 1)^2) + x * y
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": 0.7},
    value=path_loop,
    adjoints={"fit": "reverse unused"},
)

# ---- levels in levels ----------------------------------------------------------------------------------------


def rate_from_level(x: Any) -> Any:
    r = 0.02
    for _ in range(3):
        r = r - 0.1 * (r - x)
    w, v = np.full(3, 0.5), np.zeros(3)
    for _ in range(5):
        v = 10 * r * v + H @ w - h
        w = w - r * v
    return outer(w)


RATE_FROM_LEVEL = Problem(
    f"""recipe rate_from_level
{USES}
level tune {{
  x : real from 0.05
  level pick {{
    r : real from 0.02
    minimize 0.5 * (r - x)^2
    by sgd(lr = 0.1) for 3 steps
  }}
  level fit {{
    w : real[3] from 0.5
    minimize {FIT}
    by sgd(lr = r, momentum = 10 * r) for 5 steps
  }}
  {OUTER}
}}""",
    start={"x": 0.05},
    value=rate_from_level,
    adjoints={"pick": "mixed unused", "fit": "mixed again"},
    parts=MATRICES,
)


def middle_adam(x: Any) -> Any:
    """Within the middle level z@3 = s y with s = x + 0.8^3 (1 - x); Adam moves y."""
    s = x + 0.8**3 * (1 - x)
    y, state = x, (0.0, 0.0)
    for t in range(1, 5):
        direction, state = adam_step(t, state, 2 * (s * y - 1) * s + 0.2 * (y - x))
        y = y - 0.05 * direction
    return (y - 2) ** 2 + x**2


MIDDLE_ADAM = Problem(
    """recipe middle_adam
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
    by adam(lr = 0.05) for 4 steps
  }
  minimize (y - 2)^2 + x^2
  by adam(lr = 0.1) for 5 steps
}""",
    start={"x": 0.7},
    value=middle_adam,
    adjoints={"low": "mixed unused", "middle": "reverse again"},
)


def held_inside(x: Any) -> Any:
    """The middle level follows the first-order gradient of the low one; that direction is differentiated exactly."""
    s = x + 0.8**3 * (1 - x)
    y = x
    for _ in range(4):
        y = y - 0.05 * (2 * (s * y - 1) + 0.2 * (y - x))
    return (y - 2) ** 2 + x**2


HELD_INSIDE = Problem(
    """recipe held_inside
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
}
schedule { low : rmd(order = 1) }""",
    start={"x": 0.7},
    value=held_inside,
    adjoints={"low": "none unused", "middle": "reverse unused"},
)


def nested_copies(x: Any, r: Any) -> Any:
    """Two tasks outside, two samples inside each of their steps: low is copied over both."""
    X2, T2 = points(2)
    total = 0
    for a, target in zip(X2, T2, strict=True):
        y, rate = x, r * np.exp(target)
        for _ in range(2):
            gradient = 0.3 * (y - x)
            for c, d in zip(X2, T2, strict=True):
                z, back = y, np.eye(3)
                for _ in range(3):
                    z = z - rate * (c * (c @ z - d) + 0.1 * (z - a))
                    back = (np.eye(3) - rate * (np.outer(c, c) + 0.1 * np.eye(3))) @ back
                gradient = gradient + back.T @ (z - a) / 2
            y = y - 0.2 * gradient
        total = total + np.sum((y - 1) ** 2) / 2
    return total


NESTED_COPIES = Problem(
    """recipe nested_copies
use d = points(count = 2)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real from 0.1
  each task ~ d.all[2]
  level middle {
    y : real[3] from x
    each s ~ d.all[2]
    level low {
      z : real[3] from y
      minimize 0.5 * (dot(z, s.x) - s.y)^2 + 0.05 * sqnorm(z - task.x)
      by sgd(lr = r * exp(task.y)) for 3 steps
    }
    minimize mean[s] 0.5 * sqnorm(z - task.x) + 0.15 * sqnorm(y - x)
    by sgd(lr = 0.2) for 2 steps
  }
  minimize mean[task] sqnorm(y - 1)
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": X, "r": 0.1},
    value=nested_copies,
    adjoints={"low": "mixed unused", "middle": "reverse unused"},
)


def copies_apart(x: Any, r: Any) -> Any:
    """Each copy has its own rate, and its own gradient is cut to its own norm."""
    total = 0
    for c, d in zip(*points(3), strict=True):
        a, b, v, state = x, 0.2, np.zeros(3), (0.0, 0.0)
        for t in range(1, 5):
            error = a @ c + b - d
            da, db = error * c + a, error + 0.1 * b
            norm = np.sqrt(np.sum(da * da))
            v = 0.5 * v + (0.7 / norm if np.real(norm) > 0.7 else 1) * da
            direction, state = adam_step(t, state, db)
            a, b = a - r * np.exp(d) * v, b - r * d * direction
        total = total + (np.sum((a - 1) ** 2) + b**2) / 3
    return total


COPIES_APART = Problem(
    """recipe copies_apart
use d = points(count = 3)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real from 0.1
  each task ~ d.all[3]
  level low {
    a : real[3] from x
    b : real from 0.2
    minimize 0.5 * (dot(a, task.x) + b - task.y)^2 + 0.5 * sqnorm(a) + 0.05 * b^2
    by a : sgd(lr = r * exp(task.y), momentum = 0.5, clip = 0.7), b : adam(lr = r * task.y) for 4 steps
  }
  minimize mean[task] (sqnorm(a - 1) + b^2)
  by sgd(lr = 0.1) for 2 steps
}""",
    start={"x": X, "r": 0.1},
    value=copies_apart,
    adjoints={"low": "mixed again"},
)


def iterates_inside(x: Any) -> Any:
    """The middle objective reads all iterates of the low level, z@k = x + 0.8^k (y - x)."""
    y = 1.5
    for _ in range(3):
        gradient = sum(0.8**k * (x + 0.8**k * (y - x)) for k in range(4))
        y = y - 0.1 * (gradient + 0.2 * y)
    return (y - x) ** 2


ITERATES_INSIDE = Problem(
    """recipe iterates_inside
level top {
  x : real from 0.7
  level middle {
    y : real from 1.5
    level low {
      z : real from y
      minimize (z - x)^2
      by sgd(lr = 0.1) for 3 steps
    }
    minimize 0.5 * sum[k in 0..3] (z@k)^2 + 0.1 * y^2
    by sgd(lr = 0.1) for 3 steps
  }
  minimize (y - x)^2
  by sgd(lr = 0.1) for 5 steps
}""",
    start={"x": 0.7},
    value=iterates_inside,
    adjoints={"low": "mixed unused", "middle": "reverse unused"},
)

RECURSIONS = (
    ADAM,
    ADAM_PER_WEIGHT,
    ADAM_HELD,
    ADAMW,
    RMSPROP,
    CLIPPED,
    MOMENTUM_HELD,
    SEVERAL,
    DOMAINS,
    PATH,
    RATE_FROM_LEVEL,
    MIDDLE_ADAM,
    HELD_INSIDE,
    NESTED_COPIES,
    COPIES_APART,
    ITERATES_INSIDE,
)
