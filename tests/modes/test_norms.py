"""Layers that normalise: torch's derivatives beyond the first are wrong in some nestings, and none of ours may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn import functional

from bilevel.backends.torch_func.norms import derivatives_apart, function_with_norms, written_norms
from bilevel.recipes.networks import BatchStatistics
from tests.backends.agreement import compared
from tests.kernels.tools import with_kernels
from tests.modes.tools import error, gradients, scheduled
from tests.zoo.compiled import compile_text, hypergradient

# torch itself scripts its first jvp
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")

THREE = """recipe normalised
use net : model
use X : real[6, 4, 2, 2]
use Y : real[6, 2]
level top {
  lam : real from LAM
  level mid {
    w : params(net)
    each s ~ normal(0, 1)[3]
    level fit {
      phi : params(net) from w
      minimize mean(mse(net[phi](s * X + cos(X)), Y)) + lam * sqnorm(phi)
      by sgd(lr = 0.2) for 3 steps
    }
    minimize mean[s] mean(mse(net[phi](X - s * cos(X)), Y)) + 0.1 * sqnorm(w)
    by sgd(lr = 0.2) for 3 steps
  }
  minimize mean(mse(net[w](X), Y))
  by sgd(lr = 0.1) for 2 steps
}
"""
TWO = """recipe normalised
use net : model
use X : real[6, 4, 2, 2]
use Y : real[6, 2]
level top {
  w : params(net)
  lam : real from LAM
  each s ~ normal(0, 1)[3]
  level fit {
    phi : params(net) from w
    minimize mean(mse(net[phi](s * X + cos(X)), Y)) + lam * sqnorm(phi) + 0.2 * sqnorm(phi - w)
    by sgd(lr = 0.2) for 3 steps
  }
  minimize mean[s] mean(mse(net[phi](X - s * cos(X)), Y))
  by sgd(lr = 0.1) for 2 steps
}
"""


class Last(nn.Module):
    """Layer normalisation over the channels, written out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.bias = nn.Parameter(torch.zeros(4))

    def initialise(self, key: Tensor) -> dict[str, Tensor]:
        return {"weight": torch.ones(*key.shape, 4), "bias": torch.zeros(*key.shape, 4)}

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * self.weight + self.bias


class Instances(Last):
    """Normalisation of every channel of every sample, written out."""

    def forward(self, x: Tensor) -> Tensor:
        x = x - x.mean((-1, -2), keepdim=True)
        x = x * torch.rsqrt(x.square().mean((-1, -2), keepdim=True) + 1e-5)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Groups(Last):
    """Normalisation of two groups of channels, written out."""

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(len(x), 2, -1)
        grouped = grouped - grouped.mean(-1, keepdim=True)
        x = (grouped * torch.rsqrt(grouped.square().mean(-1, keepdim=True) + 1e-5)).reshape(x.shape)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class Normalised(nn.Module):
    """Channels mixed, normalised, bent, pooled by their largest, mixed."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(4, 4, 1), norm, nn.Linear(4, 2)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        by_place = isinstance(self.norm, nn.LayerNorm) or type(self.norm) is Last
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if by_place else self.norm(x)
        return self.last(functional.max_pool2d(torch.tanh(x), 2).flatten(1))  # type: ignore[no-any-return]


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "batch": (lambda: nn.BatchNorm2d(4, track_running_stats=False), lambda: BatchStatistics(4)),
    "instance": (lambda: nn.InstanceNorm2d(4, affine=True), Instances),
    "layer": (lambda: nn.LayerNorm(4), Last),
    "group": (lambda: nn.GroupNorm(2, 4), Groups),
}


def given(norm: nn.Module) -> dict[str, object]:
    x = torch.linspace(-3, 3, 96, dtype=torch.float64).mul(7).sin().reshape(6, 4, 2, 2)
    return {"net": Normalised(norm), "X": x, "Y": x[:, :2, 0, 0].mul(3).cos()}


def text_of(text: str, lam: float = 0.1, **modes: str) -> str:
    return scheduled(text.replace("LAM", repr(lam)), **modes)


NESTED = {
    "batch": [
        ("rmd", "rmd(store = residuals)"),
        ("fmd", "fmd"),
        ("rmd", "rmd(order = 1)"),
        ("leap(gamma = 0.7, teacher = 1)", "rmd(checkpoint = sqrt)"),
        ("rmd(window = 2)", "leap(gamma = 0.7, teacher = 1)"),
    ],
    "instance": [("rmd", "rmd")],
    "layer": [("fmd", "rmd")],
    "group": [("rmd", "rmd")],
}


def slope(text: str, norm: nn.Module, **modes: str) -> Tensor:
    return gradients(text_of(text, **modes), given(norm))["lam"]


@pytest.mark.parametrize(("name", "mid", "fit"), [(name, *pair) for name, pairs in NESTED.items() for pair in pairs])
def test_two_differentiated_levels_are_as_with_the_formula(name: str, mid: str, fit: str) -> None:
    found, expected = (slope(THREE, make(), mid=mid, fit=fit) for make in PAIRS[name])
    assert error(found, expected) < 1e-8


@pytest.mark.parametrize("name", PAIRS)
def test_two_differentiated_levels_are_those_of_differences(name: str) -> None:
    norm, step = PAIRS[name][0](), 1e-6
    ahead, behind = (
        hypergradient(compile_text(text_of(THREE, 0.1 + move, mid="rmd", fit="rmd"), given(norm)))[0]
        for move in (step, -step)
    )
    expected = torch.tensor((ahead - behind) / (2 * step), dtype=torch.float64)
    assert error(slope(THREE, norm, mid="rmd", fit="rmd"), expected) < 1e-6


@pytest.mark.parametrize("mode", ["rmd", "fmd", "ift(linear = gmres)", "rmd(checkpoint = sqrt)"])
@pytest.mark.parametrize("name", PAIRS)
def test_one_differentiated_level_is_as_with_the_formula(name: str, mode: str) -> None:
    found, expected = (flat(gradients(text_of(TWO, fit=mode), given(make()))) for make in PAIRS[name])
    assert error(found, expected) < 1e-8


def flat(found: dict[str, Any]) -> Tensor:
    return torch.cat([found["lam"][None], *(leaf.flatten() for leaf in found["w"].values())])


def test_the_other_backend_says_the_same() -> None:
    (both,) = compared(compile_text(text_of(THREE, mid="rmd", fit="rmd"), given(nn.LayerNorm(4))))
    assert both.error < 1e-9


def test_kernels_say_the_same() -> None:
    compiled = compile_text(text_of(THREE, mid="rmd", fit="rmd"), given(nn.LayerNorm(4)))
    (phase,), kernels = with_kernels(compiled)
    key = compiled.key()
    gradient = phase.hypergradient(phase.begin(key), key)[0]
    assert any(made.run is not None for made in kernels.made)
    assert error(gradient, slope(THREE, Last(), mid="rmd", fit="rmd")) < 1e-9


# ---- what torch does -----------------------------------------------------------------------------------------

LAYERS = {
    "batch": lambda x, w, b: functional.batch_norm(x, None, None, w, b, training=True),
    "averages": lambda x, w, b: functional.batch_norm(x, x.new_ones(4), x.new_ones(4), w, b),
    "instance": lambda x, w, b: functional.instance_norm(x, weight=w, bias=b),
    "layer": lambda x, w, b: functional.layer_norm(x, (4, 2), w[:, None].expand(4, 2), b[:, None].expand(4, 2)),
    "torch.batch": lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "torch.instance": lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
    "torch.layer": lambda x, w, b: torch.layer_norm(x, (2,), w[:2], b[:2]),
}


def nested(kinds: str, value: Callable[[Tensor], Tensor], along: Tensor) -> Callable[[Tensor], Tensor]:
    """Directional derivatives from the innermost: g reverse, j forward, v over two copies of what is around."""
    for kind in kinds:
        value = wrapped(kind, value, along)
    return value


def wrapped(kind: str, value: Callable[[Tensor], Tensor], along: Tensor) -> Callable[[Tensor], Tensor]:
    if kind == "g":
        return lambda p: (grad(value)(p) * along).sum()
    if kind == "j":
        return lambda p: jvp(value, (p,), (along,))[1]
    return lambda p: vmap(lambda s: value(p * s))(p.new_tensor([1.0, 0.7])).sum()


@pytest.mark.parametrize(
    "kinds", ["g", "vg", "gg", "ggv", "vgg", "gj", "gvg", "gvj", "jg", "jj", "ggg", "gvgg", "gjvg"]
)
@pytest.mark.parametrize("name", LAYERS)
def test_every_nesting_is_that_of_differences(name: str, kinds: str) -> None:
    generator = torch.Generator().manual_seed(3)
    p, along = torch.randn(2, 40, dtype=torch.float64, generator=generator)

    def value(p: Tensor) -> Tensor:
        with written_norms():
            return torch.tanh(LAYERS[name](p[:32].reshape(4, 4, 2), p[32:36], p[36:])).square().sum()

    found, before = nested(kinds, value, along), nested(kinds.rstrip("v")[:-1], value, along)
    inside, step = kinds.endswith("v"), 1e-4
    spread = wrapped("v", found_by_differences(before, along, step), along) if inside else None
    expected = spread(p) if spread else found_by_differences(before, along, step)(p)
    assert error(found(p), expected) < 1e-6


def found_by_differences(value: Callable[[Tensor], Tensor], along: Tensor, h: float) -> Callable[[Tensor], Tensor]:
    """The directional derivative to the fourth order in h."""
    return lambda p: (
        (8 * (value(p + h * along) - value(p - h * along)) - (value(p + 2 * h * along) - value(p - 2 * h * along)))
        / (12 * h)
    )


def test_fused_layers_are_kept_where_they_are_right() -> None:
    seen: list[bool] = []

    def value(x: Tensor) -> Tensor:
        seen.append(derivatives_apart())
        return x.square().sum()

    x = torch.ones(3)
    value(x), grad(value)(x), vmap(grad(lambda x: grad(value)(x).sum()))(x[None]), jvp(grad(value), (x,), (x,))
    assert seen and not any(seen)
    seen.clear()
    grad(lambda x: jvp(value, (x,), (x,))[1])(x)
    grad(lambda x: vmap(grad(value))(x[None]).sum())(x)
    assert seen == [True, True]


def distance(a: Tensor, b: Tensor) -> Tensor:
    """A registered function that normalises."""
    return functional.layer_norm(a - b, (2,)).mul(torch.arange(2)).mean(-1) + (a - b).square().mean(-1)


def test_functions_of_the_callers_are_right_too() -> None:
    made = function_with_norms(distance)
    a, b = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = nested("ggg", lambda p: made(torch.sin(p), b).square().sum(), b)
    twice = nested("gg", lambda p: distance(torch.sin(p), b).square().sum(), b)
    assert error(value(a), found_by_differences(twice, b, 1e-4)(a)) < 1e-6
    assert function_with_norms(3.0) == 3.0


def test_implicit_solutions_do_not_depend_on_a_start_that_is_not_solved_for() -> None:
    assert float(slope(THREE, nn.GroupNorm(2, 4), mid="rmd", fit="ift(linear = gmres)")) == 0.0
