"""What is counted without numbers is what runs: operations exactly, bytes at the peak, and how both grow."""

from __future__ import annotations

import pytest
import torch

import bilevel as bl
from benchmarks.live_bytes import peak_bytes
from bilevel import pipeline
from bilevel.binding import Parts, bind
from bilevel.costs import Work
from bilevel.meter import Meter, layers
from bilevel.plan import Plan
from bilevel.program import load_phases
from bilevel.tracing import Counted, Tracer, Untraced, step_count
from tests.zoo import sources
from tests.zoo.compiled import REGISTRY, plan_text

SINE = """recipe traced
use net = mlp(1, 16, 16, 1)
use tasks = sine(shots = 6, queries = 6)
level meta {
  theta : params(net)
  each task ~ tasks.train[4]
  level adapt {
    w : params(net) from theta
    minimize mean(mse(net[w](task.support.x), task.support.y)) EXTRA
    by sgd(lr = 0.01, momentum = 0.5) DURATION
  }
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by adam(lr = 1e-3) for 3 steps
}
schedule { adapt : MODE }
"""
KEPT = "rmd(store = gradients)"
MODES = ["rmd", "rmd(store = residuals)", KEPT, "rmd(window = 3)", "rmd(order = 1)", "leap(gamma = 0.9)", "fmd"]


def sine(mode: str, duration: str = "for 9 steps", extra: str = "") -> str:
    extra += " + 0.01 * sqnorm(w - theta)" * ("window" in mode)  # by its start alone, theta is before every window
    text = SINE.replace("MODE", mode).replace("DURATION", duration).replace("EXTRA", extra)
    text = text.replace("sgd(lr = 0.01, momentum = 0.5)", "adam(lr = 0.01)") if mode == KEPT else text
    return text.replace("1, 16, 16, 1", "1, 2, 1") if mode == "fmd" else text


def parts_of(plan: Plan) -> Parts:
    return bind(plan.program, REGISTRY, {}, torch.device("cpu"), torch.float32)


def predicted(plan: Plan, parts: Parts) -> Work:
    steps = {lv.name: step_count(plan.program, lv) or 0.0 for lv in plan.program.walk_levels() if lv.parent}
    return Tracer(parts).cost(plan, plan.program.levels[-1].name, steps, {})


def measured(plan: Plan, parts: Parts) -> tuple[Work, int]:
    phase = load_phases(pipeline.emit(plan), parts)[-1]
    from bilevel.backends.torch_func.keyed import make_key

    key = make_key(0)
    state = phase.begin(key)
    meter = Meter()
    with torch.no_grad(), meter, layers(phase.hypergradient, meter):
        kept = phase.hypergradient(state, key)
    del kept
    return meter.work, peak_bytes(lambda: phase.hypergradient(state, key))


def test_no_epoch_is_counted_as_no_step() -> None:
    text = """recipe unmoved
use d = points(count = 4)
level top {
  x : real from 0.7
  level fit {
    w : real from x
    b ~ d.all[2]
    minimize mean((w - b.y)^2)
    by sgd(lr = 0.3) for 0 epochs
  }
  minimize (w - 1)^2
  by sgd(lr = 0.1) for 1 step
}"""
    program = bl.compile(bl.parse(text), registry=[sources])
    assert program.hypergradient()["x"] == pytest.approx(2 * (0.7 - 1))


LISTED = """recipe listed
level top {
  x : real[2] from [0.7, -0.3]
  level fit {
    w : real[2] from [0.1, 0.3]
    minimize sqnorm(w - x) + sum(w^4 * [1, 2])
    by sgd(lr = 0.3) for 5 steps
  }
  minimize sqnorm(w - 1)
  by sgd(lr = 0.1) for 4 steps
}
schedule { fit : MODE }
"""


@pytest.mark.parametrize("mode", ["rmd", "rmd(store = residuals)", "fmd"])
def test_lists_of_numbers_are_counted_in_every_mode(mode: str) -> None:
    plan = plan_text(LISTED.replace("MODE", mode))
    assert predicted(plan, parts_of(plan)).peak > 0


@pytest.mark.parametrize("mode", MODES)
def test_nine_steps_are_predicted_from_two_and_three(mode: str) -> None:
    plan = plan_text(sine(mode))
    parts = parts_of(plan)
    found, (real, peak) = predicted(plan, parts), measured(plan, parts)
    assert found.flop == pytest.approx(real.flop, rel=1e-12)
    # Without numbers torch fills zeros that forward mode keeps as a flag on other devices.
    assert found.operators == pytest.approx(real.operators, rel=0.06)
    assert found.layers == pytest.approx(real.layers, rel=0.06)
    assert found.transforms == real.transforms
    assert found.moved == pytest.approx(real.moved, rel=0.05)
    assert found.peak == pytest.approx(real.peak, rel=0.02)
    assert found.peak == pytest.approx(peak, rel=0.1)


def test_products_of_a_network_are_counted_by_hand() -> None:
    plan = plan_text(sine("rmd(order = 1)", "for 1 step").replace("1, 16, 16, 1", "1, 5, 1"))
    samples = 4 * 6
    forward = 2 * samples * (1 * 5 + 5 * 1)
    # Forward and both products of the way back, save that nobody asks for the derivative in the input.
    step = forward + 2 * samples * (1 * 5 + 2 * 5 * 1)
    assert predicted(plan, parts_of(plan)).flop == 2 * step  # one inner step, and the outer gradient


def test_a_linear_solver_is_carried_on_to_its_steps() -> None:
    extra = "+ 5 * sqnorm(w - theta)"
    text = sine("ift(linear = cg(steps = COUNT))", "until stationary(1e-9) within 6 steps", extra)
    few, many = (plan_text(text.replace("COUNT", str(count))) for count in (5, 15))
    parts = parts_of(few)
    least, most = predicted(few, parts), predicted(many, parts)
    product = (most.flop - least.flop) / 10
    assert product > 0
    real, _ = measured(few, parts)  # six steps do not reach 1e-9, nor five products the default residual
    assert least.flop == pytest.approx(real.flop, rel=1e-12)


def test_nothing_is_allocated_and_no_part_is_touched() -> None:
    plan = plan_text(sine("rmd").replace("tasks.train[4]", "tasks.train[100_000]").replace("16, 16", "512, 512"))
    parts = parts_of(plan)
    assert predicted(plan, parts).peak > 1e12  # would not fit anywhere
    assert {p.device.type for p in parts.objects["net"].parameters()} == {"cpu"}


def test_what_looks_at_numbers_is_said_to_be_untraced() -> None:
    plan = plan_text(sine("rmd"))
    parts = parts_of(plan)

    class Looks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = parts.objects["net"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * float(x.sum())

    looks = Parts({**parts.objects, "net": Looks()}, parts.device, parts.dtype, parts.patterns)
    with pytest.raises(Untraced):
        predicted(plan, looks)


def test_conv4_is_traced_in_two_short_runs() -> None:
    """Of two and of three steps in place of five: what takes time is the number of operators that are met."""
    plan = pipeline.plan(pipeline.check(pipeline.read("maml"), pipeline.Options()))
    tracer = Tracer(parts_of(plan))
    found = tracer.cost(plan, "meta", {"adapt": 5.0}, {})
    assert 1e11 < found.flop < 1e13
    runs = [one for one in tracer.known.values() if isinstance(one, Counted)]
    assert len(runs) == len(tracer.known) == 2
    assert sum(one.plain.operators + one.plain.views for one in runs) < 8_000


def test_a_param_that_counts_steps_and_iterates_is_cut_with_them() -> None:
    text = sine("rmd", "for K steps").replace("level meta", "param K = 9\nlevel meta")
    text = text.replace("mean[task] mean(mse(net[w](task", "mean[task] sum[k in 1..K] mean(mse(net[w@k](task")
    plan = plan_text(text)
    parts = parts_of(plan)
    found, (real, _) = predicted(plan, parts), measured(plan, parts)
    assert found.flop == pytest.approx(real.flop, rel=1e-12)
    assert found.peak == pytest.approx(real.peak, rel=0.02)
