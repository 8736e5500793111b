"""`identity(net)`: parameters with which a part of a network changes nothing.

Scale one and shift zero for layers that normalise, the unit matrix for a square linear layer; any other module says it
by a method `identity`. What is not known is refused: a guess would be a silent change of the method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.initial import INSTANCE_NORMS, NORMS
from bilevel.backends.torch_func.sampling import Network
from bilevel.errors import fail


@runtime_checkable
class HasIdentity(Protocol):
    """A module that knows the parameters with which it gives its input back."""

    def identity(self) -> Mapping[str, Tensor]:
        """Those parameters by name, relative to the module, with the shapes that they have there."""


def identity_parameters(network: Network, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
    """The parameters of a part with which each of its modules changes nothing; B605 where a module has none."""
    chosen = network.select(only, without)
    modules = dict(network.module.named_modules())
    known: dict[str, Tensor] = {}
    for name, module in modules.items():
        prefix = f"{name}." if name else ""
        if any(n.startswith(prefix) and n not in known for n in chosen):
            known |= {prefix + n: p for n, p in neutral_parameters(module).items()}
    found = {name: known.get(name) for name in chosen}
    for name, parameter in found.items():
        if parameter is None or parameter.shape != chosen[name].shape:
            raise no_identity(modules, name)
    return {name: p.to(like) for (name, like), p in zip(chosen.items(), found.values(), strict=True) if p is not None}


def neutral_parameters(module: nn.Module) -> Mapping[str, Tensor]:
    """The parameters with which a module changes nothing, as far as that is known of its class."""
    if isinstance(module, HasIdentity):
        return module.identity()
    own = {name: p.detach() for name, p in module.named_parameters(recurse=False)}
    if isinstance(module, (*NORMS, *INSTANCE_NORMS)):
        return {name: torch.ones_like(p) if name == "weight" else torch.zeros_like(p) for name, p in own.items()}
    if isinstance(module, nn.Linear) and module.in_features == module.out_features:
        unit = torch.eye(module.in_features, dtype=module.weight.dtype, device=module.weight.device)
        return {name: unit if name == "weight" else torch.zeros_like(p) for name, p in own.items()}
    return {}


def no_identity(modules: Mapping[str, nn.Module], name: str) -> Exception:
    """B605 for a parameter whose neutral value nobody knows."""
    owner = modules[name.rpartition(".")[0]]
    kind_name = type(owner).__name__
    return fail(
        "B605",
        f"`{kind_name}` has a parameter `{name}`, and nothing says with which value it changes nothing",
        why="identity(net) is known of layers that normalise and of square linear layers",
        fix=f"give `{kind_name}` a method  identity(self) -> dict  from names to tensors\nor start from init(net)",
    )
