"""W0: MAML on sine waves, 25 tasks of 10 points, a network 1-40-40-1, T inner steps at rate 0.01, one hypergradient."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import dense, given, jax_layers, named, needs_gpu, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload, step_operations, unrolled_operations

if TYPE_CHECKING:
    from bilevel.compiling import Asked

COUNT, SHOTS, WIDTHS, RATE = 25, 10, (1, 40, 40, 1), 0.01
RECIPE = """recipe sine_steps
use net = given_net(1, 40, 40, 1)
use waves = fixed_waves(count = 25, shots = 10)
level meta {
  theta : params(net) from init(net)
  each task in waves.all
  level adapt {
    phi : params(net) from theta
    minimize mean(mse(net[phi](task.xs), task.ys))
    by sgd(lr = 0.01) for STEPS steps
  }
  minimize mean[task] mean(mse(net[phi](task.xq), task.yq))
  by sgd(lr = 0.001) for 1 steps
}
schedule { adapt : rmd }"""


def arrays(values: Values) -> Arrays:
    """The waves and the start."""
    return {**problems.waves(COUNT, SHOTS), **problems.layers(WIDTHS)}


def ours(kernels: Asked, values: Values, data: Arrays) -> Work:
    return own(RECIPE.replace("STEPS", str(values["T"])), kernels)


def higher(values: Values, data: Arrays) -> Work:
    import higher as library
    import torch
    from torch.nn.functional import mse_loss

    net, (xs, ys, xq, yq) = dense(data, "relu"), given(data, "xs", "ys", "xq", "yq")
    solver = torch.optim.SGD(net.parameters(), lr=RATE)

    def run() -> list[Any]:
        net.zero_grad()
        for task in range(COUNT):
            with library.innerloop_ctx(net, solver, copy_initial_weights=False) as (inner, moving):
                for _ in range(values["T"]):
                    moving.step(mse_loss(inner(xs[task]), ys[task]))
                (mse_loss(inner(xq[task]), yq[task]) / COUNT).backward()
        return [parameter.grad for parameter in net.parameters()]

    return Work(run, numbers_of)


def torchopt_meta_sgd(values: Values, data: Arrays) -> Work:
    import torchopt
    from torch.nn.functional import mse_loss

    net, (xs, ys, xq, yq) = dense(data, "relu"), given(data, "xs", "ys", "xq", "yq")
    solver = torchopt.MetaSGD(net, lr=RATE)
    start, begun = torchopt.extract_state_dict(net), torchopt.extract_state_dict(solver)
    parameters = list(net.parameters())

    def run() -> list[Any]:
        for parameter in parameters:
            parameter.grad = None
        for task in range(COUNT):
            for _ in range(values["T"]):
                solver.step(mse_loss(net(xs[task]), ys[task]))
            (mse_loss(net(xq[task]), yq[task]) / COUNT).backward()
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(solver, begun)
        return [parameter.grad for parameter in parameters]

    return Work(run, numbers_of)


def torchopt_functional(values: Values, data: Arrays) -> Work:
    import torchopt
    from torch.func import functional_call, grad, vmap

    net, batch = dense(data, "relu"), given(data, "xs", "ys", "xq", "yq")
    start, solver = named(net), torchopt.sgd(lr=RATE)

    def loss(at: Any, x: Any, y: Any) -> Any:
        return (functional_call(net, at, (x,)) - y).square().mean()

    def task(at: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        state = solver.init(at)
        for _ in range(values["T"]):
            moves, state = solver.update(grad(loss)(at, xs, ys), state, inplace=False)
            at = torchopt.apply_updates(at, moves, inplace=False)
        return loss(at, xq, yq)

    def meta(at: Any) -> Any:
        return vmap(task, (None, 0, 0, 0, 0))(at, *batch).mean()

    return Work(lambda: list(grad(meta)(start).values()), numbers_of)


def jax_scan(values: Values, data: Arrays) -> Work:
    import jax
    import numpy as np
    from jax import numpy as jnp

    needs_gpu()
    batch = [jnp.asarray(data[name]) for name in ("xs", "ys", "xq", "yq")]
    start = jax_layers(data)

    def loss(at: Any, x: Any, y: Any) -> Any:
        for place, (weight, bias) in enumerate(at):
            x = x @ weight.T + bias
            x = jax.nn.relu(x) if place < len(at) - 1 else x
        return ((x - y) ** 2).mean()

    def task(at: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        def step(now: Any, _: None) -> Any:
            return jax.tree.map(lambda a, b: a - RATE * b, now, jax.grad(loss)(now, xs, ys)), None

        return loss(jax.lax.scan(step, at, None, length=values["T"])[0], xq, yq)

    def meta(at: Any, *tasks: Any) -> Any:
        return jax.vmap(task, (None, 0, 0, 0, 0))(at, *tasks).mean()

    function = jax.jit(jax.grad(meta))
    return Work(
        lambda: jax.block_until_ready(function(start, *batch)),
        lambda found: [np.asarray(leaf) for layer in found for leaf in layer],
    )


def betty(values: Values, data: Arrays) -> Work:
    from benchmarks.betty_maml import work

    return work(values["T"], RATE, data)


def floor(values: Values) -> Floor:
    """Steps and the way back through them, and the outer gradient."""
    both = 1.0 * values["T"] * unrolled_operations(WIDTHS, SHOTS)
    return Floor(
        COUNT * (both + step_operations(WIDTHS, SHOTS)), text="products of T steps, back, and the outer gradient"
    )


WORKLOAD = Workload(
    name="W0",
    title="MAML on sine waves: 25 tasks, 10 points, network 1-40-40-1, T inner steps, one hypergradient",
    cases=tuple({"T": steps} for steps in (1, 5, 20, 100)),
    short=({"T": 1}, {"T": 5}),
    sides=(
        Side("ours, no kernels", partial(ours, "none")),
        Side("ours, fx", partial(ours, "fx")),
        Side("ours, Inductor", partial(ours, "inductor")),
        Side("ours, fx, CUDA graphs", partial(ours, "fx+graphs"), only="cuda"),
        Side("ours, Inductor, CUDA graphs", partial(ours, "inductor+graphs"), only="cuda"),
        Side("higher", higher, "higher"),
        Side("TorchOpt MetaSGD", torchopt_meta_sgd, "torchopt"),
        Side("TorchOpt functional + vmap", torchopt_functional, "torchopt"),
        Side("Betty, its engine", betty, "betty"),
        Side("JAX jit(grad(scan))", jax_scan, "jax"),
    ),
    arrays=arrays,
    floor=floor,
    devices=("cpu", "cuda"),
    tolerance=1e-3,
    threads=1,
)
