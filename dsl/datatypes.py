"""The types that expressions of a recipe have, as plain data: they are written to manifests and read back.

A size is an int, the name of a size (`"n"`, `"ways"`), a product of those (`"ways*shots"`), or `"?"` where nobody
knows it before the program runs. Symbols are strings and not sympy objects because `check` must answer before
sympy could be imported; the planner turns them into sympy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Size = int | str
UNKNOWN_SIZE: Size = "?"


@dataclass(frozen=True, slots=True)
class Array:
    """Numbers with a shape; `real` numbers carry derivatives, `integer` ones (labels, positions) do not."""

    shape: tuple[Size, ...] = ()
    element: Literal["real", "integer"] = "real"
    ranked: bool = True  # False: even the number of axes is unknown, and `shape` is empty

    def __str__(self) -> str:
        name = "real" if self.element == "real" else "integer"
        if not self.ranked:
            return f"{name}[...]"
        return f"{name}[{', '.join(map(str, self.shape))}]" if self.shape else name


@dataclass(frozen=True, slots=True)
class Part:
    """Which parameters of a network a tree has: all (both None), `only` one part, or all `except_` one part."""

    only: str | None = None
    except_: str | None = None

    def __str__(self) -> str:
        if self.only is not None:
            return f', only = "{self.only}"'
        return f', except = "{self.except_}"' if self.except_ is not None else ""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of arrays shaped like parameters of the network `net`; `kind` is params, layers, factors or kron."""

    net: str
    part: Part = Part()
    kind: str = "params"
    count: tuple[Size, ...] = ()

    def __str__(self) -> str:
        count = f"[{', '.join(map(str, self.count))}]" if self.count else ""
        return f"{self.kind}({self.net}{self.part}){count}"


@dataclass(frozen=True, slots=True)
class Union:
    """Parameter groups given together: `[theta, phi]`."""

    members: tuple[Tree, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self.members))}]"


@dataclass(frozen=True, slots=True)
class Record:
    """Named fields: one sample, one task, a data set with its splits."""

    fields: tuple[tuple[str, Type], ...]

    def get(self, name: str) -> Type | None:
        return dict(self.fields).get(name)

    def __str__(self) -> str:
        return f"record({', '.join(name for name, _ in self.fields)})"


@dataclass(frozen=True, slots=True)
class Records:
    """Finitely many samples: every field has a leading axis of `length`; `source[n]` draws without replacement."""

    length: Size
    sample: Record

    def __str__(self) -> str:
        return f"records[{self.length}]({', '.join(name for name, _ in self.sample.fields)})"


@dataclass(frozen=True, slots=True)
class Stream:
    """Endlessly many items (tasks, random numbers): `source[n]` makes n new ones."""

    item: Type

    def __str__(self) -> str:
        return f"stream of {self.item}"


@dataclass(frozen=True, slots=True)
class Model:
    """A network: maps samples of shape `input` to outputs of shape `output`, by parameters with named parts."""

    name: str
    input: tuple[Size, ...] | None = None
    output: tuple[Size, ...] | None = None
    parts: tuple[tuple[str, str], ...] = ()
    """named groups of parameters, with the pattern on names that says which"""
    noisy: bool = False
    """has dropout, whose noise is drawn from keys"""
    outputs: tuple[tuple[str, tuple[Size, ...]], ...] | None = ()
    """the shape of each named output for one sample; None where the caller gives the network"""

    def __str__(self) -> str:
        return "model"


@dataclass(frozen=True, slots=True)
class Function:
    """A registered function of arrays and trees; `result` is its type, Unknown where it is not declared."""

    name: str
    smooth: bool
    result: Type

    def __str__(self) -> str:
        return "function"


@dataclass(frozen=True, slots=True)
class ListType:
    """Several things of one kind, each of which an index may take in turn.

    `length` is None where every item is listed; a registered list has one item, which stands for all.
    """

    items: tuple[Type, ...]
    length: Size | None = None

    @property
    def size(self) -> Size:
        return len(self.items) if self.length is None else self.length

    def __str__(self) -> str:
        return "list" if self.size == UNKNOWN_SIZE else f"list of {self.size}"


@dataclass(frozen=True, slots=True)
class Text:
    """A string or a name of the registry, used as an argument only."""

    def __str__(self) -> str:
        return "text"


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known before the caller binds it; `reason` says why."""

    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        return "unknown"


Type = Array | Tree | Union | Record | Records | Stream | Model | Function | ListType | Text | Unknown


# ---- short names for registrations ---------------------------------------------------------------------------


def real(*shape: Size) -> Array:
    """Real numbers of this shape; sizes may be names of the constructor's arguments."""
    return Array(shape)


def integer(*shape: Size) -> Array:
    """Whole numbers (class labels, positions) of this shape."""
    return Array(shape, "integer")


def record(**fields: Type) -> Record:
    """Named fields."""
    return Record(tuple(fields.items()))


def records(length: Size, /, **fields: Type) -> Records:
    """Finitely many samples with these fields; shapes are those of one sample."""
    return Records(length, Record(tuple(fields.items())))


def stream(item: Type) -> Stream:
    """Endlessly many of `item`."""
    return Stream(item)


# ---- plain data ----------------------------------------------------------------------------------------------


def to_json(type_: Type) -> object:
    """The type as JSON data; `from_json` is its inverse."""
    match type_:
        case Array(shape, element, ranked):
            return {"array": list(shape) if ranked else None, "element": element}
        case Record(fields):
            return {"record": {name: to_json(t) for name, t in fields}}
        case Records(length, sample):
            return {"records": {name: to_json(t) for name, t in sample.fields}, "length": length}
        case Stream(item):
            return {"stream": to_json(item)}
        case ListType((item,), length) if length is not None:
            return {"list": to_json(item), "length": length}
        case Unknown():
            return {"unknown": True}
    raise TypeError(f"a manifest cannot hold {type_!r}")


def from_json(data: Mapping[str, object]) -> Type:
    """The type that `to_json` wrote."""
    match data:
        case {"array": None, "element": element}:
            return Array((), _element(element), ranked=False)
        case {"array": list(shape), "element": element}:
            return Array(tuple(shape), _element(element))
        case {"records": dict(fields), "length": int() | str() as length}:
            return Records(length, _fields(fields))
        case {"record": dict(fields)}:
            return _fields(fields)
        case {"stream": dict(item)}:
            return Stream(from_json(item))
        case {"list": dict(item), "length": int() | str() as length}:
            return ListType((from_json(item),), length)
        case {"unknown": True}:
            return Unknown()
    raise ValueError(f"not a type: {data!r}")


def _element(name: object) -> Literal["real", "integer"]:
    if name == "real":
        return "real"
    if name == "integer":
        return "integer"
    raise ValueError(f"not an element type: {name!r}")


def _fields(fields: Mapping[str, Mapping[str, object]]) -> Record:
    return Record(tuple((name, from_json(t)) for name, t in fields.items()))
