"""Messages that need built networks: parameters given once each (B304), starts of the right shapes (B305)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bilevel import registry
from bilevel.binding import Parts, bind
from bilevel.dsl.datatypes import Part, Tree
from bilevel.errors import RecipeError
from bilevel.pipeline import check_text
from bilevel.recipes import zoo
from bilevel.trees import check_trees, selected


class Modulated(nn.Module):
    """Three layers, each followed by scale and shift (part cn)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
        self.cn = nn.ModuleList(nn.LayerNorm(2) for _ in range(3))


@registry.model(parts={"cn": "cn.*"}, input=(2,), output=(2,))
def modulated() -> nn.Module:
    """A network with a part."""
    return Modulated()


OWN = registry.collect([zoo, modulated])

TAILORING = """recipe tailoring
use net = modulated()
use A   : real[8, 2]
let f(w, x) = net[w](x)
level learn {
    w : params(net, except = "cn")
    level tailor {
        z : params(net, only = "cn")
        minimize mean(mse(INNER, A))
        by sgd(lr = 1e-3) for 3 steps
    }
    minimize mean(mse(net[w, z](A), A)) + 0 * sqnorm(w)
    by adam(lr = 1e-3) for 20 steps
}
"""

START = """recipe start
use net = mlp(1, 40, 1)
use opt = mlp(2, 40, 40, 1)
use A   : real[8, 1]
level learn {
    psi : params(opt)
    level fit {
        phi : params(net) from START
        minimize mean(mse(net[phi](A), A))
        by sgd(lr = 0.1) for 3 steps
    }
    minimize mean(mse(net[phi](A), A)) + sqnorm(psi)
    by adam(lr = 1e-3) for 20 steps
}
"""


def built(text: str, shape: tuple[int, ...]) -> Callable[[], None]:
    """The check of a recipe whose part A is given."""
    program = check_text(text, "net.bl", [registry.collect([modulated]).manifest])
    parts = bind(program, OWN, {"A": torch.ones(shape)}, torch.device("cpu"), torch.float32)
    return lambda: check_trees(program, parts)


def message(text: str, shape: tuple[int, ...]) -> str:
    with pytest.raises(RecipeError) as caught:
        built(text, shape)()
    return str(caught.value)


def test_every_parameter_given_once_is_right() -> None:
    built(TAILORING.replace("INNER", "net[w, z](A)"), (8, 2))()
    built(TAILORING.replace("INNER", "f([w, z], A)"), (8, 2))()


def test_missing_parameters_are_b304() -> None:
    assert message(TAILORING.replace("INNER", "net[z](A)"), (8, 2)) == (
        """error[B304]: `net` is missing 6 of its 12 parameter tensors
  --> net.bl:9:27
   |
 6 |     w : params(net, except = "cn")
   |     ------------------------------ the rest is here
...
 9 |         minimize mean(mse(net[z](A), A))
   |                           ^^^^^^ gives only the part "cn"
   |
   = why: every parameter must be given once, by exactly one of the names in [ ]
   = fix: net[w, z](A)"""
    )


def test_parameters_missing_in_a_let_show_the_call() -> None:
    found = message(TAILORING.replace("INNER", "f(z, A)"), (8, 2))
    assert "net.bl:4:15" in found
    assert "`f` is called here" in found


def test_parameters_given_twice_are_b304() -> None:
    found = message(TAILORING.replace("INNER", "net[w, z, z](A)"), (8, 2))
    assert found.startswith("error[B304]: `net` is given 6 of its 12 parameter tensors twice")


def test_a_start_with_other_parameters_is_b305() -> None:
    assert message(START.replace("START", "psi"), (8, 1)) == (
        """error[B305]: `phi` cannot start from `psi`: different parameters
  --> net.bl:8:32
   |
 8 |         phi : params(net) from psi
   |               ----------- params(net): 4 tensors, 121 numbers
   |                                ^^^ params(opt): 6 tensors, 1,801 numbers
   |
   = why: a start value needs the same names and shapes as the variable
   = fix: from init(net)"""
    )


def test_a_start_of_another_network_is_b305() -> None:
    assert "params(opt)" in message(START.replace("START", "init(opt)"), (8, 1))
    built(START.replace("START", "init(net)"), (8, 1))()


def test_selected_parameters_are_those_of_the_part() -> None:
    parts = Parts({"net": Modulated()}, torch.device("cpu"), torch.float32, {"net": {"cn": "cn.*"}})
    every = selected(Tree("net"), parts)
    assert len(every) == 12
    assert set(selected(Tree("net", Part(only="cn")), parts)) == {n for n in every if n.startswith("cn.")}
    assert set(selected(Tree("net", Part(except_="cn")), parts)) == {n for n in every if not n.startswith("cn.")}
    assert set(selected(Tree("net", Part(only="layers.0.*")), parts)) == {"layers.0.weight", "layers.0.bias"}
    assert selected(Tree("other"), parts) == {}
