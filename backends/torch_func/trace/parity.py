"""Whether a kernel gives what the function it was made from gives, on the first arguments that it meets.

Tolerance: the norm of the difference over the norm of the value, 1e-5 in float32 and 1e-12 in float64, or as much as
rounding the inputs in their last place changes the value where that is more (a sum that cancels has few right digits,
whoever computes it).

Where that is not enough: the derivative of the largest of several numbers jumps where two are equal, and of a million
activations some are within rounding of such a place. A kernel that adds up in another order is then on the other side
of it, and as far from the function as the function is from itself on inputs that are shaken a little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
LOOSE = 1e-2
"""for half precision"""
ROUNDINGS = 10.0
"""how many times the change by rounding a difference may be"""
SHAKES = 8
"""how often inputs are shaken, each time by random signs: what is within rounding of a jump jumps every second time"""
SHAKEN = 16.0
"""by how many times the last place: sums of products in another order differ by some"""


class Unlike(Exception):
    """A function of more than the values of its inputs: of which objects they are, say."""


def differences(expected: Sequence[Tensor], found: Sequence[Tensor]) -> list[float]:
    """|found - expected| / |expected| for each pair; inf where form or whole numbers differ."""
    return [_difference(a, b) for a, b in zip(expected, found, strict=True)]


def _difference(expected: Tensor, found: Tensor) -> float:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return torch.inf
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, found) else torch.inf
    fine = torch.isfinite(expected)
    if not torch.equal(fine, torch.isfinite(found)):
        return torch.inf
    a, b = (torch.where(fine, t, torch.zeros_like(t)).to(torch.float64) for t in (expected, found))
    size = float(a.norm())
    off = float((a - b).norm())
    return off / size if size > 0 else (torch.inf if off > torch.finfo(expected.dtype).tiny else 0.0)


def worst(
    function: Callable[[Sequence[Tensor]], Sequence[Tensor]],
    inputs: Sequence[Tensor],
    expected: Sequence[Tensor],
    found: Sequence[Tensor],
) -> float | None:
    """The largest difference that is not explained by rounding; None where there is none.

    Fails with Unlike where the function gives something else for equal inputs.
    """
    off = differences(expected, found)
    wrong = [place for place, number in enumerate(off) if number > tolerance(expected[place])]
    if not wrong:
        return None
    repeated = differences(expected, function([t.clone() for t in inputs]))
    if any(number > tolerance(value) for number, value in zip(repeated, expected, strict=True)):
        raise Unlike
    moved = differences(expected, function([_rounded(t) for t in inputs]))
    wrong = [place for place in wrong if not off[place] <= ROUNDINGS * moved[place]]
    for seed in range(SHAKES):
        if not wrong:
            return None
        moved = differences(expected, function([_shaken(t, seed) for t in inputs]))
        wrong = [place for place in wrong if not off[place] <= ROUNDINGS * moved[place]]
    return max((off[place] for place in wrong), default=None)


def tolerance(value: Tensor) -> float:
    """The relative difference that a value may have."""
    return TOLERANCE.get(value.dtype, LOOSE)


def _rounded(value: Tensor) -> Tensor:
    """The input with about half of its entries, spread without a pattern, moved to the next number."""
    if not value.is_floating_point():
        return value
    places = torch.arange(value.numel(), dtype=torch.float64, device=value.device)
    chosen = (places + 1) * 0.6180339887 % 1 < 0.5
    factor = 1 + chosen.to(value.dtype) * torch.finfo(value.dtype).eps
    return value * factor.reshape(value.shape)


def _shaken(value: Tensor, seed: int) -> Tensor:
    """The input with every entry moved up or down by some times its last place."""
    if not value.is_floating_point():
        return value
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, value.shape, generator=generator).to(value.dtype) * 2 - 1
    return value * (1 + SHAKEN * torch.finfo(value.dtype).eps * signs.to(value.device))
