"""The pages about messages: what `bilevel explain CODE` prints. One markdown file per code in `pages/`."""

from __future__ import annotations

from pathlib import Path

from bilevel.dsl.nearest import nearest
from bilevel.errors import fail

PAGES = Path(__file__).parent / "pages"


def codes() -> list[str]:
    """All codes that have a page."""
    return sorted(file.stem for file in PAGES.glob("B*.md"))


def page(code: str) -> str:
    """The page about a code; raises RecipeError where there is none."""
    known = codes()
    if code not in known:
        guess = nearest(code, known, limit=1)
        groups = "B1 syntax, B2 names, B3 types and shapes, B4 derivatives, B5 schedule, B6 parts, B7 runs, B8 hints"
        fix = f"bilevel explain {guess}" if guess else "the code in the first line of a message: error[B201]"
        raise fail("B128", f"there is no message `{code}`", fix=fix, note=groups)
    return (PAGES / f"{code}.md").read_text(encoding="utf-8")
