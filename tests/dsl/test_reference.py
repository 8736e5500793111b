"""The tables of the language reference are those that the compiler reads."""

from pathlib import Path

from bilevel.dsl.functions import FUNCTIONS
from bilevel.dsl.reference import with_tables

PAGE = Path(__file__).parents[2] / "dsl" / "LANGUAGE.md"


def test_the_tables_are_made_from_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "make them anew: dsl/reference.py, with_tables"


def test_every_function_stands_in_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert len(FUNCTIONS) > 40
    assert [name for name in FUNCTIONS if f"| `{name}` |" not in page] == []
