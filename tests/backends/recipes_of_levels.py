"""Recipes of draws, copies, levels in levels, stationary points and closed forms.

One for each construct that the zoo has no closed form for; see `recipes.py`.
"""

from __future__ import annotations

from tests.backends.collected import RECIPES
from tests.backends.collected import add as _add

# ---- draws and copies ----------------------------------------------------------------------------------------

_add(
    "draws_in_copies",
    """
use d = points(count = 6)
level top {
  x : real from 0.7
  each t ~ d.all[2]
  level fit {
    w : real[3] from x
    e ~ normal(0, 1)[3]
    b ~ d.all[2]
    minimize sqnorm(w - e) + 0.1 * mean((dot(b.x, w) - t.y)^2)
    by sgd(lr = 0.1) for 2 steps
  }
  minimize mean[t] sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "draws_in_two_copies",
    """
use d = points(count = 4)
level top {
  x : real from 0.7
  each t ~ d.all[2]
  level middle {
    w : real[3] from x
    each s ~ d.all[2]
    level low {
      z : real[3] from w
      e ~ normal(0, 1)[3]
      minimize sqnorm(z - e) + 0.1 * (dot(z, s.x) - t.y)^2
      by sgd(lr = 0.1) for 2 steps
    }
    minimize mean[s] sqnorm(z - t.x) + 0.1 * sqnorm(w)
    by sgd(lr = 0.1) for 2 steps
  }
  minimize mean[t] sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "epochs_in_copies",
    """
use d = points(count = 6)
level top {
  x : real from 0.7
  each t ~ d.all[2]
  level fit {
    w : real[3] from x
    b ~ d.all[2]
    minimize mean((dot(b.x, w) - t.y)^2)
    by sgd(lr = 0.1) for 2 epochs
  }
  minimize mean[t] sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "samples_of_a_task",
    """
use net = mlp(1, 4, 1)
use tasks = sine(shots = 4, queries = 3)
let L(w, d) = mean(mse(net[w](d.x), d.y))
level meta {
  theta : params(net)
  alpha : params(net) in positive from uniform(0.01, 0.1)
  each task ~ tasks.train[2]
  level adapt {
    phi : params(net) from theta
    b ~ task.support[2]
    minimize L(phi, b) + 0.001 * norm1(phi)
    by sgd(lr = alpha) for 3 steps
  }
  minimize mean[task] L(phi, task.query)
  by adam(lr = 0.01) for 2 steps
}""",
)
_add(
    "fresh_networks",
    """
use net = mlp(1, 3, 1)
use tasks = sine(shots = 4, queries = 3)
level meta {
  x : real from 0.1
  each task ~ tasks.train[2]
  level adapt {
    phi : params(net) from init(net)
    minimize mean(mse(net[phi](task.support.x), task.support.y)) + x * sqnorm(phi)
    by adam(lr = 0.05) for 3 steps
  }
  minimize mean[task] mean(mse(net[phi](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 2 steps
}""",
)
_add(
    "random_starts",
    """
use d = points(count = 4)
level top {
  x : real from 0.7
  each t ~ d.all[2]
  level fit {
    w : real[3] from normal(0, 1)
    minimize sqnorm(w - x) + 0.1 * (dot(t.x, w) - t.y)^2
    by sgd(lr = 0.1) for 2 steps
  }
  maximize worst[t] -sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "continued",
    """
level top {
  x : real from 0.7
  level fit {
    w : real from warm(0.5)
    v : real from warm(1)
    minimize (w - x * v)^2 + 0.1 * (v - x)^2
    by w : adam(lr = 0.1), v : sgd(lr = x, momentum = 0.5) for 3 steps
  }
  minimize w^2 + v
  by sgd(lr = 0.1) for 3 steps
}""",
)
_add(
    "phases_in_turn",
    """
level before {
  base : real[2] from 1
  minimize sqnorm(base - 3)
  by sgd(lr = 0.1) for 2 steps
}
level after {
  x : real[2] from base
  each s ~ normal(0, 1)[3]
  level fit {
    y : real[2] in positive from 0.5
    minimize sqnorm(y - x * s) + 0.1 * dot(base, y)
    by sgd(lr = 0.05) for 3 steps
  }
  minimize sum[s] sqnorm(y) + max[s] sqnorm(y) + min[s] sqnorm(y)
  by adam(lr = 0.1) for 3 steps
}""",
)

_add(
    "one_number_drawn",
    """
level top {
  x : real from 0.7
  n ~ normal(0, 1)
  level fit {
    w : real from x
    e ~ normal(0, 1)
    minimize (w - x)^2 + e * w
    by sgd(lr = 0.1) for 3 steps
  }
  minimize (w - n)^2
  by sgd(lr = 0.1) for 2 steps
}""",
)

# ---- biased modes, levels in levels --------------------------------------------------------------------------

_add(
    "held_beside",
    """
level top {
  x : real from 0.7
  level one {
    w : real from x^2
    minimize (w - x)^2 * w^2
    by sgd(lr = 0.1) for 3 steps
  }
  level two {
    u : real from w
    minimize (u - x * w)^2 + u^4
    by sgd(lr = 0.1) for 3 steps
  }
  minimize u^2 * w + x
  by sgd(lr = 0.1) for 2 steps
}""",
    "one : rmd(order = 1)",
)
NESTED = """
level top {
  x : real from 0.7
  level middle {
    y : real from 0.6
    level low {
      w : real from x^2 * y
      minimize (w - x * y)^2 * w^2
      by adam(lr = 0.1) for 5 steps
    }
    minimize w^2 * x + (y - x)^2 + y^4
    by sgd(lr = 0.1) for 3 steps
  }
  minimize (y - 1)^2
  by sgd(lr = 0.1) for 2 steps
}"""
_add("window_inside", NESTED, "low : rmd(window = 2)")
_add("held_in_window", NESTED, "low : rmd(order = 1) middle : rmd(window = 2)")
_add(
    "held_twice", NESTED.replace("y : real from 0.6", "y : real from x"), "low : rmd(order = 1) middle : rmd(order = 1)"
)

# ---- stationary points, fixed points, closed forms -----------------------------------------------------------

STATIONARY = """
level top {
  x : real[2] from [0.7, -0.3]
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[2] from 0.1
    minimize 0.5 * sqnorm(w - x * s) + 0.1 * sum(w^4) + 0.2 * x[0]^2 * sqnorm(w)
    by sgd(lr = 0.3) until stationary(1e-13) within 500 steps
  }
  minimize mean[s] sqnorm(w - 1) + x[0]^2
  by sgd(lr = 0.1) for 2 steps
}"""
for _linear in (
    "exact",
    "cg(tol = 1e-13, steps = 50)",
    "gmres(tol = 1e-13, steps = 50)",
    "neumann(tol = 1e-15, terms = 900)",
):
    _add(f"stationary_{_linear.partition('(')[0]}", STATIONARY, f"fit : ift(linear = {_linear})")
_add(
    "stationary_in_steps",
    """
level top {
  x : real from 0.7
  level middle {
    y : real from 0.3
    level low {
      w : real from 0.1
      minimize 0.5 * (w - x * y)^2 + 0.1 * w^4
      by sgd(lr = 0.3) until stationary(1e-13) within 500 steps
    }
    minimize (w - 1)^2 + (y - x)^2
    by sgd(lr = 0.1) for 3 steps
  }
  minimize (y - 2)^2
  by sgd(lr = 0.1) for 2 steps
}""",
    "low : ift(linear = exact)",
)
_add(
    "stationary_in_stationary",
    RECIPES["stationary_in_steps"]
    .partition("\n")[2]
    .partition("\nschedule")[0]
    .replace("sgd(lr = 0.1) for 3 steps", "sgd(lr = 0.4) until stationary(1e-12) within 900 steps"),
    "low : ift(linear = exact) middle : ift(linear = exact)",
)
FOUR = """
level outer {
  u : real from 0.9
  level top {
    x : real from u
    level middle {
      y : real from 0.3
      level low {
        w : real from 0.1
        minimize 0.5 * (w - x * y)^2 + 0.1 * w^4
        by sgd(lr = 0.3) until stationary(1e-13) within 500 steps
      }
      minimize (w - 1)^2 + (y - x)^2
      by sgd(lr = 0.1) for 2 steps
    }
    minimize (y - 2)^2
    by sgd(lr = 0.1) for 2 steps
  }
  minimize x^2 + u^4
  by sgd(lr = 0.1) for 1 step
}"""
_add("stationary_under_three", FOUR, "low : ift(linear = exact)")
_add(
    "implicit_after_steps",
    STATIONARY.replace("until stationary(1e-13) within 500 steps", "for 5 steps"),
    "fit : ift(linear = exact)",
)
_add(
    "closed_inside",
    """
level top {
  x : real from 0.7
  each s ~ normal(0, 1)[2]
  level middle {
    y : real from 0.3
    level low {
      w : real[2] from 0
      minimize 0.5 * sqnorm(w - x * y) + 0.2 * y^2 * sqnorm(w) + 0.1 * s * sum(w)
      by closed_form
    }
    minimize sqnorm(w - 1) + (y - x)^2
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean[s] (y - 2)^2
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "next_of_two",
    """
level top {
  x : real from 0.7
  each s ~ normal(0, 1)[3]
  level move {
    w : real from x
    v : real from 0.2
    by next(w = 0.5 * w + s * v, v = cos(w) * x) for 4 steps
  }
  minimize mean[s] (w - v)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "fixed_point",
    """
level top {
  x : real from 0.7
  level move {
    w : real[2] from 0.1
    by next(0.5 * cos(x * w) + 0.1 * x) until stationary(1e-13) within 500 steps
  }
  minimize sqnorm(w - 1) + x^2
  by sgd(lr = 0.1) for 2 steps
}""",
    "move : ift(linear = exact)",
)

STOPPED = """
use d = points(count = 4)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real in positive from 0.15
  each t ~ d.all[3]
  level fit {
    w : real[3] from x
    b ~ d.all[2]
    minimize 0.5 * sqnorm(w - x * t.y) + 0.1 * sum(w^4) + 0.1 * mean(b.y) * sum(w)
    by adam(lr = r) until TEST within 10 steps
  }
  minimize mean[t] sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}"""
for _name, _test in (
    ("below", "below(sqnorm(w - x * t.y), 0.02 + 0.01 * t.y^2)"),
    ("below_a_batch", "below(mean((dot(b.x, w) - b.y)^2), 0.05)"),
    ("plateau", "plateau(sqnorm(w - x * t.y), patience = 2)"),
    ("stationary", "stationary(0.1)"),
):
    for _mode in ("rmd", "rmd(checkpoint = binomial)", "fmd"):
        _spelled = STOPPED.replace("TEST", _test)
        _add(f"stopped_{_name}_{_mode.translate(str.maketrans(' =()', '____'))}", _spelled, f"fit : {_mode}")
_add(
    "stopped_in_stopped",
    """
level top {
  x : real from 0.7
  each t ~ normal(1, 0.3)[2]
  level middle {
    y : real in positive from x^2
    level low {
      w : real from 0.1
      minimize 0.5 * (w - x * y * t)^2 + 0.1 * w^4
      by sgd(lr = 0.2, momentum = 0.3) until below((w - x * y)^2, 0.05) within 12 steps
    }
    minimize (w - 1)^2 + (y - x)^2
    by adam(lr = 0.1) until plateau((y - 1)^2, patience = 1) within 5 steps
  }
  minimize mean[t] (y - 2)^2
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "moved_until_below",
    """
level top {
  x : real from 0.7
  each s ~ normal(0, 1)[3]
  level move {
    w : real from x
    v : real from 0.2
    by next(w = 0.5 * w + s * v, v = cos(w) * x) until below(w^2, 0.3 * s^2) within 9 steps
  }
  minimize mean[s] (w - v)^2 + x^2
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "fixed_point_by_steps",
    """
level top {
  x : real from 0.7
  each s ~ normal(0, 1)[2]
  level move {
    w : real[2] from x
    by next(0.5 * cos(x * s * w) + 0.1 * x) until stationary(0.01) within 50 steps
  }
  minimize mean[s] sqnorm(w - 1) + x^2
  by sgd(lr = 0.1) for 2 steps
}""",
    "move : rmd(checkpoint = 3)",
)
