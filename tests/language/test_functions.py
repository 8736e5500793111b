"""Every function of the table is carried out and differentiated, once and twice, over copies.

An inner level takes two steps along the gradient of the function, so that the hypergradient of what it ends with needs
the second derivative; central differences of the outer objective in float64 need none.
"""

from __future__ import annotations

import pytest
import torch

from bilevel.dsl.functions import FUNCTIONS
from bilevel.errors import RecipeError
from tests.language.quotients import quotient_error
from tests.zoo.compiled import compile_text, plan_text

VECTOR = torch.tensor([0.7, -0.4, 1.3], dtype=torch.float64)
MATRIX = torch.tensor([[2.0, 0.3, -0.2], [0.1, 1.5, 0.4], [-0.3, 0.2, 3.1]], dtype=torch.float64)
ROWS = torch.tensor([[0.2, -1.0, 0.5], [1.1, 0.4, -0.6]], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

# name: what is differentiated, in v (three numbers), P (three positive ones), M (a matrix), R (two rows)
SCALARS = {
    "mean": "mean(V^3)",
    "sum": "sum(V^3)",
    "max": "max(V)^3",
    "min": "min(V)^3",
    "exp": "sum(exp(V) * c)",
    "log": "sum(log(P) * c)",
    "sqrt": "sum(sqrt(P) * c)",
    "abs": "sum(abs(V) * V)",
    "tanh": "sum(tanh(V) * c)",
    "cos": "sum(cos(V) * c)",
    "relu": "sum(relu(V)^2 * c)",
    "softplus": "sum(softplus(V) * c)",
    "sigmoid": "sum(sigmoid(V) * c)",
    "softmax": "dot(softmax(V), c)",
    "logsoftmax": "dot(logsoftmax(V), c)",
    "clip": "sum(clip(V, 0 - 0.5, 1)^3 * c)",
    "stop": "sum(stop(c) * V^3)",
    "logsumexp": "logsumexp(V)",
    "ce": "sum(ce(R, g.all.y))",
    "bce": "bce(V, q)",
    "mse": "mse(V^2, c)",
    "l1": "l1(V^2, c)",
    "kl": "kl(q, softmax(V))",
    "cw": "sum(cw(0 - R^3, g.all.y))",
    "dot": "dot(V, dot(M, V))",
    "outer": "sum(outer(V, V^2))",
    "quad": "quad(M, V)",
    "inv": "sum(inv(M) * m)",
    "trace": "trace(dot(M, dot(M, M)))",
    "det": "det(M)",
    "eye": "sqnorm(M - eye(3)) * trace(M)",
    "eig": "dot(eig(M), c)",
    "min_eig": "min_eig(M)",
    "max_eig": "max_eig(M)",
    "identity_gap": "identity_gap(M)^2",
    "concat": "sum(concat(V^3, V^2) * concat(c, q))",
    "transpose": "trace(dot(M, dot(transpose(M), m)))",
    "sqdist": "sum(sqdist(R, M)^2)",
    "outer_sum": "sum(outer_sum(V, V^2)^2)",
    "reshape": "sum(reshape(R, 3, 2)^3 * reshape(r, 3, 2))",
    "sqnorm": "sqnorm(V)^2",
    "norm1": "norm1(V)^3",
}
# Those without a derivative of their own: the value must be right, and what stands beside them is differentiated.
FLAT = {
    "sign": "sum(sign(c) * V^3)",
    "accuracy": "accuracy(r, g.all.y) * sum(V^3)",
    "onehot": "sum(dot(onehot(g.all.y, 3), M)^3)",
    "arange": "sum(arange(3) * V^3) + dot(V, dot(M, arange(3)))",
    "normal": "sum(e * V^3)",
    "uniform": "sum(u * V^3)",
}
ELSEWHERE = {
    "init": "tests/language/test_starts.py",
    "identity": "tests/language/test_starts.py",
    "warm": "tests/zoo/problems.py",
    "without": "tests/zoo/test_draws.py",
    "pair": "tests/language/test_pairs.py",
}
TEXT = """recipe function
use d  = points(count = 4)
use V0 : real[3]
use M0 : real[3, 3]
use R0 : real[2, 3]
use m  : real[3, 3]
use r  : real[2, 3]
use c  : real[3]
use q  : real[3]
use g  = labelled()
let f(V, P, M, R, e, u) = FUNCTION
level outer {
    v : real[3] from V0
    p : real[3] in positive from 0.8
    M1 : real[3, 3] from M0
    R1 : real[2, 3] from R0
    e ~ normal(0, 1)[3]
    u ~ uniform(1, 2)[3]
    each t ~ d.all[2]
    level inner {
        V : real[3] from v
        P : real[3] in positive from p
        M2 : real[3, 3] from M1
        R2 : real[2, 3] from R1
        minimize f(V, P, M2, R2, e, u) * (1 + 0.1 * t.y) + 0.01 * (sqnorm(V) + sqnorm(P) + sqnorm(M2) + sqnorm(R2))
        by sgd(lr = 0.01) for 2 steps
    }
    minimize mean[t] f(V, P, M2, R2, e, u) + 0.1 * mean[t] (sqnorm(V) + sqnorm(P) + sqnorm(M2) + sqnorm(R2))
    by sgd(lr = 0.1) for 1 steps
}
"""
GIVEN = {
    "V0": VECTOR,
    "M0": MATRIX,
    "R0": ROWS,
    "m": MATRIX.T + 1,
    "r": ROWS.flip(1),
    "c": VECTOR.flip(0) + 0.1,
    "q": SHARES,
}


def recipe(function: str) -> str:
    return TEXT.replace("FUNCTION", function)


def test_every_function_of_the_table_is_met() -> None:
    assert {**SCALARS, **FLAT, **ELSEWHERE}.keys() == FUNCTIONS.keys()
    live = {name for name, signature in FUNCTIONS.items() if signature.smooth != "flat"}
    assert live == SCALARS.keys()


@pytest.mark.parametrize("name", [*SCALARS, *FLAT])
def test_a_function_is_differentiated_twice(name: str) -> None:
    function = {**SCALARS, **FLAT}[name]
    assert quotient_error(compile_text(recipe(function), GIVEN)) < 1e-6


@pytest.mark.parametrize("text", ["eig(V)", "dot(eig(R), c)"])
def test_eigenvalues_of_what_is_no_square_matrix_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="B303"):
        plan_text(recipe(text))
