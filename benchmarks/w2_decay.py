"""W2: one weight decay per parameter, network 784-512-512-10, batch 256, T steps: extra peak memory and time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import dense, given, jax_bytes, jax_layers, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload, step_operations, unrolled_operations

if TYPE_CHECKING:
    from bilevel.compiling import Asked

BOTH = "rmd(checkpoint = sqrt, store = residuals)"
"""checkpoints, and the residuals of the run between two that is walked back: 2.9 GFLOP a step, of which 0.8 twice"""
SAMPLES, RATE, DECAY = 256, 0.05, 1e-3
RECIPE = """recipe decay
use net = given_net(784, WIDTH, WIDTH, 10, activation = "tanh")
use data = fixed_images(count = 256, size = 784, held = 256)
level tune {
  decay : params(net) from 0.001
  level train {
    w : params(net) from init(net)
    minimize mean(ce(net[w](data.train.x), data.train.y)) + 0.5 * sum(decay * w^2)
    by sgd(lr = 0.05) for STEPS steps
  }
  minimize mean(ce(net[w](data.val.x), data.val.y))
  by sgd(lr = 0.1) for 1 steps
}
schedule { train : MODE }"""


def widths(values: Values) -> tuple[int, ...]:
    return (784, values["width"], values["width"], 10)


def arrays(values: Values) -> Arrays:
    """Images, labels and the start."""
    return {**problems.images(SAMPLES, 784, SAMPLES), **problems.layers(widths(values))}


def ours(mode: str, kernels: Asked, values: Values, data: Arrays) -> Work:
    text = RECIPE.replace("WIDTH", str(values["width"])).replace("STEPS", str(values["T"]))
    return own(text.replace("MODE", mode), kernels)


def higher(values: Values, data: Arrays) -> Work:
    import higher as library
    import torch
    from torch.nn.functional import cross_entropy

    net, (x, y, u, v) = dense(data, "tanh"), given(data, "x", "y", "u", "v")
    decay = [torch.full_like(p, DECAY).requires_grad_() for p in net.parameters()]
    solver = torch.optim.SGD(net.parameters(), lr=RATE)

    def run() -> Any:
        with library.innerloop_ctx(net, solver) as (inner, moving):
            for _ in range(values["T"]):
                penalty = sum((d * p**2).sum() for d, p in zip(decay, inner.parameters(), strict=True))
                moving.step(cross_entropy(inner(x), y) + 0.5 * penalty)
            return torch.autograd.grad(cross_entropy(inner(u), v), decay)

    return Work(run, numbers_of)


def torchopt_meta_sgd(values: Values, data: Arrays) -> Work:
    import torch
    import torchopt
    from torch.nn.functional import cross_entropy

    x, y, u, v = given(data, "x", "y", "u", "v")
    decay = [torch.full_like(p, DECAY).requires_grad_() for p in dense(data, "tanh").parameters()]

    def run() -> Any:
        net = dense(data, "tanh")
        solver = torchopt.MetaSGD(net, lr=RATE)
        for _ in range(values["T"]):
            penalty = sum((d * p**2).sum() for d, p in zip(decay, net.parameters(), strict=True))
            solver.step(cross_entropy(net(x), y) + 0.5 * penalty)
        return torch.autograd.grad(cross_entropy(net(u), v), decay)

    return Work(run, numbers_of)


def jax_scan(checkpointed: bool, values: Values, data: Arrays) -> Work:
    import jax
    import numpy as np
    from jax import numpy as jnp

    x, y, u, v = (jnp.asarray(data[name]) for name in ("x", "y", "u", "v"))
    start = jax_layers(data)
    decay = jax.tree.map(lambda leaf: jnp.full_like(leaf, DECAY), start)

    def loss(at: Any, inputs: Any, labels: Any) -> Any:
        for place, (weight, bias) in enumerate(at):
            inputs = inputs @ weight.T + bias
            inputs = jnp.tanh(inputs) if place < len(at) - 1 else inputs
        return -jnp.take_along_axis(jax.nn.log_softmax(inputs), labels[:, None], 1).mean()

    def fitted(at: Any, decay: Any, x: Any, y: Any) -> Any:
        pairs = zip(jax.tree.leaves(decay), jax.tree.leaves(at), strict=True)
        return loss(at, x, y) + 0.5 * sum((d * p**2).sum() for d, p in pairs)

    def outer(decay: Any, start: Any, x: Any, y: Any, u: Any, v: Any) -> Any:
        def step(at: Any, _: None) -> Any:
            return jax.tree.map(lambda p, g: p - RATE * g, at, jax.grad(fitted)(at, decay, x, y)), None

        step = jax.checkpoint(step) if checkpointed else step
        return loss(jax.lax.scan(step, start, None, length=values["T"])[0], u, v)

    function = jax.jit(jax.grad(outer))
    return Work(
        lambda: jax.block_until_ready(function(decay, start, x, y, u, v)),
        lambda found: [np.asarray(leaf) for layer in found for leaf in layer],
        allocated=lambda: jax_bytes(function, decay, start, x, y, u, v),
    )


def floor(values: Values) -> Floor:
    """Steps and the way back through them with nothing computed again, and the outer gradient."""
    both = 1.0 * values["T"] * unrolled_operations(widths(values), SAMPLES)
    text = "products of T steps, back with every residual kept, and the outer gradient"
    return Floor(both + step_operations(widths(values), SAMPLES), text=text)


WORKLOAD = Workload(
    name="W2",
    title="one weight decay per parameter: network 784-width-width-10, batch 256, T inner steps, one hypergradient",
    cases=({"T": 100, "width": 512},),
    short=({"T": 9, "width": 64},),
    sides=(
        Side("ours, rmd, fx", partial(ours, "rmd", "fx")),
        Side("ours, rmd(checkpoint = sqrt), fx", partial(ours, "rmd(checkpoint = sqrt)", "fx")),
        Side("ours, rmd(store = residuals), fx", partial(ours, "rmd(store = residuals)", "fx")),
        Side("ours, rmd(checkpoint = sqrt), Inductor", partial(ours, "rmd(checkpoint = sqrt)", "inductor")),
        Side("ours, both, fx", partial(ours, BOTH, "fx")),
        Side("ours, both, Inductor", partial(ours, BOTH, "inductor")),
        Side("higher", higher, "higher"),
        Side("TorchOpt MetaSGD", torchopt_meta_sgd, "torchopt"),
        Side("JAX scan", partial(jax_scan, False), "jax"),
        Side("JAX scan, checkpointed", partial(jax_scan, True), "jax"),
    ),
    arrays=arrays,
    floor=floor,
    tolerance=1e-3,
    memory=True,
)
