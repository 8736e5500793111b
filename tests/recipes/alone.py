"""Runs an emitted module where there is no compiler: `python -I alone.py EMITTED INPUTS OUTPUTS`, with torch alone.

INPUTS, written by torch.save: which network, the data or the tasks of every step in order, seed, steps, threads.
"""

import sys

sys.modules["bilevel"] = None  # type: ignore[assignment]  # importing it is an error from here on

import runpy  # noqa: E402
from collections import namedtuple  # noqa: E402
from itertools import pairwise  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

Samples = namedtuple("Samples", "x y")
Task = namedtuple("Task", "support query")


class Layers(nn.Module):
    def __init__(self, *widths: int) -> None:
        super().__init__()
        *hidden, output = (nn.Linear(*pair) for pair in pairwise(widths))
        self.hidden, self.output = nn.ModuleList(hidden), output

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.output(x)  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolve(x))


class Convolutions(nn.Module):
    def __init__(self, ways: int, filters: int) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(1, filters), *(Block(filters, filters) for _ in range(3)))
        self.head = nn.Linear(4 * filters, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))  # type: ignore[no-any-return]


class Replay:
    """The recorded tasks, one set for each step."""

    def __init__(self, recorded: list[Any]) -> None:
        self.recorded = iter(recorded)

    def sample(self, keys: Tensor) -> Any:
        (sx, sy), (qx, qy) = next(self.recorded)
        assert sx.shape[: keys.dim()] == keys.shape
        return Task(Samples(sx, sy), Samples(qx, qy))


def main(emitted: str, inputs: str, outputs: str) -> None:
    given = torch.load(inputs, weights_only=True)
    torch.set_num_threads(given["threads"])
    module = SimpleNamespace(**runpy.run_path(emitted))
    net = {"layers": Layers, "convolutions": Convolutions}[given["network"][0]](*given["network"][1])
    if "tasks" in given:
        parts = {"tasks": SimpleNamespace(train=Replay(given["tasks"]))}
    else:
        parts = {"data": SimpleNamespace(**{name: Samples(*fields) for name, fields in given["data"].items()})}
    (phase,) = module.build(net, *parts.values())
    key = module.make_key(given["seed"])
    state, values = phase.begin(key), []
    for _ in range(given["steps"]):
        state, value = phase.step(state, key)
        values.append(value)
    torch.save({"values": values, "variables": phase.values(state)}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
