"""`real[src.shape]`: shapes that a part says, other ones for every element of a list; and what has no shape in common."""

from __future__ import annotations

import pytest
import torch

from bilevel.binding import Parts, bind
from bilevel.elements import check_sizes
from bilevel.errors import RecipeError
from bilevel.trees import check_trees
from tests.backends.agreement import compared
from tests.language.quotients import quotient_error
from tests.zoo.compiled import REGISTRY, compile_text, hypergradient, plan_text

BODY = """
level learn {
    a : real from 0.5
    OPEN
    level fit {
        d : real[SHAPE] from START
        minimize mean((BOX.x - d)^2) + a^2 * sqnorm(d)
        by sgd(lr = 0.1, momentum = a) for 3 steps
    }
    minimize REDUCE sqnorm(d - 1) + a^3
    by sgd(lr = 0.1) for 2 steps
}
"""
SIZES = [(2, 3), (1, 4)]


def written(shape: str, start: str) -> str:
    """The recipe over both boxes."""
    boxes = ", ".join(f"framed({rows}, {columns})" for rows, columns in SIZES)
    body = BODY.replace("OPEN", "each box in boxes").replace("REDUCE", "mean[box]").replace("BOX", "box")
    return f"recipe boxes\nuse boxes = [{boxes}]\n{body.replace('SHAPE', shape).replace('START', start)}"


def alone(rows: int, columns: int, shape: str) -> str:
    """The recipe of one box."""
    body = BODY.replace("OPEN", "").replace("REDUCE", "").replace("BOX", "box").replace("START", "0.1")
    return f"recipe alone\nuse box = framed({rows}, {columns})\n{body.replace('SHAPE', shape)}"


@pytest.mark.parametrize("mode", ["rmd", "fmd", "rmd(store = residuals)"])
@pytest.mark.parametrize("shape", ["box.shape", "box.rows, box.columns"])
def test_every_element_has_its_shape(shape: str, mode: str) -> None:
    value, gradient = hypergradient(compile_text(f"{written(shape, '0.1')}schedule {{ fit : {mode} }}"))
    singles = [hypergradient(compile_text(alone(*size, "{}, {}".format(*size)))) for size in SIZES]
    assert abs(value - sum(v for v, _ in singles) / 2) < 1e-14
    assert torch.allclose(gradient["a"], sum(g["a"] for _, g in singles) / 2, rtol=1e-12)


def test_a_part_that_is_no_element_may_say_a_shape_too() -> None:
    value, gradient = hypergradient(compile_text(alone(2, 3, "box.shape")))
    expected, slope = hypergradient(compile_text(alone(2, 3, "2, 3")))
    assert value == expected and torch.equal(gradient["a"], slope["a"])


@pytest.mark.parametrize("start", ["uniform(-1, 1)", "a", "normal(0, 1)"])
def test_random_and_learned_starts_have_the_shape(start: str) -> None:
    compiled = compile_text(written("box.shape", start))
    assert quotient_error(compiled) < 1e-6
    assert compared(compiled)[0].error < 1e-12


def test_what_is_no_size_is_said() -> None:
    plan = plan_text(alone(2, 3, "box.shape"))
    bound = bind(plan.program, REGISTRY, {}, torch.device("cpu"), torch.float64)
    wrong = Parts({"box": bound.objects["box"]._replace(shape=(2, 0.5))}, bound.device, bound.dtype)
    check_sizes(plan.program, bound)
    with pytest.raises(RecipeError, match=r"B310\]: `box.shape` is not a size"):
        check_sizes(plan.program, wrong)


def test_a_shape_that_a_draw_says_is_refused() -> None:
    text = alone(2, 3, "b.x").replace("    d :", "    b ~ data.all[2]\n        d :")
    with pytest.raises(RecipeError, match=r"B507\]: a shape that `b.x` gives"):
        plan_text(text.replace("use box", "use data = points(count = 4)\nuse box"))


# ---- networks that share no parameters -----------------------------------------------------------------------

MAML = """recipe maml
use nets = [mlp(1, 4, 1), mlp(1, WIDTH, 1)]
use one  = mlp(1, 4, 1)
use A    : real[8, 1]
level meta {
    theta : params(one)
    each net in nets
    level adapt {
        phi : params(net) from theta
        minimize mean(mse(net[phi](A), A))
        by sgd(lr = 0.01) for 2 steps
    }
    minimize mean[net] mean(mse(net[phi](A), A)) + 0 * sqnorm(theta)
    by adam(lr = 1e-3) for 3 steps
}
"""


def bound_trees(text: str) -> None:
    plan = plan_text(text)
    given = {"A": torch.ones(8, 1)}
    check_trees(plan.program, bind(plan.program, REGISTRY, given, torch.device("cpu"), torch.float64))


def test_one_start_for_networks_with_the_same_parameters_is_taken() -> None:
    bound_trees(MAML.replace("WIDTH", "4"))


def test_one_start_for_networks_of_other_shapes_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"B305\]: `phi` cannot start from `theta` for every `net`") as found:
        bound_trees(MAML.replace("WIDTH", "5"))
    assert "lft" in str(found.value)


def test_parameters_of_another_network_are_refused_in_lists_and_pairs() -> None:
    text = (
        MAML.replace("WIDTH", "5")
        .replace("from theta", "")
        .replace("[net] mean(mse(net[phi]", "[net] mean(mse(net[theta]")
    )
    with pytest.raises(RecipeError, match=r"B304\]: `theta` does not have the parameters of `net`"):
        bound_trees(text)
    pairs = text.replace("[mlp(1, 4, 1), mlp(1, 5, 1)]", "[pair(net = mlp(1, 4, 1)), pair(net = mlp(1, 5, 1))]")
    pairs = pairs.replace("each net in", "each p in").replace("[net]", "[p]")
    with pytest.raises(RecipeError, match=r"B304\]: `theta` does not have the parameters of `p.net`"):
        bound_trees(
            pairs.replace(" net[", " p.net[").replace("(net[", "(p.net[").replace("params(net)", "params(p.net)")
        )
