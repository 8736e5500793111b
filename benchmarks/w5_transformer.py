"""W5: a learning rate for each layer of a small transformer, T steps of Adam inside: extra peak memory and time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import problems
from benchmarks.own import own
from benchmarks.peers import given, numbers_of
from benchmarks.workload import Arrays, Floor, Side, Values, Work, Workload

if TYPE_CHECKING:
    from bilevel.compiling import Asked

COUNT, LENGTH, WORDS, HEADS, CLASSES, RATE = 32, 64, 64, 4, 4, 1e-3
KEPT = "rmd(store = gradients)"
RECIPE = """recipe rates
use embed = given_embedding(words = 64, length = 64, width = WIDTH)
use one = given_block(width = WIDTH, length = 64, heads = 4, seed = 2)
use two = given_block(width = WIDTH, length = 64, heads = 4, seed = 3)
use head = given_head(width = WIDTH, length = 64, classes = 4)
use texts = fixed_texts(count = 32, length = 64, words = 64)
level tune {
  re : real from 0.001
  ra : real from 0.001
  rb : real from 0.001
  rh : real from 0.001
  level train {
    e : params(embed) from init(embed)
    a : params(one) from init(one)
    b : params(two) from init(two)
    h : params(head) from init(head)
    minimize mean(ce(head[h](two[b](one[a](embed[e](texts.train.x)))), texts.train.y))
    by e : adam(lr = re), a : adam(lr = ra), b : adam(lr = rb), h : adam(lr = rh) for STEPS steps
  }
  minimize mean(ce(head[h](two[b](one[a](embed[e](texts.val.x)))), texts.val.y))
  by sgd(lr = 0.0001) for 1 steps
}
schedule { train : MODE }"""


def arrays(values: Values) -> Arrays:
    """Tokens and classes."""
    return problems.texts(COUNT, LENGTH, WORDS)


def ours(mode: str, kernels: Asked, values: Values, data: Arrays) -> Work:
    text = RECIPE.replace("WIDTH", str(values["width"])).replace("STEPS", str(values["T"]))
    return own(text.replace("MODE", mode), kernels)


def network(width: int) -> Any:
    """The four layers one after the other, on the device in use."""
    import torch
    from torch import nn

    from benchmarks.deep import Block, Embedding, Head

    blocks = (Block(width, HEADS, seed) for seed in (2, 3))
    layers = nn.Sequential(Embedding(WORDS, LENGTH, width), *blocks, Head(width, CLASSES))
    return layers.to(torch.get_default_device())


def torchopt_functional(values: Values, data: Arrays) -> Work:
    """Its Adam at rate 1, each layer's moves times that layer's rate."""
    import torch
    import torchopt
    from torch.func import functional_call
    from torch.nn.functional import cross_entropy

    net, (x, y, u, v) = network(values["width"]), given(data, "x", "y", "u", "v")
    start = {name: value.detach() for name, value in net.named_parameters()}
    rates = [torch.tensor(RATE, requires_grad=True) for _ in range(4)]
    solver = torchopt.adam(lr=1.0)

    def loss(at: Any, inputs: Any, labels: Any) -> Any:
        return cross_entropy(functional_call(net, at, (inputs,)), labels)

    def run() -> Any:
        at = {name: value.clone().requires_grad_() for name, value in start.items()}
        state = solver.init(at)
        for _ in range(values["T"]):
            found = torch.autograd.grad(loss(at, x, y), list(at.values()), create_graph=True)
            gradient = dict(zip(at, found, strict=True))
            moves, state = solver.update(gradient, state, inplace=False)
            at = {name: value + rates[int(name[0])] * moves[name] for name, value in at.items()}
        return torch.autograd.grad(loss(at, u, v), rates)

    return Work(run, numbers_of)


def floor(values: Values) -> Floor:
    """Matrix products of a step, its adjoint as two of them, and the outer gradient."""
    tokens, width = COUNT * LENGTH, values["width"]
    block = tokens * 12 * width**2 + 2 * tokens * LENGTH * width
    step = 2.0 * 3 * (2 * block + COUNT * width * CLASSES)
    return Floor(3.0 * values["T"] * step + step, text="3 gradients a step and 1 of the outer loss")


WORKLOAD = Workload(
    name="W5",
    title="a learning rate for each layer of a transformer (2 blocks, 32 texts of 64), T steps of Adam",
    cases=tuple({"T": steps, "width": 128} for steps in (2, 8)),
    short=({"T": 2, "width": 16},),
    sides=(
        Side("ours, rmd, fx", partial(ours, "rmd", "fx")),
        Side("ours, rmd(checkpoint = sqrt), fx", partial(ours, "rmd(checkpoint = sqrt)", "fx")),
        Side("ours, rmd, Inductor", partial(ours, "rmd", "inductor"), only="cpu"),
        Side("ours, rmd(store = gradients), Inductor", partial(ours, KEPT, "inductor"), only="cpu"),
        Side("ours, rmd, fx, CUDA graphs", partial(ours, "rmd", "fx+graphs"), only="cuda"),
        Side("TorchOpt functional", torchopt_functional, "torchopt"),
    ),
    arrays=arrays,
    floor=floor,
    devices=("cpu", "cuda"),
    tolerance=1e-2,  # the first moves of Adam are nearly signs: rounding of a small gradient shows
    memory=True,
    limits="beside the states (5 MB each, and as much of cotangents) forward over reverse holds the activations of one "
    "step and their tangents, of a slice of the batch at a time: smaller slices would hold less, and take longer. The "
    "gradient of every step is computed twice, once forth and once back, unless it is kept (1.65 MB); the other side keeps "
    "its graph. Products that are not counted in the floor: a step back takes 8 times those of the network forth, or 11 with "
    "the gradient, not 6, since the activations of a slice are computed again.",
)
