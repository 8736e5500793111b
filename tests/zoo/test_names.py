"""Names: whatever a recipe calls its things, the numbers are the same.

The emitted module has words of its own, and makes more from the recipe's (`d_w`, `w_free`, `fit_gradient`). Every
awkward name below is tried in every role of one recipe that has one of each.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping

import pytest
import torch

from bilevel import pipeline
from bilevel.backends.torch_func import inline
from bilevel.backends.torch_func.naming import python_name
from tests.zoo.compiled import compile_text, hypergradient, plan_text, run
from tests.zoo.test_problems import error

RECIPE = """recipe names
use NET = mlp(3, 2, 1)
use DATA = points(count = 3)
param SIZE = 2
let LOSS(ARG, SAMPLE) = sum((NET[ARG](reshape(SAMPLE.x, 1, 3)) - SAMPLE.y)^2) / SIZE
level TOP {
  THETA : params(NET) from 0.3
  RATE : real in positive from 0.2
  each TASK ~ DATA.all[3]
  level FIT {
    PHI : params(NET) from THETA
    SCALE : real in positive from RATE
    BATCH ~ DATA.all[3]
    minimize LOSS(PHI, TASK) * SCALE + (SCALE - mean(BATCH.y))^2 * COUNTER
    by PHI : sgd(lr = RATE / COUNTER, momentum = 0.5), SCALE : adam(lr = RATE) for COUNTER in 1..3 steps
  }
  level AGAIN {
    PSI : params(NET) from PHI
    minimize LOSS(PSI, TASK) + sqnorm(PSI) * SCALE
    by adam(lr = RATE) for 2 steps
  }
  minimize mean[TASK] (LOSS(PSI, TASK) + SCALE^2 + sum[TIME in 0..3] (TIME * sqnorm(PHI@TIME)))
  by sgd(lr = 0.1) for 3 steps
  report REPORT = mean[TASK] LOSS(PSI, TASK) with FIT.steps = 2
}
"""
ROLES = (
    """NET DATA SIZE LOSS ARG SAMPLE TOP THETA RATE TASK FIT PHI SCALE BATCH COUNTER AGAIN PSI TIME REPORT""".split()
)
PLAIN = {role: f"n{i}" for i, role in enumerate(ROLES)}
NAMES = """
x key state lambda solver gradient torch value λ θ phi_at w_free d_phi
keys states count variables moved free pull cotangent curvature level_key begin back ends keep state_ key_ x_
more_x more_θ curvature_x moved_0 solver_0 x_states x_back x_begin d d_ optimizer i2 dropped nonlocal
start draw objective update forward pullback advance move fold grad vmap vjp jvp numbers length network
sgd adam positive add zeros multiply draw_normal optimizer_step sgd_state State Phase Network Tensor Any
None class print len range list tuple vars math device dtype build self seed sqnorm_ total merge functional_call
""".split()


def renamed(names: Mapping[str, str]) -> str:
    """The recipe with other names for its things."""
    text = RECIPE
    for role in ROLES:
        text = text.replace(role, f"<{role}>")
    for role, name in names.items():
        text = text.replace(f"<{role}>", name)
    return text


def numbers(names: Mapping[str, str]) -> list[torch.Tensor]:
    """Objective, hypergradient, report and the rate after two steps."""
    compiled = compile_text(renamed(names))
    value, found = hypergradient(compiled)
    theta, rate = names["THETA"], names["RATE"]
    state = run(compiled.phase, compiled.key(), steps=2)
    _, report = compiled.phase.reports[names["REPORT"]]
    after = compiled.phase.values(state)[rate]
    return [torch.tensor(value), *found[theta].values(), found[rate], report(state, compiled.key()), after]


@pytest.fixture(scope="module")
def plain() -> list[torch.Tensor]:
    return numbers(PLAIN)


QUICK = range(0, len(NAMES), 4)  # every name in four or five roles; `-m slow` tries it in all
SLOW = [pytest.param(i, marks=pytest.mark.slow) for i in range(len(NAMES)) if i not in QUICK]


@pytest.mark.parametrize("first", [*QUICK, *SLOW], ids=lambda first: NAMES[first])
def test_names_change_no_number(first: int, plain: list[torch.Tensor]) -> None:
    names = {role: NAMES[(first + i) % len(NAMES)] for i, role in enumerate(ROLES)}
    for found, expected in zip(numbers(names), plain, strict=True):
        assert error(found.numpy(), expected.numpy()) < 1e-12


UNTIL = "until stationary(1e-6) within 50 steps"
VARIANTS: dict[str, Callable[[str], str]] = {
    "rmd": lambda text: text,
    "order = 1": lambda text: scheduled(text, "rmd(order = 1)"),
    "residuals": lambda text: scheduled(text, "rmd(store = residuals)"),
    "evenly spread": lambda text: scheduled(without_iterates(text), "rmd(checkpoint = sqrt)"),
    "binomial": lambda text: scheduled(without_iterates(text), "rmd(checkpoint = binomial)"),
    "window": lambda text: scheduled(without_iterates(text), "rmd(window = 2)"),
    "fmd": lambda text: scheduled(without_iterates(text), "fmd"),
    "update = each": lambda text: scheduled(
        without_first_level(without_iterates(text)), "rmd(window = 1, update = each)"
    ),
    "leap": lambda text: scheduled(text, "leap(teacher = 1, gamma = 0.9)"),
    "es": lambda text: scheduled(text, "es(samples = 4, sigma = 0.1)"),
    "ift": lambda text: without_iterates(text).replace("for 2 steps", UNTIL),
    "pcgrad": lambda text: without_iterates(text).replace(f"mean[{PLAIN['TASK']}]", f"pcgrad[{PLAIN['TASK']}]"),
}


def without_iterates(text: str) -> str:
    """Most modes keep the solution only."""
    return text.replace(f"{PLAIN['PHI']}@{PLAIN['TIME']}", PLAIN["PHI"])


def without_first_level(text: str) -> str:
    """No level stands beside one whose windows end in outer steps."""
    begin, end = (text.index(f"  level {PLAIN[role]} ") for role in ("FIT", "AGAIN"))
    text = text[:begin] + text[end:]
    for inner, outer in (("PHI", "THETA"), ("SCALE", "RATE"), ("FIT", "AGAIN")):
        text = re.sub(rf"\b{PLAIN[inner]}\b", PLAIN[outer], text)
    return text


def scheduled(text: str, mode: str) -> str:
    return f"{text}schedule {{ {PLAIN['AGAIN']} : {mode} }}"


def given_names(text: str) -> tuple[set[str], set[str]]:
    """Functions of an emitted module, and words that its `build` gives a meaning, `x` for a name of the recipe."""
    (build,) = (n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name == "build")
    functions = {node.name for node in ast.walk(build) if isinstance(node, ast.FunctionDef)}
    found = {node.id for node in ast.walk(build) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    found |= {node.arg for node in ast.walk(build) if isinstance(node, ast.arg)}
    return functions | set(inline.definitions()), {re.sub(r"n[0-9]+", "x", word) for word in found} - {"x"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_words_of_the_emitted_code_are_kept_from_recipes(variant: str) -> None:
    """Every word that an emitted function gives a meaning is the recipe's own, or one that no recipe's name becomes."""
    functions, words = given_names(pipeline.emit(plan_text(VARIANTS[variant](renamed(PLAIN)))))
    # `LEVEL_steps`, what a report replaces, is kept free by the emitter, which knows the levels.
    assert {word for word in words if python_name(word, functions) == word} <= {"x_steps"}


@pytest.mark.parametrize("name", ["v", "fixed", "residual", "active", "product", "slope", "cotangent"])
def test_names_in_a_linear_system(name: str) -> None:
    """The stationary point of 0.5 v w^2 - w is 1 / v."""
    compiled = compile_text(
        f"""recipe system
level top {{
  {name} : real from 0.8
  level fit {{
    w : real from 0
    minimize 0.5 * {name} * w^2 - w
    by sgd(lr = 0.5) until stationary(1e-12) within 500 steps
  }}
  minimize w^2
  by sgd(lr = 0.1) for 2 steps
}}"""
    )
    value, found = hypergradient(compiled)
    assert error(value, 0.8**-2) < 1e-9 and error(found[name].item(), -2 * 0.8**-3) < 1e-9


def test_no_runtime_function_is_named_like_a_function_of_a_level() -> None:
    operations = "start draw objective gradient update forward pullback move advance step begin values".split()
    assert not [n for n in inline.definitions() if n.rpartition("_")[2] in operations and "_" in n]
