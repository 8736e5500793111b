"""`init(net)` and `identity(net)` after `from`: the part that the variable has, one for each copy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.neutral import identity_parameters
from bilevel.backends.torch_func.sampling import Network
from bilevel.errors import RecipeError
from bilevel.recipes.networks import conv4
from tests.language.quotients import quotient_error
from tests.zoo.compiled import compile_text, hypergradient


class Scaled(nn.Module):
    """A linear layer, and a part that scales, shifts and turns what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.turn = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.turn(self.norm(torch.tanh(self.body(x))))  # type: ignore[no-any-return]


def network(module: nn.Module) -> Network:
    return Network(module, {}, torch.float64, "cpu")


def test_a_part_starts_where_it_changes_nothing() -> None:
    module = Scaled()
    found = identity_parameters(network(module), without="body.*")
    assert set(found) == {"norm.weight", "norm.bias", "turn.weight", "turn.bias"}
    x = torch.randn(5, 3, dtype=torch.float64)
    hidden = nn.functional.layer_norm(torch.tanh(module.body(x)), (2,))
    own = {name: p.detach() for name, p in module.named_parameters()}
    assert torch.equal(torch.func.functional_call(module, {**own, **found}, (x,)), hidden)


def test_a_layer_of_the_zoo_says_its_own() -> None:
    found = identity_parameters(network(conv4(2, filters=2, norm="batch_stats")), only="*.norm.*")
    assert {name.rpartition(".")[2]: set(p.tolist()) for name, p in found.items()} == {"weight": {1.0}, "bias": {0.0}}


def test_what_nobody_knows_is_b605() -> None:
    with pytest.raises(RecipeError, match=r"B605.*`body.weight`"):
        identity_parameters(network(Scaled()), only="body.*")


TAILORED = """recipe tailored
use net : model
use d = points(count = 4)
level learn {
    w : params(net, only = "body.*")
    each s ~ d.all[3]
    level tailor {
        z : params(net, except = "body.*") from START
        minimize sqnorm(net[w, z](s.x)) + s.y * sqnorm(z)
        by sgd(lr = 0.05) for 2 steps
    }
    minimize mean[s] mse(net[w, z](s.x), [0.3, 0.7])
    by sgd(lr = 0.1) for 2 steps
}
"""


@pytest.mark.parametrize("start", ["identity(net)", "init(net)"])
def test_a_start_in_every_copy_is_differentiated_past(start: str) -> None:
    compiled = compile_text(TAILORED.replace("START", start), {"net": Scaled().double()})
    assert quotient_error(compiled) < 1e-6


def test_without_a_step_the_part_changes_nothing() -> None:
    text = TAILORED.replace("START", "identity(net)").replace("for 2 steps\n    }", "for 0 steps\n    }")
    module = Scaled().double()
    compiled = compile_text(text, {"net": module})
    state = compiled.phase.begin(compiled.key())
    value, _ = hypergradient(compiled)
    from tests.zoo.problem import points

    x = torch.tensor(points(4)[0])
    hidden = torch.tanh(x @ state.x["body.weight"].T + state.x["body.bias"])
    errors = ((nn.functional.layer_norm(hidden, (2,)) - torch.tensor([0.3, 0.7])) ** 2).mean(-1)
    triples = [errors[[i for i in range(4) if i != out]].mean().item() for out in range(4)]
    assert min(abs(value - one) for one in triples) < 1e-6
