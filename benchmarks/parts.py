"""Networks with a given start and data made by numpy, so that every side of a benchmark has the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import problems
from bilevel.dsl.datatypes import integer, real, record, records
from bilevel.recipes.networks import CoordinateLstm
from bilevel.registry import data, model

__all__ = ["fixed_classes", "fixed_images", "fixed_waves", "given_lstm", "given_net"]
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}


class Given(nn.Sequential):
    """A fully connected network whose fresh parameters are always the same."""

    def __init__(self, widths: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.start = {
            name.removeprefix("start."): torch.from_numpy(value) for name, value in problems.layers(widths).items()
        }
        for place, (inputs, outputs) in enumerate(pairwise(widths)):
            self.add_module(f"{place}", nn.Linear(inputs, outputs))
            if place < len(widths) - 2:
                self.add_module(f"after{place}", ACTIVATIONS[activation]())

    def initialise(self, key: Tensor) -> Mapping[str, Tensor]:
        """The given parameters, whatever the key."""
        return {n: value.to(key.device).expand(*key.shape, *value.shape) for n, value in self.start.items()}


@model(input=("widths:0",), output=("widths:-1",))
def given_net(*widths: int, activation: str = "relu") -> nn.Module:
    """Fully connected network that starts where `problems.layers` says."""
    return Given(widths, activation)


class GivenSolver(CoordinateLstm):
    """A coordinate LSTM whose fresh parameters are always the same."""

    def initialise(self, key: Tensor) -> Mapping[str, Tensor]:
        """The given parameters, whatever the key."""
        found = problems.lstm(self.cell.hidden_size)
        return {
            name.removeprefix("lstm."): torch.from_numpy(value).expand(*key.shape, *value.shape)
            for name, value in found.items()
        }


@model()
def given_lstm(hidden: int = 10) -> nn.Module:
    """Learned solver that starts where `problems.lstm` says."""
    return GivenSolver(hidden, 0.1)


class Waves(NamedTuple):
    xs: Tensor
    ys: Tensor
    xq: Tensor
    yq: Tensor


class AllWaves(NamedTuple):
    all: Waves


_POINTS = real("shots", 1)


@data(yields=record(all=records("count", xs=_POINTS, ys=_POINTS, xq=_POINTS, yq=_POINTS)))
def fixed_waves(count: int = 25, shots: int = 10) -> AllWaves:
    """Sine waves with points to learn from and points to be judged by."""
    found = problems.waves(count, shots)
    return AllWaves(Waves(*(torch.from_numpy(found[name]) for name in Waves._fields)))


class Samples(NamedTuple):
    x: Tensor
    y: Tensor


class Splits(NamedTuple):
    train: Samples
    val: Samples


@data(
    yields=record(
        train=records("count", x=real("size"), y=integer()),
        val=records("held", x=real("size"), y=integer()),
    )
)
def fixed_images(count: int = 256, size: int = 784, held: int = 256) -> Splits:
    """Normal inputs with labels out of ten, for training and for validation."""
    found = {name: torch.from_numpy(value) for name, value in problems.images(count, size, held).items()}
    return Splits(Samples(found["x"], found["y"]), Samples(found["u"], found["v"]))


_CLASSES = records("count", x=real("size"), y=real())


@data(yields=record(train=_CLASSES, val=_CLASSES))
def fixed_classes(count: int = 200, size: int = 20) -> Splits:
    """Two classes apart by a noisy plane, in float64."""
    found = {name: torch.from_numpy(value) for name, value in problems.classes(count, size).items()}
    return Splits(Samples(found["x"], found["y"]), Samples(found["u"], found["v"]))
