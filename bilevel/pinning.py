"""Writing the modes that a planner chose into a recipe's file, so that they no longer depend on a machine.

Only text is added or a mode replaced, everything else in the file stays as it is. Reports B110 and B709.
"""

from __future__ import annotations

from pathlib import Path

from bilevel.dsl import nodes
from bilevel.dsl.format import format_text
from bilevel.errors import Edit, fail
from bilevel.files import write_whole
from bilevel.plan import Plan
from bilevel.recipe import Recipe


def pin(recipe: Recipe, plan: Plan, file: str) -> None:
    """Write every mode that is not the schedule's own into the file of a recipe, in its layout."""
    path = Path(file)
    if path.suffix != ".bl":
        raise fail("B110", f"`{file}` is packaged and is not changed", fix=f"bilevel new mine --from {file}")
    chosen = {n: c.mode for n, c in plan.choices.items() if not c.pinned and c.adjoint is not None}
    chosen |= {n: mode for n, mode in plan.decided.items() if n in plan.chunks}
    text = path.read_text("utf-8")
    made = format_text(pinned(text, recipe.written, chosen, recipe.schedule), file)
    write_whole(path, made, "make it, and its folder, writable")


def pinned(text: str, written: nodes.Recipe, chosen: dict[str, str], schedule: str | None) -> str:
    """The text of a recipe with a line of its schedule for each chosen mode; `auto` lines are replaced."""
    blocks = [item for item in written.items if isinstance(item, nodes.Schedule) and item.name == schedule]
    edits: list[Edit] = []
    for block in blocks:
        for entry in block.entries:
            if entry.name in chosen:
                edits.append(Edit(entry.mode.span, chosen[entry.name]))
    done = {entry.name for block in blocks for entry in block.entries}
    more = "".join(f"    {name} : {mode}\n" for name, mode in chosen.items() if name not in done)
    if more and blocks:
        end = blocks[-1].span.end - 1
        text = f"{text[:end].rstrip()}\n{more}{text[end:]}"
    elif more:
        text = f"{text.rstrip()}\n\nschedule {f'{schedule} ' if schedule else ''}{{\n{more}}}\n"
    for edit in sorted(edits, key=lambda e: -e.span.start):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text
