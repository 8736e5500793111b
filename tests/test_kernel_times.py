"""Predicted times with kernels: what is counted as a kernel's is what a run makes one of, and plans say what they predict."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

import bilevel
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.command import main
from bilevel.costs import KERNELS, Calibration, Work, making, reference
from bilevel.estimates import Estimator
from bilevel.marks import in_kernel
from bilevel.plan import Choice
from bilevel.program import Program, load_phases
from bilevel.recipe import parse

FLOAT = torch.float64
RECIPE = """recipe two
level top {
  x : real[3] from 0.7
  level fit {
    w : real[3] from 0.5 * x
    minimize sum(w^4) + 0.1 * sqnorm(w - x)
    by adam(lr = 0.05, beta1 = 0.8) for STEPS steps
  }
  minimize sqnorm(w - 1) + 0.01 * sqnorm(x)
  by sgd(lr = 0.1) for 20 steps
}
schedule { fit : MODE }"""


def text(mode: str, steps: int = 16) -> str:
    return RECIPE.replace("MODE", mode).replace("STEPS", str(steps))


def predicted(mode: str, steps: int) -> Work:
    """What is counted of one hypergradient with kernels."""
    program = bilevel.compile(parse(text(mode, steps), "two.bl"), compile="fx", calibration=reference())
    cost = program.plan.choices["fit"].cost
    assert cost is not None and cost.work is not None
    return cost.work


def calls(mode: str, steps: int) -> tuple[int, set[str]]:
    """How many kernels one hypergradient calls in a run, and those that there are."""
    program = bilevel.compile(parse(text(mode, steps), "two.bl"), compile="none", dtype=FLOAT)
    kernels = Kernels("fx", FLOAT, torch.device("cpu"))
    (phase,) = load_phases(program.source, program.parts, kernels)
    state, key = phase.begin(torch.tensor(3)), torch.tensor(3)
    with torch.no_grad():
        phase.hypergradient(state, key)
        counted = 0

        def counting(run: Any) -> Any:
            def told(*given: Any) -> Any:
                nonlocal counted
                counted += 1
                return run(*given)

            return told

        for behind in _behind(phase.hypergradient):
            for place, made in behind.made.items():
                if made.run is not None:
                    object.__setattr__(made, "run", counting(made.run))
                    behind.made[place] = made
        phase.hypergradient(state, key)
    return counted, {made.name for made in kernels.made if made.run is not None}


def _behind(function: Any) -> list[Any]:
    """The kernels that a function reaches."""
    from bilevel.backends.torch_func.trace.kernels import Kernel
    from bilevel.measuring import cells

    found = (cell.cell_contents for cell in cells(function).values())
    return [one for one in found if isinstance(one, Kernel)]


@pytest.mark.parametrize("steps", [1, 5, 16])
@pytest.mark.parametrize("mode", ["rmd", "fmd"])
def test_the_kernels_that_are_counted_are_those_that_a_run_calls(mode: str, steps: int) -> None:
    work = predicted(mode, steps)
    counted, names = calls(mode, steps)
    assert work.kernels == pytest.approx(counted), names


def test_what_forward_mode_does_inside_of_transforms_is_no_kernel() -> None:
    forward, reverse = predicted("fmd", 16), predicted("rmd", 16)
    assert forward.kernel_operators < 0.2 * forward.operators and forward.layers > forward.operators
    assert reverse.kernel_operators > 0.95 * reverse.operators and reverse.layers == 0


def test_a_kernel_takes_less_for_what_is_left_in_its_graph() -> None:
    slow = Calibration("slow", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    inside = Work(operators=10, views=4, matrices=8, setups=2, products=7, convolutions=9, moved=5, packed=6)
    outside = Work(operators=3, layers=6, transforms=1)
    work = inside + outside + in_kernel(inside) + in_kernel(Work())
    assert slow.seconds(work) == slow.seconds(inside) + slow.seconds(outside) == 51 + 10
    for kind, one in KERNELS.items():
        calls = 2 * one.call + 10 * one.operator + 4 * one.view
        bytes_read = 5 * one.moved + 6 * one.packed
        products = 8 * one.matrices + 2 * one.setups + 7 * one.products + 9 * one.convolutions
        assert slow.seconds(work, kind) == pytest.approx(10 + calls + bytes_read + products)
        assert slow.seconds(work, f"{kind}+graphs") == slow.seconds(work, kind)
        assert slow.seconds(outside, kind) == slow.seconds(outside)


def test_counts_that_are_carried_on_too_far_are_no_gain() -> None:
    slow = Calibration("slow", 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    for operators, kernels in ((12.0, -3.0), (-2.0, 1.0)):
        work = Work(operators=10, layers=5, kernels=kernels, kernel_operators=operators)
        assert 0 < slow.seconds(work, "fx") <= slow.seconds(work) + KERNELS["fx"].call


def test_more_operators_take_longer_to_make_and_runs_of_steps_only_for_inductor() -> None:
    work = Work(nodes=100, in_runs=300)
    assert making(work, "none") == 0.0
    assert making(work, "fx") == making(Work(nodes=100), "fx") < making(Work(nodes=200), "fx")
    assert making(Work(nodes=100), "inductor") < making(work, "inductor") == making(Work(nodes=400), "inductor")


@pytest.mark.parametrize(("kind", "said"), [("none", "functions as they are"), ("fx", "fx kernels")])
def test_a_plan_says_what_its_times_are_of(kind: Any, said: str) -> None:
    program = bilevel.compile(parse(text("rmd"), "two.bl"), compile=kind, calibration=reference())
    assert f"times of {said}, by the calibration `reference`" in program.explain()
    assert program.plan.numbers is not None and program.plan.numbers.kernels == kind
    cost = program.plan.choices["fit"].cost
    assert cost is not None and cost.work is not None
    assert cost.seconds == reference().seconds(cost.work, kind)
    assert _step_seconds(program) == cost.seconds


def _step_seconds(program: Program) -> float | None:
    assert program.plan.numbers is not None
    return program.plan.numbers.steps["top"].seconds


def test_by_default_times_are_those_of_the_kernels_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    for steps, kind in ((2, "none"), (2_000, "fx")):
        assert main(["plan", "maml_sine", f"meta.steps={steps}", "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        assert content["times_of"] == content["kernels"]["kind"] == kind


UNTIL = """recipe settled
level top {
  x : real[3] from [0.7, -0.2, 0.4]
  level fit {
    w : real[3] from 0
    minimize sqnorm(w - x)
    by sgd(lr = 0.2) until stationary(1e-6) within 500 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 20 steps
}"""


def test_a_level_that_stops_by_itself_takes_its_time_at_most() -> None:
    from bilevel.plan_json import plan_json

    program = bilevel.compile(parse(UNTIL, "settled.bl"), compile="none")
    assert "one step of top at most " in program.explain() and ", 20 steps at most " in program.explain()
    steps: Any = plan_json(program.plan)["steps"]
    assert steps["top"]["at_most"] is True
    counted = bilevel.compile(parse(UNTIL.replace("until stationary(1e-6) within 500 steps", "for 5 steps"), "five.bl"))
    assert "one step of top about " in counted.explain()
    steps = plan_json(counted.plan)["steps"]
    assert steps["top"]["at_most"] is False


def test_kernels_are_counted_alike_for_all_numbers_of_steps_of_a_trace() -> None:
    """A trace that is cut is no shorter function: what is too long for one kernel in a run is not counted as one."""
    program = bilevel.compile(parse(text("rmd"), "two.bl"), compile="none", calibration=reference())
    estimator = Estimator(program.plan.program, program.plan.facts, program.parts, reference(), "fx")
    choices: dict[str, Choice] = dict(program.plan.choices)
    level = program.plan.program.level("fit")
    short = estimator.tracer.cost(program.plan, "top", {"fit": 2.0}, {})
    long = estimator.tracer.cost(program.plan, "top", {"fit": 3.0}, {})
    assert long.kernels - short.kernels == 2 and choices[level.name].mode == "rmd"
