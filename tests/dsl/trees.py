"""Random syntax trees of every kind of node, for properties of parsing and printing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from hypothesis import strategies as st

from bilevel.dsl import nodes

Slotted = TypeVar("Slotted")

# Words of the language are free after a dot and before `=` in a call; reducers are names before `(`.
NAMES = ("a", "w", "phi", "task", "theta_2", "θ", "mean", "sum", "net", "step_size", "L", "K")
FREE = (*NAMES, "every", "steps", "by", "only", "schedule", "level")
UNITS = ("steps", "epochs", "generations")

names = st.sampled_from(NAMES)
free_names = st.sampled_from(FREE)
numbers = st.sampled_from(("0", "1", "5", "60_000", "0.5", "1e-3", "2.5E+4")).map(nodes.Number)
strings = st.text(alphabet="ab #{}[]()=:~,;θ", max_size=6).map(nodes.String)
units = st.sampled_from(UNITS)


def unique(parts: Iterable[Slotted], attribute: str) -> tuple[Slotted, ...]:
    """The parts without those whose attribute is that of an earlier one; None may come often."""
    seen: dict[object, Slotted] = {}
    for part in parts:
        key = getattr(part, attribute)
        seen.setdefault(id(part) if key is None else key, part)
    return tuple(seen.values())


def tuples(parts: st.SearchStrategy[Slotted], least: int = 0, most: int = 3) -> st.SearchStrategy[tuple[Slotted, ...]]:
    return st.lists(parts, min_size=least, max_size=most).map(tuple)


# ---- expressions ---------------------------------------------------------------------------------------------


def arguments_of(value: st.SearchStrategy[nodes.Expr]) -> st.SearchStrategy[tuple[nodes.Argument, ...]]:
    one = st.builds(nodes.Argument, st.none() | free_names, value)
    return tuples(one).map(lambda found: unique(found, "name"))


def _is_reducer(expr: nodes.Expr) -> bool:
    return isinstance(expr, nodes.Name) and expr.identifier in {"mean", "sum"}


def _larger(inner: st.SearchStrategy[nodes.Expr]) -> st.SearchStrategy[nodes.Expr]:
    ranges = st.builds(nodes.Range, inner, inner)
    binders = st.builds(nodes.Binder, names, st.none() | inner | ranges)
    kinds = st.sampled_from(("mean", "sum", "max", "min", "worst", "pcgrad"))
    return st.one_of(
        st.builds(nodes.ListOf, tuples(inner)),
        st.builds(nodes.Binary, st.sampled_from(("+", "-", "*", "/", "^")), inner, inner),
        st.builds(nodes.Negate, inner),
        st.builds(nodes.Attribute, inner, free_names),
        st.builds(nodes.Subscript, inner.filter(lambda base: not _is_reducer(base)), tuples(inner, 1)),
        st.builds(nodes.Call, inner, arguments_of(inner)),
        st.builds(nodes.Iterate, inner, inner),
        st.builds(nodes.Reduce, kinds, tuples(binders, 1, 2), inner),
    )


small = st.builds(nodes.Name, names) | numbers | strings
exprs: st.SearchStrategy[nodes.Expr] = st.recursive(small, _larger, max_leaves=12)
short = st.recursive(small, _larger, max_leaves=3)  # inside of statements, to keep whole recipes small
ranges = st.builds(nodes.Range, short, short)
calls = st.builds(nodes.Call, st.builds(nodes.Name, names), arguments_of(short))

# ---- statements ----------------------------------------------------------------------------------------------

types = st.builds(nodes.RealType, tuples(short)) | st.builds(
    nodes.TreeType, st.sampled_from(("params", "layers", "kron")), arguments_of(short), tuples(short)
)
domains = st.builds(nodes.Domain, names, tuples(short))
indices = st.builds(nodes.Index, names, st.just(True), short) | st.builds(
    nodes.Index, names, st.just(False), short | ranges
)
paths = st.builds(lambda first, rest: (first, *rest), names, tuples(free_names, 0, 2))
scheduled = tuples(free_names, 1, 2).map(lambda rest: ("schedule", *rest))
overrides = st.builds(nodes.Override, paths | scheduled, short)
durations = st.one_of(
    st.builds(nodes.For, short, units),
    st.builds(nodes.ForEach, names, ranges, units),
    st.builds(nodes.Until, calls, short, units),
)
moves = st.builds(nodes.Move, st.none() | names, short)
phases = st.builds(nodes.Phase, tuples(moves, 1, 2), st.none() | calls, st.none() | durations)
reports = st.builds(
    nodes.Report, names, short, tuples(indices | overrides, 0, 2), st.none() | st.builds(nodes.Every, short, units)
)
lets = st.builds(nodes.Let, names, st.none() | tuples(names, 1, 2), short)
plain_statements = st.one_of(
    st.builds(nodes.Variable, tuples(names, 1, 2), types, st.none() | domains, st.none() | short),
    st.builds(nodes.Each, indices),
    st.builds(nodes.Draw, names, short),
    lets,
    st.builds(nodes.Objective, st.sampled_from(("minimize", "maximize")), short),
    st.builds(nodes.By, tuples(phases, 1, 2)),
    reports,
)


def _slot(part: nodes.Item | nodes.Statement) -> object:
    """What may stand only once in a block."""
    if isinstance(part, nodes.Objective | nodes.By | nodes.Schedule):
        return type(part), getattr(part, "name", None)
    if isinstance(part, nodes.Override):
        return part.path
    if isinstance(part, nodes.Let | nodes.Use | nodes.Param | nodes.Import):
        return part.name
    return (nodes.Report, part.name) if isinstance(part, nodes.Report) else id(part)


def once(parts: Iterable[Slotted]) -> tuple[Slotted, ...]:
    """The parts without those for a slot that is taken."""
    seen: dict[object, Slotted] = {}
    for part in parts:
        seen.setdefault(_slot(part), part)  # type: ignore[arg-type]
    return tuple(seen.values())


statements = st.recursive(
    plain_statements,
    lambda inner: st.builds(nodes.Level, names, tuples(inner).map(once)),
    max_leaves=5,
)
levels = st.builds(nodes.Level, names, tuples(statements, 0, 4).map(once))
entries = st.builds(nodes.Entry, names, calls | st.builds(nodes.Name, names))
schedules = st.builds(nodes.Schedule, st.none() | names, tuples(entries).map(lambda found: unique(found, "name")))
uses = st.builds(nodes.Use, names, types | st.builds(nodes.Name, names), st.none()) | st.builds(
    nodes.Use, names, st.none(), short
)
items = st.one_of(
    uses,
    st.builds(nodes.Param, names, short),
    lets,
    st.builds(nodes.Import, names),
    overrides,
    levels,
    schedules,
)
recipes = st.builds(nodes.Recipe, names, st.none() | names, tuples(items, 0, 5).map(once))
