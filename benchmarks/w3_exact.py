"""W3: one L2 weight per feature of a logistic regression, in float64: error against the exact hypergradient, and time."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import given, numbers_of
from benchmarks.workload import Arrays, Floor, Numbers, Side, Values, Work, Workload

COUNT, SIZE, RATE, DECAY = 200, 20, 2.0, 0.1
CONVERGED = 100
"""steps from which an exact mode is within 1e-9 of the solution: each multiplies the distance by at most 0.8"""
RECIPE = """recipe logistic
use data = fixed_classes(count = 200, size = 20)
level tune {
  decay : real[20] from 0.1
  level fit {
    w : real[20] from 0
    minimize bce(dot(data.train.x, w), data.train.y) + 0.5 * sum(decay * w^2)
    by sgd(lr = 2.0) for STEPS steps
  }
  minimize bce(dot(data.val.x, w), data.val.y)
  by sgd(lr = 0.1) for 1 steps
}
schedule { fit : MODE }"""


def arrays(values: Values) -> Arrays:
    """Features and classes."""
    return problems.classes(COUNT, SIZE)


def exact(values: Values, data: Arrays) -> list[Numbers]:
    """Newton's method to the end, then -diag(w) H^-1 times the outer gradient."""
    x, y, u, v = (data[name] for name in ("x", "y", "u", "v"))
    w = np.zeros(SIZE)
    for _ in range(50):
        chance = 1 / (1 + np.exp(-x @ w))
        hessian = (x.T * (chance * (1 - chance))) @ x / COUNT + DECAY * np.eye(SIZE)
        w -= np.linalg.solve(hessian, x.T @ (chance - y) / COUNT + DECAY * w)
    outer = u.T @ (1 / (1 + np.exp(-u @ w)) - v) / COUNT
    return [-w * np.linalg.solve(hessian, outer)]


def ours(mode: str, values: Values, data: Arrays) -> Work:
    text = RECIPE.replace("STEPS", str(values["T"])).replace("MODE", mode).replace("TERMS", str(values["T"]))
    return own(text, "fx", "float64")


def hypergrad(values: Values, data: Arrays) -> Work:
    """Its Neumann series of T terms.

    Not its conjugate gradients: version 0.0.1 makes each direction from the residual before, and they do not converge.
    """
    import torch
    from hypergrad.approx_hypergrad import neumann
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    x, y, u, v = given(data, "x", "y", "u", "v")
    decay = (torch.full((SIZE,), DECAY, dtype=torch.float64),)

    def inner(w: Any, decay: Any) -> Any:
        return bce(x @ w[0], y) + 0.5 * (decay[0] * w[0] ** 2).sum()

    def outer(w: Any, decay: Any) -> Any:
        return bce(u @ w[0], v) + 0.0 * decay[0].sum()

    def run() -> Any:
        w = (torch.zeros(SIZE, dtype=torch.float64),)
        for _ in range(values["T"]):
            w = (w[0] - RATE * torch.func.grad(inner)(w, decay)[0],)
        return neumann(inner, outer, w, decay, values["T"], RATE)

    return Work(run, numbers_of)


def jaxopt(values: Values, data: Arrays) -> Work:
    """Its implicit differentiation by conjugate gradients, around the same T steps."""
    import jax
    from jax import numpy as jnp
    from jaxopt.implicit_diff import custom_root
    from jaxopt.linear_solve import solve_cg

    jax.config.update("jax_enable_x64", True)
    x, y, u, v = (jnp.asarray(data[name]) for name in ("x", "y", "u", "v"))

    def bce(logits: Any, labels: Any) -> Any:
        return (jax.nn.softplus(logits) - labels * logits).mean()

    def inner(w: Any, decay: Any) -> Any:
        return bce(x @ w, y) + 0.5 * (decay * w**2).sum()

    @custom_root(jax.grad(inner), solve=partial(solve_cg, tol=0.0, maxiter=SIZE))
    def fitted(w: Any, decay: Any) -> Any:
        def step(at: Any, _: None) -> Any:
            return at - RATE * jax.grad(inner)(at, decay), None

        return jax.lax.scan(step, w, None, length=values["T"])[0]

    start, decay = jnp.zeros(SIZE), jnp.full(SIZE, DECAY)
    function = jax.jit(jax.grad(lambda decay: bce(u @ fitted(start, decay), v)))
    return Work(lambda: jax.block_until_ready(function(decay)), lambda found: [np.asarray(found)])


def floor(values: Values) -> Floor:
    """Two products with the features for a gradient; as many again for each product with the Hessian, one a step."""
    step = 4.0 * COUNT * SIZE
    return Floor(step * (2 * values["T"] + 1), text="T gradients, T products with the Hessian; at the rate of float32")


WORKLOAD = Workload(
    name="W3",
    title="one L2 weight for each of 20 features of a logistic regression, T steps, float64; `apart` is the error",
    cases=tuple({"T": steps} for steps in (10, 30, 100)),
    short=({"T": 100},),
    sides=(
        Side("ours, rmd", partial(ours, "rmd")),
        Side("ours, fmd", partial(ours, "fmd")),
        Side("ours, ift(cg)", partial(ours, f"ift(linear = cg(steps = {SIZE}, tol = 1e-30))")),
        Side("ours, ift(neumann)", partial(ours, "ift(linear = neumann(terms = TERMS, tol = 1e-30, scale = 2.0))")),
        Side("hypergrad, Neumann", hypergrad, "hypergrad"),
        Side("jaxopt, implicit", jaxopt, "jaxopt"),
    ),
    arrays=arrays,
    floor=floor,
    tolerance=lambda values: 1e-9 if values["T"] >= CONVERGED else 1.0,
    threads=1,
    exact=exact,
)
