"""Modes that take a derivative which does not exist are refused with the operator's name, and the others are right."""

from __future__ import annotations

import re

import pytest
import torch

import bilevel
from bilevel import pipeline
from bilevel.binding import bind
from bilevel.derivatives import found_derivatives
from bilevel.errors import RecipeError
from bilevel.facts import derive_facts
from bilevel.plan import Choice, Plan
from bilevel.recipe import Recipe
from tests.modes import lacking
from tests.zoo.compiled import REGISTRY

TEXT = """recipe curved
use bend = BEND
level outer {
  theta : real[3] from 0.3
  level inner {
    w : real[3] from theta
    minimize 0.1 * sqnorm(w - 0.5) + dot(bend(w), theta)
    by sgd(lr = 0.2) DURATION
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}
"""
NET = """recipe layered
use net = layered("KIND")
use tasks = sine(shots = 3, queries = 3)
level meta {
  theta : params(net)
  each task ~ tasks.train[2]
  level adapt {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y))
    by sgd(lr = 0.01) for 3 steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by adam(lr = 1e-3) for 2 steps
}
"""


def recipe(bend: str, mode: str = "", duration: str = "for 3 steps") -> Recipe:
    text = TEXT.replace("BEND", bend).replace("DURATION", duration)
    return bilevel.parse(text + (f"schedule {{ inner : {mode} }}\n" if mode else ""), "curved.bl")


def compiled(bend: str, mode: str = "", duration: str = "for 3 steps") -> bilevel.Program:
    return bilevel.compile(recipe(bend, mode, duration), registry=[lacking], dtype=torch.float64, limit="memory=1GB")


def gradient(program: bilevel.Program) -> torch.Tensor:
    return program.hypergradient()["theta"]  # type: ignore[no-any-return]


def verdicts(choice: Choice) -> dict[str, tuple[bool, tuple[str, ...]]]:
    return {c.title: (c.verdict.ok, c.reasons) for c in choice.candidates}


def refusal(bend: str, mode: str = "", duration: str = "for 3 steps") -> bilevel.Diagnostic:
    with pytest.raises(RecipeError) as caught:
        compiled(bend, mode, duration)
    (found,) = caught.value.diagnostics
    return found


def test_without_a_forward_derivative_rmd_goes_by_reverse_and_is_right() -> None:
    program = compiled("no_forward", "rmd")
    (choice,) = program.plan.choices.values()
    assert choice.adjoint is not None and choice.adjoint.product == "reverse"  # type: ignore[union-attr]
    assert verdicts(choice)["fmd"] == (False, ("smooth",))
    assert torch.allclose(gradient(program), gradient(compiled("whole", "fmd")), rtol=1e-12)
    assert re.search(
        r"`NoForward` \(lacking.py:\d+\) has no forward derivative, and is in `bend\(w\)`", str(program.plan)
    )


def test_every_mode_that_is_left_agrees() -> None:
    expected = gradient(compiled("whole", "rmd"))
    for mode in ("rmd(store = residuals)", "rmd(checkpoint = sqrt)", "rmd(checkpoint = binomial)"):
        assert torch.allclose(gradient(compiled("no_forward", mode)), expected, rtol=1e-12)


def test_ift_multiplies_by_vjps_where_there_is_no_jvp() -> None:
    until = "until stationary(1e-10) within 500 steps"
    program = compiled("no_forward", duration=until)
    (choice,) = program.plan.choices.values()
    assert choice.mode.startswith("ift") and not choice.adjoint.symmetric  # type: ignore[union-attr]
    for bend in ("whole", "no_forward"):
        for method in ("cg", "gmres", "exact", "neumann(tol = 1e-10, terms = 500)", "cg(tol = 1e-12)"):
            found = gradient(compiled(bend, f"ift(linear = {method})", until))
            assert torch.allclose(found, gradient(compiled("whole", "ift(linear = exact)", until)), rtol=1e-5)


@pytest.mark.parametrize("mode", ["fmd"])
def test_fmd_without_a_forward_derivative_is_b513(mode: str) -> None:
    found = refusal("no_forward", mode)
    assert found.code == "B513" and "`NoForward` (lacking.py:" in found.message
    assert "it has no `jvp`" in found.why
    assert [r.span.text for r in found.related] == ["bend(w)"]


@pytest.mark.parametrize(
    "mode", ["", "rmd", "rmd(store = residuals)", "rmd(window = 2)", "fmd", "leap(teacher = 1, gamma = 0.5)"]
)
def test_a_second_derivative_that_does_not_exist_is_b513(mode: str) -> None:
    """torch.func takes it for zero without a word: the hypergradient would be wrong."""
    found = refusal("once", mode)
    assert found.code == "B513" and "`Once` (lacking.py:" in found.message and "no second derivative" in found.message
    assert "once_differentiable" in found.why


def test_ift_takes_second_derivatives() -> None:
    assert refusal("once", "ift", "until stationary(1e-6) within 50 steps").code == "B513"
    assert refusal("distances", "ift", "until stationary(1e-6) within 50 steps").code == "B513"


def test_modes_without_second_derivatives_are_left() -> None:
    for mode in ("rmd(order = 1)", "es(samples = 2)", "leap(gamma = 0.9)"):
        (choice,) = compiled("once", mode).plan.choices.values()
        assert choice.mode.startswith(mode[:3])
    (choice,) = bilevel.compile(recipe("once"), registry=[lacking], allow="biased").plan.choices.values()
    assert choice.mode == "rmd(order = 1)"


@pytest.mark.parametrize(
    ("bend", "operator"),
    [("distances", "_cdist_backward"), ("attending", "_scaled_dot_product_flash_attention_for_cpu_backward")],
)
def test_torch_says_which_of_its_own_operators_lack_one(bend: str, operator: str) -> None:
    found = refusal(bend, "rmd")
    assert found.code == "B513" and f"`{operator}` has no second derivative" in found.message
    assert "has no" in refusal(bend, "fmd").message


def test_what_is_registered_as_smooth_and_is_flat_is_b616() -> None:
    found = refusal("rounded")
    assert found.code == "B616" and "`rounded` (lacking.py:" in found.message and "has no derivative" in found.message
    assert found.span is not None and found.span.text == "bend(w)"


def test_under_grad_a_second_derivative_is_asked_for() -> None:
    text = (
        "recipe steepest\nuse bend = once\nlet f(w) = sum(bend(w))\n"
        "level fit {\n  w : real[3] from 0.2\n  minimize sqnorm(grad(f)(w))\n  by sgd(lr = 0.1) for 2 steps\n}\n"
    )
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(bilevel.parse(text, "steepest.bl"), registry=[lacking])
    assert [d.code for d in caught.value.diagnostics] == ["B616"]


@pytest.mark.parametrize(("kind", "words"), [("old", "has no derivative"), ("no_copies", "for all copies at once")])
def test_networks_that_no_level_can_use_are_b616(kind: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(bilevel.parse(NET.replace("KIND", kind), "layered.bl"), registry=[lacking])
    assert {d.code for d in caught.value.diagnostics} == {"B616"}
    assert all(words in d.message for d in caught.value.diagnostics)
    places = {d.span.text for d in caught.value.diagnostics if d.span is not None}
    assert places == {"net[w](task.support.x)", "net[w](task.query.x)"}


@pytest.mark.parametrize("kind", ["whole", "no_forward"])
def test_networks_are_walked_under_vmap(kind: str) -> None:
    program = bilevel.compile(bilevel.parse(NET.replace("KIND", kind), "layered.bl"), registry=[lacking])
    (choice,) = program.plan.choices.values()
    assert verdicts(choice)["fmd"][0] == (kind == "whole")
    assert program.gradcheck(directions=1).ok


def test_a_given_network_is_walked_too() -> None:
    text = NET.replace('= layered("KIND")', ": model")
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(bilevel.parse(text, "layered.bl"), net=lacking.Layer(lacking.Once))
    assert caught.value.diagnostics[0].code == "B513"


def test_a_plan_that_is_taken_again_has_the_same_products() -> None:
    first = compiled("no_forward")
    again = bilevel.compile(recipe("no_forward"), registry=[lacking], decided=first.plan.decided, dtype=torch.float64)
    assert again.source == first.source


@pytest.mark.parametrize("name", ["maml_sine_quick", "hpo_quick"])
def test_packaged_parts_lack_nothing(name: str) -> None:
    """What `found_derivatives` takes for granted, and what it finds for people to read."""
    plan = pipeline.plan(bilevel.load(name).program)
    parts = bind(plan.program, REGISTRY, {}, torch.device("cpu"), torch.float32)
    assert found_derivatives(plan, parts) == {}
    known = found_derivatives(plan, parts, every=True)
    assert known["net"].lacks == () and known["net"].kinks == ("relu",)


# ---- flat, and piecewise linear ------------------------------------------------------------------------------


def planned(objective: str, duration: str = "for 3 steps", mode: str = "", outer: str = "") -> Plan:
    text = TEXT.replace("use bend = BEND\n", "").replace("0.1 * sqnorm(w - 0.5) + dot(bend(w), theta)", objective)
    text = (
        text.replace("from theta", "from 0.1")
        .replace("DURATION", duration)
        .replace("sqnorm(w - 1)", f"sqnorm(w - 1){outer}")
    )
    return pipeline.plan(pipeline.check_text(text + (f"schedule {{ inner : {mode} }}\n" if mode else ""), "curved.bl"))


@pytest.mark.parametrize("mode", ["", "rmd", "fmd", "ift"])
def test_what_enters_by_flat_parts_alone_is_b415(mode: str) -> None:
    duration = "until stationary(1e-6) within 9 steps" if mode == "ift" else "for 3 steps"
    with pytest.raises(RecipeError) as caught:
        planned("sqnorm(w - sign(theta))", duration, mode)
    (found,) = caught.value.diagnostics
    assert found.code == "B415" and "`theta`" in found.message
    assert [r.span.text for r in found.related][-1:] == ["sign(theta)"]


def test_es_sees_the_jumps() -> None:
    (choice,) = planned("sqnorm(w - sign(theta))", mode="es(samples = 4)").choices.values()
    assert choice.mode.startswith("es")
    assert verdicts(choice)["rmd"] == (False, ("smooth",)) and verdicts(choice)["fmd"] == (False, ("smooth",))


def test_a_derivative_on_another_way_is_enough() -> None:
    planned("sqnorm(w - sign(theta))", outer=" + sqnorm(theta)")
    planned("sqnorm(w - sign(theta) - 0.1 * theta)")


def test_flat_parts_are_looked_for_inside_lets() -> None:
    text = "let jump(v) = sign(v)\nlet far(a, b) = sqnorm(a - b)\n"
    base = TEXT.replace("use bend = BEND\n", text).replace("from theta", "from 0.1").replace("DURATION", "for 3 steps")
    flat = base.replace("0.1 * sqnorm(w - 0.5) + dot(bend(w), theta)", "far(w, jump(theta))")
    facts = derive_facts(pipeline.check_text(flat, "curved.bl"))
    assert facts["inner"].flat == ("theta",)
    bent = flat.replace("far(w, jump(theta))", "far(w, theta)")
    assert derive_facts(pipeline.check_text(bent, "curved.bl"))["inner"].flat == ()


@pytest.mark.parametrize("objective", ["norm1(w - theta)", "sum(relu(w * theta)) + sum(w)", "max(w) * sum(theta)"])
def test_ift_needs_a_second_derivative_that_is_not_zero(objective: str) -> None:
    with pytest.raises(RecipeError) as caught:
        planned(objective, "until stationary(1e-6) within 9 steps")
    (found,) = caught.value.diagnostics
    assert found.code == "B513" and "piecewise linear in `w`" in found.message
    (choice,) = planned(objective, "until stationary(1e-6) within 9 steps", "rmd").choices.values()
    assert verdicts(choice)["ift"] == (False, ("smooth",))


def test_one_curved_term_is_enough_for_ift() -> None:
    (choice,) = planned("norm1(w - theta) + sqnorm(w)", "until stationary(1e-6) within 9 steps").choices.values()
    assert choice.mode == "ift"
