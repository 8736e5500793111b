"""Python's search for garbage in cycles, put off while modules are imported and graphs are made."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OWN = 1_000
"""Frozen objects of the interpreter's own are fewer (Python 3.12 begins with 375); a caller that froze has frozen thousands."""


@contextmanager
def uncollected() -> Iterator[None]:
    """While it lasts no cycles are searched for.

    Nearly all that an import or a compiler makes stays, and a search looks at all of torch again: a fifth of the
    seconds until a first step. Not for what computes with tensors: those in cycles would fill the memory.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            _aged()
            gc.enable()


def _aged() -> None:
    """Count what was made among what has long been there, so that the next search does not begin with all of it."""
    if gc.get_freeze_count() < OWN:  # nothing of the caller's, which would be let go as well
        gc.freeze()
        gc.unfreeze()
