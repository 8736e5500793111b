"""The choice of a mode: pure, by predicted time within a limit; every reason against a mode is provoked here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

import bilevel
from benchmarks.live_bytes import peak_bytes
from bilevel import costs, limits, pipeline
from bilevel.costs import Calibration, Cost, Formula, Work, reference
from bilevel.errors import RecipeError
from bilevel.facts import derive_facts
from bilevel.limits import Limit, free_memory, group_free, limit_text, read_limits
from bilevel.modes import MODES, ClosedForm
from bilevel.modes.base import Reason
from bilevel.plan import Choice, Plan
from bilevel.plan_json import plan_json
from bilevel.planner import choose
from tests.command.tools import Command
from tests.zoo.compiled import plan_text

TEXT = """recipe tiny
use net = mlp(1, 4, 1)
use tasks = sine(shots = 3, queries = 3)
level meta {
  theta : params(net)
  each task ~ tasks.train[8]
  level adapt {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y))
    by sgd(lr = 0.01) for 30 steps
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by adam(lr = 1e-3) for 3 steps
}
"""
SEARCH = TEXT.replace("adam(lr = 1e-3) for 3 steps", "cmaes(sigma = 0.1, population = 4) for 2 generations")
FORMULA = Formula("P*g", "P*s")
TIMES = {
    "rmd": (3.0, 900),
    "rmd(checkpoint = sqrt)": (4.0, 300),
    "rmd(checkpoint = binomial)": (4.5, 200),
    "rmd(store = residuals)": (2.0, 2000),
    "fmd": (100.0, 50_000),
    "rmd(order = 1)": (1.0, 150),
}


def made_up(times: Mapping[str, tuple[float, float]] = TIMES) -> dict[str, Cost]:
    return {m: Cost(FORMULA, Work(products=s, peak=b), s) for m, (s, b) in times.items()}


def chosen(memory: float | None, schedule: str = "", allow: str = "exact", text: str = TEXT) -> Choice:
    plan = plan_text(text + schedule)
    level = plan.program.level("adapt")
    limit = None if memory is None else Limit(memory)
    return choose(plan.program, level, plan.facts["adapt"], made_up(), limit, allow)  # type: ignore[arg-type]


def reasons(choice: Choice, mode: str) -> tuple[str, ...]:
    return next(c.reasons for c in choice.candidates if c.title == mode)


@pytest.mark.parametrize(
    ("memory", "mode"),
    [
        (None, "rmd(store = residuals)"),
        (2000, "rmd(store = residuals)"),
        (1999, "rmd"),
        (899, "rmd(checkpoint = sqrt)"),
        (299, "rmd(checkpoint = binomial)"),
    ],
)
def test_the_fastest_exact_mode_that_fits_is_taken(memory: float | None, mode: str) -> None:
    assert chosen(memory).mode == mode


def test_other_classes_are_taken_only_where_they_are_allowed() -> None:
    assert chosen(1000, allow="biased").mode == "rmd(order = 1)"
    assert chosen(1000, "schedule { adapt : auto(allow = biased) }").mode == "rmd(order = 1)"
    assert chosen(1000, "schedule { adapt : auto }").mode == "rmd"


def test_a_leap_is_weighed_only_where_it_is_written() -> None:
    line = "schedule { adapt : auto(allow = surrogate, leap = leap(gamma = 0.9)) }"
    plan = plan_text(TEXT + line)
    times = made_up({**TIMES, "leap(gamma = 0.9)": (0.5, 100)})
    level = plan.program.level("adapt")
    assert choose(plan.program, level, plan.facts["adapt"], times, Limit(1000)).mode == "leap(gamma = 0.9)"
    assert plan.choices["adapt"].mode == "leap(gamma = 0.9)"
    bare = plan_text(TEXT)
    assert choose(bare.program, level, bare.facts["adapt"], times, Limit(1000), "surrogate").mode == "rmd(order = 1)"


@pytest.mark.parametrize("memory", [100.0, None])
def test_the_choice_is_a_pure_function(memory: float | None) -> None:
    if memory is None:
        assert chosen(None) == chosen(None)
        return
    texts = []
    for _ in range(2):
        with pytest.raises(RecipeError) as caught:
            chosen(memory)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


def test_every_reason_has_a_word() -> None:
    choice = chosen(1000)
    assert reasons(choice, "rmd(store = residuals)") == ("memory",)
    assert reasons(choice, "fmd") == ("memory", "work")
    assert reasons(choice, "rmd(order = 1)") == ("class",)
    assert reasons(choice, "ift") == ("path",)
    assert reasons(choice, "closed_form") == ("semantics",)
    assert reasons(choice, "evolve") == ("solver",)
    assert reasons(choice, "rmd(checkpoint = sqrt)") == ()
    pinned = chosen(1000, "schedule { adapt : rmd }")
    assert reasons(pinned, "rmd(checkpoint = sqrt)") == ("pinned",)
    assert reasons(chosen(100_000), "fmd") == ("work",)
    until = TEXT.replace("for 30 steps", "until stationary(1e-6) within 9 steps")
    until = until.replace("task.support.y))", "task.support.y)) + sqnorm(w - theta)")
    assert reasons(plan_text(until).choices["adapt"], "fmd") == ("class",)
    assert plan_text(SEARCH).choices["adapt"].mode == "evolve"
    assert reasons(plan_text(SEARCH).choices["adapt"], "rmd") == ("path",)


SOLVED = TEXT.replace("for 30 steps", "until stationary(1e-6) within 9 steps")
SOLVED = SOLVED.replace("task.support.y))", "task.support.y)) + sqnorm(w - theta)")
CLOSED = """recipe closed
level outer {
  theta : real from 0.3
  level inner {
    w : real from 0
    minimize exp(w) + w^4 - w * theta
    by closed_form
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 2 steps
}
"""
SMOOTH = CLOSED.replace("exp(w) + w^4 - w * theta", "norm1(w - theta)")
SMOOTH = SMOOTH.replace("by closed_form", "by sgd(lr = 0.1) until stationary(1e-6) within 9 steps")
PROVOKED = {
    ("solver", "evolve"): TEXT,
    ("solver", "rmd"): SOLVED.replace("sgd(lr = 0.01) until", "lbfgs() until"),
    ("solver", "fmd"): SOLVED.replace("sgd(lr = 0.01) until", "lbfgs() until"),
    ("semantics", "closed_form"): TEXT,
    ("semantics", "ift"): SOLVED.replace(
        "stationary(1e-6)", "plateau(mean(mse(net[w](task.support.x), task.support.y)), patience = 2)"
    )
    + "schedule { adapt : rmd }",
    ("path", "ift"): TEXT,
    ("path", "none"): TEXT,
    ("smooth", "ift"): SMOOTH + "schedule { inner : rmd }",
    ("class", "rmd(order = 1)"): TEXT,
    ("class", "rmd"): SOLVED,
    ("pinned", "fmd"): TEXT + "schedule { adapt : rmd }",
}


@pytest.mark.parametrize("asked", PROVOKED, ids=" ".join)
def test_reasons_that_need_no_sizes_are_provoked(asked: tuple[str, str]) -> None:
    """`memory` and `work` need sizes (above and below), `ragged` is that of an index, `formula` refuses the recipe."""
    reason, mode = asked
    (choice,) = plan_text(PROVOKED[asked]).choices.values()
    assert reason in reasons(choice, mode)
    said = plan_text(PROVOKED[asked]).why(choice.level, mode)
    assert re.search(rf"\[[^]]*{reason}[^]]*\]: .{{10}}", said)


def test_every_reason_of_a_mode_is_in_the_tables() -> None:
    tables = {reason for reason, _ in PROVOKED} | {"memory", "work", "formula", ""}
    assert set(get_args(Reason)) <= tables


def test_a_formula_that_nobody_solves_is_b408() -> None:
    program = pipeline.check_text(CLOSED, "closed.bl")
    level = program.level("inner")
    verdict = ClosedForm().accepts(level, derive_facts(program)["inner"])
    assert (verdict.ok, verdict.reason, verdict.code) == (False, "formula", "B408")
    with pytest.raises(RecipeError) as caught:
        pipeline.plan(program)
    assert [d.code for d in caught.value.diagnostics] == ["B408"]


def test_what_would_change_the_choice() -> None:
    found = chosen(1000).changes
    assert "--limit memory=2kB  (then rmd(store = residuals), 33% less time)" in found
    assert "--allow biased  (then rmd(order = 1), 67% less time)" in found


def test_nothing_fits_is_b510() -> None:
    with pytest.raises(RecipeError) as caught:
        chosen(160)
    assert str(caught.value) == (
        """error[B510]: no exact plan fits 160 B: the smallest needs 200 B
  --> tiny.bl:7:3
   |
 6 |   each task ~ tasks.train[8]
   |        --------------------- tasks.train[8]: one copy each
 7 |   level adapt {
   |   ^^^^^^^^^^^^^
   |
   = why: `adapt` by `rmd(checkpoint = binomial)` holds that much at its peak; no other mode is taken in silence
   = fix: --limit memory=200B
          task.count=6     in place of 8: memory grows with the copies
          --allow biased     rmd(order = 1) needs 150 B"""
    )


def test_a_named_mode_that_does_not_fit_is_b502() -> None:
    with pytest.raises(RecipeError) as caught:
        chosen(1000, "schedule { adapt : fmd }")
    text = str(caught.value)
    assert text.startswith("error[B502]: `fmd` does not fit: 50.0 kB needed, limit 1.00 kB\n  --> tiny.bl:15:20")
    assert "fmd keeps one copy of the state of `adapt` for each number of theta" in text
    assert "adapt : rmd(checkpoint = sqrt)         300 B,  4.00 FLOP  exact" in text
    assert "adapt : rmd(order = 1)                 150 B,  1.00 FLOP  biased" in text


def test_a_named_mode_of_another_class_has_to_fit_as_well() -> None:
    recipe = bilevel.parse(TEXT + "schedule { adapt : rmd(order = 1) }", "tiny.bl").with_({"task.count": 1})
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(recipe, limit=Limit(300), calibration=reference())
    (found,) = caught.value.diagnostics
    assert found.code == "B502" and found.message.startswith("`rmd(order = 1)` does not fit")


def test_checkpoint_auto_is_what_fits() -> None:
    line = "schedule { adapt : rmd(checkpoint = auto) }"
    assert chosen(1000, line).mode == "rmd(checkpoint = sqrt)"
    assert chosen(250, line).mode == "rmd(checkpoint = binomial)"
    assert plan_text(TEXT + line).choices["adapt"].mode == "rmd(checkpoint = sqrt)"


def test_what_was_decided_is_taken_again() -> None:
    plan = plan_text(TEXT)
    for mode in ("fmd", "rmd(store = residuals)"):
        assert pipeline.plan(plan.program, decided={"adapt": mode}).choices["adapt"].mode == mode


# ---- limits and numbers --------------------------------------------------------------------------------------


def test_limits_are_read_in_decimal_units() -> None:
    assert read_limits(["memory=2GB"]) == Limit(2e9)
    assert read_limits(["memory=1_500.5 MB"]) == Limit(1500.5e6)
    assert read_limits([]) is None
    for text in ("memory=2", "time=3s", "memory", "memory=-1GB", "memory=2GiB"):
        with pytest.raises(RecipeError) as caught:
            read_limits([text])
        assert caught.value.diagnostics[0].code == "B127"


@pytest.mark.parametrize(("count", "text"), [(3.11e9, "3.2GB"), (3.1e9, "3.1GB"), (10.0, "10B"), (999_950, "1000kB")])
def test_limits_are_rounded_up(count: float, text: str) -> None:
    assert limit_text(count) == text
    found = read_limits([f"memory={text}"])
    assert found is not None and found.memory >= count


def test_free_memory_is_the_devices() -> None:
    found = free_memory("cpu")
    assert found is not None and not found.asked and found.memory > 1e6
    assert free_memory("meta") is None


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n", "ascii")


def test_a_container_may_take_what_its_groups_leave(tmp_path: Path) -> None:
    """The smallest of a group and those around it; cached files are given back when they are asked for."""
    (tmp_path / "cgroup").write_text("0::/box/inner\n", "ascii")
    group(tmp_path / "box" / "inner", memory_max="max", memory_current="100")
    group(tmp_path / "box", memory_max="1000", memory_current="700", memory_stat="anon 500\ninactive_file 150\n")
    group(tmp_path, memory_max="900", memory_current="100")
    assert min(group_free(tmp_path / "cgroup", tmp_path)) == 450
    group(tmp_path, memory_max="90", memory_current="100")
    assert min(group_free(tmp_path / "cgroup", tmp_path)) == 0


def test_groups_of_the_first_version_are_read(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("5:cpu,cpuacct:/a\n4:memory:/outside/box\n0::/\n", "ascii")
    files = {"memory_limit_in_bytes": "5000", "memory_usage_in_bytes": "4000"}
    group(tmp_path / "memory", **files, memory_stat="cache 800\ntotal_inactive_file 300")
    assert min(group_free(tmp_path / "cgroup", tmp_path)) == 1300
    unlimited = {"memory_limit_in_bytes": "9223372036854771712", "memory_usage_in_bytes": "4000"}
    group(tmp_path / "memory", **unlimited)
    assert min(group_free(tmp_path / "cgroup", tmp_path)) > 1e18


def test_without_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert list(group_free(tmp_path / "none", tmp_path)) == [float("inf")]


def test_the_default_limit_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "group_free", lambda: iter((float("inf"), 345_678.0)))
    assert free_memory("cpu") == Limit(300_000.0, asked=False)


def test_seconds_are_overhead_arithmetic_and_memory() -> None:
    slow = Calibration("slow", 1.0, 0.5, 0.25, 7.0, 2.0, 3.0, 10.0, 5.0, 40.0, 100.0, 50.0)
    work = Work(products=20, convolutions=10, packed=80, matrices=5, setups=2, moved=300, fresh=200)
    assert slow.seconds(work) == 2 + 2 + 2 + 10 + 6 + 3 + 4
    assert slow.seconds(Work(operators=4, views=2, layers=8, transforms=3, peak=1e9)) == 4 + 1 + 2 + 21
    assert slow.identity != replace(slow, fresh=51.0).identity


def test_a_stored_calibration_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert costs.current() == reference()
    mine = replace(reference(), name="mine", operator=1e-5)
    costs.store(mine)
    assert costs.current() == mine
    costs.stored().write_text("{}", "utf-8")
    assert costs.current() == reference()


# ---- traced plans --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan() -> Plan:
    recipe = bilevel.parse(TEXT, "tiny.bl")
    return bilevel.compile(recipe, limit="memory=1GB", calibration=reference()).explained


def test_formulas_with_facts_give_what_was_traced(plan: Plan) -> None:
    """The symbols mean what they say: with them the formulas give work exactly, and peaks to what one step holds besides."""
    assert plan.numbers is not None
    known = {fact.symbol: fact.value for fact in plan.numbers.facts["adapt"]}
    assert {"n", "m", "T", "P", "g", "b", "r", "G", "s", "h", "A"} <= known.keys()
    for mode in ("rmd", "rmd(store = residuals)", "rmd(checkpoint = sqrt)"):
        cost = next(c.cost for c in plan.choices["adapt"].candidates if c.title == mode)
        assert cost is not None and cost.work is not None
        work, memory = cost.formula.at(known)
        assert work == pytest.approx(cost.work.flop, rel=1e-9)
        assert memory == pytest.approx(cost.work.peak, rel=0.2)


def test_facts_say_where_they_come_from(plan: Plan) -> None:
    assert plan.numbers is not None
    found = {fact.symbol: fact for fact in plan.numbers.facts["adapt"]}
    assert (found["T"].value, found["T"].origin, found["T"].span.line) == (30, "declared", 10)
    assert (found["P"].value, found["P"].origin, found["P"].span.line) == (8, "declared", 6)
    assert (found["n"].value, found["n"].origin, found["n"].names) == (13, "derived", ("theta",))
    assert found["g"].origin == found["h"].origin == "traced"


def test_until_assumes_all_its_steps_and_few_products() -> None:
    """Three products: the root of the geometric mean of one and forty steps, rounded up."""
    text = TEXT.replace("for 30 steps", "until stationary(1e-6) within 40 steps")
    text = text.replace("task.support.y))", "task.support.y)) + 5 * sqnorm(w - theta)")
    made = bilevel.compile(bilevel.parse(text, "tiny.bl"), limit="memory=1GB", calibration=reference()).explained
    assert made.numbers is not None
    found = {fact.symbol: (fact.value, fact.origin) for fact in made.numbers.facts["adapt"]}
    assert found["T"] == (40, "assumed") and found["K"] == (3, "assumed")
    assert made.choices["adapt"].mode == "ift"


@pytest.mark.parametrize("name", ["maml_sine", "hpo_quick", "reptile"])
def test_symbolic_plans_agree_or_say_that_sizes_decide(name: str) -> None:
    symbolic = pipeline.plan(bilevel.load(name).program)
    sized = bilevel.compile(name, limit="memory=8GB", calibration=reference()).plan
    for level, choice in symbolic.choices.items():
        agrees = choice.mode == sized.choices[level].mode
        assert agrees or "sizes may favour another" in symbolic.why(level, choice.mode)


def test_less_memory_gives_a_leaner_mode_and_then_none() -> None:
    recipe = bilevel.parse(TEXT.replace("30 steps", "400 steps"), "tiny.bl")
    program = bilevel.compile(recipe, limit="memory=1GB", calibration=reference())
    peaks = {c.title: c.cost.peak for c in program.plan.choices["adapt"].candidates if c.cost and c.cost.peak}
    for mode in ("rmd(checkpoint = sqrt, store = residuals)", "rmd(checkpoint = sqrt)"):
        limit = Limit(peaks[mode])
        made = bilevel.compile(recipe, limit=limit, calibration=reference())
        assert made.plan.choices["adapt"].mode == mode
        assert "keep" in made.emit()
    with pytest.raises(RecipeError) as caught:
        bilevel.compile(recipe.with_({"task.count": 1}), limit=Limit(300))
    assert caught.value.diagnostics[0].code == "B510"


def test_two_compilations_print_the_same_plan(plan: Plan) -> None:
    recipe = bilevel.parse(TEXT, "tiny.bl")
    again = bilevel.compile(recipe, limit="memory=1GB", calibration=reference()).explained
    assert str(again) == str(plan)
    assert reference().identity in str(plan)
    assert again.identity == plan.identity


def test_modes_list_a_formula_each() -> None:
    made = plan_text(TEXT)
    level, facts = made.program.level("adapt"), made.facts["adapt"]
    for mode in MODES:
        work, memory = mode.cost(level, facts).expressions()
        assert work.free_symbols and memory.free_symbols


# ---- the command ---------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.bl"
    path.write_text(TEXT.replace("30 steps", "4 steps"), "utf-8")
    return path


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_no_plan_within_the_limit_ends_with_4(command: Command, tiny: Path) -> None:
    one = ("plan", "tiny.bl", "task.count=1")  # of which there are no fewer at a time
    said = command(*one, "--limit", "memory=100B")
    assert (said.code, said.out) == (4, "")
    assert "error[B510]: no exact plan fits 100 B" in said.err
    peaks = {
        row["mode"]: row["bytes"]["value"]
        for row in json.loads(command(*one, "--json").out)["hypergradients"][0]["candidates"]
        if "bytes" in row
    }
    first = int(peaks["rmd(order = 1)"]) + 1
    assert first < min(peaks[mode] for mode in peaks if mode != "rmd(order = 1)")
    said = command(*one, "--limit", f"memory={first}B")
    assert said.code == 4 and "--allow biased     rmd(order = 1) needs" in said.err
    assert command(*one, "--limit", f"memory={first}B", "--allow", "biased").code == 0
    said = command(*one, "--limit", f"memory={first}B", "schedule.adapt=fmd")
    assert said.code == 3 and "error[B502]" in said.err and "adapt : rmd(order = 1)" in said.err
    assert command("plan", "tiny.bl", "--limit", "memory=1 kilo").code == 3


def test_why_pin_and_diff(command: Command, tiny: Path) -> None:
    limit = ("--limit", "memory=1GB", "--calibration", "reference")
    said = command("plan", "tiny.bl", *limit, "--why", "adapt", "rmd(order=1)")
    assert said.out == "rmd(order = 1) (biased): not allowed [class]: holds the gradient inside each step constant\n"
    assert "B501" in command("plan", "tiny.bl", "--why", "nobody", "rmd").err
    other = command("plan", "tiny.bl", *limit, "--diff", "memory=40kB").out
    assert "-how `adapt` is differentiated        limit 1.00 GB" in other and "+how" in other
    assert "the two plans are the same" in command("plan", "tiny.bl", *limit, "--diff", "tiny.bl").out
    before = json.loads(command("plan", "tiny.bl", *limit, "--format", "json").out)
    mode = before["hypergradients"][0]["chosen"]
    said = command("plan", "tiny.bl", *limit, "--pin")
    assert f"    adapt : {mode}\n" in tiny.read_text("utf-8") or f"schedule {{ adapt : {mode} }}" in tiny.read_text(
        "utf-8"
    )
    assert f"> {mode}" in said.out and "chosen: named at tiny.bl:" in said.out and "[pinned]" in said.out
    text = tiny.read_text("utf-8")
    command("plan", "tiny.bl", *limit, "--pin")
    assert tiny.read_text("utf-8") == text
    assert "B110" in command("plan", "maml_sine", *limit, "--pin").err


def test_an_option_that_would_be_ignored_is_wrong_usage(command: Command, tiny: Path) -> None:
    for words in (
        "--symbolic --limit memory=1kB",
        "--symbolic --calibration reference",
        "--symbolic --diff memory=1kB",
        "--stage lowered --limit memory=1kB",
        "--stage parsed --pin",
        "--stage typed --diff maml_sine",
        "--why adapt rmd --diff maml_sine",
        "--why adapt rmd --format html",
        "--json --stage parsed",
    ):
        said = command("plan", "tiny.bl", *words.split())
        assert said.code == 2 and ("--json" in words or said.out == ""), words
    assert "builds no part" in command("plan", "tiny.bl", "--symbolic", "--limit", "memory=1kB").err
    assert command("plan", "tiny.bl", "--symbolic", "--stage", "scheduled", "--diff", "maml_sine").code == 0


def test_pin_replaces_auto(command: Command, tiny: Path) -> None:
    tiny.write_text(tiny.read_text("utf-8") + "schedule { adapt : auto(allow = biased)  # ours\n}\n", "utf-8")
    command("plan", "tiny.bl", "--limit", "memory=1GB", "--pin")
    assert "adapt : rmd(order = 1)" in tiny.read_text("utf-8") and "# ours" in tiny.read_text("utf-8")


def test_json_carries_everything(command: Command, tiny: Path) -> None:
    content = json.loads(
        command("plan", "tiny.bl", "--json", "--limit", "memory=1GB", "--calibration", "reference").out
    )
    assert content["limits"] == {"memory": 1e9, "asked": True} and content["allow"] == "exact"
    assert content["calibration"]["hash"] == reference().identity
    (found,) = content["hypergradients"]
    rows = {row["mode"]: row for row in found["candidates"]}
    assert rows["rmd"]["flop"]["expr"] == "P*(T*(g + b) + G)" and rows["rmd"]["flop"]["value"] > 0
    assert rows["rmd"]["bytes"]["value"] > 0 and rows["rmd"]["seconds"] > 0
    assert rows["ift"]["reasons"] == ["path"] and rows["rmd(order = 1)"]["reasons"] == ["class"]
    facts = {fact["symbol"]: fact for fact in content["facts"]["adapt"]}
    assert facts["T"] == {
        "symbol": "T",
        "value": 4.0,
        "unit": "",
        "meaning": "steps",
        "origin": "declared",
        "of": [],
        "at": facts["T"]["at"],
    }
    assert content["steps"]["meta"]["seconds"] > 0


# ---- copies a few at a time ----------------------------------------------------------------------------------


def sized(memory: str) -> bilevel.Program:
    text = TEXT.replace("mlp(1, 4, 1)", "mlp(1, 40, 1)").replace("30 steps", "9 steps")
    return bilevel.compile(bilevel.parse(text, "tiny.bl"), limit=memory, calibration=reference())


def test_copies_are_taken_a_few_at_a_time_where_nothing_fits_otherwise(tmp_path: Path) -> None:
    assert sized("memory=10MB").plan.chunks == {}
    program = sized("memory=50kB")
    (size,) = program.plan.chunks.values()
    assert program.plan.exactness == "exact"
    assert 1 <= size < 8 and f"portions({size}, (task,))" in program.source
    numbers = program.plan.numbers
    assert numbers is not None and (numbers.steps["meta"].peak or 0) <= 50_000
    words = f"{size} {'copy' if size == 1 else 'copies'} at a time"
    assert f"{words}, since more do not fit" in program.explain()
    assert program.plan.decided["task"] == f"vmap(chunk = {size})"
    assert program.plan.identity != sized("memory=10MB").plan.identity
    again = bilevel.compile(program.recipe, decided=program.plan.decided)
    assert again.source == program.source
    state = program.phases[0].begin(torch.tensor(1))
    assert peak_bytes(lambda: program.phases[0].hypergradient(state, torch.tensor(1))) <= 50_000


def test_what_not_even_one_copy_at_a_time_fits_is_b510() -> None:
    with pytest.raises(RecipeError) as caught:
        sized("memory=5kB")
    (found,) = caught.value.diagnostics
    assert found.code == "B510"
    assert found.message.endswith("with 1 of the copies of `task` at a time")
    assert "task.count" not in found.fix


def test_elements_of_a_list_are_ragged() -> None:
    """No vmap takes networks of different shapes; drawn copies are taken by one."""
    text = TEXT.replace(
        "use net = mlp(1, 4, 1)", "use opt = coordinate_lstm(hidden = 2)\nuse nets = [mlp(1, 4, 1), mlp(1, 5, 1)]"
    )
    text = text.replace("theta : params(net)", "psi : params(opt)\n  each net in nets").replace(
        "params(net) from theta", "params(net)"
    )
    text = text.replace("sgd(lr = 0.01)", "opt[psi]").replace("mean[task]", "mean[net, task]")
    plan = plan_text(text)
    assert re.search(r"draw +net from nets +one after the other \[ragged\]\n", str(plan))
    assert plan_json(plan)["copies"] == [
        {"index": "net", "how": "loop", "chunk": None, "reasons": ["ragged"]},
        {"index": "task", "how": "vmap", "chunk": None, "reasons": []},
    ]
    with pytest.raises(RecipeError) as caught:
        plan_text(text + "schedule { net : loop }")
    assert caught.value.diagnostics[0].code == "B507" and "[ragged]" in caught.value.diagnostics[0].why
