"""Functions and networks whose operators lack a derivative: one for each kind of lack."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

import bilevel
from bilevel.dsl.datatypes import Array


class Tanh(Function):
    """tanh with everything; the classes below leave something out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # type: ignore[override]
        return x.tanh()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return cotangents[0] * (1 - y * y)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return tangents[0] * (1 - y * y)


class NoForward(Tanh):
    jvp = Function.jvp  # type: ignore[assignment]


class Once(Tanh):
    backward = staticmethod(once_differentiable(Tanh.backward))  # type: ignore[assignment]


class NoCopies(Tanh):
    generate_vmap_rule = False


class OldFashioned(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.tanh()

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor:
        return cotangents[0]


KINDS: dict[str, type[Function]] = {
    "whole": Tanh,
    "no_forward": NoForward,
    "once": Once,
    "no_copies": NoCopies,
    "old": OldFashioned,
}


class Layer(nn.Module):
    """Two linear layers around one of these functions."""

    def __init__(self, kind: type[Function]) -> None:
        super().__init__()
        self.kind, self.input, self.output = kind, nn.Linear(1, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.kind.apply(self.input(x)))  # type: ignore[no-any-return]


@bilevel.model(input=(1,), output=(1,))
def layered(kind: str) -> nn.Module:
    """A network with one of these functions in it."""
    return Layer(KINDS[kind])


@bilevel.func(smooth=True, result=Array((3,)))
def whole(x: Tensor) -> Tensor:
    """tanh with all derivatives."""
    return Tanh.apply(x)  # type: ignore[no-any-return]


@bilevel.func(smooth=True, result=Array((3,)))
def no_forward(x: Tensor) -> Tensor:
    """tanh without a jvp."""
    return NoForward.apply(x)  # type: ignore[no-any-return]


@bilevel.func(smooth=True, result=Array((3,)))
def once(x: Tensor) -> Tensor:
    """tanh that is once differentiable."""
    return Once.apply(x)  # type: ignore[no-any-return]


@bilevel.func(smooth=True, result=Array((3,)))
def distances(x: Tensor) -> Tensor:
    """torch's cdist, which lacks forward and second derivatives."""
    return torch.cdist(x[:, None], torch.ones_like(x)[:, None]).sum(-1)


@bilevel.func(smooth=True, result=Array((3,)))
def rounded(x: Tensor) -> Tensor:
    """Registered as smooth, which it is not."""
    return x.round()


@bilevel.func(smooth=True, result=Array((3,)))
def attending(x: Tensor) -> Tensor:
    """Attention by torch's fused kernel."""
    q = x.reshape(1, 1, 3, 1).repeat(1, 2, 1, 16)
    return nn.functional.scaled_dot_product_attention(q, q, q)[0, 0, :, 0]


@bilevel.func(smooth=False, result=Array((3,)))
def quantised(x: Tensor) -> Tensor:
    """Registered as what it is."""
    return x.round()
