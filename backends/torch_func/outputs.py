"""Named outputs of a network: what one of its methods or submodules makes of the inputs, at given parameters."""

from __future__ import annotations

from typing import Any

from torch import nn

from bilevel.backends.torch_func.sampling import Network


def named_output(network: Network, name: str) -> Any:
    """`network` with the output `name` in place of its own: same parameters, same dropout, same calls."""
    from copy import copy

    view = copy(network)
    view.module = with_output(network.module, name)
    return view


def with_output(module: nn.Module, name: str) -> nn.Module:
    """`module` with its method or submodule `name` in place of `forward`.

    The copy is shallow: parameters and submodules are those of the module itself, under the same names, so that
    `functional_call` reaches them whichever of the two is called.
    """
    from copy import copy

    view = copy(module)
    view.__dict__["forward"] = getattr(view, name)  # not by setattr, which would add a submodule to both
    return view
