"""Text that makes networks of the modules among the parts: alone, in lists, in pairs, in lists of pairs.

Registered functions are wrapped too, since they may normalise.
"""

from __future__ import annotations

from dataclasses import replace

from bilevel.dsl.datatypes import Function, ListType, Model, Record, Type, Unknown
from bilevel.dsl.shapes import one_of


def made_part(type_: Type, name: str) -> str:
    """What stands for the part called `name`; the name itself where it holds no module."""
    match type_:
        case Model(parts=parts, noisy=noisy):
            return f"{'noisy_network' if noisy else 'network'}({name}, {dict(parts)!r}, dtype, device)"
        case Function():
            return f"function_with_norms({name})"
        case Record(fields):
            return _made_pair(fields, name)
        case ListType(items):
            return _made_list(items, name)
    return name


def _made_pair(fields: tuple[tuple[str, Type], ...], name: str) -> str:
    made = [(field, made_part(type_, f"{name}.{field}")) for field, type_ in fields]
    changed = [f"{field}={text}" for field, text in made if text != f"{name}.{field}"]
    return f"{name}._replace({', '.join(changed)})" if changed else name


def _made_list(items: tuple[Type, ...], name: str) -> str:
    """One text for all items where they are of one kind, else one for each."""
    common = one_of(ListType(items)) or Unknown()
    items = tuple(_called_alike(item, common) for item in items)
    texts = {made_part(item, "part") for item in items}
    if texts <= {"part"}:
        return name
    if len(texts) == 1:
        return f"[{texts.pop()} for part in {name}]"
    return f"[{', '.join(made_part(item, f'{name}[{place}]') for place, item in enumerate(items))}]"


def _called_alike(item: Type, common: Type) -> Type:
    """The item with dropout wherever another of its list has it: one text calls all of them, with a key."""
    match item, common:
        case Model(), Model(noisy=noisy):
            return replace(item, noisy=noisy)
        case Record(fields), Record():
            return Record(tuple((n, _called_alike(t, common.get(n) or Unknown())) for n, t in fields))
    return item
