"""W1: MAML with the Omniglot network, 5 ways and 5 shots, 5 steps at rate 0.1, 15 queries of each class."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import given, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload

if TYPE_CHECKING:
    from bilevel.compiling import Asked

WAYS, SHOTS, QUERIES, STEPS, RATE = 5, 5, 15, 5, 0.1
ACROSS = 2e-2
"""How far sides may be apart in float32. Of the millions of activations of 32 tasks some are within rounding of 0, where
the derivative of a rectifier jumps, and five steps carry a jump on: from the hypergradient in float64 the plain loop is
1.6e-4 away and ours 8.5e-3; of 8 tasks 2.3e-6 and 1.4e-6. In float64 both are 6e-15 apart (`tests/kernels/test_images.py`
has that of one task)."""
KEPT = "rmd(store = residuals)"
RECIPE = """recipe omniglot
use net = given_convolutions(ways = 5)
use glyphs = fixed_glyphs(count = TASKS, ways = 5, shots = 5, queries = 15)
level meta {
  theta : params(net) from init(net)
  each task in glyphs.all
  level adapt {
    phi : params(net) from theta
    minimize mean(ce(net[phi](task.xs), task.ys))
    by sgd(lr = 0.1) for 5 steps
  }
  minimize mean[task] mean(ce(net[phi](task.xq), task.yq))
  by sgd(lr = 0.001) for 1 steps
}
schedule { adapt : MODE task : COPIES }"""


def arrays(values: Values) -> Arrays:
    """The images and their labels."""
    return problems.glyphs(values["tasks"], WAYS, SHOTS, QUERIES)


def ours(mode: str, copies: str, kernels: Asked, values: Values, data: Arrays) -> Work:
    text = RECIPE.replace("TASKS", str(values["tasks"])).replace("MODE", mode)
    return own(text.replace("COPIES", copies), kernels)


def network(native: bool = True) -> Any:
    """The network of all sides, on the device in use."""
    import torch

    from benchmarks.deep import Convolutions

    return Convolutions(WAYS, native=native).to(torch.get_default_device())


def higher(values: Values, data: Arrays) -> Work:
    import higher as library
    import torch
    from torch.nn.functional import cross_entropy

    net, (xs, ys, xq, yq) = network(), given(data, "xs", "ys", "xq", "yq")
    solver = torch.optim.SGD(net.parameters(), lr=RATE)

    def run() -> list[Any]:
        net.zero_grad()
        for task in range(len(xs)):
            with library.innerloop_ctx(net, solver, copy_initial_weights=False) as (inner, moving):
                for _ in range(STEPS):
                    moving.step(cross_entropy(inner(xs[task]), ys[task]))
                (cross_entropy(inner(xq[task]), yq[task]) / len(xs)).backward()
        return [parameter.grad for parameter in net.parameters()]

    return Work(run, numbers_of)


def torchopt_meta_sgd(values: Values, data: Arrays) -> Work:
    import torchopt
    from torch.nn.functional import cross_entropy

    net, (xs, ys, xq, yq) = network(), given(data, "xs", "ys", "xq", "yq")
    solver = torchopt.MetaSGD(net, lr=RATE)
    start, begun = torchopt.extract_state_dict(net), torchopt.extract_state_dict(solver)
    parameters = list(net.parameters())

    def run() -> list[Any]:
        for parameter in parameters:
            parameter.grad = None
        for task in range(len(xs)):
            for _ in range(STEPS):
                solver.step(cross_entropy(net(xs[task]), ys[task]))
            (cross_entropy(net(xq[task]), yq[task]) / len(xs)).backward()
            torchopt.recover_state_dict(net, start)
            torchopt.recover_state_dict(solver, begun)
        return [parameter.grad for parameter in parameters]

    return Work(run, numbers_of)


def torchopt_functional(values: Values, data: Arrays) -> Work:
    import torchopt
    from torch.func import functional_call, grad, vmap
    from torch.nn.functional import cross_entropy

    net, batch = network(native=False), given(data, "xs", "ys", "xq", "yq")
    start = {name: value.detach().clone() for name, value in net.named_parameters()}
    solver = torchopt.sgd(lr=RATE)

    def loss(at: Any, x: Any, y: Any) -> Any:
        return cross_entropy(functional_call(net, at, (x,)), y)

    def task(at: Any, xs: Any, ys: Any, xq: Any, yq: Any) -> Any:
        state = solver.init(at)
        for _ in range(STEPS):
            moves, state = solver.update(grad(loss)(at, xs, ys), state, inplace=False)
            at = torchopt.apply_updates(at, moves, inplace=False)
        return loss(at, xq, yq)

    def meta(at: Any) -> Any:
        return vmap(task, (None, 0, 0, 0, 0))(at, *batch).mean()

    return Work(lambda: list(grad(meta)(start).values()), numbers_of)


def loop(values: Values, data: Arrays) -> Work:
    """Plain PyTorch, one task after the other: gradients with a graph, then back through them."""
    import torch
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    net, (xs, ys, xq, yq) = network(), given(data, "xs", "ys", "xq", "yq")
    names = [name for name, _ in net.named_parameters()]
    parameters = list(net.parameters())

    def loss(at: list[Any], x: Any, y: Any) -> Any:
        return cross_entropy(functional_call(net, dict(zip(names, at, strict=True)), (x,)), y)

    def run() -> list[Any]:
        net.zero_grad()
        for task in range(len(xs)):
            at = parameters
            for _ in range(STEPS):
                gradient = torch.autograd.grad(loss(at, xs[task], ys[task]), at, create_graph=True)
                at = [p - RATE * g for p, g in zip(at, gradient, strict=True)]
            (loss(at, xq[task], yq[task]) / len(xs)).backward()
        return [parameter.grad for parameter in parameters]

    return Work(run, numbers_of)


def floor(values: Values) -> Floor:
    """Convolutions 26 x 26, 11 x 11 and 3 x 3 and the linear layer: a step, its adjoint as two, and the outer gradient."""
    first, rest = 26**2 * 9 * 64, (11**2 + 3**2) * 9 * 64**2 + 64 * WAYS
    image = 2.0 * (3 * (first + rest) - first)
    support, query = WAYS * SHOTS * image, WAYS * QUERIES * image
    return Floor(
        values["tasks"] * (3.0 * STEPS * support + query),
        text="convolutions alone, of 3 gradients a step and 1 of the outer loss, at the rate of matrix products",
    )


WORKLOAD = Workload(
    name="W1",
    title="MAML, three convolutions of 64 filters with statistics of the batch, 5 ways, 5 shots, 15 queries, 5 steps",
    cases=({"tasks": 32},),
    short=({"tasks": 2},),
    sides=(
        Side("ours, loop, fx", partial(ours, "rmd", "loop", "fx")),
        Side("ours, loop, rmd(store = residuals), fx", partial(ours, KEPT, "loop", "fx")),
        Side("ours, vmap, fx", partial(ours, "rmd", "vmap", "fx")),
        Side("ours, vmap, fx, CUDA graphs", partial(ours, "rmd", "vmap", "fx+graphs"), only="cuda"),
        Side("ours, vmap, residuals, fx, CUDA graphs", partial(ours, KEPT, "vmap", "fx+graphs"), only="cuda"),
        Side("ours, loop, residuals, fx, CUDA graphs", partial(ours, KEPT, "loop", "fx+graphs"), only="cuda"),
        Side("higher", higher, "higher"),
        Side("TorchOpt MetaSGD", torchopt_meta_sgd, "torchopt"),
        Side("TorchOpt functional + vmap", torchopt_functional, "torchopt", only="cuda"),
        Side("plain PyTorch, sequential loop", loop, "torch"),
    ),
    arrays=arrays,
    floor=floor,
    devices=("cpu", "cuda"),
    tolerance=ACROSS,
    limits="the convolutions are as many as the floor counts and run at the rate of matrix products; with one thread "
    "they are about 70 per cent of the time. The rest are passes over images, most of them those of the first layer, "
    "4 MB each: 13 for a step and 16 for its way back, pooling included, where torch takes 58. With the iterates "
    "alone every step runs twice. All tasks at once are grouped convolutions, for which torch has no fast way back.",
)
