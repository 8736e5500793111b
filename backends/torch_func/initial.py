"""Fresh parameters of a network as a pure function of keys, drawn as torch's own constructors would draw them.

A network is built once; every copy of a level then needs parameters of its own, from its own key. torch's
`reset_parameters` draws from a hidden generator, one module at a time, so its rules are restated here, class by
class. A class that is not listed is refused: a guess would be a silent change of the method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.keyed import fold, normal, uniform
from bilevel.errors import fail

Rule = Callable[[nn.Module, str, Tensor, Tensor, torch.dtype], Tensor]


@runtime_checkable
class Initialises(Protocol):
    """A module that draws the parameters below it itself.

    `key` is int64 of any shape; the result maps names, relative to the module, to tensors of shape
    key.shape + parameter shape (the functions of `random` give that shape without more ado).
    """

    def initialise(self, key: Tensor) -> Mapping[str, Tensor]:
        """Fresh parameters by name, one set per key."""


def initial_parameters(network: nn.Module, keys: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Fresh parameters of `network` by name, one set per key, distributed as by torch's defaults.

    Shapes: int64[...] keys give real[..., *shape of the parameter], in `dtype`, on the device of `keys`.
    Invariant: a number depends on its own key, the parameter's name and its position only.
    Cost: one hash for each number. Fails when: a module has parameters and no known rule (B605).
    """
    wanted = dict(network.named_parameters())
    drawn = dict(_drawn(network, "", wanted, keys, dtype))
    return {name: drawn[name] for name in wanted}


def _drawn(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all parameters at and below `module`; a shared one is drawn where it is named first."""
    if isinstance(module, Initialises):
        yield from _own(module, prefix, wanted, keys, dtype)
        return
    if isinstance(module, nn.Transformer):
        yield from _transformer(module, prefix, wanted, keys, dtype)
        return
    yield from _by_rules(module, prefix, wanted, keys, dtype)


def _by_rules(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The module's own parameters by the rules below, then those of its children."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in wanted:
            rule = _rule(module, prefix, name)
            yield prefix + name, rule(module, name, parameter, fold(keys, prefix + name), dtype)
    for name, child in module.named_children():
        yield from _drawn(child, f"{prefix}{name}.", wanted, keys, dtype)


def _transformer(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """As its layers would be drawn, but every matrix in it again by `_xavier`."""
    for name, value in _by_rules(module, prefix, wanted, keys, dtype):
        matrix = wanted[name].dim() > 1
        yield name, _xavier(module, name, wanted[name], fold(keys, name), dtype) if matrix else value


def _own(
    module: Initialises, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """What `module.initialise` draws, after a check of names and shapes."""
    values = module.initialise(fold(keys, prefix))
    expected = {name: keys.shape + value.shape for name, value in wanted.items() if name.startswith(prefix)}
    found = {prefix + name: value.shape for name, value in values.items()}
    if found != expected:
        raise fail(
            "B605",
            f"`initialise` of `{type(module).__name__}` does not give the parameters that the module has",
            why=f"expected {_shapes(expected)}; found {_shapes(found)}",
            fix="return every parameter by its name, with shape key.shape + shape of the parameter",
        )
    yield from ((prefix + name, value.to(dtype)) for name, value in values.items())


def _shapes(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name}: {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"


# ---- rules ---------------------------------------------------------------------------------------------------


def _by_inputs(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within 1 / sqrt(inputs of one unit), which is what kaiming_uniform(a = sqrt(5)) amounts to."""
    shape = module.get_parameter("weight").shape
    inputs = shape[1] if isinstance(module, nn.Bilinear) else math.prod(shape[1:])  # torch counts one side of two
    return _within(1.0 / math.sqrt(max(1, inputs)), parameter, key, dtype)


def _by_width(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within 1 / sqrt(hidden units)."""
    width = cast(int, module.hidden_size)
    return _within(1.0 / math.sqrt(max(1, width)), parameter, key, dtype)


def _xavier(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within sqrt(6 / (inputs + outputs)) of the matrix as it is stored."""
    return _within(math.sqrt(6.0 / sum(parameter.shape)), parameter, key, dtype)


def _attention(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices by `_xavier`, biases zero; the extra key and value normal with variance 1 / width."""
    if name == "in_proj_bias":
        return torch.zeros((*key.shape, *parameter.shape), dtype=dtype, device=key.device)
    if name in ("bias_k", "bias_v"):
        return normal(key, *parameter.shape, deviation=1.0 / math.sqrt(parameter.shape[-1]), dtype=dtype)
    return _xavier(module, name, parameter, key, dtype)


def _projection(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention ends with: a linear layer whose bias is zero."""
    if name == "weight":
        return _by_inputs(module, name, parameter, key, dtype)
    return torch.zeros((*key.shape, *parameter.shape), dtype=dtype, device=key.device)


def _within(bound: float, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    return uniform(key, *parameter.shape, low=-bound, high=bound, dtype=dtype)


def _one_and_zero(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale one, shift zero."""
    value = 1.0 if name == "weight" else 0.0
    return torch.full((*key.shape, *parameter.shape), value, dtype=dtype, device=key.device)


def _standard_normal(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Normal with deviation one; the row of the padding index is zero."""
    drawn = normal(key, *parameter.shape, dtype=dtype)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        rows = torch.arange(module.num_embeddings, device=key.device)
        drawn = torch.where((rows == module.padding_idx)[:, None], torch.zeros_like(drawn), drawn)
    return drawn


LAYER = ("weight", "bias")
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v")
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
LINEAR = (nn.Linear, nn.Bilinear)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
RULES: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...], Rule], ...] = (
    ((nn.modules.linear.NonDynamicallyQuantizableLinear,), LAYER, _projection),  # used in attention only
    ((*LINEAR, *CONVOLUTIONS), LAYER, _by_inputs),
    ((nn.MultiheadAttention,), ATTENTION, _attention),
    ((nn.RNNCellBase,), CELL, _by_width),
    ((nn.RNNBase,), (), _by_width),
    ((*NORMS, *INSTANCE_NORMS), LAYER, _one_and_zero),
    ((nn.Embedding,), ("weight",), _standard_normal),
)
"""Classes, names of their parameters (none: one set for each layer, all alike), rule. Others are refused."""


def _rule(module: nn.Module, prefix: str, name: str) -> Rule:
    for kinds, names, rule in RULES:
        if isinstance(module, kinds) and (name in names or not names):
            return rule
    kind_name = type(module).__name__
    place = f"`{prefix.rstrip('.')}`" if prefix else "the network itself"
    raise fail(
        "B605",
        f"`{kind_name}` has a parameter `{name}`, and nothing says how it starts",
        why=f"{place} is a `{kind_name}`; copies of a level draw their starts from keys, so torch's own generator "
        "cannot be used",
        fix=f"give `{kind_name}` a method  initialise(self, key) -> dict  from names to tensors of shape\n"
        "key.shape + shape of the parameter, drawn with bilevel.backends.torch_func.keyed",
    )
