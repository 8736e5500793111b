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
def old(x: Tensor) -> Tensor:
    """tanh without a derivative that torch.func could take."""
    return OldFashioned.apply(x)  # type: ignore[no-any-return]


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


# ---- in solvers and estimators -------------------------------------------------------------------------------


def bent(kind: str, x: Tensor, gradient: Tensor, lr: Tensor) -> Tensor:
    return x - lr * KINDS[kind].apply(gradient + 0.3 * x)  # type: ignore[no-any-return]


@bilevel.solver()
def step_whole(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step along tanh of the gradient, with all derivatives."""
    return bent("whole", x, gradient, lr), state


@bilevel.solver()
def step_no_forward(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """The same without a jvp."""
    return bent("no_forward", x, gradient, lr), state


@bilevel.solver()
def step_once(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """The same, once differentiable."""
    return bent("once", x, gradient, lr), state


@bilevel.solver()
def step_old(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """The same without a derivative that torch.func could take."""
    return bent("old", x, gradient, lr), state


@bilevel.solver()
def step_slow(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step along the gradient, and a function that has no derivative where it is zero."""
    return x - lr * gradient + OldFashioned.apply(0.0 * gradient), state


@bilevel.solver(begin=torch.zeros_like)
def step_signs(x: Tensor, state: Tensor, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step of one length along the sign of the velocity: flat in gradient and state."""
    velocity = 0.5 * state + gradient
    return x - lr * velocity.sign(), velocity


@bilevel.solver()
def step_no_copies(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """The same without a form for copies."""
    return bent("no_copies", x, gradient, lr), state


def estimated(kind: str, losses: Any, x: Tensor, samples: float) -> Any:
    """The exact difference along every axis of one copy of three numbers, bent."""
    moves = 1e-2 * torch.eye(3, dtype=x.dtype, device=x.device)
    slopes = [(losses(x + m) - losses(x - m)) / 2e-2 for m in moves]
    return KINDS[kind].apply(torch.stack(slopes, -1) * samples), losses(x)


@bilevel.estimator
def estimate_whole(losses: Any, x: Tensor, key: Tensor, samples: float = 1.0) -> Any:
    """An estimate with all derivatives."""
    return estimated("whole", losses, x, samples)


@bilevel.estimator
def estimate_no_forward(losses: Any, x: Tensor, key: Tensor, samples: float = 1.0) -> Any:
    """An estimate without a jvp."""
    return estimated("no_forward", losses, x, samples)


class Bent(nn.Module):
    """A learned solver with one of these functions in it."""

    def __init__(self, kind: type[Function]) -> None:
        super().__init__()
        self.kind, self.slope = kind, nn.Linear(1, 1)

    def forward(self, gradient: Tensor, state: Any) -> Any:
        return 0.1 * self.kind.apply(self.slope(gradient[:, None])[:, 0]), state


@bilevel.model()
def bent_steps(kind: str) -> nn.Module:
    """A learned solver of any kind."""
    return Bent(KINDS[kind])
