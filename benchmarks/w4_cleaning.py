"""W4: data cleaning, one weight for each of 5,000 examples: back through T steps, or by conjugate gradients at the end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import dense, given, jax_bytes, jax_layers, named, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload, step_operations, unrolled_operations

if TYPE_CHECKING:
    from bilevel.compiling import Asked

HELD, WIDTHS, RATE, PRODUCTS, DAMPING = 500, (784, 32, 10), 0.1, 10, 1.0
RECIPE = """recipe cleaning
use net = given_net(784, 32, 10, activation = "tanh")
use data = fixed_images(count = COUNT, size = 784, held = 500)
level clean {
  trust : real[COUNT] from 0
  level train {
    w : params(net) from init(net)
    minimize mean(sigmoid(trust) * ce(net[w](data.train.x), data.train.y)) + 0.005 * sqnorm(w)
    by sgd(lr = 0.1) for STEPS steps
  }
  minimize mean(ce(net[w](data.val.x), data.val.y))
  by sgd(lr = 0.1) for 1 steps
}
schedule { train : MODE }"""
IMPLICIT = f"ift(linear = cg(steps = {PRODUCTS}, tol = 1e-30, damping = {DAMPING}))"


def arrays(values: Values) -> Arrays:
    """Inputs, labels and the start."""
    return {**problems.images(values["examples"], 784, HELD), **problems.layers(WIDTHS)}


def ours(mode: str, kernels: Asked, values: Values, data: Arrays) -> Work:
    text = RECIPE.replace("COUNT", str(values["examples"])).replace("STEPS", str(values["T"]))
    return own(text.replace("MODE", mode), kernels)


def torchopt_meta_sgd(values: Values, data: Arrays) -> Work:
    import torch
    import torchopt
    from torch.nn.functional import cross_entropy

    x, y, u, v = given(data, "x", "y", "u", "v")
    trust = torch.zeros(len(y), requires_grad=True)

    def run() -> Any:
        net = dense(data, "tanh")
        solver = torchopt.MetaSGD(net, lr=RATE)
        for _ in range(values["T"]):
            penalty = sum(p.square().sum() for p in net.parameters())
            weighted = torch.sigmoid(trust) * cross_entropy(net(x), y, reduction="none")
            solver.step(weighted.mean() + 0.005 * penalty)
        return torch.autograd.grad(cross_entropy(net(u), v), [trust])

    return Work(run, numbers_of)


def higher(values: Values, data: Arrays) -> Work:
    import higher as library
    import torch
    from torch.nn.functional import cross_entropy

    net, (x, y, u, v) = dense(data, "tanh"), given(data, "x", "y", "u", "v")
    trust = torch.zeros(len(y), requires_grad=True)
    solver = torch.optim.SGD(net.parameters(), lr=RATE)

    def run() -> Any:
        with library.innerloop_ctx(net, solver) as (inner, moving):
            for _ in range(values["T"]):
                penalty = sum(p.square().sum() for p in inner.parameters())
                weighted = torch.sigmoid(trust) * cross_entropy(inner(x), y, reduction="none")
                moving.step(weighted.mean() + 0.005 * penalty)
            return torch.autograd.grad(cross_entropy(inner(u), v), [trust])

    return Work(run, numbers_of)


def jax_scan(values: Values, data: Arrays) -> Work:
    import jax
    import numpy as np
    from jax import numpy as jnp

    x, y, u, v = (jnp.asarray(data[name]) for name in ("x", "y", "u", "v"))
    start, trust = jax_layers(data), jnp.zeros(len(data["y"]))

    def losses(at: Any, inputs: Any, labels: Any) -> Any:
        for place, (weight, bias) in enumerate(at):
            inputs = inputs @ weight.T + bias
            inputs = jnp.tanh(inputs) if place < len(at) - 1 else inputs
        return -jnp.take_along_axis(jax.nn.log_softmax(inputs), labels[:, None], 1)[:, 0]

    def fitted(at: Any, trust: Any, x: Any, y: Any) -> Any:
        penalty = sum((leaf**2).sum() for leaf in jax.tree.leaves(at))
        return (jax.nn.sigmoid(trust) * losses(at, x, y)).mean() + 0.005 * penalty

    def outer(trust: Any, start: Any, x: Any, y: Any, u: Any, v: Any) -> Any:
        def step(at: Any, _: None) -> Any:
            return jax.tree.map(lambda p, g: p - RATE * g, at, jax.grad(fitted)(at, trust, x, y)), None

        return losses(jax.lax.scan(step, start, None, length=values["T"])[0], u, v).mean()

    function = jax.jit(jax.grad(outer))
    return Work(
        lambda: jax.block_until_ready(function(trust, start, x, y, u, v)),
        lambda found: [np.asarray(found)],
        allocated=lambda: jax_bytes(function, trust, start, x, y, u, v),
    )


def torch_conjugate_gradients(values: Values, data: Arrays) -> Work:
    """Plain PyTorch: T steps without a graph, then products with the Hessian by a second backward pass."""
    import torch
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    net, (x, y, u, v) = dense(data, "tanh"), given(data, "x", "y", "u", "v")
    start, trust = named(net), torch.zeros(len(data["y"]), requires_grad=True)

    def fitted(at: Any) -> Any:
        weighted = torch.sigmoid(trust) * cross_entropy(functional_call(net, at, (x,)), y, reduction="none")
        return weighted.mean() + 0.005 * sum(p.square().sum() for p in at.values())

    def run() -> Any:
        at = {name: value.clone().requires_grad_() for name, value in start.items()}
        for _ in range(values["T"]):
            gradient = torch.autograd.grad(fitted(at), list(at.values()))
            at = {n: (p - RATE * g).detach().requires_grad_() for (n, p), g in zip(at.items(), gradient, strict=True)}
        leaves = list(at.values())
        wanted = torch.autograd.grad(cross_entropy(functional_call(net, at, (u,)), v), leaves)
        gradient = torch.autograd.grad(fitted(at), leaves, create_graph=True)

        def product(vector: Any) -> Any:
            found = torch.autograd.grad(gradient, leaves, vector, retain_graph=True)
            return [h + DAMPING * p for h, p in zip(found, vector, strict=True)]

        solution = _conjugate_gradients(product, list(wanted))
        return [-g for g in torch.autograd.grad(gradient, [trust], solution)]

    return Work(run, numbers_of)


def betty(values: Values, data: Arrays) -> Work:
    """Its conjugate gradients, called for themselves: its engine has no call that gives a hypergradient.

    They have no damping; a square around where the steps ended gives the same Hessian and no gradient.
    """
    from types import SimpleNamespace

    import torch
    from betty.hypergradient.cg import cg
    from torch.nn.functional import cross_entropy

    x, y, u, v = given(data, "x", "y", "u", "v")
    trust = torch.zeros(len(data["y"]), requires_grad=True)

    def run() -> Any:
        net = dense(data, "tanh")
        leaves = list(net.parameters())

        def fitted(_: Any = None) -> Any:
            weighted = torch.sigmoid(trust) * cross_entropy(net(x), y, reduction="none")
            return weighted.mean() + 0.005 * sum(p.square().sum() for p in leaves)

        for _ in range(values["T"]):
            gradient = torch.autograd.grad(fitted(), leaves)
            with torch.no_grad():
                for leaf, slope in zip(leaves, gradient, strict=True):
                    leaf.sub_(RATE * slope)

        def damped(_: Any) -> Any:
            return fitted() + 0.5 * DAMPING * sum((p - p.detach()).square().sum() for p in leaves)

        current = SimpleNamespace(
            paths=[],
            config=SimpleNamespace(cg_iterations=PRODUCTS, cg_alpha=1.0),
            cur_batch=None,
            training_step_exec=damped,
            trainable_parameters=lambda: leaves,
            parameters=lambda: leaves,
        )
        outside = SimpleNamespace(trainable_parameters=lambda: [trust])
        return cg(torch.autograd.grad(cross_entropy(net(u), v), leaves), current, outside)

    return Work(run, numbers_of)


def _conjugate_gradients(product: Any, right: list[Any]) -> list[Any]:
    """So many products as all sides take, from zero."""
    found, rest = [0 * r for r in right], right
    way, size = rest, sum((r * r).sum() for r in rest)
    for _ in range(PRODUCTS):
        image = product(way)
        length = size / sum((w * i).sum() for w, i in zip(way, image, strict=True))
        found = [f + length * w for f, w in zip(found, way, strict=True)]
        rest = [r - length * i for r, i in zip(rest, image, strict=True)]
        before, size = size, sum((r * r).sum() for r in rest)
        way = [r + size / before * w for r, w in zip(rest, way, strict=True)]
    return found


def floor(values: Values) -> Floor:
    """Steps, and the way back through them."""
    both = unrolled_operations(WIDTHS, values["examples"])
    return Floor(1.0 * values["T"] * both, text="products of T steps, and back with every residual kept")


def implicit_floor(values: Values) -> Floor:
    """Steps forward, and a product with the Hessian in each of the solver's steps, with the values at the end kept."""
    examples = values["examples"]
    step = step_operations(WIDTHS, examples)
    product = unrolled_operations(WIDTHS, examples) - step
    return Floor(
        1.0 * values["T"] * step + PRODUCTS * product, text=f"T gradients and {PRODUCTS} products with the Hessian"
    )


WORKLOAD = Workload(
    name="W4",
    title="data cleaning, one weight per example, network 784-32-10, all examples in each of T steps, unrolled",
    cases=({"T": 20, "examples": 5_000},),
    short=({"T": 4, "examples": 50},),
    sides=(
        Side("ours, rmd, fx", partial(ours, "rmd", "fx")),
        Side("ours, rmd, Inductor", partial(ours, "rmd", "inductor")),
        Side("ours, rmd(store = residuals), fx", partial(ours, "rmd(store = residuals)", "fx")),
        Side("ours, rmd(store = residuals), Inductor", partial(ours, "rmd(store = residuals)", "inductor")),
        Side("higher", higher, "higher"),
        Side("TorchOpt MetaSGD", torchopt_meta_sgd, "torchopt"),
        Side("JAX scan", jax_scan, "jax"),
    ),
    arrays=arrays,
    floor=floor,
    tolerance=1e-3,
    memory=True,
    limits="with the residuals kept, each step has four products with the 5,000 x 784 inputs, two forth and two back, as "
    "those of the other sides have. Ours are by a loop that reads the inputs where they lie, at 200 to 230 of the 240 GFLOP/s "
    "of a core (oneDNN 150 to 190, `torch.mm` 80), and on one core are four fifths of the time; what is left are passes over "
    "the 5,000 x 32 activations, the softmax of 5,000 x 10, and the products of smaller arrays. With the iterates alone there "
    "is a fifth product, and the memory is a sixth.",
)
IMPLICITLY = Workload(
    name="W4i",
    title=f"data cleaning as in W4, by {PRODUCTS} conjugate gradients (damping {DAMPING}) at the end of T steps",
    cases=({"T": 20, "examples": 5_000},),
    short=({"T": 4, "examples": 50},),
    sides=(
        Side("ours, ift(cg), fx", partial(ours, IMPLICIT, "fx")),
        Side("ours, ift(cg), Inductor", partial(ours, IMPLICIT, "inductor")),
        Side(
            "Betty, cg", betty, "betty", "0.1.1 makes each direction from the residual before, no conjugate gradients"
        ),
        Side("plain PyTorch", torch_conjugate_gradients, "torch"),
    ),
    arrays=arrays,
    floor=implicit_floor,
    tolerance=1e-3,
    memory=True,
    limits="each product with the Hessian runs the network on the 5,000 x 784 inputs again: 11 of the 75 products with them "
    "that a hypergradient has, and as many softmaxes, are of values that do not change between the steps of the solver.",
)
