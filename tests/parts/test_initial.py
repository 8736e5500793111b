"""Fresh parameters: torch's own distributions, and a pure function of key and name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key, uniform
from bilevel.errors import RecipeError
from bilevel.recipes.networks import conv4, mlp

LAYERS = {
    "linear": lambda: nn.Linear(30, 40),
    "bilinear": lambda: nn.Bilinear(7, 8, 30),
    "convolution 1": lambda: nn.Conv1d(6, 20, 5),
    "convolution 2": lambda: nn.Conv2d(6, 20, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(6, 20, 3),
    "lstm cell": lambda: nn.LSTMCell(9, 30),
    "gru cell": lambda: nn.GRUCell(9, 30),
    "lstm": lambda: nn.LSTM(9, 30, num_layers=2),
    "embedding": lambda: nn.Embedding(50, 40),
}


@pytest.mark.parametrize("build", LAYERS.values(), ids=list(LAYERS))
def test_draws_are_distributed_as_torchs(build: type[nn.Module]) -> None:
    """Deviation, mean and largest number of each parameter over many draws of both."""
    ours = initial_parameters(build(), fold(make_key(1), torch.arange(200)), torch.float64)
    torch.manual_seed(0)
    theirs = [dict(build().named_parameters()) for _ in range(200)]
    for name, drawn in ours.items():
        expected = torch.stack([parameters[name].detach() for parameters in theirs]).double()
        tolerance = 5 * float(expected.std()) / math.sqrt(expected.numel())
        assert abs(float(drawn.mean())) < tolerance
        assert float(drawn.std()) == pytest.approx(float(expected.std()), abs=3 * tolerance)
        if not isinstance(build(), nn.Embedding):
            assert float(drawn.abs().max()) == pytest.approx(float(expected.abs().max()), rel=0.01)


def test_linear_stays_within_its_bound() -> None:
    drawn = initial_parameters(nn.Linear(16, 500), make_key(0), torch.float64)
    assert float(drawn["weight"].abs().max()) <= 0.25
    assert float(drawn["weight"].abs().max()) > 0.249
    assert float(drawn["bias"].abs().max()) <= 0.25


def test_norms_start_as_the_identity() -> None:
    network = nn.Sequential(nn.LayerNorm(4), nn.GroupNorm(2, 4), conv4(5, filters=2, norm="batch_stats"))
    drawn = initial_parameters(network, fold(make_key(0), torch.arange(3)), torch.float32)
    for name in ("0.weight", "1.weight", "2.body.0.norm.weight"):
        assert torch.equal(drawn[name], torch.ones_like(drawn[name]))
    for name in ("0.bias", "1.bias", "2.body.0.norm.bias"):
        assert torch.equal(drawn[name], torch.zeros_like(drawn[name]))


def test_padding_row_is_zero() -> None:
    drawn = initial_parameters(nn.Embedding(5, 3, padding_idx=2), make_key(0), torch.float32)["weight"]
    assert torch.equal(drawn[2], torch.zeros(3))
    assert float(drawn[[0, 1, 3, 4]].abs().min()) > 0


def test_names_shapes_and_order_are_the_networks() -> None:
    network = conv4(5, filters=3, norm="batch_stats")
    drawn = initial_parameters(network, fold(make_key(0), torch.arange(6).reshape(2, 3)), torch.float64)
    assert list(drawn) == [name for name, _ in network.named_parameters()]
    for name, parameter in network.named_parameters():
        assert drawn[name].shape == (2, 3, *parameter.shape)
        assert drawn[name].dtype == torch.float64


def test_a_batch_of_keys_is_the_single_keys() -> None:
    network, keys = mlp(3, 4, 2), fold(make_key(0), torch.arange(5))
    together = initial_parameters(network, keys, torch.float32)
    for position in range(5):
        for name, value in initial_parameters(network, keys[position], torch.float32).items():
            assert torch.equal(together[name][position], value)


def test_torchs_generator_is_neither_read_nor_moved() -> None:
    network = mlp(3, 4, 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = initial_parameters(network, make_key(0), torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    second = initial_parameters(network, make_key(0), torch.float32)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_layers_of_one_shape_differ() -> None:
    drawn = initial_parameters(mlp(4, 4, 4, 4), make_key(0), torch.float32)
    assert not torch.equal(drawn["hidden.0.weight"], drawn["hidden.1.weight"])


def test_a_shared_parameter_is_drawn_once() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    network[1].weight = network[0].weight
    assert sorted(initial_parameters(network, make_key(0), torch.float32)) == ["0.bias", "0.weight", "1.bias"]


class Scale(nn.Module):
    """A module that no rule knows."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))


class DrawnScale(Scale):
    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        return {"factor": uniform(key, 3, low=2.0, high=3.0)}


class WrongScale(Scale):
    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        return {"factor": uniform(key, 4)}


def test_own_initialise_is_used() -> None:
    network = nn.Sequential(nn.Linear(3, 3), DrawnScale())
    drawn = initial_parameters(network, fold(make_key(0), torch.arange(2)), torch.float64)["1.factor"]
    assert drawn.shape == (2, 3)
    assert drawn.dtype == torch.float64
    assert float(drawn.min()) >= 2.0


@pytest.mark.parametrize(
    ("network", "fragment"),
    [(nn.Sequential(Scale()), "`Scale` has a parameter `factor`"), (WrongScale(), "`initialise` of `WrongScale`")],
)
def test_unknown_modules_are_refused(network: nn.Module, fragment: str) -> None:
    with pytest.raises(RecipeError) as caught:
        initial_parameters(network, make_key(0), torch.float32)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "B605"
    assert fragment in diagnostic.message
    assert "initialise" in diagnostic.fix + diagnostic.message


def test_a_subclass_with_more_parameters_is_refused() -> None:
    class Gated(nn.Linear):
        def __init__(self) -> None:
            super().__init__(3, 3)
            self.gate = nn.Parameter(torch.ones(3))

    with pytest.raises(RecipeError):
        initial_parameters(Gated(), make_key(0), torch.float32)
