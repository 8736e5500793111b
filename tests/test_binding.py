"""Messages about parts: left open, not wanted, failing while they are built, with state, with bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import bilevel
from bilevel import registry
from bilevel.binding import bind
from bilevel.dsl.datatypes import real, record, records, stream
from bilevel.errors import RecipeError
from bilevel.pipeline import check_text
from bilevel.recipes import zoo

FIT = """recipe fit
use net = NET
use A   : real[8, 2]
level learn {
    w : params(net)
    minimize mean(mse(net[w](A), A))
    by adam(lr = 1e-3) for 20 steps
}
"""


@registry.model(input=(2,), output=(2,))
def failing(width: int) -> nn.Module:
    """Fails."""
    raise ValueError(f"width {width} is too small")


@registry.model(input=(2,), output=(2,))
def normed() -> nn.Module:
    """Keeps running statistics."""
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2))


def message(net: str, /, **given: Any) -> str:
    own = registry.collect([failing, normed])
    program = check_text(FIT.replace("= NET", net), "fit.bl", [own.manifest])
    known = registry.collect([zoo, failing, normed])
    with pytest.raises(RecipeError) as caught:
        bind(program, known, given, torch.device("cpu"), torch.float32)
    return str(caught.value)


def test_a_part_that_was_not_given_is_b601() -> None:
    assert message(": model", A=torch.ones(8, 2)) == (
        """error[B601]: `net` is left open and was not given
  --> fit.bl:2:1
   |
 2 | use net : model
   | ^^^^^^^^^^^^^^^ to be filled in by the caller
   |
   = fix: bilevel.compile("fit.bl", net = my_module)
          or on the command line:  bilevel run fit.bl --with my_bindings   (which registers "net")"""
    )


def test_a_part_that_the_recipe_does_not_have_is_b601() -> None:
    found = message("= mlp(2, 2)", A=torch.ones(8, 2), network=nn.Linear(2, 2))
    assert found == "error[B601]: `fit` has no part `network`\n   = note: its parts: net, A"


def test_a_constructor_that_fails_is_b608() -> None:
    assert message("= failing(1)", A=torch.ones(8, 2)) == (
        """error[B608]: `failing` raised ValueError while it was built
  --> fit.bl:2:11
   |
 2 | use net = failing(1)
   |           ^^^^^^^^^^
   |
   = why: width 1 is too small
   = fix: call failing(...) in Python with these arguments to see the whole traceback"""
    )


def test_a_module_with_running_statistics_is_b603() -> None:
    assert message("= normed()", A=torch.ones(8, 2)) == (
        """error[B603]: `net` changes itself while it runs
  --> fit.bl:2:11
   |
 2 | use net = normed()
   |           ^^^^^^^^ 2 BatchNorm1d layers update running_mean and running_var in place
   |
   = why: a level must be a function of its inputs; hidden state breaks vmap and makes the
          hypergradient wrong without any message
   = fix: a network with norm = "batch_stats", which uses the statistics of the batch only
          or call .eval() on it before it is given, which freezes the statistics"""
    )


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_power_iteration_in_every_call_is_b603(norm: Callable[[nn.Module], nn.Module]) -> None:
    net = nn.Sequential(norm(nn.Linear(2, 2)))
    assert "spectral_norm makes a step of its power iteration in place" in message(
        ": model", A=torch.ones(8, 2), net=net
    )
    program = check_text(FIT.replace("= NET", ": model"), "fit.bl")
    assert bind(
        program, registry.collect([zoo]), {"net": net.eval(), "A": torch.ones(8, 2)}, torch.device("cpu"), torch.float32
    )


def test_dropout_without_keys_is_b603() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5), nn.Dropout(0.1), nn.Dropout(0.0))
    assert message(": model", A=torch.ones(8, 2), net=module) == (
        """error[B603]: `net` draws noise from torch's own generator
  --> fit.bl:2:1
   |
 2 | use net : model
   | ^^^^^^^^^^^^^^^ 2 Dropout layers in training mode
   |
   = why: a level must be a function of its inputs and its key: a step that is computed again, or
          differentiated, would see another noise, and the hypergradient would be wrong without any message
   = fix: register its constructor with  @bilevel.model(noisy = True)  and name it in the recipe
          or call .eval() on it before it is given, which turns the noise off"""
    )


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.AlphaDropout(0.5), "AlphaDropout"),
        (nn.FeatureAlphaDropout(0.5), "FeatureAlphaDropout"),
        (nn.MultiheadAttention(4, 2, dropout=0.1), "MultiheadAttention"),
        (nn.GRU(2, 2, num_layers=2, dropout=0.1), "GRU"),
    ],
)
def test_noise_that_no_key_reaches_is_b603_even_where_dropout_is_registered(layer: nn.Module, name: str) -> None:
    found = message("= mlp(2, 2, dropout = 0.1)", A=torch.ones(8, 2), net=nn.Sequential(nn.Dropout(0.5), layer))
    assert f"^ 1 {name} layer in training mode" in found
    assert "= fix: nn.Dropout, whose noise can be drawn from a key\n" in found


def test_dropout_is_accepted_where_keys_or_nothing_reach_it() -> None:
    parts = {"A": torch.ones(8, 2)}
    for net, module in [("= mlp(2, 2, dropout = 0.1)", nn.Dropout(0.5)), (": model", nn.Dropout(0.5).eval())]:
        program = check_text(FIT.replace("= NET", net), "fit.bl")
        given = {**parts, "net": nn.Sequential(nn.Linear(2, 2), module)}
        assert (
            bind(program, registry.collect([zoo]), given, torch.device("cpu"), torch.float32).objects.keys()
            == given.keys()
        )


def test_numbers_that_are_not_finite_are_b609() -> None:
    bad = torch.tensor([[1.0, float("nan")]] * 8)
    found = message("= mlp(2, 2)", A=bad)
    assert found.startswith("error[B609]: `A` holds 8 numbers that are not finite\n  --> fit.bl:3:1")


def test_a_part_left_open_is_filled_by_a_registration_of_its_name() -> None:
    @registry.model(input=(2,), output=(1,))
    def net() -> nn.Module:
        """A network under the name of the recipe's open part."""
        return nn.Linear(2, 1)

    text = """recipe open
use net : model
use A : real[4, 2]
level a {
  w : params(net)
  minimize mean(net[w](A))
  by sgd(lr = 0.1) for 1 step
}
"""
    program = check_text(text, "open.bl")
    parts = bind(program, registry.collect([zoo, net]), {"A": torch.ones(4, 2)}, torch.device("cpu"), torch.float32)
    assert isinstance(parts.objects["net"], nn.Linear)


# ---- draws from data whose length is known when it is built --------------------------------------------------

DRAWS = """recipe draws
use d = corrupted(digits(size = 8), symmetric(0.5))
param asked = 355
level fit {
    w : real from 0
    b ~ d.val[359]
    each s ~ d.train[4]
    minimize mean[s] (w - s.y)^2 + mean((w - b.y)^2)
    by sgd(lr = 0.01) for 1 step
    report seen = mean[s] (w - s.y)^2 with s ~ d.test[asked] every 1 steps
}
"""


def test_more_draws_than_a_built_data_set_has_are_b312() -> None:
    text = DRAWS.replace("= 355", "= 356").replace("[359]", "[400]")
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(bilevel.parse(text))
    assert [(d.code, d.span.line if d.span else 0) for d in caught.value.diagnostics] == [("B312", 6), ("B312", 10)]
    assert "`d.val` has 359 samples, and 400 are drawn from it" in str(caught.value)
    assert "`d.test` has 355 samples, and 356 are drawn from it" in str(caught.value)


def test_as_many_draws_as_samples_are_taken() -> None:
    assert bilevel.compile(bilevel.parse(DRAWS)).run(seed=0).reports["seen"]


# ---- draws from what a stream gives --------------------------------------------------------------------------


class Shots(NamedTuple):
    y: Tensor


class Given(NamedTuple):
    support: Shots


@registry.data(yields=records("?", y=real()))
def few(n: int = 2) -> Shots:
    return Shots(torch.ones(n))


@pytest.mark.parametrize(("reads", "line"), [("mean((w - d.y)^2)", 6), ("mean[t] (w - t.y)^2", 5)])
def test_data_without_samples_is_b312(reads: str, line: int) -> None:
    """A mean over nothing is no number, and no copy is solved for it: neither may come up in the run."""
    text = f"""recipe nothing
use d = few(n = 2)
level top {{
    w : real from 0
    {"each t in d" if "[t]" in reads else ""}
    minimize {reads} + w^2
    by sgd(lr = 0.1) for 1 step
}}
"""
    assert bilevel.compile(bilevel.parse(text), registry=[few]).run().losses == [1.0]
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(bilevel.parse(text.replace("= 2", "= 0")), registry=[few])
    assert [(d.code, d.span.line if d.span else 0) for d in caught.value.diagnostics] == [("B312", line)]
    assert "`d` has no samples" in str(caught.value)


class Stream:
    """Tasks with five samples, which their registration does not say."""

    def sample(self, keys: Tensor) -> Given:
        return Given(Shots(torch.ones(*keys.shape, 5, dtype=torch.float64, device=keys.device)))

    def to(self, device: torch.device, dtype: torch.dtype) -> Stream:
        return self


class Tasks(NamedTuple):
    train: Stream


@registry.data(yields=record(train=stream(record(support=records("?", y=real())))))
def open_tasks() -> Tasks:
    return Tasks(Stream())


STREAMED = """recipe streamed
use d = open_tasks()
level meta {
    theta : real from 0
    each task ~ d.train[3]
    level adapt {
        phi : real from theta
        b ~ task.support[5]
        minimize mean((phi - b.y)^2)
        by sgd(lr = 0.1) for 2 steps
    }
    minimize mean[task] mean((phi - task.support.y)^2)
    by sgd(lr = 0.1) for 1 step
}
"""


def test_more_draws_than_a_stream_of_the_callers_gives_are_b312() -> None:
    def compiled(text: str) -> bilevel.Program:
        return bilevel.compile(bilevel.parse(text), registry=[open_tasks], dtype=torch.float64)

    compiled(STREAMED).run(seed=0)
    with pytest.raises(RecipeError) as caught:
        compiled(STREAMED.replace("[5]", "[9]")).run(seed=0)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("B312", "9 samples are drawn from data that has 5")


# ---- streams that are none -----------------------------------------------------------------------------------


class Unplaced:
    """A stream that says nothing of devices."""

    def sample(self, keys: Tensor) -> Given:
        return Given(Shots(torch.ones(*keys.shape, 5, device=keys.device)))


class InPlace(Unplaced):
    """A stream whose `to` gives nothing back."""

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device


class Failing(Unplaced):
    """A stream whose `to` takes a device alone."""

    def to(self, device: torch.device) -> Failing:
        return self


class Numbers(Unplaced):
    """A stream that has to read numbers where it is placed."""

    def to(self, device: torch.device, dtype: torch.dtype) -> Numbers:
        self.first = float(torch.zeros((), device=device, dtype=dtype))
        return self


def compiled_with(given: object) -> bilevel.Program:
    class Source(NamedTuple):
        train: object

    def open_tasks() -> Source:
        return Source(given)

    marked = registry.data(yields=record(train=stream(record(support=records("?", y=real())))))(open_tasks)
    return bilevel.compile(bilevel.parse(STREAMED), registry=[marked])


@pytest.mark.parametrize(
    ("given", "message", "why"),
    [
        (Unplaced(), "the stream `d.train` has no `to(self, device, dtype)`", "items are drawn by `sample` and"),
        (object(), "the stream `d.train` has no `sample(self, keys)`", "items are drawn by `sample` and"),
        (InPlace(), "`d` cannot be placed on the device `cpu`", "its `to` gave nothing, which is no stream"),
        (Failing(), "`d` cannot be placed on the device `cpu`", "TypeError: "),
    ],
)
def test_a_stream_that_is_none_is_b617(given: object, message: str, why: str) -> None:
    with pytest.raises(RecipeError) as caught:
        compiled_with(given)
    (found,) = caught.value.diagnostics
    assert (found.code, found.message) == ("B617", message)
    assert found.span is not None and found.span.text == "open_tasks()"
    assert found.why.startswith(why) and "def to(self, device, dtype)" in found.fix


def test_a_stream_that_needs_numbers_runs_and_its_plan_says_that_nothing_was_counted() -> None:
    program = compiled_with(Numbers())
    assert "not traced" in program.explain()
    assert program.run(seed=0).state["theta"].isfinite()
