"""The manifest of a registry as a file: what `check` and an editor read in place of the Python module.

Writing needs the imported module, reading does not: no torch, no user code.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

from bilevel.errors import RecipeError, fail
from bilevel.registry import Description, Manifest, collect

VERSION = 1


def write_manifest(module: ModuleType, name: str = "") -> str:
    """The text of the manifest of `module`, called `name` or as the module; the same module gives the same bytes."""
    entries = collect([module]).manifest.entries
    content = {
        "bilevel_manifest": VERSION,
        "name": name or module.__name__,
        "entries": [entries[key].to_json() for key in sorted(entries)],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_manifest(path: Path) -> Manifest:
    """The manifest in the file at `path`; B607 where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    match content:
        case {"bilevel_manifest": version} if version != VERSION:
            raise _unreadable(path, f"it has version {version}; this program reads version {VERSION}")
        case {"bilevel_manifest": _, "name": str(name), "entries": list(entries)}:
            return Manifest(name, _descriptions(path, entries))
    raise _unreadable(path, "it has no `bilevel_manifest`, `name` and `entries`")


def _descriptions(path: Path, entries: list[object]) -> dict[str, Description]:
    try:
        described = [Description.from_json(entry) for entry in entries]  # type: ignore[arg-type]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"an entry is damaged ({error})") from error
    return {description.name: description for description in described}


def _unreadable(path: Path, why: str) -> RecipeError:
    return fail("B607", f"`{path}` is not a manifest", why=why, fix="write it again:  bilevel manifest MODULE")
