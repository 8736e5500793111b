"""Normalisation whose derivatives are right in every nesting.

torch takes the mean and deviation that its fused kernels for normalisation return for constants, without a word
(torch 2.13). Wrong in `batch_norm` by the batch's statistics, `instance_norm` and `layer_norm` are: a derivative of a
forward one, a derivative around a vmap around a derivative, and all third derivatives. There the formulas are used.
`group_norm` and `rms_norm` are right.

Wrong without any nesting are the mean and deviation that `native_batch_norm` and `native_layer_norm` give besides (the
derivative is zero), and the second derivative of `_weight_norm`, which `nn.utils.weight_norm` calls. What calls one of
these gets formulas everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.attention import function_calls, module_calls


def derivatives_apart() -> bool:
    """Whether the derivatives in force here are nested in a way that fused normalisation does not support.

    Supported are one derivative, and any derivative directly around a reverse one, with copies around or inside both.
    """
    stack = [level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()]
    places = [place for place, name in enumerate(stack) if name in ("Grad", "Jvp")]
    if len(places) < 2:
        return False
    return len(places) > 2 or stack[places[1]] == "Jvp" or "Vmap" in stack[places[0] : places[1]]


def written_norms(always: bool = False) -> AbstractContextManager[Any]:
    """While it lasts, normalisation is by its formula, where the fused one has wrong derivatives; or `always`."""
    return WrittenNorms() if always or derivatives_apart() else nullcontext()


NATIVE = frozenset({"native_batch_norm", "_native_batch_norm_legit", "native_layer_norm", "_weight_norm"})
"""functions of torch with wrong derivatives without any nesting"""


def normalises_natively(part: Any) -> bool:
    """Whether a network or function calls one of these, by itself or by torch's `weight_norm`."""
    if isinstance(part, nn.Module):
        return any(map(_has_weight_norm, part.modules())) or module_calls(part, NATIVE)
    return isinstance(part, FunctionType) and function_calls(part, NATIVE, set())


def _has_weight_norm(module: nn.Module) -> bool:
    """Whether a weight is a direction times a length: a parametrization of torch's, or its older hook."""
    kinds = (type(module), *(type(hook) for hook in module._forward_pre_hooks.values()))
    return any((k.__module__ or "").startswith("torch.nn.utils") and "WeightNorm" in k.__name__ for k in kinds)


class WrittenNorms(torch.overrides.TorchFunctionMode):
    """Calls of torch's normalisation become calls of the formulas below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` gives."""
        written = WRITTEN.get(func) or WRITTEN.get(getattr(torch, _aten_name(func), None), func)
        return written(*args, **(kwargs or {}))


def _aten_name(func: Any) -> str:
    """`layer_norm` for `torch.ops.aten.layer_norm` and its overloads."""
    name = str(func)
    return name.removeprefix("aten.").partition(".")[0] if name.startswith("aten.") else ""


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


def native_batch_norm_written(
    input: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`torch.native_batch_norm`: with the batch's statistics also its mean and 1 / deviation, by channel."""
    value = batch_norm_written(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return value, input.new_zeros(0), input.new_zeros(0)
    mean, scale = statistics(input, (0, *range(2, input.dim())), eps)
    return value, mean.flatten(), scale.flatten()


def native_layer_norm_written(
    input: Tensor, normalized_shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.native_layer_norm`: also mean and 1 / deviation, with ones for the axes that are normalised."""
    value = layer_norm_written(input, normalized_shape, weight, bias, eps)
    return value, *statistics(input, tuple(range(-len(normalized_shape), 0)), eps)


def statistics(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) over the axes, which are kept."""
    mean = x.mean(axes, keepdim=True)
    return mean, torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + eps)


def weight_norm_written(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`: v g / ||v||, the norm over all axes but `dim` (-1: over all)."""
    axes = tuple(axis for axis in range(v.dim()) if dim == -1 or axis != dim % v.dim())
    return v * (g / v.square().sum(axes, keepdim=dim != -1).sqrt())


def legit_batch_norm_written(input: Tensor, weight: Any, bias: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`torch._native_batch_norm_legit`, which may leave the running averages out."""
    averages = given if len(given) == 5 else (None, None, *given)
    return native_batch_norm_written(input, weight, bias, *averages)


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
    torch.native_batch_norm: native_batch_norm_written,
    torch._native_batch_norm_legit: legit_batch_norm_written,
    torch.native_layer_norm: native_layer_norm_written,
    torch._weight_norm: weight_norm_written,
}
"""formulas by the function of torch that they stand for"""


def function_with_norms(function: Any) -> Any:
    """A registered function with normalisation that has right derivatives; anything else as it is."""
    from functools import wraps

    if not callable(function):
        return function
    always = normalises_natively(function)

    @wraps(function)
    def called(*arguments: Any) -> Any:
        with written_norms(always):
            return function(*arguments)

    return called
