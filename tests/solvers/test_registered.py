"""Solvers and estimators that users register: in every mode, around and inside, alone in the emitted file, and refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel.backends.torch_func.tree import leaves, tree_map
from bilevel.errors import RecipeError
from bilevel.recipes.solvers import addsign, powersign, two_sided
from tests.modes.tools import codes
from tests.solvers.agreement import check_modes, flat, gradient, scheduled
from tests.zoo.compiled import compile_text, plan_text, run

COPIES = """recipe copies
use net = mlp(1, 3, 1)
level meta {{
  r : params(net) in positive from 0.05
  m : real in unit from 0.4
  c : real[2] from [0.3, -0.7]
  each s ~ normal(0, 1)[2]
  level fit {{
    w : params(net) from init(net)
    v : real[2] in positive from exp(c)
    e ~ normal(0, 1)[4, 1]
    minimize mean((net[w](e) - s * sum(v))^2) + sqnorm(v - c * s) + sum(v^3)
    by {solver} for 4 steps
  }}
  minimize mean[s] (sqnorm(w) + sum(v^2 * c)) + sum(m^2)
  by adam(lr = 0.01) for 2 steps
}}
"""
PLAIN = """recipe plain
{use}
level meta {{
  lam : real[3] from 0.4
  level fit {{
    w : real[3] from 0.5
    minimize 0.5 * sqnorm(w - lam) + sum(lam^2 * w^2)
    by {solver} {how}
  }}
  minimize sum(w^3)
  by {outer} for 4 steps
}}
"""


def plain(
    solver: str = "heavy(lr = 0.1, momentum = 0.3, power = 1.2)",
    how: str = "for 5 steps",
    outer: str = "",
    use: str = "",
) -> str:
    return PLAIN.format(solver=solver, how=how, outer=outer or "adam(lr = 0.01)", use=use)


@pytest.mark.parametrize(
    "solver",
    [
        "w : heavy(lr = r, momentum = m, power = 1.3), v : heavy(lr = m * 0.1, momentum = m, power = 1 + m, clip = 2)",
        "w : powersign(lr = r, beta = m), v : addsign(lr = linear(0.1 * m))",
    ],
)
def test_modes_agree_over_copies_trees_and_draws(solver: str) -> None:
    check_modes(COPIES.format(solver=solver), "fit", modes=("rmd", "rmd(checkpoint = 2)",
                "rmd(checkpoint = binomial)", "rmd(store = residuals)", "rmd(window = 4)", "fmd"))  # fmt: skip


def test_a_name_of_the_recipe_s_own() -> None:
    named = plain(use="use mine = heavy", solver="mine(lr = 0.1, momentum = 0.3, power = 1.2)")
    assert torch.equal(gradient(compile_text(named)), gradient(compile_text(plain())))
    taken = plain().replace("lam", "heavy")  # a variable called like the registration
    assert codes(taken) == ["B217"]
    free = taken.replace("by heavy(", "by mine(").replace("recipe plain", "recipe plain\nuse mine = heavy")
    assert torch.equal(gradient(compile_text(free)), gradient(compile_text(plain())))


@pytest.mark.parametrize("solver", ["powersign(lr = 0.02)", "heavy(lr = 3, momentum = 0, power = 1)"])
def test_the_way_to_a_stationary_point_does_not_matter(solver: str) -> None:
    """`ift` differentiates the point, which is known here."""
    until = "until stationary(1e-9) within 4000 steps"
    found = gradient(scheduled(plain(solver, until), "fit", "ift(linear = cg(tol = 1e-12, steps = 20))"))
    lam = torch.full((3,), 0.4, dtype=torch.float64)
    expected = torch.func.grad(lambda c: ((c / (1 + 2 * c**2)) ** 3).sum())(lam)
    assert float((found - expected).abs().max()) < 1e-7


def test_steps_of_the_package_by_hand() -> None:
    x, g, m = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 1.0, 1.0], [2.0, -2.0, 1.0], [1.0, 1.0, 0.0]))
    moved, mean = powersign(x, m, g, 0, torch.tensor(0.1), 0.5, 2.0)
    assert mean.tolist() == [1.5, -0.5, 0.5]
    assert moved.tolist() == pytest.approx([1 - 0.1 * 2 * 2, 1 + 0.1 * 2 * 2, 1 - 0.1 * 2])
    opposed, _ = addsign(x, 10 * m, -g, 0, torch.tensor(0.1), 0.5)
    assert opposed.tolist() == pytest.approx([1.0, 1 - 0.1 * 2 * 2, 1 + 0.1 * 2])


def test_an_outermost_level_is_moved_by_one() -> None:
    text = "recipe top\nlevel fit { w : real[2] from [1, 2]  minimize sum(w^4)  by heavy(lr = 0.01, momentum = 0.5, power = 1.5, clip = 3) for 3 steps }"
    compiled = compile_text(text)
    found = run(compiled.phase, compiled.key()).x
    w, v = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for count in range(3):
        g = 4 * w**3
        g = g * min(1.0, 3 / float(g.norm()))
        v = 0.5 * v + g * (1 + g * g) ** 0.25
        w = w - 0.01 * v / (count + 1)
    assert torch.allclose(found, w, atol=1e-14)


# ---- registered here -----------------------------------------------------------------------------------------


def lengths(x: Any) -> Tensor:
    return torch.zeros_like(leaves(x)[0].sum())


@bilevel.solver(begin=lengths, whole=True)
def normed(x: Any, state: Tensor, gradient: Any, count: int, lr: Tensor, decay: Tensor = 0.5) -> tuple[Any, Tensor]:  # type: ignore[assignment]
    """A step whose length is the running mean of the norm over all variables."""
    norm = torch.sqrt(sum((g * g).sum() for g in leaves(gradient)) + 1e-12)
    mean = decay * state + (1 - decay) * norm
    return tree_map(lambda a, g: a - lr * mean * g / norm, x, gradient), mean


def registered_program(text: str, *parts: object) -> bilevel.Program:
    recipe = bilevel.parse(text).knowing(bilevel.registry.collect(parts).manifest)
    return bilevel.compile(recipe, registry=parts, dtype=torch.float64)


WHOLE = """recipe whole
level meta {
  r : real in positive from 0.1
  d : real in unit from 0.3
  each s ~ normal(0, 1)[3]
  level fit {
    a : real[2] from s
    b : real from 1
    minimize sqnorm(a - [1, 2]) + b^2 * sum(a)^2
    by normed(lr = r, decay = d) for 5 steps
  }
  minimize mean[s] (sum(a^3) + b * s)
  by adam(lr = 0.01) for 3 steps
}
"""


def test_a_solver_of_the_whole_tree() -> None:
    """Every copy by itself, by autograd through a loop."""
    program = registered_program(WHOLE, normed)
    found = program.hypergradient()
    key = program.phases[0]  # the draws are those of the emitted module
    assert key.name == "meta"
    r, d = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.1, 0.3))
    from bilevel.backends.torch_func.keyed import fold, make_key, normal

    total = torch.zeros((), dtype=torch.float64)
    draws = normal(fold(fold(fold(make_key(0), "meta"), 0), "s"), 3, dtype=torch.float64)
    for s in draws:
        a, b, mean = s.expand(2), torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for _ in range(5):
            ga = 2 * (a - torch.tensor([1.0, 2.0])) + 2 * b**2 * a.sum()
            gb = 2 * b * a.sum() ** 2
            norm = torch.sqrt((ga * ga).sum() + gb * gb + 1e-12)
            mean = d * mean + (1 - d) * norm
            a, b = a - r * mean * ga / norm, b - r * mean * gb / norm
        total = total + ((a**3).sum() + b * s) / 3
    expected = torch.autograd.grad(total, (r, d))
    assert float(found["r"]) == pytest.approx(float(expected[0]) * 0.1, rel=1e-10)
    assert float(found["d"]) == pytest.approx(float(expected[1]) * 0.3 * 0.7, rel=1e-10)
    assert program.gradcheck().ok


def test_a_run_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    from bilevel.run import advance, restore

    text = (
        "recipe long\nlevel fit { w : real[2] from [1, 2]  minimize sum(w^4)  by powersign(lr = 0.01) for STEPS steps }"
    )
    whole = registered_program(text.replace("STEPS", "6")).run(out=tmp_path / "whole")
    registered_program(text.replace("STEPS", "3")).run(out=tmp_path / "part")
    rest = advance(restore(registered_program(text.replace("STEPS", "6")), tmp_path / "part", 0), ())
    assert torch.equal(rest.state["w"], whole.state["w"])


def test_the_emitted_file_needs_no_compiler(tmp_path: Path) -> None:
    text = compile_text(plain()).text
    assert "def build(heavy, device" in text
    (tmp_path / "step.py").write_text(text, "utf-8")
    (tmp_path / "alone.py").write_text(
        """import sys
sys.modules["bilevel"] = None
from types import SimpleNamespace
import torch
sys.path.insert(0, ".")
import step
def heavy(x, state, gradient, count, lr, momentum, power):
    velocity = momentum * state + gradient * (1 + gradient * gradient) ** (0.5 * (power - 1))
    return x - lr * velocity / (count + 1), velocity
solver = SimpleNamespace(name="heavy", update=heavy, begin=torch.zeros_like, whole=False)
phase, = step.build(solver, dtype=torch.float64)
key = step.make_key(0)
torch.save(phase.hypergradient(phase.begin(key), key)[0], "found.pt")
""",
        "utf-8",
    )
    done = subprocess.run([sys.executable, "-I", "alone.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert torch.equal(torch.load(tmp_path / "found.pt", weights_only=True), gradient(compile_text(plain())))


# ---- estimators ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd(lr = 0.02)", "heavy(lr = 0.02, momentum = 0.3, power = 1.2)"])
def test_modes_agree_on_a_registered_estimate(solver: str) -> None:
    text = """recipe estimate
level meta {
  lam : real[3] from 0.4
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] in positive from 0.5
    v : real from s
    minimize sqnorm(w - lam * s) + (v * sum(w) - 1)^2 + sum(lam^2 * w^3)
    by SOLVER with two_sided(samples = 3, radius = 1e-2) for 4 steps
  }
  minimize mean[s] (sqnorm(w) + v^2 * s)
  by adam(lr = 0.01) for 2 steps
}
"""
    check_modes(text.replace("SOLVER", solver), "fit")


def test_two_sides_see_no_curvature() -> None:
    """Of a quadratic the estimate is exact along every direction, whatever the radius."""
    keys = torch.arange(2)
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    losses: Callable[[Tensor], Tensor] = lambda x: (x**2).sum(-1)  # noqa: E731
    small, values = two_sided(losses, x, keys, 4, 1e-3)
    large, _ = two_sided(losses, x, keys, 4, 10.0)
    assert torch.allclose(small, large, atol=1e-9) and torch.equal(values, losses(x))
    many, _ = two_sided(losses, x, keys, 20000, 1e-3)
    assert torch.allclose(many, 2 * x, atol=0.3)


# ---- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "code"),
    [
        ("heavyy(lr = 0.1)", "B217"),
        ("heavy(lr = 0.1)", "B309"),
        ("heavy(lr = 0.1, momentum = 0, power = 1, rate = 2)", "B309"),
        ("heavy(0.1, momentum = 0, power = 1)", "B309"),
        ("two_sided(samples = 3)", "B217"),
        ("sgd", "B309"),
        ("sgd(lr = 0.1) with heavy(samples = 3)", "B217"),
        ("sgd(lr = 0.1) with two_sided(samples = 3)", "B309"),
        ("sgd(lr = 0.1) with two_sided(samples = 3, radius = lam)", "B309"),
    ],
)
def test_recipes_that_misname_it(solver: str, code: str) -> None:
    assert code in codes(plain(solver))


def test_a_registered_solver_follows_a_gradient() -> None:
    flat_objective = plain(outer="powersign(lr = 0.1)").replace("minimize sum(w^3)", "minimize sum(sign(w))")
    assert codes(flat_objective) == ["B402"]
    text = "recipe mix\nlevel fit { a : real from 1  b : real from 1  minimize a^2 + b^2  by a : powersign(lr = 0.1), b : cmaes(population = 4) for 3 steps }"
    assert "B411" in codes(text)


def test_what_is_no_solver_cannot_be_registered() -> None:
    def few(gradient: Tensor, lr: float) -> Tensor:
        return -lr * gradient

    def worded(x: Tensor, state: Tensor, gradient: Tensor, count: int, mode: str = "fast") -> tuple[Tensor, Tensor]:
        return x, state

    def adam(x: Tensor, state: Tensor, gradient: Tensor, count: int, lr: float) -> tuple[Tensor, Tensor]:
        return x, state

    for function in (few, worded, adam):
        with pytest.raises(RecipeError) as caught:
            bilevel.solver()(function)
        assert caught.value.diagnostics[0].code == "B615"


@bilevel.solver()
def forgetful(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step that gives the point alone."""
    return x - lr * gradient


@bilevel.solver()
def shrinking(x: Tensor, state: Any, gradient: Tensor, count: int, lr: Tensor) -> Any:
    """A step that loses numbers."""
    return (x - lr * gradient).sum(), state


@bilevel.estimator
def alone(losses: Callable[[Tensor], Tensor], x: Tensor, key: Tensor, samples: int) -> Any:
    """An estimate without the values."""
    return torch.ones_like(x)


@pytest.mark.parametrize("part", [forgetful, shrinking])
def test_a_step_of_another_form_is_a_message(part: Any) -> None:
    text = (
        f"recipe odd\nlevel fit {{ w : real[2] from 1  minimize sum(w^2)  by {part.__name__}(lr = 0.1) for 3 steps }}"
    )
    with pytest.raises(RecipeError) as caught:
        registered_program(text, part).run()
    assert caught.value.diagnostics[0].code == "B615"
    assert f"`{part.__name__}`" in str(caught.value)


def test_an_estimate_of_another_form_is_a_message() -> None:
    text = "recipe odd\nlevel fit { w : real[2] from 1  minimize sum(w^2)  by sgd(lr = 0.1) with alone(samples = 3) for 3 steps }"
    with pytest.raises(RecipeError) as caught:
        registered_program(text, alone).run()
    assert caught.value.diagnostics[0].code == "B615"


def test_planning_needs_the_description_alone() -> None:
    plan = plan_text(plain("powersign(lr = 0.1)"))
    assert plan.exactness == "exact"
    assert [u.name for u in plan.program.uses] == ["powersign"]
    assert flat(gradient(compile_text(plain("powersign(lr = 0.1)")))).shape == (3,)
