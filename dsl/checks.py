"""What a syntactically right recipe may still get wrong in its words: reserved words, look-alikes, doubled statements.

Takes a parsed tree and gives diagnostics. Whether a name means anything is not asked here.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bilevel.dsl import nodes
from bilevel.dsl.tokens import REDUCERS, normal, scan
from bilevel.dsl.walk import children, name_span, walk
from bilevel.errors import Diagnostic, Edit, Related, Span

RESERVED = frozenset(
    "then recipe extends use param let import level each in minimize maximize by with for until within report every "
    "schedule from real params step steps epoch epochs generation generations".split()
)

# Letters of other scripts drawn like these Latin ones. Greek letters that are only similar (alpha, nu) are left out.
_GREEK = dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧοϲ", "ABEZHIKMNOPTYXoc", strict=True))
_CYRILLIC = dict(zip("АВЕЅІЈКМНОРСТУХаеосрхуіјѕһԁԛԝ", "ABESIJKMHOPCTYXaeocpxyijshdqw", strict=True))
_LOOK_ALIKE = str.maketrans({**_GREEK, **_CYRILLIC})


def check_words(node: nodes.Node) -> list[Diagnostic]:
    """Reserved words used as names (B109), misplaced reducers (B107) and names that deceive the eye (B116)."""
    problems = [_reserved(place, name) for place, name in _written_names(node) if name in RESERVED]
    problems += [_misplaced(part) for part in walk(node) if _is_misplaced(part)]
    return problems + list(_deceptive(node.span))


# ---- reserved words ------------------------------------------------------------------------------------------


def _written_names(node: nodes.Node) -> Iterator[tuple[nodes.Node, str]]:
    """All names of a tree except those that stand after a dot or before `=` in a call, where every word is free."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        for name in NAMES.get(type(part), _no_names)(part):
            yield part, name
        # `update = each` is an argument of several modes, `lr = steps(...)` one of solvers.
        if isinstance(part, nodes.Argument | nodes.Override) and part.value == nodes.Name("each"):
            continue
        if isinstance(part, nodes.Argument | nodes.Override) and _is_stepwise(part):
            waiting.extend(child for child in children(part.value) if child != nodes.Name("steps"))
            continue
        waiting.extend(children(part))


def _is_stepwise(part: nodes.Argument | nodes.Override) -> bool:
    """Whether this is a rate that falls in steps: `lr = steps(...)`, `fit.by.lr = steps(...)`, or the value alone."""
    last = part.path[-1] if isinstance(part, nodes.Override) else part.name
    called = part.value.function if isinstance(part.value, nodes.Call) else None
    return last in ("lr", "value") and called == nodes.Name("steps")


def _no_names(part: Any) -> tuple[str, ...]:
    return ()


def _own_name(part: Any) -> tuple[str, ...]:
    return () if part.name is None else (part.name,)


NAMES: dict[type[nodes.Node], Callable[[Any], tuple[str, ...]]] = {
    nodes.Recipe: lambda part: (part.name, part.parent) if part.parent else (part.name,),
    nodes.Name: lambda part: (part.identifier,),
    nodes.TreeType: lambda part: () if part.kind == "params" else (part.kind,),
    nodes.Variable: lambda part: part.names,
    nodes.Let: lambda part: (part.name, *(part.parameters or ())),
    nodes.Override: lambda part: part.path[:1] if part.path[0] != "schedule" else (),
    **dict.fromkeys((nodes.Use, nodes.Param, nodes.Import, nodes.Level, nodes.Schedule, nodes.Entry), _own_name),
    **dict.fromkeys((nodes.Index, nodes.Draw, nodes.Binder, nodes.Domain, nodes.ForEach), _own_name),
    **dict.fromkeys((nodes.Report, nodes.Move), _own_name),
}


# Nodes that begin with a keyword: in `level level {` the name is the second word.
_LED_BY_KEYWORD = (
    nodes.Use,
    nodes.Param,
    nodes.Let,
    nodes.Import,
    nodes.Level,
    nodes.Schedule,
    nodes.ForEach,
    nodes.Report,
)


def _reserved(place: nodes.Node, name: str) -> Diagnostic:
    if isinstance(place, nodes.Recipe):
        return _no_header_name(place, name)
    span = _last_name_span(place, name) if isinstance(place, _LED_BY_KEYWORD) else name_span(place, name)
    return Diagnostic(
        "B109",
        f"`{name}` is a word of the language, not a name",
        span,
        "needs another name",
        why="words of the language are kept free everywhere, so that the language can grow",
        fix=f"for instance `my_{name}`",
    )


def _no_header_name(recipe: nodes.Recipe, name: str) -> Diagnostic:
    """`recipe` alone on its line takes the keyword of the next statement for its name."""
    header = "recipe" if name == recipe.name else "extends"
    return Diagnostic(
        "B114",
        "`recipe` needs a name" if header == "recipe" else "`extends` needs the name of a recipe",
        name_span(recipe, header),
        f"followed by `{name}`, a word of the language",
        fix=f"{header} my_recipe",
    )


def _last_name_span(place: nodes.Node, name: str) -> Span:
    """`level level {`: the keyword comes first and the name second."""
    span = place.span
    found = [token for token in scan(span.source.text, span.start, span.end) if token.kind == "name"][:3]
    same = [token for token in found if normal(token.text) == name]
    return Span(span.source, same[-1].start, same[-1].end) if same else name_span(place, name)


# ---- reducers ------------------------------------------------------------------------------------------------


def _is_misplaced(part: nodes.Node) -> bool:
    base = part.base if isinstance(part, nodes.Subscript) else None
    return isinstance(base, nodes.Name) and base.identifier in REDUCERS


def _misplaced(part: nodes.Node) -> Diagnostic:
    from bilevel.dsl.mistakes import misplaced_reducer

    return misplaced_reducer(part.span)


# ---- look-alikes ---------------------------------------------------------------------------------------------


def _deceptive(span: Span) -> Iterator[Diagnostic]:
    if span.source.text.isascii():
        return
    seen: dict[str, Span] = {}
    for token in scan(span.source.text, span.start, span.end):
        if token.kind != "name":
            continue
        place, name = Span(span.source, token.start, token.end), normal(token.text)
        if not (token.text.isidentifier() and name.isidentifier()) or _is_altered(token.text):
            yield _not_a_name(place)
        elif _is_mixed(name):
            yield _mixed(place)
        else:
            first = seen.setdefault(name.translate(_LOOK_ALIKE), place)
            if normal(first.text) != name:
                yield _same_looks(first, place)


def _is_altered(name: str) -> bool:
    """Whether NFKC would make a superscript or subscript an ordinary digit or letter: x² is not x2."""
    return any(unicodedata.decomposition(character).startswith(("<super>", "<sub>")) for character in name)


def _script(character: str) -> str:
    return unicodedata.name(character, "?").split()[0]


def _is_mixed(name: str) -> bool:
    """Whether a name mixes scripts in a way that hides it: Greek that is plainly Greek may stand beside Latin."""
    scripts = {_script(character) for character in name if character.isalpha()}
    if len(scripts) < 2:
        return False
    return not scripts <= {"LATIN", "GREEK"} or any(character in _GREEK for character in name)


def _not_a_name(place: Span) -> Diagnostic:
    return Diagnostic(
        "B116",
        f"`{place.text}` is not a name",
        place,
        why="names are made of letters, digits and `_`; raised and lowered characters are not among them",
        fix="a power is written x^2, an index x[2] or x_2",
    )


def _mixed(place: Span) -> Diagnostic:
    foreign = [character for character in place.text if character.isalpha() and _script(character) != "LATIN"]
    plain = normal(place.text).translate(_LOOK_ALIKE)
    listed = ", ".join(f"{character} is {unicodedata.name(character, '?').lower()}" for character in foreign[:3])
    return Diagnostic(
        "B116",
        f"`{place.text}` mixes letters of different alphabets",
        place,
        listed,
        why="it can look the same as another name and not be the same",
        fix=f"write `{plain}`" if plain.isascii() else "use letters of one alphabet",
        edit=Edit(place, plain) if plain.isascii() else None,
    )


def _same_looks(first: Span, place: Span) -> Diagnostic:
    return Diagnostic(
        "B116",
        f"two different names look like `{place.text}`",
        place,
        f"written in {_script(place.text[0]).lower()} letters",
        related=(Related(first, f"written in {_script(first.text[0]).lower()} letters"),),
        fix="use letters of one alphabet",
    )


# ---- doubled statements --------------------------------------------------------------------------------------


def check_duplicates(recipe: nodes.Recipe) -> list[Diagnostic]:
    """Statements of one block that would each silently replace the other (B117).

    Variables, draws, indices and levels declared twice are B205, found with the rules of scope.
    """
    problems: list[Diagnostic] = []
    for node in walk(recipe):
        problems.extend(_doubled(DOUBLES.get(type(node), _no_slots)(node)))
    return problems


Slot = tuple[str, nodes.Node]


def _no_slots(node: Any) -> Iterable[Slot]:
    return ()


def _doubled(slots: Iterable[Slot]) -> Iterator[Diagnostic]:
    first: dict[str, nodes.Node] = {}
    for what, node in slots:
        if first.setdefault(what, node) is not node:
            yield Diagnostic(
                "B117",
                f"{what} is given twice",
                node.span,
                "second time",
                related=(Related(first[what].span, "first time"),),
                fix="remove one of them",
            )


def _item_slots(recipe: nodes.Recipe) -> Iterator[Slot]:
    for item in recipe.items:
        if isinstance(item, nodes.Use | nodes.Param | nodes.Let | nodes.Import):
            yield f"`{item.name}`", item
        elif isinstance(item, nodes.Override):
            yield f"the path `{'.'.join(item.path)}`", item
        elif isinstance(item, nodes.Schedule):
            yield f"`schedule {item.name}`" if item.name else "the schedule", item


def _statement_slots(level: nodes.Level) -> Iterator[Slot]:
    for statement in level.body:
        if isinstance(statement, nodes.Objective):
            yield f"the objective of `{level.name}`", statement
        elif isinstance(statement, nodes.By):
            yield f"the solver (`by`) of `{level.name}`", statement
        elif isinstance(statement, nodes.Let):
            yield f"`{statement.name}`", statement
        elif isinstance(statement, nodes.Report):
            yield f"the report `{statement.name}`", statement


DOUBLES: dict[type[nodes.Node], Callable[[Any], Iterable[Slot]]] = {
    nodes.Recipe: _item_slots,
    nodes.Level: _statement_slots,
    nodes.Call: lambda call: ((f"`{a.name} =`", a) for a in call.arguments if a.name),
    nodes.TreeType: lambda tree: ((f"`{a.name} =`", a) for a in tree.arguments if a.name),
    nodes.Schedule: lambda schedule: ((f"the mode of `{entry.name}`", entry) for entry in schedule.entries),
}
