"""A name for the steps of a level that is solved `until`: there is none. Reports B409."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from bilevel.dsl.recovery import Mistake, Trouble
from bilevel.dsl.tokens import UNITS, Token
from bilevel.errors import Diagnostic, Related


def counter_of_until(trouble: Trouble) -> Mistake | None:
    """`until stationary(1e-3) within k in 1..64 steps`, `for k in 1..64 steps until ...`"""
    own = trouble.own
    if not own or not own[0].is_word("by"):
        return None
    starts = [i for i, token in enumerate(own) if token.is_word("by", "then")]
    for first, last in pairwise([*starts, len(own)]):
        phase = own[first:last]
        test = next((t for t in phase if t.is_word("until")), None)
        place = next((i for i, t in enumerate(phase) if _counts(phase, i)), None)
        if test is not None and place is not None:
            return Mistake(_no_counter(trouble, phase, place, test))
    return None


def _counts(phase: Sequence[Token], i: int) -> bool:
    """Whether a name for the steps follows: `for k in`, `within k in`, `for k until`."""
    following = phase[i + 1 : i + 3]
    return (
        phase[i].is_word("for", "within")
        and len(following) == 2
        and following[0].kind == "name"
        and following[1].is_word("in", "until")
    )


def _no_counter(trouble: Trouble, phase: Sequence[Token], place: int, test: Token) -> Diagnostic:
    name, ranged = phase[place + 1], phase[place + 2].is_word("in")
    end = next((t for t in phase[place:] if t.is_word(*UNITS)), phase[-1] if ranged else name)
    counted = trouble.written(phase[place + 2], end) if ranged else "in 1..64 steps"
    return Diagnostic(
        "B409",
        "a level solved `until` has no step counter",
        trouble.span(phase[place], end if ranged else name),
        f"`{name.text}` would count the steps",
        (Related(trouble.span(test), "as many steps as it takes"),),
        why="what is promised is a point, whichever steps lead there; a number of the step would change the problem on the way",
        fix=f"for {name.text} {counted}, or drop `{name.text}`",
    )
