"""W7: one generation of CMA-ES, 16 members, each a full inner training of T steps on a network 16-32-10."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import searched
from benchmarks.peers import dense, given, named
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload, step_operations

if TYPE_CHECKING:
    from bilevel.compiling import Asked

SAMPLES, WIDTHS, RATE, SIGMA, MEMBERS = 128, (16, 32, 10), 0.1, 0.3, 16
RECIPE = """recipe population
use net = given_net(16, 32, 10, activation = "tanh")
use data = fixed_images(count = 128, size = 16, held = 128)
level search {
  scale : real from 0
  decay : real from -5
  level train {
    w : params(net) from init(net)
    minimize exp(scale) * mean(ce(net[w](data.train.x), data.train.y)) + exp(decay) * sqnorm(w)
    by sgd(lr = 0.1) for STEPS steps
  }
  minimize mean(ce(net[w](data.val.x), data.val.y))
  by cmaes(sigma = 0.3, population = 16) for 3 generations
}"""


def arrays(values: Values) -> Arrays:
    """Inputs, labels and the start."""
    return {**problems.images(SAMPLES, WIDTHS[0], SAMPLES), **problems.layers(WIDTHS)}


def ours(kernels: Asked, values: Values, data: Arrays) -> Work:
    return searched(RECIPE.replace("STEPS", str(values["T"])), kernels)


def asked() -> Any:
    """The search with the random numbers that the recipe has, which no member depends on otherwise."""
    import cma
    import torch

    from bilevel.backends.torch_func.evolution import KeyedNormal
    from bilevel.backends.torch_func.keyed import fold, make_key

    def normal(*shape: int) -> Any:
        with torch.device("cpu"):
            return numbers(*shape)

    with torch.device("cpu"):
        numbers = KeyedNormal(fold(fold(make_key(0), "search"), "cmaes"))
    options = {"popsize": MEMBERS, "randn": normal, "seed": float("nan"), "verbose": -9}
    return cma.CMAEvolutionStrategy([0.0, -5.0], SIGMA, options)


def loop(values: Values, data: Arrays) -> Work:
    """The `cma` package around plain PyTorch: one training after the other."""
    import numpy as np
    import torch
    from torch.nn.functional import cross_entropy

    x, y, u, v = given(data, "x", "y", "u", "v")

    def trained(scale: float, decay: float) -> float:
        net = dense(data, "tanh")
        solver = torch.optim.SGD(net.parameters(), lr=RATE)
        for _ in range(values["T"]):
            solver.zero_grad()
            penalty = sum(p.square().sum() for p in net.parameters())
            (scale * cross_entropy(net(x), y) + decay * penalty).backward()
            solver.step()
        with torch.no_grad():
            return float(cross_entropy(net(u), v))

    def run() -> Any:
        search = asked()
        members = search.ask()
        values = torch.as_tensor(np.stack(members), device=x.device).float().exp().tolist()
        judged = [trained(*member) for member in values]
        search.tell(members, judged)
        return judged

    return Work(run, _judged)


def batched(values: Values, data: Arrays) -> Work:
    """The `cma` package around torch.func as an expert writes it: all members by one vmap."""
    import numpy as np
    import torch
    from torch.func import functional_call, grad, vmap
    from torch.nn.functional import cross_entropy

    net, (x, y, u, v) = dense(data, "tanh"), given(data, "x", "y", "u", "v")
    start = named(net)

    def loss(at: Any, scale: Any, decay: Any) -> Any:
        penalty = sum(p.square().sum() for p in at.values())
        return scale * cross_entropy(functional_call(net, at, (x,)), y) + decay * penalty

    def trained(scale: Any, decay: Any) -> Any:
        at = start
        for _ in range(values["T"]):
            slope = grad(loss)(at, scale, decay)
            at = {name: value - RATE * slope[name] for name, value in at.items()}
        return cross_entropy(functional_call(net, at, (u,)), v)

    def run() -> Any:
        search = asked()
        members = search.ask()
        with torch.no_grad():
            judged = vmap(trained)(
                *torch.as_tensor(np.stack(members), device=x.device).float().exp().unbind(1)
            ).tolist()
        search.tell(members, judged)
        return judged

    return Work(run, _judged)


def _judged(found: Any) -> Any:
    import numpy as np

    return [np.asarray(found, dtype="float64")]


def floor(values: Values) -> Floor:
    """A gradient for every step of every member."""
    step = MEMBERS * step_operations(WIDTHS, SAMPLES)
    return Floor(1.0 * values["T"] * step, text="T gradients of 16 members")


WORKLOAD = Workload(
    name="W7",
    title="one generation of CMA-ES: 16 full trainings of T steps, network 16-32-10, 128 samples; `apart`: the 16 values",
    cases=tuple({"T": steps} for steps in (100, 300)),
    short=({"T": 20},),
    sides=(
        Side("ours, no kernels", partial(ours, "none")),
        Side("ours, fx", partial(ours, "fx")),
        Side("ours, Inductor", partial(ours, "inductor")),
        Side("ours, fx, CUDA graphs", partial(ours, "fx+graphs"), only="cuda"),
        Side("ours, Inductor, CUDA graphs", partial(ours, "inductor+graphs"), only="cuda"),
        Side("loop with cma", loop, "cma"),
        Side("cma + torch.func, one vmap", batched, "cma"),
    ),
    arrays=arrays,
    floor=floor,
    devices=("cpu", "cuda"),
    tolerance=1e-3,
)
