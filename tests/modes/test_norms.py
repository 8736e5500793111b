"""Layers that normalise: torch's derivatives beyond the first are wrong in some nestings, and none of ours may be."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vmap
from torch.nn import functional

import bilevel
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.norms import (
    derivatives_apart,
    function_with_norms,
    normalises_natively,
    written_norms,
)
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
NATIVES = {
    "native.batch": lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[0],
    "native.legit": lambda x, w, b: torch._native_batch_norm_legit(x, w, b, True, 0.1, 1e-5)[0],
    "native.layer": lambda x, w, b: torch.native_layer_norm(x, (2,), w[:2], b[:2], 1e-5)[0],
    "native.group": lambda x, w, b: torch.native_group_norm(x, w, b, 4, 4, 2, 2, 1e-5)[0],
    "torch.group": lambda x, w, b: torch.group_norm(x, 2, w, b),
    "torch.rms": lambda x, w, b: torch.rms_norm(x, (2,), w[:2]),
    "aten.layer": lambda x, w, b: torch.ops.aten.layer_norm(x, (2,), w[:2], b[:2]),
    "aten.native": lambda x, w, b: torch.ops.aten.native_layer_norm.default(x, (2,), w[:2], b[:2], 1e-5)[0],
}
ALWAYS = {
    "weight": lambda x, w, b: torch._weight_norm(x, w[:, None, None], 0),
    "weight, last": lambda x, w, b: torch._weight_norm(x, w[:2], 2),
    "weight, all": lambda x, w, b: torch._weight_norm(x, w[0], -1),
    "batch mean": lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[1],
    "batch scale": lambda x, w, b: torch.native_batch_norm(x, w, b, None, None, True, 0.1, 1e-5)[2],
    "layer mean": lambda x, w, b: torch.native_layer_norm(x, (2,), None, None, 1e-5)[1],
    "layer scale": lambda x, w, b: torch.native_layer_norm(x, (4, 2), None, None, 1e-5)[2],
}
"""what torch has wrong derivatives of without any nesting"""


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
    check_nesting(name, kinds)


@pytest.mark.parametrize("kinds", ["g", "gg", "gj", "gvg", "jg", "ggg"])
@pytest.mark.parametrize("name", [*NATIVES, *ALWAYS])
def test_nestings_of_what_is_called_directly_are_those_of_differences(name: str, kinds: str) -> None:
    check_nesting(name, kinds)


def check_nesting(name: str, kinds: str) -> None:
    generator = torch.Generator().manual_seed(3)
    p, along = torch.randn(2, 40, dtype=torch.float64, generator=generator)

    def value(p: Tensor) -> Tensor:
        with written_norms(name in ALWAYS):
            return (
                torch.tanh((LAYERS | NATIVES | ALWAYS)[name](p[:32].reshape(4, 4, 2), p[32:36], p[36:])).square().sum()
            )

    found, before = nested(kinds, value, along), nested(kinds.rstrip("v")[:-1], value, along)
    inside, step = kinds.endswith("v"), 1e-4
    spread = wrapped("v", found_by_differences(before, along, step), along) if inside else None
    expected = spread(p) if spread else found_by_differences(before, along, step)(p)
    assert error(found(p), expected) < 1e-6


@pytest.mark.parametrize("name", [*LAYERS, *NATIVES, *ALWAYS])
def test_formulas_have_the_values_of_torch(name: str) -> None:
    p = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given = p[:32].reshape(4, 4, 2), p[32:36], p[36:]
    with written_norms(always=True):
        found = (LAYERS | NATIVES | ALWAYS)[name](*given)
    assert error(found, (LAYERS | NATIVES | ALWAYS)[name](*given)) < 1e-12


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


# ---- what is wrong without any nesting -----------------------------------------------------------------------


class Directions(nn.Linear):
    """A linear layer whose weight is a direction times a length, as torch's own function has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.length = nn.Parameter(torch.ones(outputs, 1))

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, torch._weight_norm(self.weight, self.length, 0), self.bias)


def weighed(kind: str) -> nn.Module:
    """A network with a normed weight: by torch's parametrization, by its older hook, by a call in code of its own."""
    if kind == "call":
        first: nn.Module = Directions(16, 3)
    elif kind == "hook":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            first = nn.utils.weight_norm(nn.Linear(16, 3))
    else:
        first = nn.utils.parametrizations.weight_norm(nn.Linear(16, 3))
    net = nn.Sequential(nn.Flatten(), first, nn.Tanh(), nn.Linear(3, 2))
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        parameter.data += 0.5 * torch.randn(parameter.shape, generator=generator)
    return net


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("parametrization", "rmd"), ("parametrization", "rmd(store = residuals)"), ("hook", "rmd"), ("call", "fmd")],
)
def test_normed_weights_are_those_of_differences_in_one_level(kind: str, mode: str) -> None:
    net = weighed(kind)
    text = TWO.replace("w : params(net)\n", "w : params(net) from normal(0, 0.5)\n")
    parts = given(nn.Identity()) | {"net": net}
    step = 1e-5
    ahead, behind = (
        hypergradient(compile_text(text_of(text, 0.1 + move, fit=mode), parts))[0] for move in (step, -step)
    )
    expected = torch.tensor((ahead - behind) / (2 * step), dtype=torch.float64)
    assert error(gradients(text_of(text, fit=mode), parts)["lam"], expected) < 1e-7


def test_what_calls_for_formulas_everywhere() -> None:
    assert all(normalises_natively(weighed(kind)) for kind in ("parametrization", "hook", "call"))
    assert not any(normalises_natively(Normalised(make())) for pair in PAIRS.values() for make in pair)
    assert normalises_natively(centred) and not normalises_natively(distance)


def centred(x: Tensor) -> Tensor:
    """A registered function that reads the mean that a kernel gives besides."""
    return (x - torch.native_layer_norm(x, (2,), None, None, 1e-5)[1]).square().mean(-1)


def test_functions_that_read_it_are_right() -> None:
    made, x = function_with_norms(centred), torch.randn(3, 2, dtype=torch.float64)
    assert error(grad(lambda x: made(x).sum())(x), x - x.mean(-1, keepdim=True)) < 1e-12


@bilevel.solver()
def layered(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step along the gradient, normalised."""
    return x - lr * functional.layer_norm(gradient, (3,)), state


STEPS = """recipe layered_steps
level top {
  lam : real from LAM
  level mid {
    a : real[3] from [0.3, -0.2, 0.5] * lam
    level fit {
      w : real[3] from a
      minimize sum(w^4) + sqnorm(w - a) + lam * sum(w^2)
      by layered(lr = 0.1) for 3 steps
    }
    minimize sqnorm(w - 1) + sqnorm(a)
    by sgd(lr = 0.05) for 3 steps
  }
  minimize sum(a^3)
  by sgd(lr = 0.1) for 1 step
}
schedule { mid : MID  fit : rmd }
"""


@pytest.mark.parametrize("mid", ["rmd", "fmd"])
def test_solvers_that_normalise_are_those_of_differences(mid: str) -> None:
    def value(lam: float) -> tuple[float, Tensor]:
        text = STEPS.replace("LAM", repr(lam)).replace("MID", mid)
        program = bilevel.compile(bilevel.parse(text), registry=[layered], dtype=torch.float64)
        (phase,), key = program.phases, make_key(0)
        gradient, found = phase.hypergradient(phase.begin(key), key)
        return float(found), gradient

    step = 1e-5
    expected = (value(1.1 + step)[0] - value(1.1 - step)[0]) / (2 * step)
    assert error(value(1.1)[1], torch.tensor(expected, dtype=torch.float64)) < 1e-6


def test_implicit_solutions_do_not_depend_on_a_start_that_is_not_solved_for() -> None:
    assert float(slope(THREE, nn.GroupNorm(2, 4), mid="rmd", fit="ift(linear = gmres)")) == 0.0
