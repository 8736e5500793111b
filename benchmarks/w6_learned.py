"""W6: a learned solver (coordinate LSTM), 8 tasks, T steps on a network 1-40-40-1, derivatives through the last 20."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import dense, given, named, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload, step_operations

if TYPE_CHECKING:
    from bilevel.compiling import Asked

COUNT, SHOTS, WIDTHS, HIDDEN, WINDOW, SCALE = 8, 10, (1, 40, 40, 1), 10, 20, 0.1
RECIPE = """recipe learned
use opt = given_lstm(hidden = 10)
use net = given_net(1, 40, 40, 1)
use waves = fixed_waves(count = 8, shots = 10)
level learn {
  psi : params(opt) from init(opt)
  each task in waves.all
  level fit {
    phi : params(net) from init(net)
    minimize sum(mse(net[phi](task.xs), task.ys))
    by opt[psi] for STEPS steps
  }
  minimize mean[task] sum(mse(net[phi](task.xq), task.yq))
  by sgd(lr = 0.001) for 1 steps
}
schedule { fit : MODE }"""


def arrays(values: Values) -> Arrays:
    """The waves, the start of the network, and the solver."""
    return {**problems.waves(COUNT, SHOTS), **problems.layers(WIDTHS), **problems.lstm(HIDDEN)}


ITERATES, RESIDUALS = "rmd(window = 20)", "rmd(window = 20, store = residuals)"


def ours(mode: str, kernels: Asked, values: Values, data: Arrays) -> Work:
    return own(RECIPE.replace("STEPS", str(values["T"])).replace("MODE", mode), kernels)


def plain(values: Values, data: Arrays) -> Work:
    """A loop over tasks and steps as one writes it: a graph for the last steps only, all parameters in one vector."""
    import torch
    from torch.func import functional_call
    from torch.nn.functional import linear

    net, (xs, ys, xq, yq) = dense(data, "relu"), given(data, "xs", "ys", "xq", "yq")
    start = named(net)
    names = [name for name in data if name.startswith("lstm.")]
    solver = [tensor.requires_grad_() for tensor in given(data, *names)]
    w_ih, w_hh, b_ih, b_hh, w_out, b_out = solver

    def loss(at: Any, x: Any, y: Any) -> Any:
        return (functional_call(net, at, (x,)) - y).square().mean(-1).sum()

    def move(gradient: Any, hidden: Any, memory: Any) -> Any:
        size = torch.log(torch.clamp(gradient.abs(), min=torch.e**-10)) / 10
        gates = linear(torch.stack([size, torch.sign(gradient)], -1), w_ih, b_ih) + linear(hidden, w_hh, b_hh)
        enter, forget, new, leave = gates.chunk(4, -1)
        memory = torch.sigmoid(forget) * memory + torch.sigmoid(enter) * torch.tanh(new)
        hidden = torch.sigmoid(leave) * torch.tanh(memory)
        return SCALE * linear(hidden, w_out, b_out)[..., 0], hidden, memory

    def fit(x: Any, y: Any) -> Any:
        at = {name: value.clone().requires_grad_() for name, value in start.items()}
        hidden = memory = torch.zeros(sum(value.numel() for value in at.values()), HIDDEN)
        for step in range(values["T"]):
            kept = step >= values["T"] - WINDOW
            gradient = torch.autograd.grad(loss(at, x, y), list(at.values()), create_graph=kept)
            with torch.set_grad_enabled(kept):
                moves, hidden, memory = move(torch.cat([g.flatten() for g in gradient]), hidden, memory)
                pieces = moves.split([value.numel() for value in at.values()])
                # as the recipe's solver has it, the step is taken away
                at = {n: p - m.view_as(p) for (n, p), m in zip(at.items(), pieces, strict=True)}
            if not kept:
                at = {name: value.detach().requires_grad_() for name, value in at.items()}
        return at

    def run() -> Any:
        for tensor in solver:
            tensor.grad = None
        for task in range(COUNT):
            (loss(fit(xs[task], ys[task]), xq[task], yq[task]) / COUNT).backward()
        return [tensor.grad for tensor in solver]

    return Work(run, numbers_of)


def floor(values: Values) -> Floor:
    """Forward T steps; the last ones back as two of each. Products of the cell, of its linear layer and of the network."""
    parameters = sum(a * b + b for a, b in pairwise(WIDTHS))
    cell = 2 * parameters * (4 * HIDDEN * (2 + HIDDEN) + HIDDEN)
    step = COUNT * (cell + step_operations(WIDTHS, SHOTS))
    window = min(WINDOW, values["T"])
    return Floor(1.0 * step * (values["T"] + 2 * window), text="T steps forward, and two more for each of the window")


WORKLOAD = Workload(
    name="W6",
    title="learned solver: coordinate LSTM, 8 tasks, network 1-40-40-1, T steps, derivatives through the last 20",
    cases=({"T": 200},),
    short=({"T": 22},),
    sides=(
        Side("ours, no kernels", partial(ours, ITERATES, "none")),
        Side("ours, fx", partial(ours, ITERATES, "fx")),
        Side("ours, Inductor", partial(ours, ITERATES, "inductor")),
        Side("ours, residuals of the window, fx", partial(ours, RESIDUALS, "fx")),
        Side("ours, residuals of the window, Inductor", partial(ours, RESIDUALS, "inductor")),
        Side("plain PyTorch", plain, "torch"),
    ),
    arrays=arrays,
    floor=floor,
    tolerance=1e-3,
    threads=1,
    limits="the loop is no slower for being a loop: the solver runs on all 1,761 coordinates at once, so that its gates "
    "are large arrays to both sides. With Inductor a step is two things: a product of 40 x 12 and 12 x 14,088, which MKL "
    "computes at two thirds of the rate of large ones and writes to memory, and one loop for all gates, of which the five "
    "functions alone (three sigmoids, two tanh of 140,880 numbers each) take 30 ms in 200 steps where everything is in "
    "the nearest cache. Between runs of four steps, and in each step of the window, states are turned from units by "
    "coordinates to the shapes of the parameters and back. Without Inductor most of the time goes to tanh, "
    "copies and sums of the gates. From its iterates "
    "each step of the window is computed twice, from residuals once.",
)
