"""Tests after `until` that promise no stationary point: what they compare, for one copy, over the steps so far."""

from __future__ import annotations

import math

from bilevel import ir
from bilevel.backends.reference.expressions import evaluate
from bilevel.backends.reference.scope import Scope
from bilevel.backends.reference.support import Unsupported
from bilevel.backends.reference.trees import number, plain


def holds(scope: Scope, test: ir.Until, met: list[float]) -> bool:
    """Whether the test holds now; `met` has the values of the steps before and gets that of this one."""
    met.append(_number(scope, test, "value"))
    match test.test:
        case "below":
            return met[-1] < _number(scope, test, "bound")
        case "plateau":
            return len(met) - 1 - _last_progress(met) >= _number(scope, test, "patience")
    raise Unsupported(f"until {test.test}")


def _number(scope: Scope, test: ir.Until, name: str) -> float:
    return plain(number(evaluate(test.arguments[name], scope)))


def _last_progress(met: list[float]) -> int:
    """The place of the last value that lies below all those that counted before it, by 1e-4 of the least of them."""
    least, place = met[0], 0
    for now, value in enumerate(met):
        lower = value < least - 1e-4 * abs(least) if math.isfinite(least) else True
        if math.isfinite(value) and lower:
            least, place = value, now
    return place
