"""B604: batch statistics need a batch."""

from __future__ import annotations

import pytest
from torch import nn

import bilevel
from bilevel import registry
from bilevel.errors import RecipeError
from bilevel.recipes.networks import BatchStatistics, conv4
from bilevel.samples import has_batch_statistics
from tests.zoo import sources


@registry.model(input=(3,), output=(2,))
def normed(norm: str) -> nn.Module:
    """A network with a norm."""
    layers = {"batch_stats": BatchStatistics(3), "layer": nn.LayerNorm(3)}
    return nn.Sequential(nn.Linear(3, 3), layers[norm], nn.Linear(3, 2))


TEXT = """recipe tailoring
use net = normed(norm = "batch_stats")
use d = points(count = 8)
let f(w, x) = net[w](x)
level learn {
    w : params(net)
    each s ~ d.all[4]
    level tailor {
        z : params(net) from w
        minimize sqnorm(INNER) + sqnorm(z - w)
        by sgd(lr = 1e-3) for 2 steps
    }
    minimize mean[s] sqnorm(OUTER) + 0 * sum(w)
    by adam(lr = 1e-3) for 2 steps
}
"""
BATCH = "net[z](d.all.x)"


def compiled(inner: str, outer: str, norm: str = "batch_stats") -> bilevel.Program:
    text = TEXT.replace("INNER", inner).replace("OUTER", outer).replace('"batch_stats"', f'"{norm}"')
    return bilevel.compile(bilevel.parse(text, "tailoring.bl"), registry=[sources, normed])


def message(inner: str, outer: str) -> str:
    with pytest.raises(RecipeError) as caught:
        compiled(inner, outer)
    return str(caught.value)


def test_one_copy_per_sample_is_b604() -> None:
    assert message("net[z](s.x)", BATCH) == (
        """error[B604]: batch statistics need a batch: `tailor` has one copy per sample
  --> tailoring.bl:10:25
   |
10 |         minimize sqnorm(net[z](s.x)) + sqnorm(z - w)
   |                         ^^^^^^^^^^^ one sample
   |
   = why: the mean over a batch of one is the sample itself, so nothing of it would be left
   = fix: norm = "layer\""""
    )


def test_an_objective_of_one_sample_is_b604() -> None:
    found = message(BATCH, "f(z, s.x)")
    assert "batch statistics need a batch: `learn` gives the network one sample at a time" in found
    assert "`f` is called here" in found


def test_a_batch_and_a_norm_of_each_sample_are_fine() -> None:
    compiled(BATCH, BATCH)
    compiled("net[z](s.x)", "net[z](s.x)", "layer")


def test_who_has_batch_statistics() -> None:
    assert has_batch_statistics(conv4(3, filters=2, norm="batch_stats"))
    assert has_batch_statistics(nn.BatchNorm1d(3, track_running_stats=False).eval())
    for module in (nn.BatchNorm1d(3).eval(), nn.InstanceNorm1d(3), conv4(3, filters=2, norm="layer"), object()):
        assert not has_batch_statistics(module)
