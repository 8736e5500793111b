"""Printing: what is printed reads as the same tree, and one layout keeps every comment."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bilevel.dsl import nodes
from bilevel.dsl.format import WIDTH, format_text, print_expr, print_recipe
from bilevel.dsl.parse import parse, parse_value
from bilevel.dsl.tokens import scan
from bilevel.dsl.walk import walk
from tests.dsl import trees

GOOD = sorted((Path(__file__).parents[1] / "corpus" / "good").glob("*.bl"))

slow_to_draw = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)


def comments(text: str) -> list[str]:
    return [token.text.rstrip() for token in scan(text) if token.kind == "comment"]


# ---- trees ---------------------------------------------------------------------------------------------------


@slow_to_draw
@given(trees.exprs)
def test_a_printed_expression_reads_as_itself(expr: nodes.Expr) -> None:
    assert parse_value(print_expr(expr)) == expr


@slow_to_draw
@given(trees.recipes)
def test_a_printed_recipe_reads_as_itself(recipe: nodes.Recipe) -> None:
    text = print_recipe(recipe)
    assert parse(text) == recipe
    assert format_text(format_text(text)) == format_text(text)


def test_the_random_trees_cover_every_node() -> None:
    seen: set[type] = set()

    # Many, since hypothesis draws on constants of whatever modules are loaded, so that examples differ by run.
    @settings(max_examples=1500, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(trees.recipes, trees.durations, trees.types)
    def collect(recipe: nodes.Recipe, duration: nodes.Node, type_: nodes.Node) -> None:
        seen.update(type(node) for tree in (recipe, duration, type_) for node in walk(tree))

    collect()
    kinds = {kind for kind in vars(nodes).values() if isinstance(kind, type) and issubclass(kind, nodes.Node)}
    assert kinds - {nodes.Node} <= seen


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("((a))", "a"),
        ("(a+b)*c", "(a + b) * c"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a-b)-c", "a - b - c"),
        ("a/(b*c)", "a / (b * c)"),
        ("(a^b)^c", "(a^b)^c"),
        ("a^(b^c)", "a^b^c"),
        ("-a^2", "-a^2"),
        ("(-a)^2", "(-a)^2"),
        ("a^(-b)", "a^-b"),
        ("mean[i] (a + b)", "mean[i] (a + b)"),
        ("mean[i] (a * b)", "mean[i] a * b"),
        ("(mean[i] a) * b", "(mean[i] a) * b"),
        ("mean[i] a + b", "mean[i] a + b"),
        ("a * (mean[i] b)", "a * mean[i] b"),
        ("a * (mean[i] b) * c", "a * (mean[i] b) * c"),
        ("a / (mean[i] b)", "a / (mean[i] b)"),
        ("-(mean[i] b)", "-mean[i] b"),
        ("- -(mean[i] b)", "-(-mean[i] b)"),
        ("phi@(k + 1)", "phi@(k+1)"),
        ("(phi@k).x", "phi@k.x"),
        ("phi@(k.x)", "phi@(k.x)"),
        ("sum[k in 1..(K-1)] k", "sum[k in 1..K-1] k"),
        ("net[w,z](s.x)", "net[w, z](s.x)"),
        ("f(lr=-1e-3,  [ ])", "f(lr = -1e-3, [])"),
    ],
)
def test_expressions_have_few_parentheses(written: str, printed: str) -> None:
    assert print_expr(parse_value(written)) == printed


# ---- texts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_recipes_keep_their_meaning_and_comments(path: Path) -> None:
    text = path.read_text("utf-8")
    formatted = format_text(text)
    assert parse(formatted) == parse(text)
    assert comments(formatted) == comments(text)
    assert format_text(formatted) == formatted


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_code_fits_the_width(path: Path) -> None:
    for line in format_text(path.read_text("utf-8")).splitlines():
        assert len(line.split("#")[0].rstrip()) <= WIDTH


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(GOOD), st.integers(0, 10**6))
def test_any_layout_and_any_comments(path: Path, seed: int) -> None:
    text = scattered(path.read_text("utf-8"), random.Random(seed))
    formatted = format_text(text)
    assert parse(formatted) == parse(text)
    assert sorted(comments(formatted)) == sorted(comments(text))
    assert format_text(formatted) == formatted


def scattered(text: str, chance: random.Random) -> str:
    """The words of a text with other white space and comments between them."""
    parts: list[str] = []
    for i, token in enumerate(token for token in scan(text) if token.kind != "comment"):
        # `mean [` may not be parted by a comment
        gap = (
            " "
            if token.text == "["
            else chance.choice([" ", "  ", "\n", "\n\n\n", "\t", f" # note {i}\n", f"\n# {i}\n"])
        )
        parts += [gap, token.text]
    return "".join(parts).lstrip(" ") + chance.choice(["", "\n", " # end", "\n\n# end\n"])


def test_comments_stay_where_they_were() -> None:
    text = """# before all

recipe a # the name
  # continued
# about x
param x=1   # one
param long = 2


# about the level
level m   # opened
{ # inside
 v:real # real
   # more
   minimize v
   # last

}  # closed
# end"""
    assert format_text(text) == (
        """# before all

recipe a                                    # the name
# continued
# about x
param x    = 1                              # one
param long = 2

# about the level
# opened
level m {                                   # inside
    v : real                                # real
    # more
    minimize v
    # last
}                                           # closed
# end
"""
    )


def test_a_comment_below_another_stays_below_it() -> None:
    text = "recipe a   # one\n           # two\nparam x = 1\n"
    assert format_text(text) == f"recipe a{' ' * 36}# one\n{' ' * 44}# two\nparam x = 1\n"


def test_comments_between_the_words_of_a_statement() -> None:
    text = "recipe a\nuse x = f( # first\n  1, # second\n  # third\n  2) # fourth\nuse y = [1, # only\n 2]\n"
    lines = format_text(text).splitlines()
    assert lines[1:] == [
        "# first",
        "# second",
        "# third",
        f"use x = f(1, 2){' ' * 29}# fourth",
        f"use y = [1, 2]{' ' * 30}# only",
    ]


def test_long_statements_are_broken_at_clauses_and_arguments() -> None:
    words = ", ".join(f"argument_{i} = {i}" for i in range(10))
    text = format_text(f"recipe a use x = f({words}) level m {{ v : real minimize v by sgd(lr = 1) for 1 steps }}")
    assert text.splitlines()[1:4] == ["use x = f(", "    argument_0 = 0,", "    argument_1 = 1,"]
    assert "    by sgd(lr = 1) for 1 step\n" in text


def test_line_breaks_of_other_systems() -> None:
    assert format_text("recipe a\r\n\r\n\r\nparam x = 1 # y\r\n") == f"recipe a\n\nparam x = 1{' ' * 33}# y\n"
