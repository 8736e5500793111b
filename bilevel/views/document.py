"""The JSON document of a plan (`plan_json.py`) as typed values: all that a view may use.

Reading the document back, and not the plan, holds it to its promise: what a view shows, other programs can read too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bilevel.costs import pretty
from bilevel.table import TIMES


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a recipe file, counted from 1."""

    file: str
    line: int

    @property
    def identity(self) -> str:
        """A name for the line that a page can point at."""
        return f"line-{self.file.replace('.', '-')}-{self.line}"


@dataclass(frozen=True, slots=True)
class Level:
    """A level: `depth` 0 is outermost; `number` picks its colour."""

    name: str
    inside: str | None
    depth: int
    number: int
    per: tuple[str, ...]
    equation: str
    solver: str
    duration: str
    place: Place


@dataclass(frozen=True, slots=True)
class Node:
    """A step of the plan."""

    name: str
    operation: str
    level: str
    repeats: str
    per: tuple[str, ...]
    place: Place

    @property
    def identity(self) -> str:
        """A name that DOT, Mermaid and HTML take."""
        return "step-" + self.name.replace(".", "-")


@dataclass(frozen=True, slots=True)
class Edge:
    """What flows from one step to another: `value`, `derivative`, or `stopped`."""

    tail: str
    head: str
    kind: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mode that was considered; `work` and `memory` are (number, formula), without numbers in a symbolic plan."""

    mode: str
    exactness: str
    chosen: bool
    work: tuple[str, str]
    memory: tuple[str, str]
    seconds: str
    remark: str


@dataclass(frozen=True, slots=True)
class Hypergradient:
    """How one level is differentiated."""

    level: str
    chosen: str
    exactness: str
    candidates: tuple[Candidate, ...]
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """A fact of a level: what is known, where from, and its line."""

    level: str
    text: str
    origin: str
    place: Place


@dataclass(frozen=True, slots=True)
class Document:
    """A whole plan; `sources` are the texts of its recipe files, the recipe's own first."""

    recipe: str
    plan: str
    exactness: str
    levels: tuple[Level, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    hypergradients: tuple[Hypergradient, ...]
    sources: Mapping[str, str]
    measured: tuple[Mapping[str, str], ...] = ()
    facts: tuple[Known, ...] = ()
    totals: tuple[str, ...] = ()
    """limit, time of a step, and the calibration that the times rest on"""

    def level(self, name: str) -> Level:
        """The level of that name."""
        return next(level for level in self.levels if level.name == name)


def read(content: Mapping[str, Any]) -> Document:
    """The typed form of a document."""
    graph = content["graph"]
    return Document(
        content["recipe"],
        content["plan"],
        content["class"],
        tuple(_levels(content["levels"])),
        tuple(
            Node(n["id"], n["op"], n["level"], n["repeats"], tuple(n["per"]), _place(n["at"])) for n in graph["nodes"]
        ),
        tuple(Edge(*edge) for edge in graph["edges"]),
        tuple(_hypergradient(h) for h in content["hypergradients"]),
        content["sources"],
        tuple(map(_measured, content.get("measured", ()))),
        tuple(_facts(content)),
        tuple(_totals(content)),
    )


def _facts(content: Mapping[str, Any]) -> Iterator[Known]:
    """Sizes and costs first, then what a level is made of."""
    for row in content["levels"]:
        name = row["name"]
        for fact in content.get("facts", {}).get(name, ()):
            number = f"{fact['value']:,.0f}" if not fact["unit"] else si(fact["value"], fact["unit"])
            of = f" ({', '.join(fact['of'])})" if fact["of"] else ""
            yield Known(name, f"{fact['symbol']} = {number}: {fact['meaning']}{of}", fact["origin"], _place(fact["at"]))
        for one in content.get("properties", {}).get(name, ()):
            head = {"smooth": "objective ", "degree": "objective ", "symmetric": "gradient: "}.get(one["what"], "")
            yield Known(name, f"{head}{one['text']}", one["origin"], _place(one["at"]))


def _totals(content: Mapping[str, Any]) -> Iterator[str]:
    if "limits" not in content:
        return
    memory = content["limits"]["memory"]
    if memory is not None:
        whose = "" if content["limits"]["asked"] else ", what is free here"
        yield f"limit {si(memory, 'B')} of memory{whose}; classes up to {content['allow']}"
    for name, cost in content["steps"].items():
        if cost.get("seconds") is not None:
            peak = si(cost["counted"]["peak"], "B")
            about = "at most" if cost["at_most"] else "about"
            yield f"one step of {name} {about} {si(cost['seconds'], 's')}, peak {peak}"
    said = f"{content['calibration']['name']} ({content['calibration']['hash']})"
    yield f"times of {TIMES[content['times_of']]}, by the calibration {said}"


def _levels(rows: list[dict[str, Any]]) -> list[Level]:
    depths: dict[str | None, int] = {None: -1}
    found = []
    for number, row in enumerate(rows):
        depths[row["name"]] = depths[row["inside"]] + 1
        found.append(
            Level(
                row["name"],
                row["inside"],
                depths[row["name"]],
                number,
                tuple(row["per"]),
                row["equation"],
                row["solver"],
                row["duration"],
                _place(row["at"]),
            )
        )
    return found


def _place(at: str) -> Place:
    file, line, _ = at.rsplit(":", 2)
    return Place(file, int(line))


def _hypergradient(row: dict[str, Any]) -> Hypergradient:
    candidates = tuple(_candidate(one) for one in row["candidates"])
    return Hypergradient(row["level"], row["chosen"], row["class"], candidates, tuple(row.get("would_change", ())))


def _candidate(row: dict[str, Any]) -> Candidate:
    work, memory = (row.get(name, {}) for name in ("flop", "bytes"))
    seconds = row.get("seconds")
    return Candidate(
        row["mode"],
        row["class"],
        row["chosen"],
        _amount(work, "FLOP"),
        _amount(memory, "B"),
        "" if seconds is None else si(float(seconds), "s"),
        _remark(row),
    )


def _measured(row: Mapping[str, Any]) -> dict[str, str]:
    """One line of an analysis, with units; the words of its columns are those of the table in text."""
    seconds, held = row["seconds"], row["bytes"]
    return {
        "": f"{'  ' * row['depth']}{row['step']}",
        "time, estimate": _or_dash(seconds["estimate"], "s"),
        "time, measured": _or_dash(seconds["measured"], "s"),
        "ratio": "-" if seconds["ratio"] is None else f"{seconds['ratio']:.2f}",
        "peak, estimate": _or_dash(held["estimate"], "B"),
        "peak, measured": _or_dash(held["measured"], "B"),
        "calls": f"{row['calls']:,}",
        "beyond 1.5": ", ".join(row["flags"]),
    }


def _or_dash(number: float | None, unit: str) -> str:
    return "-" if number is None else si(float(number), unit)


def _amount(row: Mapping[str, Any], unit: str) -> tuple[str, str]:
    """Value and formula of a cost."""
    number = row.get("value")
    return "" if number is None else si(float(number), unit), pretty(str(row.get("expr", "")))


def _remark(row: Mapping[str, Any]) -> str:
    """Why it was chosen or not."""
    reasons = row.get("reasons") or ([row["reason"]] if row.get("reason") else [])
    note = row.get("note") or row.get("why") or ("chosen" if row["chosen"] else "")
    return f"[{', '.join(reasons)}] {note}" if reasons else note


SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))


def si(number: float, unit: str) -> str:
    """A number with three digits and the prefix of its unit: 1.78 GB."""
    scale, prefix = next((s for s in SCALES if abs(number) >= s[0]), SCALES[4])
    return f"{number / scale:.3g} {prefix}{unit}"
