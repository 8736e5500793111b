"""What the sides of several workloads share: networks and data of the given arrays, for torch and for JAX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.workload import Arrays, Numbers, list_of

if TYPE_CHECKING:
    from torch import Tensor, nn


def dense(data: Arrays, activation: str) -> nn.Sequential:
    """A fully connected torch network with the given parameters."""
    import torch
    from torch import nn

    device = torch.get_default_device()
    values = [torch.from_numpy(value.copy()).to(device) for _, value in list_of(data)]
    parts: list[nn.Module] = []
    for weight, bias in zip(values[::2], values[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        parts += [layer, nn.ReLU() if activation == "relu" else nn.Tanh()]
    return nn.Sequential(*parts[:-1])


def given(data: Arrays, *names: str) -> list[Tensor]:
    """Arrays as tensors."""
    import torch

    return [torch.from_numpy(data[name]).to(torch.get_default_device()) for name in names]


def named(net: nn.Module) -> dict[str, Tensor]:
    """The parameters of a network, apart from it."""
    return {name: value.detach().clone() for name, value in net.named_parameters()}


def numbers_of(found: Sequence[Tensor]) -> list[Numbers]:
    """Tensors as arrays."""
    return [tensor.detach().cpu().numpy() for tensor in found]


def needs_gpu() -> None:
    """Stops a side of JAX that would run on the processor while the others have a GPU."""
    import jax
    import torch

    device = torch.get_default_device().type
    if device == "cuda" and jax.default_backend() != "gpu":
        raise RuntimeError(f"this JAX has no GPU, its device is {jax.default_backend()}: pip install 'jax[cuda12]'")


def jax_layers(data: Arrays) -> list[tuple[Any, Any]]:
    """The given parameters as pairs of a weight and a bias."""
    from jax import numpy as jnp

    values = [jnp.asarray(value) for _, value in list_of(data)]
    return list(zip(values[::2], values[1::2], strict=True))


def jax_bytes(function: Any, *arguments: Any) -> int:
    """Bytes of temporaries and results that XLA plans for one call of a jitted function."""
    planned = function.lower(*arguments).compile().memory_analysis()
    return int(planned.temp_size_in_bytes + planned.output_size_in_bytes)
