"""The tables of the language reference, made from the tables that the compiler itself reads."""

from __future__ import annotations

from bilevel.dsl.functions import DOMAINS, FUNCTIONS
from bilevel.dsl.solvers import MODES, SOLVERS

BEGIN, END = "<!-- tables: made by bilevel.dsl.reference -->", "<!-- end of tables -->"


def tables() -> str:
    """Functions, solvers, domains and modes as Markdown, between the two marks."""
    parts = [BEGIN, _functions(), _solvers(), _domains(), _modes(), END]
    return "\n\n".join(parts) + "\n"


def _functions() -> str:
    rows = [f"| `{f.name}` | {_count(f.least, f.most)} | {f.smooth} | {f.summary} |" for f in FUNCTIONS.values()]
    return "\n".join(["| function | arguments | derivative | value |", "|---|---|---|---|", *rows])


def _count(least: int, most: int | None) -> str:
    if most is None:
        return f"{least} or more"
    return str(least) if least == most else f"{least} to {most}"


def _solvers() -> str:
    rows = [f"| `{f.name}` | {f.needs} | {_arguments(f.defaults)} |" for f in SOLVERS.values()]
    return "\n".join(["| solver | needs | arguments |", "|---|---|---|", *rows])


def _arguments(defaults: dict[str, float | None]) -> str:
    return ", ".join(f"`{n}`" if d is None else f"`{n} = {d:g}`" for n, d in defaults.items()) or "none"


def _domains() -> str:
    rows = [f"| `{name}` | {count} |" for name, count in DOMAINS.items()]
    return "\n".join(["| domain | numbers |", "|---|---|", *rows])


def _modes() -> str:
    rows = [f"| `{mode}` | {', '.join(f'`{o}`' for o in options) or 'none'} |" for mode, options in MODES.items()]
    return "\n".join(["| mode | options |", "|---|---|", *rows])


def with_tables(page: str) -> str:
    """A page with its tables made anew."""
    head, _, rest = page.partition(BEGIN)
    return head + tables() + rest.partition(END)[2].removeprefix("\n")
