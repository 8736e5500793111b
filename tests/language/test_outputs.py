"""Named outputs of a network, `net.features[w](x)`: checked, run on both backends, differentiated."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import bilevel
from bilevel.errors import RecipeError
from tests.backends.agreement import compared
from tests.language.quotients import quotient_error
from tests.zoo.compiled import compile_text, hypergradient, plan_text

FEATURES = """recipe features
use net = NET
use d   = points(count = 6)
level learn {
    w : params(net)
    level fit {
        z : params(net) from w
        minimize mean(mse(net[z](d.all.x), net.features[w](d.all.x))) + 0.1 * sqnorm(net.features[z](d.all.x))
        by sgd(lr = 0.1) for 3 steps
    }
    minimize mean((net[z](d.all.x))^2) + mean(net.features[z](d.all.x) * net.features[w](d.all.x))
    by sgd(lr = 0.1) for 2 steps
}
"""


@pytest.mark.parametrize("net", ["mlp(3, 5, 5)", "mlp(3, 4, 5, 5)"])
def test_a_named_output_is_differentiated(net: str) -> None:
    compiled = compile_text(FEATURES.replace("NET", net))
    assert quotient_error(compiled) < 1e-6
    assert compared(compiled)[0].error < 1e-12


def test_a_named_output_with_dropout_sees_the_noise_of_its_step() -> None:
    """The quotients hold the key, and with it the noise; another key is another function."""
    text = FEATURES.replace("NET", "mlp(3, 5, 5, dropout = 0.5)")
    compiled = compile_text(text)
    assert quotient_error(compiled) < 1e-6
    assert hypergradient(compiled, 0)[0] != hypergradient(compiled, 1)[0]


def test_features_of_the_networks_are_what_the_last_layer_reads() -> None:
    from bilevel.backends.torch_func.outputs import with_output
    from bilevel.recipes.networks import conv4, mlp

    for net, last, x in ((mlp(3, 7, 2), "output", (4, 3)), (conv4(ways=2, filters=3), "head", (4, 1, 28, 28))):
        samples = torch.randn(*x)
        shifted = {name: p.detach() + 0.1 for name, p in net.named_parameters()}
        features = functional_call(with_output(net, "features"), shifted, (samples,))
        expected = functional_call(net, shifted, (samples,))
        scores = features @ shifted[f"{last}.weight"].T + shifted[f"{last}.bias"]
        assert torch.allclose(scores, expected, atol=1e-6)


class Headed(nn.Module):
    """An output that is a submodule, and one that is not callable."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 2)
        self.head = nn.Linear(2, 1)
        self.width = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))  # type: ignore[no-any-return]


OPEN = """recipe open
use net : model
use x   : real[4, 3]
level learn {
    w : params(net)
    minimize sqnorm(net.body[w](x)) + sqnorm(net[w](x))
    by sgd(lr = 0.1) for 2 steps
}
"""


def test_an_output_of_an_open_network_may_be_a_submodule() -> None:
    net, x = Headed().double(), torch.randn(4, 3, dtype=torch.float64)
    phase = compile_text(OPEN, {"net": net, "x": x}).phase
    key = torch.tensor(0)
    state = phase.begin(key)
    gradient, value = phase.hypergradient(state, key)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in state.x.items()}
    body = x @ parameters["body.weight"].T + parameters["body.bias"]
    scores = torch.tanh(body) @ parameters["head.weight"].T + parameters["head.bias"]
    expected = (body**2).sum() + (scores**2).sum()
    expected.backward()  # type: ignore[no-untyped-call]
    assert abs(value.item() - expected.item()) < 1e-12
    for name, p in parameters.items():
        assert p.grad is not None and torch.allclose(gradient[name], p.grad, atol=1e-12)


def test_an_output_that_the_module_lacks_is_b206() -> None:
    recipe = bilevel.parse(OPEN.replace("net.body", "net.width"), "open.bl")
    with pytest.raises(RecipeError, match=r"B206.*`net` has no output `width`"):
        bilevel.compile(recipe, net=Headed(), x=torch.ones(4, 3))


def test_shapes_of_an_output_are_checked() -> None:
    with pytest.raises(RecipeError, match="B303"):
        plan_text(FEATURES.replace("NET", "mlp(3, 4, 5)"))


def test_an_output_has_no_parameters_of_its_own() -> None:
    with pytest.raises(RecipeError, match=r"B310.*is an output of `net`"):
        plan_text(FEATURES.replace("NET", "mlp(3, 5, 5)").replace("params(net) from", "params(net.features) from"))
