"""Dropout whose noise is a function of a key, so that a step computed again sees the same noise.

torch's own dropout draws from a hidden generator: a step that is recomputed, or differentiated once more, would be
another function. Here its modules are replaced, in a copy of the network, by `KeyedDropout`; the key is a buffer that
`functional_call` sets for one call, so any vmap over keys gives every copy its own noise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.keyed import fold, uniform
from bilevel.backends.torch_func.sampling import Network


class KeyedDropout(nn.Module):
    """Entries (or whole channels) are zero with probability p, others divided by 1 - p; without a key nothing is done.

    `channels`: the number of axes of a whole sample batch [n, channels, ...] whose channels fall together, else 0.
    """

    key: Tensor | None

    def __init__(self, p: float, channels: int = 0) -> None:
        super().__init__()
        self.p, self.channels, self.calls = p, channels, 0
        self.register_buffer("key", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The input under a mask; each call of a forward pass has a mask of its own."""
        if self.key is None:
            return x
        self.calls += 1
        kept = self.shape(x)
        keep = uniform(fold(self.key, self.calls), *kept, dtype=torch.float64) >= self.p
        factor = 1.0 / (1.0 - self.p) if self.p < 1.0 else 0.0
        return x * (keep.to(x.dtype) * factor).reshape(*kept, *(1,) * (x.dim() - len(kept)))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """The leading axes along which the mask varies: all, or samples and channels (channels of a single sample)."""
        if not self.channels:
            return tuple(x.shape)
        single = x.dim() == self.channels - 1 and self.channels != 4  # torch takes [n, c, l] for Dropout2d as a batch
        return tuple(x.shape[: 1 if single else 2])


class NoisyNetwork(Network):
    """A network with dropout: `net(w, x, noise)` is a function of the key `noise`; without a key there is none."""

    def __init__(
        self, module: nn.Module, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        super().__init__(with_keys(module), parts, dtype, device)
        named = self.module.named_modules()
        self.dropouts = {name: layer for name, layer in named if isinstance(layer, KeyedDropout)}

    def __call__(self, parameters: dict[str, Tensor], x: Any, noise: Tensor | None = None) -> Tensor:
        """Outputs for a batch of samples with a leading axis."""
        for layer in self.dropouts.values():
            layer.calls = 0
        if noise is None:
            return super().__call__(parameters, x)
        keys = {f"{name}.key".lstrip("."): fold(noise, name) for name in self.dropouts}
        return super().__call__({**parameters, **keys}, x)

    def single(self, parameters: dict[str, Tensor], x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The output for one sample without a leading axis."""
        return self(parameters, x[None], noise)[0]


def with_keys(module: nn.Module) -> nn.Module:
    """A copy of a module whose active dropout takes keys; parameters keep their names."""
    from copy import deepcopy

    module = deepcopy(module)
    keyed: dict[nn.Module, KeyedDropout] = {}
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if is_dropout(layer) and layer.training and layer.p > 0:
            keyed.setdefault(layer, KeyedDropout(layer.p, channel_axes(layer)))
            if not name:
                return keyed[layer]
            module.set_submodule(name, keyed[layer])
    return module


def is_dropout(layer: nn.Module) -> bool:
    """Whether a layer is one of those that have a keyed form."""
    return type(layer) in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


CHANNELS = ((nn.Dropout1d, 3), (nn.Dropout2d, 4), (nn.Dropout3d, 5))


def channel_axes(layer: nn.Module) -> int:
    """The axes of a batch of samples with channels, for dropout of whole channels; 0 for single entries."""
    return next((axes for kind, axes in CHANNELS if isinstance(layer, kind)), 0)


def noisy_network(part: Any, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str) -> Any:
    """A module as a `NoisyNetwork`; anything else as it is."""
    return NoisyNetwork(part, parts, dtype, device) if isinstance(part, nn.Module) else part
