"""Layers that draw noise from torch's own generator: refused unless a key can take its place. Reports B603.

A keyed form exists for nn.Dropout and its forms for channels, in networks that are registered with `noisy`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import nn

from bilevel import ir
from bilevel.backends.torch_func.dropout import is_dropout
from bilevel.dsl.datatypes import ListType, Record, Type
from bilevel.dsl.noises import is_noisy
from bilevel.errors import RecipeError, fail

SINGLE = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
INSIDE = (nn.MultiheadAttention, nn.RNNBase)
"""layers that have dropout inside, by their attribute `dropout`"""


def check_noise(module: nn.Module, use: ir.Use) -> None:
    """B603: a module that draws noise is no function of its inputs."""
    active = [layer for layer in module.modules() if layer.training and _probability(layer) > 0]
    keyed = any(map(is_noisy, _networks(use.type)))
    hidden = [layer for layer in active if not (keyed and is_dropout(layer))]
    if hidden:
        raise _refused(use, hidden, all(map(is_dropout, active)))


def _networks(type_: Type) -> Iterator[Type]:
    """The parts in a part: itself, those of a list, those of a pair."""
    match type_:
        case ListType(items):
            inside = items
        case Record(fields):
            inside = tuple(field for _, field in fields)
        case _:
            inside = ()
            yield type_
    for item in inside:
        yield from _networks(item)


def _probability(layer: nn.Module) -> float:
    """The probability with which a layer drops; torch's recurrent layers drop only between two of them."""
    if isinstance(layer, SINGLE):
        return float(layer.p)
    if isinstance(layer, nn.RNNBase) and layer.num_layers == 1:
        return 0.0
    return float(cast(float, layer.dropout)) if isinstance(layer, INSIDE) else 0.0


def _refused(use: ir.Use, hidden: list[nn.Module], has_keys: bool) -> RecipeError:
    kinds = " and ".join(_counted(hidden))
    fixes = ["register its constructor with  @bilevel.model(noisy = True)  and name it in the recipe"] * has_keys
    fixes += ["nn.Dropout, whose noise can be drawn from a key"] * (not has_keys)
    return fail(
        "B603",
        f"`{use.name}` draws noise from torch's own generator",
        use.value.span if use.value is not None else use.span,
        label=f"{kinds} in training mode",
        why="a level must be a function of its inputs and its key: a step that is computed again, or\n"
        "differentiated, would see another noise, and the hypergradient would be wrong without any message",
        fix="\nor ".join([*fixes, "call .eval() on it before it is given, which turns the noise off"]),
    )


def _counted(layers: list[nn.Module]) -> Iterator[str]:
    """`2 Dropout layers`, for each class."""
    names = [type(layer).__name__ for layer in layers]
    for name in dict.fromkeys(names):
        yield f"{names.count(name)} {name} layer{'s' * (names.count(name) > 1)}"
