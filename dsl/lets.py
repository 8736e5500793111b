"""Lets: how a body sees its arguments, which names it takes from outside, and calls that cannot be unfolded.

Takes checked arguments; the body itself is checked in `expressions.py`, anew for every call. Reports B210, B211, B309.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.dsl import nodes
from bilevel.dsl.context import Checker, Place
from bilevel.dsl.walk import header_span
from bilevel.errors import Diagnostic, Related, Span

LARGEST_PROGRAM = 20_000
"""lets called by lets can double at every step; beyond this many calls the recipe is refused"""


def as_parameter(name: str, argument: ir.Expr) -> ir.Expr:
    """How the body of a let sees an argument: by the parameter's name, with all that is known of the argument."""
    return ir.Read(
        span=argument.span,
        type=argument.type,
        name=name,
        axes=argument.axes,
        reads=argument.reads,
        depends=argument.depends,
        smooth=argument.smooth,
    )


def free_names(body: ir.Expr, bound: frozenset[str]) -> set[str]:
    """The names a let's body takes from around the let."""
    match body:
        case ir.Read(name=name) | ir.IterateOf(name=name):
            here = set() if name in bound else {name}
        case ir.CallLet():
            inner = {n for a in body.arguments for n in free_names(a, bound)}
            return inner | (set(body.free) - bound)
        case ir.Reduced():
            own = {b.name for b in body.binders if b.source is not None}
            bound = bound | own | set(map(ir.place_of, own))
            here = {b.name for b in body.binders if b.source is None} - bound
        case _:
            here = set()
    return here.union(*(free_names(c, bound) for c in ir.children(body)))


def can_unfold(checker: Checker, place: Place, let: nodes.Let, given: int, span: Span) -> bool:
    """Whether a call of a let can be written out; reports what keeps it from that."""
    if let.name in place.lets:
        checker.report(_by_itself(place, let, span))
    elif checker.calls > LARGEST_PROGRAM:
        if all(d.code != "B211" for d in checker.problems):
            checker.report(_too_large(place, let))
    elif given != len(let.parameters or ()):
        checker.report(_wrong_count(let, given, span))
    else:
        return True
    return False


def _by_itself(place: Place, let: nodes.Let, span: Span) -> Diagnostic:
    chain = " > ".join((*place.lets[place.lets.index(let.name) :], let.name))
    return Diagnostic(
        "B210",
        f"`{let.name}` is defined by itself",
        span,
        why=f"a let is an abbreviation, and this one never ends: {chain}",
        fix="write it without itself; what repeats is a level",
    )


def _too_large(place: Place, let: nodes.Let) -> Diagnostic:
    return Diagnostic(
        "B211",
        f"the lets of this recipe unfold to more than {LARGEST_PROGRAM:_} calls",
        header_span(let, "="),
        "written out once for every call",
        why=f"every call of a let is written out where it stands: {' > '.join((*place.lets, let.name))}",
        fix="a registered function, or a level, in place of the lets that call others several times",
    )


def _wrong_count(let: nodes.Let, given: int, span: Span) -> Diagnostic:
    wanted = len(let.parameters or ())
    parameters = f"({', '.join(let.parameters)})" if let.parameters else ""
    return Diagnostic(
        "B309",
        f"`{let.name}` takes {wanted or 'no'} argument{'s' * (wanted != 1)}, not {given}",
        span,
        related=(Related(header_span(let, "="), f"defined here{' with ' + parameters if parameters else ''}"),),
        fix=f"{let.name}{parameters}",
    )
