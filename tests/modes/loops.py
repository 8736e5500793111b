"""Nested loops in plain torch: the inner gradients by autograd with a graph, the hypergradient by one backward pass.

Nothing of the package is used: a loop is written from the definition of its solver and differentiated as it stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Objective = Callable[[Tensor], Tensor]
Hold = Callable[[Tensor], Tensor]


def as_is(value: Tensor) -> Tensor:
    return value


def stop(value: Tensor) -> Tensor:
    return value.detach()


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def slope(objective: Objective, x: Tensor) -> Tensor:
    """The gradient of an objective at x, with its own graph."""
    if x.requires_grad:
        return torch.autograd.grad(objective(x), x, create_graph=True)[0]
    with torch.enable_grad():
        free = x.detach().requires_grad_()
        return torch.autograd.grad(objective(free), free, create_graph=True)[0]


def begun(solver: str, x: Tensor) -> tuple[Tensor, ...]:
    """The state of a solver before its first step."""
    count = {"sgd": 0, "adam": 2, "adamw": 2}.get(solver, 1)
    return (torch.zeros_like(x),) * count


def moved(
    solver: str, t: int, x: Tensor, state: tuple[Tensor, ...], g: Tensor, r: Tensor, m: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Step t = 1, 2, .. of a solver; `m` is its momentum or first decay."""
    match solver:
        case "sgd":
            return x - r * g, ()
        case "momentum":
            v = m * state[0] + g
            return x - r * v, (v,)
        case "rmsprop":
            v = m * state[0] + (1 - m) * g * g
            return x - r * g / torch.sqrt(v + 1e-16), (v,)
        case "powersign" | "addsign":
            v = m * state[0] + (1 - m) * g
            agreement = torch.sign(g * v)
            return x - r * g * (torch.exp(agreement) if solver == "powersign" else 1.5 + agreement), (v,)
        case "heavy":
            v = m * state[0] + g * (1 + g * g) ** (0.5 * m)
            return x - r * v / t, (v,)
    first, second = m * state[0] + (1 - m) * g, 0.999 * state[1] + 0.001 * g * g
    x = (1 - 0.1 * r) * x if solver == "adamw" else x
    return x - r * (first / (1 - m**t)) / torch.sqrt(second / (1 - 0.999**t) + 1e-16), (first, second)


def solve(
    objective: Callable[[Tensor, int], Tensor],
    x: Tensor,
    steps: int,
    solver: str = "sgd",
    rate: Any = 0.1,
    memory: Any = 0.5,
    hold: Hold = as_is,
    cut: Sequence[int] = (),
) -> list[Tensor]:
    """The iterates x@0..x@steps; `objective(x, step)`, `rate(step)` or a number; before the steps in `cut` all is stopped."""
    x = x + 0  # a tensor of its own: the start may be read in the objective as well
    state, found = begun(solver, x), [x]
    for step in range(steps):
        if step in cut:
            x, state = x.detach(), tuple(s.detach() for s in state)
        g = hold(slope(lambda z, k=step: objective(z, k), x))  # type: ignore[misc]
        r = rate(step) if callable(rate) else rate
        x, state = moved(
            solver, step + 1, x, state, g, torch.as_tensor(r, dtype=x.dtype), torch.as_tensor(memory, dtype=x.dtype)
        )
        found.append(x)
    return found


def derivative(value: Callable[..., Tensor], **given: Any) -> dict[str, Tensor]:
    """The gradient of a function of tensors in each of them, zero where it is not read."""
    free = {n: torch.as_tensor(v, dtype=torch.float64).clone().requires_grad_() for n, v in given.items()}
    found = torch.autograd.grad(value(**free), list(free.values()), allow_unused=True)
    return {n: torch.zeros_like(v) if g is None else g for (n, v), g in zip(free.items(), found, strict=True)}
