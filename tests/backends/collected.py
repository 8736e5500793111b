"""The recipes that both backends must agree on, by name, in the order in which they were added."""

from __future__ import annotations

RECIPES: dict[str, str] = {}


def add(name: str, body: str, schedule: str = "") -> None:
    """One more recipe, with a schedule where it is given."""
    tail = f"\nschedule {{ {schedule} }}" if schedule else ""
    RECIPES[name] = f"recipe {name}\n{body.strip()}{tail}"
