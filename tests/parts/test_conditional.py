"""Conditional normalisation: the identity at its start, bit for bit, in every network; and what it does otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.backends.torch_func.sampling import Network, matching
from bilevel.errors import RecipeError
from bilevel.recipes.conditional import PART, conditional
from bilevel.recipes.images import cnn4, lenet, resnet_small
from bilevel.recipes.networks import conv4, mlp
from bilevel.recipes.planet_parts import planet_mlp

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

Build = Callable[[str], nn.Module]
NETWORKS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "mlp": (lambda cn: mlp(5, 4, 3, 2, cn=cn), (5,)),
    "conv4": (lambda cn: conv4(3, filters=4, size=16, norm="layer", cn=cn), (1, 16, 16)),
    "lenet": (lambda cn: lenet(3, size=12, cn=cn), (1, 12, 12)),
    "cnn4": (lambda cn: cnn4(3, size=16, cn=cn), (1, 16, 16)),
    "resnet_small": (lambda cn: resnet_small(3, width=4, size=8, cn=cn), (1, 8, 8)),
    "planet_mlp": (lambda cn: planet_mlp(8, bodies=2, cn=cn), (10,)),
}


@pytest.fixture(params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[Build, Tensor]:
    build, shape = NETWORKS[request.param]
    return build, normal(make_key(3), 4, *shape, dtype=torch.float32)


def trained(network: nn.Module) -> dict[str, Tensor]:
    """Parameters that no start would have."""
    drawn = initial_parameters(network, make_key(8), torch.float32)
    return {name: 1.3 * value + 0.01 for name, value in drawn.items()}


def cn_names(network: nn.Module) -> set[str]:
    return matching(dict(network.named_parameters()), PART["cn"])


def test_it_can_be_added_to_trained_parameters_without_changing_a_bit(case: tuple[Build, Tensor]) -> None:
    build, x = case
    plain, with_cn = build("none"), build("all")
    weights = trained(plain)
    expected = functional_call(plain, weights, (x,))
    identity = initial_parameters(with_cn, make_key(0), torch.float32)
    identity = {name: value for name, value in identity.items() if name in cn_names(with_cn)}
    assert identity and set(identity) | set(weights) == set(dict(with_cn.named_parameters()))
    assert torch.equal(functional_call(with_cn, weights | identity, (x,)), expected)
    wrapped = conditional(plain)
    identity = {n: v for n, v in initial_parameters(wrapped, make_key(0), torch.float32).items() if n not in weights}
    assert set(identity) == cn_names(wrapped)
    assert torch.equal(functional_call(wrapped, weights | identity, (x,)), expected)


def test_away_from_the_identity_it_changes_predictions(case: tuple[Build, Tensor]) -> None:
    build, x = case
    for network in (build("all"), build("last"), conditional(build("none"))):
        start = initial_parameters(network, make_key(0), torch.float32)
        for name in cn_names(network):
            moved = {n: v + 0.5 * (n == name) for n, v in start.items()}
            change = functional_call(network, moved, (x,)) - functional_call(network, start, (x,))
            assert float(change.abs().max()) > 0, name


def test_last_is_one_layer(case: tuple[Build, Tensor]) -> None:
    build, _ = case
    assert len(cn_names(build("last"))) == 2
    assert len(cn_names(build("all"))) > 2
    assert not cn_names(build("none"))


def test_the_part_is_selected_by_its_name() -> None:
    network = Network(conv4(3, filters=4, size=16, cn="all"), PART, torch.float64, "cpu")
    part, rest = network.select(only="cn"), network.select(without="cn")
    assert set(part) == {f"body.{i}.cn.{name}" for i in range(4) for name in ("gamma", "beta")}
    assert not set(part) & set(rest)
    drawn = network.initial(make_key(3), only="cn")
    assert set(drawn) == set(part)
    assert all(bool((v == (1 if name.endswith("gamma") else 0)).all()) for name, v in drawn.items())


def test_every_sample_may_have_its_own() -> None:
    """Many tailored models at once, as the paper's motivation has it."""
    network = mlp(5, 4, 2, cn="all").double()
    x = normal(make_key(1), 3, 5, dtype=torch.float64)
    start = initial_parameters(network, make_key(0), torch.float64)
    gamma = normal(make_key(2), 3, 4, dtype=torch.float64)
    together = vmap(lambda g, s: functional_call(network, start | {"cn.0.gamma": g}, (s[None],))[0])(gamma, x)
    for i in range(3):
        alone = functional_call(network, start | {"cn.0.gamma": gamma[i]}, (x[i : i + 1],))[0]
        torch.testing.assert_close(together[i], alone)


def test_the_formula() -> None:
    """gamma h + beta after the activation of the hidden layer (papers/000, section 4)."""
    network = mlp(3, 4, 2, cn="all").double()
    w = {n: normal(fold(make_key(0), n), *p.shape, dtype=torch.float64) for n, p in network.named_parameters()}
    x = normal(make_key(1), 6, 3, dtype=torch.float64)
    hidden = torch.relu(x @ w["hidden.0.weight"].T + w["hidden.0.bias"])
    expected = (w["cn.0.gamma"] * hidden + w["cn.0.beta"]) @ w["output.weight"].T + w["output.bias"]
    torch.testing.assert_close(functional_call(network, w, (x,)), expected)


def test_wrapping_leaves_the_network_alone() -> None:
    network = mlp(3, 4, 2)
    names = list(dict(network.named_parameters()))
    wrapped = conditional(network)
    assert list(dict(network.named_parameters())) == names
    assert not network.hidden[0]._forward_hooks
    assert "hidden.0.cn.gamma" in dict(wrapped.named_parameters())


def test_bad_arguments_are_told() -> None:
    for build in (lambda: mlp(3, 4, 2, cn="first"), lambda: conditional(mlp(3, 2)), lambda: conv4(3, cn="yes")):
        with pytest.raises(RecipeError) as caught:
            build()
        assert caught.value.diagnostics[0].code == "B606"
