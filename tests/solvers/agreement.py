"""Hypergradients of a recipe in several modes, against finite differences along random directions, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.zoo.compiled import Compiled, compile_text

UNROLLED = ("rmd", "rmd(checkpoint = 2)", "rmd(store = residuals)", "fmd")
"""exact modes of a level that takes a fixed number of steps, and whose iterates nobody reads"""


def flat(tree: Any) -> Tensor:
    """All numbers of a tree, in the order of its branches."""
    if isinstance(tree, Tensor):
        return tree.reshape(-1)
    parts = tree.values() if isinstance(tree, dict) else tree
    return torch.cat([flat(part) for part in parts])


def shaped(vector: Tensor, like: Any) -> Any:
    """The inverse of `flat`."""
    done = 0

    def branch(tree: Any) -> Any:
        nonlocal done
        if isinstance(tree, dict):
            return {name: branch(part) for name, part in tree.items()}
        if isinstance(tree, tuple):
            return tuple(branch(part) for part in tree)
        done += tree.numel()
        return vector[done - tree.numel() : done].reshape(tree.shape)

    return branch(like)


def gradient(compiled: Compiled) -> Tensor:
    """The hypergradient of the only outermost level at its start."""
    key, phase = compiled.key(), compiled.phase
    return flat(phase.hypergradient(phase.begin(key), key)[0])


def difference_error(compiled: Compiled, directions: int = 3, step: float = 1e-6) -> float:
    """The largest relative error against central differences."""
    key, phase = compiled.key(), compiled.phase
    state, found = phase.begin(key), gradient(compiled)
    place, worst = flat(state.x), 0.0
    for number in range(directions):
        along = torch.randn(len(place), generator=torch.Generator().manual_seed(number), dtype=place.dtype)
        along = along / along.norm()
        up, down = (
            phase.hypergradient(state._replace(x=shaped(place + s * step * along, state.x)), key)[1] for s in (1, -1)
        )
        slope = float((up - down) / (2 * step))
        worst = max(worst, abs(float(found @ along) - slope) / max(abs(slope), 1e-3))
    return worst


def scheduled(text: str, level: str, mode: str, given: Mapping[str, Any] | None = None) -> Compiled:
    """A recipe with one line of schedule."""
    return compile_text(f"{text.rstrip()}\nschedule {{ {level} : {mode} }}\n", given)


def check_modes(
    text: str,
    level: str,
    given: Mapping[str, Any] | None = None,
    modes: Sequence[str] = UNROLLED,
    tolerance: float = 1e-10,
) -> Tensor:
    """All modes agree, relative to the largest number, and with finite differences; gives the hypergradient."""
    first = scheduled(text, level, modes[0], given)
    found = gradient(first)
    assert bool(torch.isfinite(found).all())
    assert difference_error(first) < 1e-6
    for mode in modes[1:]:
        other = gradient(scheduled(text, level, mode, given))
        assert float((other - found).abs().max()) <= tolerance * max(1.0, float(found.abs().max())), mode
    return found
