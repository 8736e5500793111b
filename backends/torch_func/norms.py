"""Normalisation whose derivatives are right in every nesting.

torch takes the mean and deviation that its fused kernels for normalisation return for constants, without a word
(torch 2.13). Wrong in `batch_norm` by the batch's statistics, `instance_norm` and `layer_norm` are: a derivative of a
forward one, a derivative around a vmap around a derivative, and all third derivatives. There the formulas are used.
`group_norm` and `rms_norm` are right.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def derivatives_apart() -> bool:
    """Whether the derivatives in force here are nested in a way that fused normalisation does not support.

    Supported are one derivative, and any derivative directly around a reverse one, with copies around or inside both.
    """
    stack = [level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()]
    places = [place for place, name in enumerate(stack) if name in ("Grad", "Jvp")]
    if len(places) < 2:
        return False
    return len(places) > 2 or stack[places[1]] == "Jvp" or "Vmap" in stack[places[0] : places[1]]


def written_norms() -> AbstractContextManager[Any]:
    """While it lasts, normalisation is by its formula, where the fused one has wrong derivatives."""
    return WrittenNorms() if derivatives_apart() else nullcontext()


class WrittenNorms(torch.overrides.TorchFunctionMode):
    """Calls of torch's normalisation become calls of the formulas below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` gives."""
        return WRITTEN.get(func, func)(*args, **(kwargs or {}))


def normalised(x: Tensor, axes: tuple[int, ...], weight: Any, bias: Any, eps: float) -> Tensor:
    """x less its mean over the axes, divided by sqrt(variance + eps), scaled and shifted; shapes broadcast."""
    x = x - x.mean(axes, keepdim=True)
    return scaled(x * torch.rsqrt(x.square().mean(axes, keepdim=True) + eps), weight, bias)


def scaled(x: Tensor, weight: Any, bias: Any) -> Tensor:
    """x times a weight plus a bias, where they are given."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def by_channel(vector: Any, x: Tensor) -> Any:
    """A vector of one number for each channel, in the shape that meets samples real[n, channels, ...]."""
    return vector if vector is None else vector.reshape(-1, *(1,) * (x.dim() - 2))


def batch_norm_written(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`functional.batch_norm`; running averages are read, where asked for, and never changed."""
    weight, bias, mean, var = (by_channel(v, input) for v in (weight, bias, running_mean, running_var))
    if training or mean is None:
        return normalised(input, (0, *range(2, input.dim())), weight, bias, eps)
    return scaled((input - mean) * torch.rsqrt(var + eps), weight, bias)


def instance_norm_written(
    input: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`functional.instance_norm`."""
    if not use_input_stats:
        return batch_norm_written(input, running_mean, running_var, weight, bias, False, momentum, eps)
    weight, bias = by_channel(weight, input), by_channel(bias, input)
    return normalised(input, tuple(range(2, input.dim())), weight, bias, eps)


def layer_norm_written(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """`functional.layer_norm`."""
    return normalised(input, tuple(range(-len(normalized_shape), 0)), weight, bias, eps)


WRITTEN: dict[Any, Callable[..., Any]] = {
    nn.functional.batch_norm: batch_norm_written,
    nn.functional.instance_norm: instance_norm_written,
    nn.functional.layer_norm: layer_norm_written,
    torch.batch_norm: lambda x, w, b, m, v, training, momentum, eps, _: batch_norm_written(
        x, m, v, w, b, training, momentum, eps
    ),
    torch.instance_norm: lambda x, w, b, m, v, given, momentum, eps, _: instance_norm_written(
        x, m, v, w, b, given, momentum, eps
    ),
    torch.layer_norm: lambda x, shape, w=None, b=None, eps=1e-5, _=True: layer_norm_written(x, shape, w, b, eps),
}
"""formulas by the function of torch that they stand for"""


def function_with_norms(function: Any) -> Any:
    """A registered function with normalisation that has right derivatives; anything else as it is."""
    from functools import wraps

    if not callable(function):
        return function

    @wraps(function)
    def called(*arguments: Any) -> Any:
        with written_norms():
            return function(*arguments)

    return called
