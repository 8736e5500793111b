"""Attention in differentiated levels: by the kernel that has second derivatives, and said so in the plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bilevel.backends.torch_func.attention import attends, unfused
from bilevel.backends.torch_func.initial import initial_parameters
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.binding import Parts
from bilevel.explain import plan_text as explained
from tests.zoo.compiled import compile_text, hypergradient

LINE = "net: attention by the math kernel, since fused kernels have no second derivative"


def helped(x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x, x, x)


class Plain(nn.Module):
    """Calls attention itself."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x)
        return functional.scaled_dot_product_attention(q, q, x).mean(1)[:, :2]


class Helped(Plain):
    """Calls attention by a function of its module."""

    def forward(self, x: Tensor) -> Tensor:
        return helped(self.query(x)).mean(1)[:, :2]


class Layer(nn.Module):
    """torch's own layer, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).mean(1))  # type: ignore[no-any-return]


class Without(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x.flatten(1))  # type: ignore[no-any-return]


TEXT = """recipe attentive
use net : model
use X : real[6, 3, 4]
use Y : real[6, 2]
level tune {
  lam : real from 0.3
  level fit {
    w : params(net)
    minimize mean(mse(net[w](X), Y)) + lam * sqnorm(w)
    by sgd(lr = 0.1) for 3 steps
  }
  minimize mean(mse(net[w](X), Y))
  by sgd(lr = 0.1) for 2 steps
}
schedule { fit : MODE }
"""


def given(network: nn.Module) -> dict[str, object]:
    x = torch.linspace(-1, 1, 72).sin().reshape(6, 3, 4)
    return {"net": network, "X": x, "Y": x[:, 0, :2].cos()}


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(store = residuals)"])
@pytest.mark.parametrize("network", [Plain(), Layer(), Layer().eval()], ids=["plain", "train", "eval"])
def test_the_hypergradient_is_that_of_differences(network: nn.Module, mode: str) -> None:
    compiled = compile_text(TEXT.replace("MODE", mode), given(network))
    key, step = compiled.key(), 1e-6
    state = compiled.phase.begin(key)
    ahead, behind = (compiled.phase.hypergradient(state._replace(x=state.x + s), key)[1] for s in (step, -step))
    _, found = hypergradient(compiled)
    torch.testing.assert_close(found["lam"], (ahead - behind) / (2 * step), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("network", "lines"), [(Plain(), [LINE]), (Layer(), [LINE]), (Without(), [])])
def test_the_plan_says_so(network: nn.Module, lines: list[str]) -> None:
    compiled = compile_text(TEXT.replace("MODE", "rmd"), given(network))
    text = explained(compiled.plan, Parts(compiled.parts, torch.device("cpu"), torch.float64))
    assert [line for line in text.splitlines() if "kernel" in line] == lines
    assert "kernel" not in explained(compiled.plan)


def test_who_attends() -> None:
    assert all(map(attends, (Plain(), Helped(), Layer(), nn.MultiheadAttention(4, 2), nn.Sequential(Plain()))))
    assert not any(map(attends, (Without(), nn.LSTM(3, 4), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))))


def test_settings_are_put_back() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    before = torch.backends.cuda.flash_sdp_enabled()
    with unfused():
        assert not torch.backends.mha.get_fastpath_enabled() and not torch.backends.cuda.flash_sdp_enabled()
    with pytest.raises(ZeroDivisionError), unfused():
        1 / 0  # noqa: B018
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled() == before


# ---- starts --------------------------------------------------------------------------------------------------

STARTED = {
    "same": lambda: nn.MultiheadAttention(16, 2),
    "apart": lambda: nn.MultiheadAttention(16, 2, kdim=8, vdim=4, add_bias_kv=True),
    "layer": lambda: nn.TransformerDecoderLayer(16, 2, 32),
    "transformer": lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
}


@pytest.mark.parametrize("build", STARTED.values(), ids=list(STARTED))
def test_starts_are_spread_as_torchs_own(build: object) -> None:
    assert callable(build)
    torch.manual_seed(0)
    many = [dict(build().named_parameters()) for _ in range(60)]
    drawn = initial_parameters(build(), fold(make_key(1), torch.arange(60)), torch.float32)
    assert set(drawn) == set(many[0])
    for name, values in drawn.items():
        own = torch.stack([p[name].detach() for p in many])
        assert values.shape == own.shape
        noise = 6 / own.numel() ** 0.5  # standard errors of a mean
        assert float(values.mean()) == pytest.approx(float(own.mean()), abs=noise * float(own.std()) + 1e-12), name
        assert float(values.std()) == pytest.approx(float(own.std()), rel=noise, abs=1e-12), name
        assert float(values.abs().max()) <= 1.35 * float(own.abs().max()) + 1e-12, name
