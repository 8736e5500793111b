"""Solvers and estimators that users register, called by the emitted module and held to what they promise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

from torch import Tensor

from bilevel.backends.torch_func.linear import Failure
from bilevel.backends.torch_func.norms import normalises_natively, written_norms
from bilevel.backends.torch_func.solvers import clipped
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map


class Steps(Protocol):
    """A gradient solver: `begin(x)` gives its state, None where it has none; `whole`: x is the tree of all variables."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def update(self) -> Callable[..., Any]:
        """`update(x, state, gradient, count, ...)` gives the next x and state."""

    @property
    def begin(self) -> Callable[..., Any] | None:
        """The state before the first step."""

    @property
    def whole(self) -> bool:
        """Whether it takes the whole tree at once."""


@cache
def natively(function: Callable[..., Any]) -> bool:
    """Whether a solver's or an estimator's function needs formulas for normalisation everywhere; asked once for each."""
    return normalises_natively(function)


def registered_state(x: Tree, solver: Steps) -> Tree:
    """The state of one copy before the first step; of a solver for single tensors, one state for each of them."""
    if solver.begin is None:
        return ()
    return solver.begin(x) if solver.whole else tuple(solver.begin(leaf) for leaf in leaves(x))


def registered(
    x: Tree, state: Tree, gradient: Tree, count: int, solver: Steps, options: Mapping[str, Tree], clip: Tree = 0.0
) -> tuple[Tree, Tree]:
    """One step of a registered solver for one copy; an option shaped like x is given leaf by leaf."""
    gradient = clipped(gradient, clip)
    if solver.whole:
        return stepped(solver, x, state, gradient, count, dict(options))
    states: list[Tree] = []

    def one(leaf: Tensor, slope: Tensor, *given: Any) -> Tree:
        own = state[len(states)] if solver.begin is not None else ()
        moved, after = stepped(solver, leaf, own, slope, count, dict(zip(options, given, strict=True)))
        states.append(after)
        return moved

    moved = tree_map(one, x, gradient, *options.values())
    return moved, tuple(states) if solver.begin is not None else ()


def stepped(
    solver: Steps, x: Tree, state: Tree, gradient: Tree, count: int, options: Mapping[str, Tree]
) -> tuple[Tree, Tree]:
    """What the solver's function gives, if that is the next x and state, shaped like those before (else B615)."""
    with written_norms(natively(solver.update)):
        found = solver.update(x, state, gradient, count, **options)
    if not isinstance(found, tuple) or len(found) != 2:
        raise Failure("B615", f"the step of `{solver.name}` is {type(found).__name__}, not a pair of x and state")
    for what, before, after in (("x", x, found[0]), ("state", state, found[1])):
        shapes = [[list(leaf.shape) for leaf in leaves(tree)] for tree in (before, after)]
        if shapes[0] != shapes[1]:
            text = f"a step of `{solver.name}` changes the shape of its {what} from {shapes[0]} to {shapes[1]}"
            raise Failure("B615", text)
    return found


def estimated(
    losses: Callable[[Tree], Tensor], x: Tree, keys: Tensor, estimator: Callable[..., Any], options: Mapping[str, Any]
) -> tuple[Tree, Tensor]:
    """What a registered estimator gives: an estimate shaped like x, and the values at x, one for each copy (else B615)."""
    with written_norms(natively(estimator)):
        found = estimator(losses, x, keys, **options)
    name = getattr(estimator, "__name__", "the estimator")
    if not isinstance(found, tuple) or len(found) != 2:
        raise Failure("B615", f"`{name}` gives {type(found).__name__}, not a pair of estimate and values")
    shapes = [[list(leaf.shape) for leaf in leaves(tree)] for tree in (x, found[0])]
    if shapes[0] != shapes[1]:
        raise Failure("B615", f"the estimate of `{name}` has shapes {shapes[1]}, the variables have {shapes[0]}")
    return found
