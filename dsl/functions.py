"""The functions of the language: one table, from which the checker, the emitter and the reference page are fed.

`rule` names the typing rule in `shapes.py`; `smooth` is what the function does to derivatives. A function that the
emitted code evaluates has its implementation of the same name in `backends/torch_func/functions.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Rule = Literal[
    "same",  # the type of the first argument
    "number",  # one real number
    "combined",  # elementwise over all arguments
    "last",  # averages or sums the last axis, keeps the others
    "onehot",
    "dot",
    "outer",
    "square",  # n by n from a size
    "arange",
    "concat",
    "transpose",
    "pairs",  # [n, d], [m, d] -> [n, m], or [n], [m] -> [n, m]
    "reshape",
    "source",  # a distribution or a start
    "without",
    "eigenvalues",  # [n, n] -> [n]
    "tree_number",  # one real number from a tree of factors
    "unknown",
]


@dataclass(frozen=True, slots=True)
class Signature:
    """`least` to `most` arguments (`most` None: any number); `smooth` is smooth, piecewise or flat."""

    name: str
    rule: Rule
    least: int
    most: int | None
    smooth: Literal["smooth", "piecewise", "flat"]
    summary: str


def _table(
    *rows: tuple[str, Rule, int, int | None, Literal["smooth", "piecewise", "flat"], str],
) -> dict[str, Signature]:
    return {row[0]: Signature(*row) for row in rows}


FUNCTIONS: dict[str, Signature] = _table(
    ("mean", "number", 1, 1, "smooth", "mean of all entries"),
    ("sum", "number", 1, 1, "smooth", "sum of all entries"),
    ("max", "number", 1, 1, "piecewise", "largest entry"),
    ("min", "number", 1, 1, "piecewise", "smallest entry"),
    ("exp", "same", 1, 1, "smooth", "e to the power"),
    ("log", "same", 1, 1, "smooth", "natural logarithm"),
    ("sqrt", "same", 1, 1, "smooth", "square root"),
    ("abs", "same", 1, 1, "piecewise", "absolute value"),
    ("tanh", "same", 1, 1, "smooth", "hyperbolic tangent"),
    ("cos", "same", 1, 1, "smooth", "cosine"),
    ("relu", "same", 1, 1, "piecewise", "positive part"),
    ("softplus", "same", 1, 1, "smooth", "log(1 + e^x)"),
    ("sigmoid", "same", 1, 1, "smooth", "1 / (1 + e^-x)"),
    ("softmax", "same", 1, 1, "smooth", "softmax over the last axis"),
    ("logsoftmax", "same", 1, 1, "smooth", "logarithm of softmax over the last axis"),
    ("sign", "same", 1, 1, "flat", "-1, 0 or 1"),
    ("clip", "same", 3, 3, "piecewise", "clip(x, low, high), elementwise"),
    ("stop", "same", 1, 1, "smooth", "the value; no derivative passes"),
    ("logsumexp", "last", 1, 1, "smooth", "log of the summed exponentials of the last axis"),
    ("ce", "last", 2, 2, "smooth", "cross entropy of logits and labels (or probabilities), one number per example"),
    ("bce", "last", 2, 2, "smooth", "binary cross entropy of logits and targets, mean of the last axis"),
    ("mse", "last", 2, 2, "smooth", "squared error, mean of the last axis"),
    ("l1", "last", 2, 2, "piecewise", "absolute error, mean of the last axis"),
    ("kl", "last", 2, 2, "smooth", "sum of p log(p / q) over the last axis"),
    ("cw", "last", 2, 2, "piecewise", "margin of the labelled logit over the largest other, at least 0"),
    ("accuracy", "number", 2, 2, "flat", "share of examples whose largest logit is the label"),
    ("onehot", "onehot", 1, 2, "flat", "labels as indicator vectors"),
    ("dot", "dot", 2, 2, "smooth", "inner product, or matrix product"),
    ("outer", "outer", 2, 2, "smooth", "outer product of two vectors"),
    ("quad", "number", 2, 2, "smooth", "x' M x"),
    ("inv", "same", 1, 1, "smooth", "inverse of a matrix"),
    ("trace", "number", 1, 1, "smooth", "sum of the diagonal"),
    ("det", "number", 1, 1, "smooth", "determinant"),
    ("eye", "square", 1, 1, "smooth", "identity matrix"),
    ("eig", "eigenvalues", 1, 1, "piecewise", "eigenvalues of the symmetric part of a matrix, from the smallest"),
    ("min_eig", "tree_number", 1, 1, "piecewise", "smallest eigenvalue"),
    ("max_eig", "tree_number", 1, 1, "piecewise", "largest eigenvalue"),
    ("identity_gap", "tree_number", 1, 1, "smooth", "squared distance of a factored matrix from the identity"),
    ("arange", "arange", 1, 1, "flat", "0, 1, ..., n - 1"),
    ("concat", "concat", 1, None, "smooth", "arrays joined along their first axis"),
    ("transpose", "transpose", 1, 1, "smooth", "the last two axes exchanged"),
    ("sqdist", "pairs", 2, 2, "smooth", "squared distances between the rows of two arrays"),
    ("outer_sum", "pairs", 2, 2, "smooth", "all sums of an entry of one vector and one of another"),
    ("reshape", "reshape", 2, None, "smooth", "the same entries in another shape"),
    ("sqnorm", "number", 1, 1, "smooth", "sum of squares over all entries"),
    ("norm1", "number", 1, 1, "piecewise", "sum of absolute values over all entries"),
    ("init", "source", 1, 1, "flat", "fresh parameters of a network, as its registration draws them"),
    ("identity", "source", 1, 1, "flat", "parameters with which a part changes nothing"),
    ("normal", "source", 2, 2, "flat", "normal(mean, deviation)"),
    ("uniform", "source", 2, 2, "flat", "uniform(low, high)"),
    ("without", "without", 2, 2, "flat", "a list without one of its items"),
    ("warm", "same", 1, 1, "flat", "the end of the previous step's solution; before the first step, the argument"),
    ("pair", "unknown", 0, None, "flat", "several parts under one name"),
)

DOMAINS: dict[str, int] = {
    "positive": 0,
    "nonnegative": 0,
    "unit": 0,
    "between": 2,
    "simplex": 0,
    "psd": 0,
    "orthogonal": 0,
}
"""Domains after `in`, with the number of their arguments."""
