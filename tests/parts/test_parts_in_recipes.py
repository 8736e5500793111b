"""Parts as recipes name them: compiled, differentiated in every mode, against finite differences or by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bilevel.backends.torch_func.functions import total
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.backends.torch_func.tree import multiply
from tests.zoo.compiled import compile_text, hypergradient

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

LEARNED = """recipe learned
use ell = taylor_loss(order = 3, factorials = "none", normalise = 1.0)
use net = mlp(2, 3, 3)
use X : real[6, 2]
use Y : real[6, 3]
level search {
  c : params(ell) from normal(0, 0.5)
  level train {
    w : params(net)
    minimize mean(ell[c](softmax(net[w](X)), Y))
    by sgd(lr = 0.5) for 4 steps
  }
  minimize mean(ce(net[w](X), Y))
  by sgd(lr = 0.1) for 2 steps
}
schedule { train : MODE }
"""
ROBUST = """recipe robust
use loss = LOSS
use net = mlp(2, 3, 3)
use X : real[6, 2]
use Y : real[6, 3]
level search {
  s : real[6] from 1
  level train {
    w : params(net)
    minimize mean(s * loss(net[w](X), Y))
    by sgd(lr = 0.5) for 3 steps
  }
  minimize mean(ce(net[w](X), Y))
  by sgd(lr = 0.1) for 2 steps
}
"""
TAILORED = """recipe tailored
use net = mlp(2, 4, 3, cn = "all")
use distance = cosine_distance()
use U : real[2]
level learn {
  w : params(net, except = "cn")
  each s ~ normal(0, 1)[3]
  let x(s) = s * U + 1
  level tailor {
    z : params(net, only = "cn")
    e ~ normal(0, 1)[2]
    minimize distance(net.features[w, z](x(s)), net.features[w, z](x(s) + 0.1 * e)) + 0.1 * sqnorm(net[w, z](x(s)))
    by sgd(lr = 0.3) for 2 steps
  }
  minimize mean[s] sqnorm(net[w, z](x(s)) - s)
  by sgd(lr = 0.1) for 2 steps
}
schedule { tailor : MODE }
"""


def given() -> dict[str, Any]:
    x = normal(make_key(1), 6, 2, dtype=torch.float64)
    return {"X": x, "Y": torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3]}


def moved(tree: Any, along: Any, by: float) -> Any:
    if isinstance(tree, dict):
        return {name: value + by * along[name] for name, value in tree.items()}
    return tree + by * along


def check(text: str, parts: dict[str, Any] | None = None) -> None:
    """The hypergradient along a fixed direction is the difference quotient of the objective."""
    compiled = compile_text(text, given() if parts is None else parts)
    key, step = compiled.key(), 1e-6
    state = compiled.phase.begin(key)
    found = next(iter(hypergradient(compiled)[1].values()))
    leaves = state.x if isinstance(state.x, dict) else {"": state.x}
    drawn = {n: normal(fold(key, n or "x"), *v.shape, dtype=torch.float64) for n, v in leaves.items()}
    along = drawn if isinstance(state.x, dict) else drawn[""]
    ahead, behind = (
        compiled.phase.hypergradient(state._replace(x=moved(state.x, along, by)), key)[1] for by in (step, -step)
    )
    slope = total(multiply(found, along))
    assert float(slope.abs()) > 1e-7
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(store = residuals)"])
def test_a_learned_loss(mode: str) -> None:
    check(LEARNED.replace("MODE", mode))


@pytest.mark.parametrize(
    "loss",
    [
        "gce(q = 0.7)",
        "sce()",
        "mae()",
        "huber()",
        "label_smoothing()",
        "bootstrap()",
        "forward_correction([[0.8, 0.1, 0.1], [0.2, 0.8, 0.0], [0.0, 0.0, 1.0]])",
        "nce_mae()",
        "nfl_mae()",
        "bi_tempered()",
        "baikal()",
        "carlini_wagner(confidence = 5)",
        'arl_loss("AR-A40")',
        "itl_loss()",
    ],
)
def test_a_fixed_loss(loss: str) -> None:
    check(ROBUST.replace("LOSS", loss))


@pytest.mark.parametrize("mode", ["rmd", "rmd(store = residuals)"])
def test_conditional_normalisation_of_every_copy(mode: str) -> None:
    check(TAILORED.replace("MODE", mode), {"U": torch.tensor([0.5, -1.0], dtype=torch.float64)})


@pytest.mark.parametrize("wrapped", ["conditional(base)", "conditional(net = mlp(2, 4, 3))"])
def test_conditional_normalisation_around_a_network(wrapped: str) -> None:
    """The wrapped network has the shapes and outputs of the one inside: samples may be single."""
    text = TAILORED.replace("MODE", "rmd").replace('mlp(2, 4, 3, cn = "all")', wrapped)
    text = text.replace("use net", "use base = mlp(2, 4, 3)\nuse net") if "base" in wrapped else text
    check(text, {"U": torch.tensor([0.5, -1.0], dtype=torch.float64)})


def test_dropout_of_a_wrapped_network_is_noise_of_the_step() -> None:
    text = TAILORED.replace("MODE", "rmd").replace(
        'mlp(2, 4, 3, cn = "all")', "conditional(mlp(2, 4, 3, dropout = 0.5))"
    )
    compiled = compile_text(text, {"U": torch.tensor([0.5, -1.0], dtype=torch.float64)})
    assert "noisy_network(" in compiled.text
    key, other = compiled.key(), compiled.key(1)
    state = compiled.phase.begin(key)
    first, second, third = (compiled.phase.hypergradient(state, k)[1] for k in (key, key, other))
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_a_network_of_two_inputs_takes_both() -> None:
    compiled = compile_text(LEARNED.replace("MODE", "rmd"), given())
    assert "ell(c, [softmax(" in compiled.text.replace("\n", " ")
