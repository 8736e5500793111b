"""Whole numbers wrap around in the C++ that Inductor writes, as they do in torch.

Random numbers here are hashes (`keyed.py`): products of places and large numbers, of which the low 64 bits are wanted.
Inductor writes them as products of signed numbers, which C++ takes never to overflow: g++ 12 concludes that a loop
over 200 places ends after the first few, leaves out what is for the last ones, and the kernel writes beyond its
arrays. With -fwrapv both mean the same.
"""

from __future__ import annotations

from functools import cache

from torch._inductor import cpp_builder

FLAG = "fwrapv"
OPTIONS = "_get_ffast_math_flags"
"""the function, no part of Inductor's interface, that gives options of arithmetic to every call of the compiler"""


def can_be_told() -> bool:
    """Whether this torch has the function that options can be added to: 2.11 to 2.13 have."""
    return hasattr(cpp_builder, OPTIONS)


@cache
def told() -> None:
    """Add the option, once and for all calls in this process: what is compiled with and without is not mixed.

    Needs `can_be_told()`.
    """
    before = getattr(cpp_builder, OPTIONS)
    setattr(cpp_builder, OPTIONS, lambda: [*before(), FLAG])
