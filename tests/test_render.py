"""The text of messages: the layout, and texts that could spoil it."""

from __future__ import annotations

from bilevel.errors import Diagnostic, Related, Source, Span

TEXT = """recipe a                # a comment
use net = f()

level meta {
    phi : params(net) from psi
    minimize (x)
}
"""


def place(words: str, source: Source) -> Span:
    start = source.text.index(words)
    return Span(source, start, start + len(words))


def shown(source: Source, words: str, *related: str, **parts: str) -> list[str]:
    others = tuple(Related(place(other, source), f"see {other}") for other in related)
    message = Diagnostic("B000", "wrong", place(words, source), "here", related=others, **parts)  # type: ignore[arg-type]
    return str(message).splitlines()


SOURCE = Source("a.bl", TEXT)


def test_one_place() -> None:
    assert shown(SOURCE, "f()", why="because\nof this", fix="do that", note="mind") == [
        "error[B000]: wrong",
        "  --> a.bl:2:11",
        "   |",
        " 2 | use net = f()",
        "   |           ^^^ here",
        "   |",
        "   = why: because",
        "          of this",
        "   = fix: do that",
        "   = note: mind",
    ]


def test_places_in_the_order_of_the_text() -> None:
    assert shown(SOURCE, "params(net)", "psi", "(x)", "use net")[3:] == [
        " 2 | use net = f()",
        "   | ------- see use net",
        "...",
        " 5 |     phi : params(net) from psi",
        "   |           ^^^^^^^^^^^ here",
        "   |                            --- see psi",
        " 6 |     minimize (x)",
        "   |              --- see (x)",
    ]


def test_without_details_nothing_follows_the_places() -> None:
    assert shown(SOURCE, "psi")[-1] == "   |                            ^^^ here"


def test_comments_at_the_end_of_a_line_are_left_out() -> None:
    assert shown(SOURCE, "recipe")[3] == " 1 | recipe a"
    assert shown(SOURCE, "a comment")[3] == " 1 | recipe a                # a comment"
    assert shown(Source("a.bl", 'use x = "#" # y'), "use")[3] == ' 1 | use x = "#"'


def test_line_numbers_of_any_length() -> None:
    source = Source("a.bl", "x\n" + "\n" * 998 + "y")
    assert shown(source, "y", "x")[1:] == [
        "    --> a.bl:1000:1",
        "     |",
        "   1 | x",
        "     | - see x",
        "...",
        "1000 | y",
        "     | ^ here",
    ]


def test_no_place() -> None:
    assert str(Diagnostic("B110", "there is no file `x`", fix="y")).splitlines() == [
        "error[B110]: there is no file `x`",
        "   = fix: y",
    ]
    assert str(Diagnostic("B703", "edge", severity="warning")) == "warning[B703]: edge"


def test_places_in_other_files() -> None:
    other = Source("b.bl", "recipe b\nlevel phi { }")
    message = Diagnostic(
        "B000", "wrong", place("psi", SOURCE), related=(Related(place("phi", other), "declared here"),)
    )
    assert str(message).splitlines()[3:] == [
        " 5 |     phi : params(net) from psi",
        "   |                            ^^^",
        "   |",
        "  ::: b.bl:2:7",
        "   |",
        " 2 | level phi { }",
        "   |       --- declared here",
    ]


def test_tabs_and_wide_characters_keep_marks_below_their_words() -> None:
    source = Source("a.bl", "\ta\t= 漢字 + e\u0301 + x")
    for words in ("a", "漢字", "x"):
        _, line, mark = shown(source, words)[2:]
        assert mark.index("^") - line.index(words) == (2 if words == "x" else 0) - (1 if words == "x" else 0)
    assert shown(source, "漢字")[4].count("^") == 4


def test_spans_over_several_lines_are_cut_to_the_first() -> None:
    assert shown(SOURCE, "level meta {\n    phi")[3:] == [" 4 | level meta {", "   | ^^^^^^^^^^^^ here"]


def test_long_lines_are_cut_around_the_place() -> None:
    source = Source("a.bl", "a" * 500 + " wrong " + "b" * 500)
    line, mark = shown(source, "wrong")[3:5]
    assert len(line) < 180
    assert line.startswith(" 1 | ...aaa")
    assert line.endswith("bbb...")
    assert line[mark.index("^") : mark.index("^") + 5] == "wrong"


def test_the_end_of_a_text_can_be_pointed_at() -> None:
    source = Source("a.bl", "recipe a\n")
    end = Span(source, len(source.text), len(source.text))
    assert str(Diagnostic("B000", "ends", end)).splitlines()[1:] == ["  --> a.bl:2:1", "   |", " 2 |", "   | ^"]


def test_nothing_is_sent_to_the_terminal_but_text() -> None:
    source = Source("a\x1b.bl", "x \x1b[31m y \u202e z")
    text = "\n".join(shown(source, "y", fix="\x07"))
    assert text.replace("\n", "").isprintable()
