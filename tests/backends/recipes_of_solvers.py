"""Recipes of solvers, domains, networks, leaps, estimates, other equations, tests and windows.

One for each construct that the zoo has no closed form for; see `recipes.py`.
"""

from __future__ import annotations

from tests.backends.collected import add as _add
from tests.backends.recipes_of_levels import NESTED

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
