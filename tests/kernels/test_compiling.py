"""Which kernels a program gets, what it says of them, and that runs with them repeat to the same bits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bilevel
from bilevel.backends.torch_func.trace import compilers
from bilevel.backends.torch_func.tree import leaves
from bilevel.compiling import COMPILING, TRACING, step_calls
from bilevel.errors import RecipeError
from bilevel.recipe import load


def test_auto_is_decided_by_the_number_of_steps() -> None:
    kinds = {}
    for steps in (10, 3_000, 60_000):
        program = bilevel.compile(load("maml_sine").changed([f"meta.steps={steps}"]), compile="auto")
        assert program.kernels.idle
        kinds[steps] = program.kernels.kind
        count = step_calls(program.plan)
        assert count == 2 * steps * 2 * 5
        assert kinds[steps] == ("none" if count < TRACING else "fx" if count < COMPILING else "inductor")
    assert list(kinds.values()) == ["none", "fx", "inductor"]


def test_without_a_compiler_inductor_is_b712_and_auto_takes_fx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilers, "compiler", lambda: None)
    with pytest.raises(RecipeError) as caught:
        bilevel.compile("maml_sine", compile="inductor")
    assert caught.value.diagnostics[0].code == "B712"
    program = bilevel.compile(load("maml_sine").changed(["meta.steps=60000"]), compile="auto")
    assert program.kernels.kind == "fx"
    assert "no C++ compiler" in program.kernels.reason


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
