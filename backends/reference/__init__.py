"""The slow, plain backend: the oracle of the tests.

An interpreter of the checked program in float64. One copy after the other in Python loops, one step after the other,
derivatives by `torch.autograd.grad` or dense Jacobians: no vmap, no torch.func, no tracing, no generated text. It
shares with the product the numbers that are drawn (a draw is a function of a key) and nothing else: functions,
solvers, matrices and domains are written again here. What it knows of a level's mode is the mode's definition:

- `rmd`, `fmd` in all their forms: the derivative of everything that was computed;
- `rmd(order = 1)`: the gradient inside each step is a constant, `rmd(window = w)`: only the last w steps count;
- `rmd(window, update = each)`: the outer level moves after every window, which starts from a state without a graph;
- `ift`: one dense linear solve at the solution; `closed_form`: the solution of one dense linear system;
- `leap`: gamma times the teacher's iterate, the rest of the point a constant;
- `es`: the solution as a linear function, its slopes from solves at moved inputs;
- `none`: no derivative.

A direction that a biased mode gives is itself differentiated exactly by the levels around (language reference,
section 10, nesting). Memory and time grow with everything; use it on small problems only.
"""

from __future__ import annotations

from bilevel.backends.reference.oracle import (
    Found,
    State,
    begin,
    hypergradient,
    step_values,
    windowed_step,
)
from bilevel.backends.reference.support import SUPPORTED, Support, Unsupported, reasons

__all__ = [
    "SUPPORTED",
    "Found",
    "State",
    "Support",
    "Unsupported",
    "begin",
    "hypergradient",
    "reasons",
    "step_values",
    "windowed_step",
]
