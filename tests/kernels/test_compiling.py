"""Which kernels a program gets, what it says of them, and that runs with them repeat to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bilevel
from bilevel import pipeline
from bilevel import program as compiler
from bilevel.backends.torch_func.trace import compilers
from bilevel.backends.torch_func.tree import leaves
from bilevel.command import main
from bilevel.compiling import COMPILING, TRACING, Asked, Whole, kernels_for, paying, step_calls
from bilevel.errors import RecipeError
from bilevel.recipe import load, parse
from bilevel.run import Event, advance, execute, read_about, restore

SMALL = """recipe small
level top {
  x : real[3] from [0.7, -0.2, 0.4]
  level fit {
    w : real[3] from 0.5 * x
    minimize sum(w^4) + 0.1 * sqnorm(w - x)
    by sgd(lr = 0.05) for 3 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 20 steps
}
schedule { fit : rmd }"""


def test_auto_is_what_a_run_is_over_with_first() -> None:
    kinds = {}
    for steps in (10, 3_000, 60_000):
        program = bilevel.compile(load("maml_sine").changed([f"meta.steps={steps}"]), compile="auto")
        assert program.kernels.idle
        kinds[steps] = program.kernels.kind
        assert program.kernels.reason.startswith(f"{steps:,} steps take about ")
        assert program.plan.numbers is not None and program.plan.numbers.kernels == program.kernels.kind
    assert list(kinds.values()) == ["none", "fx", "inductor"]
    assert "with fx (" in program.kernels.reason and "with Inductor (" in program.kernels.reason


def test_the_kind_with_the_least_seconds_in_all_is_taken() -> None:
    plan = bilevel.compile("maml_sine", compile="none").plan
    found = [Whole("none", 0.0, 40.0, 100), Whole("fx", 3.0, 20.0, 100), Whole("inductor", 30.0, 5.0, 100)]
    kind, reason = paying(found, plan, torch.device("cpu"))
    assert kind == "fx" and "100 steps take about 40.0 s as they are, 23.0 s with fx (3.00 s of it" in reason
    kind, reason = paying(found[:1], plan, torch.device("cpu"))
    assert kind == "none" and "too short to make kernels for" in reason


def test_where_no_time_is_predicted_the_number_of_steps_decides() -> None:
    for steps, kind in ((10, "none"), (3_000, "fx"), (60_000, "inductor")):
        plan = pipeline.plan(load("maml_sine").changed([f"meta.steps={steps}"]).program)
        count = step_calls(plan)
        assert count == 2 * steps * 2 * 5
        assert kind == ("none" if count < TRACING else "fx" if count < COMPILING else "inductor")
        kernels = kernels_for(plan, "auto", torch.device("cpu"), torch.float32)
        assert kernels.kind == kind and f"about {count:,} steps of levels in a run" in kernels.reason


def test_without_a_compiler_inductor_is_b712_and_auto_takes_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "compiler", lambda: None)
    with pytest.raises(RecipeError) as caught:
        bilevel.compile("maml_sine", compile="inductor")
    assert caught.value.diagnostics[0].code == "B712"
    program = bilevel.compile(load("maml_sine").changed(["meta.steps=60000"]), compile="auto")
    assert program.kernels.kind == "fx"
    assert "no C++ compiler" in program.kernels.reason


def test_what_the_compiler_refuses_is_b712_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor.exc import CppCompileError, InductorError

    def refused(*_: object) -> None:
        said = "in file a.cpp:\n  a.cpp:7: error: no such header\nerror: another"
        raise InductorError(CppCompileError(["old-g++", "a.cpp"], said), None)

    monkeypatch.setattr(compilers, "_by_inductor", refused)
    program = bilevel.compile(load("maml_sine_quick"), compile="inductor")
    with pytest.raises(RecipeError) as caught:
        program.explain_kernels()
    (told,) = caught.value.diagnostics
    assert told.code == "B712" and "`old-g++`" in told.message
    assert told.why == "it says: a.cpp:7: error: no such header" and "--compile fx" in told.fix


def test_unknown_kernels_are_b712() -> None:
    with pytest.raises(RecipeError) as caught:
        bilevel.compile("maml_sine", compile="fast")  # type: ignore[arg-type]
    assert caught.value.diagnostics[0].code == "B712"


def test_what_runs_as_a_kernel_is_said_before_the_run() -> None:
    program = bilevel.compile("maml_sine", decided={"adapt": "rmd"}, compile="fx")
    lines = program.explain_kernels().splitlines()
    assert lines[0].startswith("kernels    fx")
    assert any(line.split()[0] == "adapt" and "run" in line and "back" in line for line in lines[1:])
    assert any("none for gradient [10 steps inside]" in line for line in lines[1:])


def test_a_run_by_kernels_is_the_run_of_the_functions_and_repeats_to_the_same_bits(tmp_path: Path) -> None:
    recipe = load("maml_sine").changed(["meta.steps=4"])
    plain = bilevel.compile(recipe).run(seed=3)
    whole = bilevel.compile(recipe, compile="fx").run(seed=3, out=tmp_path / "whole")
    for a, b in zip(leaves(plain.state), leaves(whole.state), strict=True):
        assert float((a - b).norm() / a.norm()) < 1e-5
    assert plain.losses == pytest.approx(whole.losses, rel=1e-5)
    again = bilevel.compile(recipe, compile="fx").run(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(leaves(whole.state), leaves(again.state), strict=True))
    assert '"kernels": "fx"' in (tmp_path / "whole" / "run.json").read_text("utf-8")


def test_by_default_what_pays_back_and_the_same_bits_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("SHORT", 0.0),
        ("CANDIDATES", ("none", "fx")),
        ("paying", lambda found, *_: (found[-1].kind, "")),
    ):
        monkeypatch.setattr(compiler, name, value)
    recipe = load("maml_sine").changed(["meta.steps=6"])
    whole = bilevel.compile(recipe).run(seed=3, out=tmp_path / "whole")
    assert whole.program.kernels.kind == "fx"
    assert any(made.run is not None for made in whole.program.kernels.made)

    def stop(event: Event) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(bilevel.compile(recipe), tmp_path / "part", 3, [stop])
    monkeypatch.setattr(compiler, "SHORT", 1e9)
    kept = read_about(tmp_path / "part")
    again = bilevel.compile(recipe, compile=kept["kernels"], decided=kept["decided"])
    rest = advance(restore(again, tmp_path / "part", 3, []), [])
    assert rest.losses[-3:] == whole.losses[-3:]
    for a, b in zip(leaves(whole.state), leaves(rest.state), strict=True):
        assert torch.equal(a, b)


def test_a_plan_says_which_kernels_a_run_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "maml_sine", "meta.steps=2"]) == 0
    assert "kernels    none        2 steps take about " in capsys.readouterr().out
    assert main(["plan", "maml_sine", "meta.steps=2", "--compile", "fx"]) == 0
    out = capsys.readouterr().out
    assert "kernels    fx        asked for" in out
    assert "\n  meta     gradient\n" in out


@pytest.mark.skipif(compilers.compiler() is None, reason="no C++ compiler")
def test_inductor_computes_the_hypergradient_and_compiles_few_steps_as_one(tmp_path: Path) -> None:
    """A recipe whose three steps and their way back are one graph: what was computed forth is not computed again."""
    found = {}
    kinds: tuple[Asked, ...] = ("none", "inductor")
    for kind in kinds:
        program = bilevel.compile(parse(SMALL, "small.bl"), compile=kind, dtype=torch.float64)
        found[kind] = program.hypergradient(seed=1)["x"]
    assert float((found["none"] - found["inductor"]).norm() / found["none"].norm()) < 1e-12
    (made,) = program.kernels.made
    assert made.name == "top_gradient" and made.run is not None
