"""Searches for garbage are put off while graphs are made, and go on as before afterwards."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from bilevel.garbage import uncollected


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    gc.enable()


def searches(count: int) -> int:
    """How many searches `count` new cycles bring about."""
    seen: list[str] = []
    watch = lambda phase, info: seen.append(phase)  # noqa: E731
    gc.callbacks.append(watch)
    for _ in range(count):
        cycle: list[object] = []
        cycle.append(cycle)
    gc.callbacks.remove(watch)
    return seen.count("start")


def test_no_search_while_it_lasts_and_searches_after() -> None:
    with uncollected(), uncollected():
        assert searches(5_000) == 0
    assert gc.isenabled()
    assert searches(5_000) > 0


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with uncollected():
        pass
    assert not gc.isenabled()


def test_an_error_leaves_the_collector_on() -> None:
    with pytest.raises(ValueError, match="mine"), uncollected():
        raise ValueError("mine")
    assert gc.isenabled()


def test_what_became_garbage_meanwhile_is_found_by_the_next_full_search() -> None:
    gc.collect()
    with uncollected():
        searches(1_000)
    assert gc.collect() >= 1_000


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        with uncollected():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
