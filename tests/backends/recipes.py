"""Recipes that the zoo has no closed form for, but that both backends must agree on: one for each construct."""

from __future__ import annotations

RECIPES: dict[str, str] = {}


def _add(name: str, body: str, schedule: str = "") -> None:
    tail = f"\nschedule {{ {schedule} }}" if schedule else ""
    RECIPES[name] = f"recipe {name}\n{body.strip()}{tail}"


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

# ---- solvers with matrices, domains of their own, networks --------------------------------------------------

_add(
    "mirror_diagonal",
    """
use net = mlp(2, 3, 1)
level meta {
  M : params(net) in positive from uniform(0.8, 1.6)
  lr : layers(net) in positive from 0.05
  each s ~ normal(0, 1)[2]
  level fit {
    w : params(net) from init(net)
    v : real from s
    e ~ normal(0, 1)[4, 2]
    minimize sqnorm(net[w](e) - s) + (v - s * sum(w))^2
    by w : mirror(M, lr = lr), v : sgd(lr = linear(0.1)) for 3 steps
  }
  minimize mean[s] (quad(M, w) + sqnorm(v)) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}""",
)
_add(
    "mirror_dense",
    """
use Q : real[3, 3]
level meta {
  M : real[3, 3] in psd from dot(Q, transpose(Q))
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] from 0.4
    minimize quad(Q, w - s) + s * sum(w^4)
    by mirror(M, lr = 0.1, clip = 3) for 3 steps
  }
  minimize mean[s] quad(M, w - s) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}""",
)
_add(
    "mirror_factored",
    """
use net = mlp(2, 3, 2)
level meta {
  M : kron(net) from normal(0, 0.6)
  each s ~ normal(0, 1)[2]
  level fit {
    w : params(net) from init(net)
    e ~ normal(0, 1)[4, 2]
    minimize sqnorm(net[w](e) - s)
    by mirror(M, lr = 0.05) for 3 steps
  }
  minimize mean[s] quad(M, w - 0.1) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}""",
)
KEPT = """
use Q : real[3, 3]
level meta {
  lam : real[3] from uniform(0.5, 1.5)
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in DOMAIN from sigmoid(lam) / sum(sigmoid(lam))
    minimize quad(Q, w - lam * s) + sum(lam * w^3)
    by SOLVER for 4 steps
  }
  minimize mean[s] (quad(Q, w) + sum(lam * w^2))
  by adam(lr = 0.05) for 3 steps
}"""
for _name, _domain, _solver in (
    ("shares_exponentiated", "simplex", "exponentiated(lr = 0.3, clip = 0.4)"),
    ("positive_exponentiated", "positive", "exponentiated(lr = 0.1)"),
    ("shares_projected", "simplex", "pgd(lr = 0.05)"),
    ("between_projected", "between(0, 0.5)", "pgd(lr = 0.05)"),
    ("nonnegative_projected", "nonnegative", "pgd(lr = 0.2)"),
    ("signs_projected", "unit", "pgd(lr = 0.02, sign = 1)"),
    ("corners", "simplex", "frank_wolfe()"),
    ("corners_of_a_box", "between(-1, 0.5)", "frank_wolfe()"),
    ("shares_free", "simplex", "sgd(lr = cosine(0.1), momentum = 0.5)"),
):
    _add(_name, KEPT.replace("DOMAIN", _domain).replace("SOLVER", _solver))
MATRIX = """
use Q : real[3, 3]
level meta {
  lam : real[3, 3] in psd from dot(Q, transpose(Q))
  r : real in positive from 0.2
  each s ~ normal(0, 1)[2]
  level fit {
    W : real[3, 3] in DOMAIN from 0.5 * eye(3)
    minimize sqnorm(W - s * lam - dot(Q, W)) + sum(W^3)
    by pgd(lr = steps(r, at = [1, 2], factor = 0.5)) for 4 steps
  }
  minimize mean[s] sqnorm(dot(W, lam) - Q)
  by adam(lr = 0.05) for 3 steps
}"""
_add("matrix_projected", MATRIX.replace("DOMAIN", "psd"))
_add("rotation_projected", MATRIX.replace("DOMAIN", "orthogonal").replace("from 0.5 * eye(3)", "from eye(3)"))
_add(
    "matrices_free",
    """
use Q : real[3, 3]
level meta {
  p : real[3] in simplex from 0.2
  P : real[3, 3] in psd from dot(Q, transpose(Q))
  O : real[3, 3] in orthogonal from eye(3)
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in simplex from p
    S : real[3, 3] in psd from 0.5 * P + eye(3)
    R : real[3, 3] in orthogonal from O
    minimize quad(P, w - p * s) + s * sum(dot(S, p)^3) + sum(exp(dot(R, w))) + sqnorm(S - Q * s) + trace(dot(R, Q))
    by sgd(lr = 0.05, momentum = 0.3) for 2 steps
  }
  minimize mean[s] (quad(P, w) + sqnorm(S - eye(3)) + sum(dot(R, w)^3)) + sum(dot(O, p)^2)
  by adam(lr = 0.05) for 3 steps
}""",
)
TOGETHER = """
level top {
  x : real[3] from [0.3, 0.4, -0.2]
  each s ~ normal(0, 1)[2]
  level fit {
    a : real[3] in simplex from 0.3
    b : real[3] in unit from 0.6
    c : real[3] in between(-0.1, 0.2) from 0.1
    minimize sqnorm(a - x * s) + sqnorm(b + x * s) + sqnorm(c - a * b * x)
    by SOLVER for 3 steps
  }
  minimize mean[s] (sqnorm(a - 1) + sqnorm(b * a) + sum(c * x))
  by sgd(lr = 0.1) for 2 steps
}"""
_add("domains_projected_together", TOGETHER.replace("SOLVER", "pgd(lr = 0.3)"))
_add("corners_of_several_domains", TOGETHER.replace("SOLVER", "frank_wolfe()"))
_add(
    "one_solver_for_each_domain",
    TOGETHER.replace("SOLVER", "a : exponentiated(lr = 0.3), b : sgd(lr = 0.2), c : pgd(lr = 0.1)"),
)
_add(
    "reweighed_together",
    TOGETHER.replace("in unit", "in positive")
    .replace("in between(-0.1, 0.2)", "in nonnegative")
    .replace("SOLVER", "exponentiated(lr = 0.2)"),
)
LEARNED = """
use opt = coordinate_lstm(hidden = 3)
level learn {
  psi : params(opt)
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] from 0.4
    v : real from s
    e ~ normal(0, 1)[3]
    minimize sqnorm(w - s + 0.1 * e) + (v * sum(w) - 1)^2
    by opt[psi] for 4 steps
  }
  minimize mean[s] (OBJECTIVE + sqnorm(v - s))
  by adam(lr = 0.01) for 2 steps
}"""
_add("learned_solver", LEARNED.replace("OBJECTIVE", "sqnorm(w)"))
_add("learned_solver_in_a_window", LEARNED.replace("OBJECTIVE", "sqnorm(w)"), "fit : rmd(window = 2)")
_add("learned_solver_held", LEARNED.replace("OBJECTIVE", "sum[k in 1..4] k * sqnorm(w@k)"), "fit : rmd(order = 1)")
_add(
    "line_search",
    """
use Q : real[3, 3]
level meta {
  lam : real[3] from 0.4
  each s ~ normal(0, 1)[3]
  level fit {
    w : real[3] in positive from 0.5
    v : real from s
    minimize 0.5 * sqnorm(dot(Q, w - 1) - 0.1 * s) + 0.05 * sum(exp(lam) * w^2) + (v - s * sum(w))^2 + v^4
    by lbfgs() until stationary(1e-12) within 200 steps
  }
  minimize mean[s] (sqnorm(w) * s^2 + v)
  by adam(lr = 0.01) for 2 steps
}""",
    "fit : ift(linear = exact)",
)

# ---- leaps, conflicts, estimates -----------------------------------------------------------------------------

LAZY = """
use d = points(count = 3)
level meta {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real in positive from 0.05
  each t ~ d.all[3]
  level adapt {
    w : real[3] from x
    e ~ normal(0, 1)[3]
    minimize 0.5 * (dot(w, t.x) - t.y)^2 + 0.1 * sum((w - t.y)^4) + 0.1 * dot(e, w)
    by sgd(lr = r, momentum = 0.5) for 6 steps
  }
  minimize mean[t] (sqnorm(w - 1) + 0.5 * dot(w, t.x)^2)
  by sgd(lr = 0.1) for 2 steps
}"""
GRID = "teacher = 1, keep = 2, hull = grid(simplex, 0.5), gamma = grid(0.1, 1, 0.3)"
_add(
    "leap",
    LAZY.replace("lr = r", "lr = 0.05").replace("  r : real in positive from 0.05\n", ""),
    "adapt : leap(gamma = 0.9)",
)
_add("leap_after_a_teacher", LAZY, "adapt : leap(teacher = 2, keep = 3, hull = mean, gamma = 0.6)")
_add("leap_chosen", LAZY, f"adapt : leap({GRID}, choose = min(sqnorm(w - 0.3 * t.x)))")
_add("leap_chosen_by_a_largest", LAZY, f"adapt : leap({GRID}, choose = max(sum(w * t.x)))")
_add("leap_ties", LAZY, f"adapt : leap({GRID}, choose = max(0 * sum(w)))")
_add(
    "leap_ties_of_a_maximum",
    LAZY.replace("minimize mean[t] (sqnorm(w - 1) + 0.5", "maximize mean[t] (-sqnorm(w - 1) - 0.5"),
    f"adapt : leap({GRID}, choose = max(0 * sum(w)))",
)
_add("leap_inside", NESTED, "low : leap(teacher = 2, gamma = 0.7)")
_add("leap_in_a_window", NESTED, "low : leap(teacher = 1, keep = 2, hull = mean, gamma = 0.4) middle : rmd(window = 2)")
SURGERY = """
use d = points(count = 5)
level top {
  x : real[3] from [0.2, -0.1, 0.4]
  r : real in positive from 0.05
  each t ~ d.all[5]
  level fit {
    w : real[3] from x
    minimize 0.5 * (dot(w, t.x) - t.y)^2 + 0.1 * sum((w - x)^4)
    by sgd(lr = r, momentum = 0.5) for 5 steps
  }
  minimize pcgrad[t] (sum(w) * t.y + 0.1 * sqnorm(w - t.x))
  by sgd(lr = 0.1) for 2 steps
}"""
_add("surgery", SURGERY)
_add("surgery_of_a_maximum", SURGERY.replace("minimize pcgrad", "maximize pcgrad"))
_add("surgery_of_first_order", SURGERY, "fit : rmd(order = 1)")
ESTIMATED = """
level meta {
  lam : real[3] from 0.4
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in positive from 0.5
    v : real from s
    e ~ normal(0, 1)[3]
    minimize sqnorm(w - lam * s + 0.1 * e) + (v * sum(w) - 1)^2 + sum(lam^2 * w^3)
    by SOLVER with zeroth(samples = 3, radius = 1e-2) for 4 steps
  }
  minimize mean[s] (sqnorm(w) + v^2 * s)
  by adam(lr = 0.01) for 2 steps
}"""
_add("zeroth", ESTIMATED.replace("SOLVER", "sgd(lr = 0.02)"))
_add("zeroth_adaptive", ESTIMATED.replace("SOLVER", "adam(lr = 0.1)"))
_add("zeroth_at_the_top", "\nlevel fit {\n  w : real[2] from 3\n  minimize sqnorm(w - 1) + w[0]^4\n  by sgd(lr = 0.05) with zeroth(samples = 8, radius = 1e-3) for 6 steps\n}")  # fmt: skip
_add("strategies", LAZY, "adapt : es(samples = 3, sigma = 0.01)")
_add("strategies_inside", NESTED, "low : es(samples = 2, sigma = 0.1)")
_add(
    "strategies_to_a_point",
    """
level top {
  x : real[2] in positive from [0.7, 0.3]
  y : real from 0.2
  level fit {
    w : real[2] in between(-3, 3) from 0.1
    minimize 0.5 * sqnorm(w - x * y) + 0.1 * sum(w^4)
    by sgd(lr = 0.3) until stationary(1e-12) within 900 steps
  }
  minimize sqnorm(w - 1) + x[0]^2 + y * w[0]
  by sgd(lr = 0.1) for 2 steps
}""",
    "fit : es(samples = 4, sigma = 0.1)",
)

# ---- other equations, tests and windows ----------------------------------------------------------------------

INTERPOLATING = """
level top {
  m : real[3] in positive from [1, 0.6, 2]
  level descend {
    w : real[3] from [0.2, -0.1, 0.4]
    minimize 0.5 * (sum(w * [1, 2, -1]) - 1.5)^2
    by mirror(m, lr = 0.1) until stationary(1e-13) within 2000 steps
  }
  minimize 0.5 * sum(m * (w - w@0)^2) + sum(w^3)
  by sgd(lr = 0.1) for 2 steps
}"""
for _name, _more in (("rephrased", ""), ("rephrased_as_printed", ", sign = printed")):
    _through = "0.5 * sum(m * (w - w@0)^2) + 0.1 * sum(m^2 * w^4)"
    _add(_name, INTERPOLATING, f"descend : ift(through = {_through}, linear = exact{_more})")
SAMPLED = """
use d = points(count = 7)
level top {
  x : real[3] from [0.7, -0.3, 0.2]
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] from 0.1
    b ~ d.all[3]
    minimize 0.5 * mean((dot(b.x, w) - b.y)^2) + 0.5 * sqnorm(w - x * s) + 0.1 * sum(w^4)
    by sgd(lr = 0.2) until TEST within 60 steps
  }
  minimize mean[s] sqnorm(w - 1) + x[0]^2
  by sgd(lr = 0.1) for 2 steps
}"""
_add("stationary_in_draws", SAMPLED.replace("TEST", "stationary(0.6)"), "fit : ift(linear = exact)")
_add("stationary_in_a_batch", SAMPLED.replace("TEST", "stationary(0.6)"), "fit : ift(linear = exact, batch = 6)")
_add("stationary_in_its_own_batch", SAMPLED.replace("TEST", "stationary(0.3, batch = 7, every = 4)"), "fit : ift(linear = exact)")  # fmt: skip
WINDOWED = """
use Q : real[3, 3]
level top {
  x : real[3] from [0.7, -0.4, 0.2]
  r : real in positive from 0.05
  each s ~ normal(0, 1)[3]
  level fit {
    y : real[3] from x
    e ~ normal(0, 1)[3]
    minimize 0.5 * quad(dot(Q, transpose(Q)), y - s) + 0.1 * sqnorm(y * x) + 0.3 * dot(e, y)
    by adam(lr = r, beta1 = 0.5) for 6 steps
  }
  minimize mean[s] ((sum[k in 1..6] k * sqnorm(y@k - 1)) + sqnorm(y)) + 0.1 * sqnorm(x)
  by sgd(lr = 0.1) for 3 steps
}"""
_add("windows_with_an_update_each", WINDOWED, "fit : rmd(window = 2, update = each)")
_add("windows_of_first_order", WINDOWED, "fit : rmd(order = 1, window = 3, update = each)")
_add(
    "one_after_the_other",
    """
level top {
  x : real[2] from 1
  level fit {
    w : real[2] from x
    minimize sqnorm(w - 3 * x) + sum(w^4)
    by sgd(lr = 0.05) for 3 steps
  }
  minimize sqnorm(w - 1) + x[0]
  by sgd(lr = 0.1) for 2 steps then adam(lr = 0.05) for 3 steps
}""",
)

# ---- lists of parts, dropout ---------------------------------------------------------------------------------

_add(
    "networks_of_a_list",
    """
use nets = [mlp(3, 4, 1), mlp(3, 2, 3, 1)]
use d = points(count = 5)
level top {
  r : real in positive from 0.02
  each net in nets
  each t ~ d.all[2]
  level fit {
    w : params(net) from init(net)
    b ~ d.all[3]
    minimize mean((net[w](b.x) - t.y)^2)
    by sgd(lr = r, momentum = 0.5) for 3 steps
  }
  minimize mean[net] mean[t] mean((net[w](d.all.x) + d.all.x)^2)
  by sgd(lr = 0.1) for 2 steps
}""",
)
_add(
    "windows_over_networks",
    """
use nets = [mlp(3, 4, 1), mlp(3, 2, 3, 1)]
use d = points(count = 5)
level top {
  r : real in positive from 0.02
  each net in nets
  level fit {
    w : params(net) from 0.3
    minimize mean((net[w](d.all.x) - 0.5)^2)
    by sgd(lr = r, momentum = 0.5) for 6 steps
  }
  minimize mean[net] (sum[k in 1..6] mean((net[w@k](d.all.x) + d.all.x)^2))
  by sgd(lr = 0.1) for 2 steps
}""",
    "fit : rmd(window = 2, update = each)",
)
_add(
    "all_but_one",
    """
use domains = heaps(count = 3)
level top {
  x : real from 0.7
  each held in domains
  level fit {
    w : real[3] from x
    b ~ without(domains, held)[3]
    minimize mean((dot(b.x, w) - b.y)^2) + 0.1 * sqnorm(w)
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean[held] sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}""",
)
BESIDE = """
use some = heaps(count = 3)
level top {
  a : real[3] from [0.5, 0.2, -0.4]
  each p in some
  level one {
    w : real[3] from a
    minimize mean((dot(p.x, w) - p.y)^2)
    by sgd(lr = 0.1) for 3 steps
  }
  level two {
    u : real[3] from w
    minimize mean((dot(p.x, u) - 2 * p.y)^2) + 0.1 * sum(u * w^2 * a)
    by sgd(lr = 0.1) for 2 steps
  }
  minimize OBJECTIVE
  by sgd(lr = 0.1) for 2 steps
}"""
_add("beside_over_a_list", BESIDE.replace("OBJECTIVE", "mean[p] sqnorm(u) + max[p] sqnorm(w - u)"))
_add("iterates_beside_over_a_list", BESIDE.replace("OBJECTIVE", "mean[p] (sqnorm(u) + sqnorm(w@1) + sqnorm(u@1 - w))"))
_add("surgery_over_a_list", BESIDE.replace("OBJECTIVE", "pcgrad[p] sum(u * w * mean(p.y))"))
_add(
    "list_read_at_once",
    BESIDE.replace("from w", "from 0.3")
    .replace("mean((dot(p.x, u) - 2 * p.y)^2) + 0.1 * sum(u * w^2 * a)", "mean[p] sqnorm(w - u)")
    .replace("OBJECTIVE", "sqnorm(u) + mean[p] sqnorm(w@1)"),
)
_add(
    "windows_over_a_list",
    BESIDE.partition("  level two")[0].replace("for 3 steps", "for 4 steps")
    + "minimize mean[p] (sqnorm(w) + sum[k in 0..4] k * sqnorm(w@k - 1))\n  by sgd(lr = 0.1) for 2 steps\n}",
    "one : rmd(window = 2, update = each)",
)
OVER_TWO_LISTS = "recipe over_two_lists" + BESIDE.replace("  level one", "  each q in some\n  level one").replace(
    "- 2 * p.y", "- 2 * mean(q.y)"
).replace("OBJECTIVE", "mean[q] mean[p] sqnorm(u)")
DROPPING = """
use net = mlp(1, 6, 5, 1, dropout = 0.4)
use tasks = sine()
let L(w, d) = mean(mse(net[w](d.x), d.y))
level train {
  theta : params(net)
  rate : real from -3
  each task ~ tasks.train[2]
  level adapt {
    phi : params(net) from theta
    minimize L(phi, task.support) + exp(rate) * sqnorm(phi) + 0.1 * mean(net[phi](task.support.x)^2)
    by sgd(lr = 0.05, momentum = 0.5) for 3 steps
  }
  minimize mean[task] (L(phi, task.query) + sum[k in 1..3] k * L(phi@k, task.query)) + 0.1 * mean[task] L(theta, task.query)
  by adam(lr = 0.01) for 4 steps
}"""
_add("dropout", DROPPING)
_add(
    "dropout_of_first_order",
    DROPPING.replace("exp(rate) * sqnorm(phi)", "0.1 * sqnorm(phi)").replace(
        "by sgd(lr = 0.05,", "by sgd(lr = exp(rate),"
    ),
    "adapt : rmd(order = 1)",
)
_add(
    "dropout_in_a_list",
    """
use nets = [mlp(3, 4, 1, dropout = 0.3), mlp(3, 5, 1)]
use d = points(count = 5)
level train {
  a : real from 0.3
  each net in nets
  level fit {
    w : params(net) from 0.4
    minimize mean((net[w](d.all.x) - a)^2)
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean[net] mean((net[w](d.all.x))^2) + a^2
  by sgd(lr = 0.1) for 2 steps
}""",
)

# ---- functions -----------------------------------------------------------------------------------------------


def _functions(name: str, uses: str, terms: str) -> None:
    _add(
        name,
        f"""
{uses}
level top {{
  x : real[3] from [0.7, -0.3, 0.4]
  level fit {{
    w : real[3] from [0.2, 0.5, -0.6]
    minimize sqnorm(w - x) + 0.1 * ({terms})
    by sgd(lr = 0.05) for 2 steps
  }}
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 1 step
}}""",
    )


_functions(
    "functions_of_entries",
    "let cube(v) = sum(v^3)",
    "sum(exp(w)) + sum(log(w^2 + 1)) + sum(sqrt(w^2 + 1)) + sum(abs(w) * x) + sum(tanh(w) * cos(x)) + sum(relu(w)) * x[0]"
    " + sum(softplus(w) * sigmoid(x)) + sum(sign(x) * w) + sum(clip(w, -0.1, 0.3) * w) + sum(stop(w) * w)"
    " + max(w * x) + min(w - x) + mean(w * x) + norm1(w) + dot(grad(cube)(w), x)",
)
_functions(
    "functions_of_rows",
    "",
    "dot(softmax(w), x) + dot(logsoftmax(w), x^2) + logsumexp(w * x) + mean(ce(outer(w, x), arange(3))) + ce(w, softmax(x))"
    " + bce(w, sigmoid(x)) + mse(w, x) + l1(w, x) + kl(softmax(w), softmax(x)) + sum(cw(outer(w, x), arange(3)))"
    " + accuracy(outer(w, x), arange(3)) * sum(w) + sum(onehot(arange(3), 3) * outer(w, x))",
)
_functions(
    "functions_of_matrices",
    "use Q : real[3, 3]",
    "quad(Q, w) + sum(dot(Q, w) * x) + trace(dot(inv(Q + outer(w, w)), eye(3))) + det(Q + outer(x, w))"
    " + sum(transpose(Q) * outer(w, x)) + sqnorm(concat(w, x)) + sum(sqdist(Q, outer(w, x))) + sum(outer_sum(w, x)^2)"
    " + sqnorm(reshape(outer(w, x), 9)) + sum(arange(3) * w) + dot(eig(Q + outer(w, x)), x)",
)
BROKEN = {
    "function_of_a_number": """recipe function_of_a_number
level top {
  x : real from 0.7
  level fit {
    w : real from 2
    minimize exp(2) * (w - x)^2
    by sgd(lr = 0.1 / sqrt(k)) for k in 1..3 steps
  }
  minimize w^2
  by sgd(lr = 0.1) for 2 steps
}""",
    "spread_of_a_copy": """recipe spread_of_a_copy
use d = points(count = 4)
level top {
  x : real from 0.7
  each t ~ d.all[2]
  level fit {
    w : real[3] from x
    e ~ normal(t.y, 1)[3]
    minimize sqnorm(w - e)
    by sgd(lr = 0.1) for 2 steps
  }
  minimize mean[t] sqnorm(w)
  by sgd(lr = 0.1) for 2 steps
}""",
}
"""Recipes that the emitted module cannot run, or gets wrong."""
