"""What a problem with a known hypergradient consists of, and the complex step that differentiates a plain loop.

Nothing here or in the problems uses torch or emitted code. A value is written so that it also holds for complex
numbers (no `abs`, no comparison); `stop` is the real part, since that is what carries no derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
STEP = 1e-30  # a complex step subtracts nothing, so it may be as small as one likes


@dataclass(frozen=True)
class Problem:
    """A recipe with one outermost level to differentiate.

    `start`: its variables in free coordinates, where the hypergradient is taken. `value`: the
    objective as the recipe writes it, by a loop written by hand. `gradient`: the hypergradient by hand, where there is a formula.
    `adjoints`: "product gradient" of every differentiated level, as the plan must have chosen them.
    """

    text: str
    start: Mapping[str, Any]
    value: Callable[..., Any]
    adjoints: Mapping[str, str]
    gradient: Callable[..., Mapping[str, Any]] | None = None
    parts: Mapping[str, Array] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.text.split()[1]

    def complex_step(self) -> dict[str, Array]:
        """The derivative of the loop in every variable, to the last digit or two (Squire and Trapp 1998)."""
        return {name: self._in(name) for name in self.start}

    def _in(self, name: str) -> Array:
        real = np.asarray(self.start[name], dtype=float)
        found = np.zeros(real.shape)
        for place in np.ndindex(real.shape):
            moved = real.astype(complex)
            moved[place] += 1j * STEP
            found[place] = np.imag(self.value(**{**self.start, name: moved})) / STEP
        return found


def stop(value: Any) -> Any:
    """The value without its derivative."""
    return np.real(value)


def sigmoid(free: Any) -> Any:
    return 1 / (1 + np.exp(-free))


def points(count: int) -> tuple[Array, Array]:
    """The samples of `sources.points`: x real[count, 3], y real[count]."""
    number = np.arange(3 * count).reshape(count, 3)
    return ((7 * number + 3) % 11 - 5) / 5, ((5 * number[:, 0] + 2) % 7 - 3) / 3
