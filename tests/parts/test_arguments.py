"""Arguments of registered constructors that may be given by name only, and what they decide."""

from __future__ import annotations

from types import ModuleType

import pytest
from torch import nn

from bilevel.dsl.datatypes import Model
from bilevel.errors import RecipeError
from bilevel.manifest import read_manifest, write_manifest
from bilevel.pipeline import check_text
from bilevel.recipes import zoo
from bilevel.registry import MARK, collect, model

RECIPE = """recipe fit
param p = 0.2
use net = NET
use A   : real[8, 2]
level learn {
    w : params(net)
    minimize sqnorm(net[w](A))
    by adam(lr = 1e-3) for 20 steps
}
"""


@model(input=("first",), output=("second",), noisy="drop")
def named(first: int, *, second: int, drop: float = 0.0) -> nn.Module:
    """Takes its second argument by name only."""
    return nn.Sequential(nn.Linear(first, second), nn.Dropout(drop))


def type_of(net: str) -> Model:
    found = check_text(RECIPE.replace("NET", net), "fit.bl", [collect([named]).manifest]).uses[0].type
    assert isinstance(found, Model)
    return found


def refused(net: str) -> str:
    with pytest.raises(RecipeError) as caught:
        type_of(net)
    assert [d.code for d in caught.value.diagnostics] == ["B309"]
    return caught.value.diagnostics[0].message


def test_an_argument_after_a_variadic_one() -> None:
    found = type_of("mlp(2, 7, 5, dropout = 0.1)")
    assert (found.input, found.output, found.noisy) == ((2,), (5,), True)


@pytest.mark.parametrize(
    ("net", "noisy"), [("mlp(2, 5)", False), ("mlp(2, 5, dropout = 0)", False), ("mlp(2, 5, dropout = p)", True)]
)
def test_a_network_is_noisy_where_its_argument_is_not_zero(net: str, noisy: bool) -> None:
    assert type_of(net).noisy is noisy


def test_arguments_by_name_only() -> None:
    assert type_of("named(2, second = 3)").output == (3,)
    assert type_of("named(2, second = 3, drop = 0.5)").noisy
    assert refused("named(2, 3, second = 4)") == "`named` takes at most 1 argument without a name"
    assert refused("named(2)") == "`named` needs `second`"
    assert refused("mlp(2, 5, drop = 0.1)") == "`mlp` has no argument `drop`"


def test_a_manifest_keeps_both() -> None:
    module = ModuleType("own")
    module.named = named  # type: ignore[attr-defined]
    assert '"noisy": "drop"' in write_manifest(module, "own")
    description = getattr(named, MARK).description
    assert [p.keyword for p in description.parameters] == [False, True, True]
    assert type(description).from_json(description.to_json()) == description
    entry = read_manifest(zoo.MANIFEST).entries["mlp"]
    assert [(p.variadic, p.keyword) for p in entry.parameters] == [(True, False), *[(False, True)] * 3]
