"""Recipes of lists of parts, dropout and functions, and those that the emitted module cannot run.

One for each construct that the zoo has no closed form for; see `recipes.py`.
"""

from __future__ import annotations

from tests.backends.collected import add as _add

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
