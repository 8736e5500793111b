"""Parsing: trees, spans, limits, files, and the messages for what is not a recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bilevel.dsl import nodes
from bilevel.dsl.parse import DEEPEST_BRACKETS, LARGEST, load, parse, parse_value
from bilevel.dsl.tokens import scan
from bilevel.dsl.walk import children, header_span, name_span, walk
from bilevel.errors import Diagnostic, RecipeError

GOOD = sorted((Path(__file__).parents[1] / "corpus" / "good").glob("*.bl"))
MAML = Path(__file__).parents[1] / "corpus" / "good" / "maml.bl"


def problems(text: str, name: str = "a.bl") -> list[Diagnostic]:
    with pytest.raises(RecipeError) as caught:
        parse(text, name)
    return list(caught.value.diagnostics)


def found(text: str) -> list[tuple[str, str]]:
    """Codes, and the words they point at."""
    return [(problem.code, problem.span.text if problem.span else "") for problem in problems(text)]


# ---- trees ---------------------------------------------------------------------------------------------------


def test_a_level() -> None:
    text = "recipe a level m { x, y : real[2] in between(0, 1) from 3 by S(lr = 1) with z(n = 2) until t(1) within 4 steps }"
    (level,) = parse(text).items
    one, two, three, four = (nodes.Number(digit) for digit in "1234")
    call = nodes.Call(nodes.Name("S"), (nodes.Argument("lr", one),))
    estimator = nodes.Call(nodes.Name("z"), (nodes.Argument("n", two),))
    test = nodes.Call(nodes.Name("t"), (nodes.Argument(None, one),))
    variable = nodes.Variable(
        ("x", "y"), nodes.RealType((two,)), nodes.Domain("between", (nodes.Number("0"), one)), three
    )
    phase = nodes.Phase((nodes.Move(None, call),), estimator, nodes.Until(test, four, "steps"))
    assert level == nodes.Level("m", (variable, nodes.By((phase,))))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a - b - c", "((a - b) - c)"),
        ("a - b * c", "(a - (b * c))"),
        ("a / b * c", "((a / b) * c)"),
        ("-a^2", "(-(a ^ 2))"),
        ("a^-b^c", "(a ^ (-(b ^ c)))"),
        ("mean[i] a * b + c", "(mean(a * b) + c)"),
        ("a * mean[i] b * c", "(a * mean(b * c))"),
        ("-mean[i] b", "(-mean(b))"),
        ("mean[i] sum[k in 1..3] a", "mean(sum(a))"),
        ("w@k+1", "((w @ k) + 1)"),
        ("w@(k+1)", "(w @ (k + 1))"),
        ("mean (x)", "mean(x)"),
        ("mean\n[i] x", "mean(x)"),
    ],
)
def test_precedence(text: str, tree: str) -> None:
    assert shape(parse_value(text)) == tree


def shape(expr: nodes.Expr) -> str:
    match expr:
        case nodes.Binary():
            return f"({shape(expr.left)} {expr.operator} {shape(expr.right)})"
        case nodes.Iterate():
            return f"({shape(expr.base)} @ {shape(expr.at)})"
        case nodes.Negate():
            return f"(-{shape(expr.operand)})"
        case nodes.Reduce():
            return f"{expr.kind}{shape(expr.body) if shape(expr.body)[0] == '(' else '(' + shape(expr.body) + ')'}"
        case nodes.Call():
            return f"{shape(expr.function)}({', '.join(shape(a.value) for a in expr.arguments)})"
        case nodes.Name():
            return expr.identifier
        case _:
            return expr.span.text


def test_units_have_one_spelling() -> None:
    text = "recipe a level m { by s for 1 step report r = 1 every 2 epoch }"
    units = [node.unit for node in walk(parse(text)) if isinstance(node, nodes.For | nodes.Every)]
    assert units == ["steps", "epochs"]


def test_paths_may_begin_with_schedule() -> None:
    recipe = parse("recipe a schedule.train.linear = 3 schedule { m : fmd }")
    assert recipe.items[0] == nodes.Override(("schedule", "train", "linear"), nodes.Number("3"))
    assert isinstance(recipe.items[1], nodes.Schedule)


def test_numbers_keep_their_spelling() -> None:
    values = parse_value("[60_000, 1e-3, 2.0]")
    assert isinstance(values, nodes.ListOf)
    numbers = [item for item in values.items if isinstance(item, nodes.Number)]
    assert [(number.text, number.value) for number in numbers] == [("60_000", 60000), ("1e-3", 1e-3), ("2.0", 2.0)]


def test_names_are_normalised() -> None:
    assert parse_value("ﬁt") == nodes.Name("fit")
    assert parse_value("θ") == nodes.Name("θ")


def test_a_mark_of_the_encoding_is_no_part_of_the_text() -> None:
    recipe = parse("\ufeffrecipe a")
    assert recipe.span.text == "recipe a"


# ---- spans ---------------------------------------------------------------------------------------------------

Reread = Callable[[str], nodes.Node]


def statement(text: str) -> nodes.Node:
    level = parse(f"recipe r level l {{ {text} }}").items[0]
    assert isinstance(level, nodes.Level)
    return level.body[0]


def inner(text: str, *steps: int) -> nodes.Node:
    """The part of a recipe that is reached by these numbers of children."""
    node: nodes.Node = parse(text)
    for step in steps:
        node = list(children(node))[step]
    return node


def expression(text: str) -> nodes.Node:
    return parse_value(text)


def item(text: str) -> nodes.Node:
    return parse(f"recipe r {text}").items[0]


ITEMS = (nodes.Use, nodes.Param, nodes.Import, nodes.Override, nodes.Schedule)
STATEMENTS = (
    nodes.Variable,
    nodes.Each,
    nodes.Draw,
    nodes.Let,
    nodes.Level,
    nodes.Objective,
    nodes.By,
    nodes.Report,
)
TYPES = (nodes.RealType, nodes.TreeType)
DURATIONS = (nodes.For, nodes.ForEach, nodes.Until)
REREAD: dict[type[nodes.Node], Reread] = {
    nodes.Recipe: parse,
    **dict.fromkeys(ITEMS, item),
    **dict.fromkeys(STATEMENTS, statement),
    **dict.fromkeys(TYPES, lambda text: inner(f"recipe r use u : {text}", 0, 0)),
    **dict.fromkeys(DURATIONS, lambda text: inner(f"recipe r level l {{ by s {text} }}", 0, 0, 0, 1)),
    nodes.Domain: lambda text: inner(f"recipe r level l {{ x : real in {text} }}", 0, 0, 1),
    nodes.Index: lambda text: inner(f"recipe r level l {{ each {text} }}", 0, 0, 0),
    nodes.Range: lambda text: inner(f"recipe r level l {{ each i in {text} }}", 0, 0, 0, 0),
    nodes.Binder: lambda text: inner(f"recipe r param p = sum[{text}] 1", 0, 0, 0),
    nodes.Argument: lambda text: inner(f"recipe r param p = f({text})", 0, 0, 1),
    nodes.Phase: lambda text: inner(f"recipe r level l {{ by {text} }}", 0, 0, 0),
    nodes.Move: lambda text: inner(f"recipe r level l {{ by {text} }}", 0, 0, 0, 0),
    nodes.Every: lambda text: inner(f"recipe r level l {{ report q = 1 every {text} }}", 0, 0, 1),
    nodes.Entry: lambda text: inner(f"recipe r schedule {{ {text} }}", 0, 0),
}


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_text_of_a_span_is_the_text_of_its_node(path: Path) -> None:
    for node in walk(load(path)):
        assert REREAD.get(type(node), expression)(node.span.text) == node


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_spans_are_inside_each_other_and_in_order(path: Path) -> None:
    for node in walk(load(path)):
        places = [child.span for child in children(node)]
        assert all(node.span.start <= place.start < place.end <= node.span.end for place in places)
        assert all(first.end <= second.start for first, second in pairwise(places))


def test_spans_leave_out_parentheses_around_a_node() -> None:
    product = parse_value("(a + b) * (c)")
    assert product.span.text == "(a + b) * (c)"
    assert [child.span.text for child in children(product)] == ["a + b", "c"]


def test_places_of_names() -> None:
    recipe = parse("recipe a level adapt { # phi\n psi, phi : real }")
    (level,) = recipe.items
    assert isinstance(level, nodes.Level)
    assert header_span(level).text == "level adapt"
    assert name_span(level.body[0], "phi").column == 7


# ---- words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "recipe a param p = f(every = 1, steps = 2, only = 3)",
        "recipe a param p = d.step + d.by",
        "recipe a schedule { m : rmd(update = each) }",
        "recipe a schedule.m.update = each",
        "recipe a adapt.steps = 3",
        "recipe a level m { x : params(net) }",
    ],
)
def test_words_of_the_language_are_free_where_nothing_is_named(text: str) -> None:
    parse(text)


@pytest.mark.parametrize(
    "where", ["param {0} = 1", "level {0} {{ }}", "use {0} = f()", "let f({0}) = 1", "param p = {0}"]
)
@pytest.mark.parametrize("word", ["steps", "level", "from", "until", "real"])
def test_words_of_the_language_are_no_names(where: str, word: str) -> None:
    assert ("B109", word) in found(f"recipe a {where.format(word)}")


def test_all_wrong_words_at_once() -> None:
    text = "recipe a param steps = 1 param aо = 2 param y = x / sum[k] * 2 param x² = 3"
    assert [code for code, _ in found(text)] == ["B109", "B116", "B107", "B116"]


def test_look_alikes() -> None:
    assert [code for code, _ in found("recipe a param o = 1 param ο = 2")] == ["B116"]  # the second is Greek
    parse("recipe a param Δx = 1 param dθ = 2 param x_2 = 3 param é = 4")


@pytest.mark.parametrize(
    "text",
    [
        "recipe a level m { minimize x minimize y }",
        "recipe a level m { by s by t }",
        "recipe a param x = 1 use x = f()",
        "recipe a x.y = 1 x.y = 2",
        "recipe a schedule { m : rmd m : fmd }",
        "recipe a schedule { } schedule { }",
        "recipe a param x = f(a = 1, a = 2)",
    ],
)
def test_statements_given_twice(text: str) -> None:
    assert [code for code, _ in found(text)] == ["B117"]


# ---- all errors at once --------------------------------------------------------------------------------------


def test_four_mistakes_are_four_messages_at_the_right_places() -> None:
    text = MAML.read_text("utf-8")
    text = text.replace("    minimize mean", "    minimise mean").replace("lr = 0.01)", "lr: 0.01)")
    text = text.replace("60_000 steps", "60_000").replace("every 500 steps", "every 500 stesp")
    assert found(text) == [
        ("B102", "lr: 0.01"),
        ("B101", "minimise"),
        ("B103", "for 60_000"),
        ("B103", "stesp"),
    ]


def test_at_most_twenty_messages() -> None:
    assert len(problems("recipe a " + "param = 3\n" * 50)) == 20


def test_edits_put_a_text_right() -> None:
    text = MAML.read_text("utf-8").replace("    minimize mean", "    minimise mean").replace("lr = 0.01)", "lr: 0.01)")
    text = text.replace("60_000 steps", "60_000").replace("recipe maml", "recipee maml")
    edits = [problem.edit for problem in problems(text)]
    for edit in reversed(edits):
        assert edit is not None
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    assert parse(text) == load(MAML)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(GOOD), st.integers(0, 10**9), st.sampled_from(["", ";", "{", "}", "(", "level", "for", '"', ":"])
)
def test_broken_recipes_give_messages_and_nothing_else(path: Path, where: int, what: str) -> None:
    text = path.read_text("utf-8")
    tokens = list(scan(text))
    token = tokens[where % len(tokens)]
    broken = f"{text[: token.start]}{what} {text[token.end :]}"
    found = refusal(parse, broken)
    if found is not None:
        assert found.diagnostics
        assert str(found)
        assert all(problem.span is None or problem.span.end <= len(broken) for problem in found.diagnostics)


def refusal(read: Callable[[str], nodes.Node], text: str) -> RecipeError | None:
    try:
        read(text)
    except RecipeError as error:
        return error
    return None


@settings(deadline=None, max_examples=60)
@example("#")
@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    for read in (parse, parse_value):
        found = refusal(read, text)
        assert found is None or str(found)


# ---- limits --------------------------------------------------------------------------------------------------


def deep(brackets: int) -> str:
    return f"recipe a param x = {'(' * brackets}1{')' * brackets}"


def test_nesting() -> None:
    parse(deep(DEEPEST_BRACKETS))
    assert [code for code, _ in found(deep(DEEPEST_BRACKETS + 1))] == ["B113"]
    assert [code for code, _ in found(deep(10_000))] == ["B113"]


@pytest.mark.parametrize("text", ["1" + "+1" * 5_000, "-" * 5_000 + "1", "1" + "^1" * 5_000, "x" + ".y" * 5_000])
def test_long_chains_are_refused_without_exhausting_the_stack(text: str) -> None:
    assert [code for code, _ in found(f"recipe a param x = {text}")] == ["B113"]


def test_the_deepest_tree_can_be_compared_and_printed() -> None:
    recipe = parse("recipe a param x = 1" + "+1" * 140)
    assert repr(recipe)
    assert recipe == parse("recipe a param x = 1" + "+1" * 140)


def test_size() -> None:
    start = time.perf_counter()
    assert [code for code, _ in found("recipe a #" + "x" * LARGEST)] == ["B112"]
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "text", ["recipe a\0", "recipe a \x1b[31m", "recipe a \u202e", "recipe a\rparam x = 1", "\udc80"]
)
def test_what_is_no_text(text: str) -> None:
    assert [code for code, _ in found(text)] == ["B111"]


@pytest.mark.parametrize("text", ["", "  \n", "# only a comment"])
def test_empty_texts(text: str) -> None:
    (problem,) = problems(text)
    assert (problem.code, problem.message, problem.span) == ("B114", "a.bl is empty", None)
    assert problem.fix == "start with `recipe a`"


# ---- files ---------------------------------------------------------------------------------------------------


def refused(path: Path) -> Diagnostic:
    with pytest.raises(RecipeError) as caught:
        load(path)
    (problem,) = caught.value.diagnostics
    return problem


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "maml.bl").write_text("recipe maml")
    problem = refused(tmp_path / "mmal.bl")
    assert (problem.code, problem.fix) == ("B110", f"did you mean `{tmp_path / 'maml.bl'}`?")
    assert refused(tmp_path / "maml").fix == f"did you mean `{tmp_path / 'maml.bl'}`?"
    assert refused(tmp_path / "other" / "x.bl").fix == ""
    assert refused(tmp_path / "maml.bl" / "x.bl").code == "B110"


def test_a_folder(tmp_path: Path) -> None:
    assert refused(tmp_path).fix == "name a file that ends in .bl"
    (tmp_path / "maml.bl").write_text("recipe maml")
    assert refused(tmp_path).code == "B110"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.bl"
    path.write_text("recipe a")
    path.chmod(0)
    assert refused(path).code == "B110"


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    path = tmp_path / "a.bl"
    path.write_bytes(b"recipe a\n# caf\xe9")
    assert refused(path).message == f"`{path}` is not UTF-8 (line 2)"
    path.write_bytes(b"\x7fELF\0\xff")
    assert refused(path).message == f"`{path}` is not a text file"
    path.write_bytes(b"#" * (LARGEST + 1))
    assert refused(path).code == "B112"


def test_the_name_of_a_recipe_is_that_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "b.bl"
    path.write_text("# first\nrecipe a")
    problem = refused(path)
    assert problem.code == "B115"
    assert problem.span is not None
    assert (problem.span.line, problem.span.column) == (2, 8)
    assert problem.fix == "recipe b, or rename the file to a.bl"


@pytest.mark.parametrize("stem", ["my-recipe 2", "2b", "level"])
def test_a_file_whose_name_is_no_name_is_to_be_renamed(tmp_path: Path, stem: str) -> None:
    path = tmp_path / f"{stem}.bl"
    path.write_text("recipe a")
    assert refused(path).fix == "rename the file to a.bl"


def test_files_in_messages_are_named_as_the_user_named_them(tmp_path: Path) -> None:
    path = tmp_path / "a.bl"
    path.write_text("recipe a")
    assert load(path).span.source.name == str(path)
    assert load(path, "a.bl").span.source.name == "a.bl"


# ---- values of the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["20", "1e-3", "fmd", "rmd(order = 1)", '"all"', "[1, 2]", "-3", "each", "K / 2"])
def test_values(text: str) -> None:
    assert parse_value(text).span.text == text


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "B100"),
        ("1 2", "B100"),
        ("(1", "B100"),
        ("f(a: 1)", "B102"),
        ("1 +", "B100"),
        ("steps", "B109"),
        ("{", "B100"),
    ],
)
def test_wrong_values(text: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_value(text)
    assert [problem.code for problem in caught.value.diagnostics] == [code]
