"""`rmd(window, update = each)` against a loop that is cut by hand: one outer update for each window."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel import pipeline
from bilevel.backends.torch_func.keyed import fold, make_key, normal
from bilevel.errors import RecipeError
from tests.modes.loops import begun, moved, slope, tensor
from tests.modes.tools import scheduled
from tests.zoo.compiled import compile_text, plan_text
from tests.zoo.problem import points

Q = tensor([[2.0, 0.5], [0.5, 1.0]])
TEXT = """recipe windowed
use Q : real[2, 2]
level top {
  x : real[2] from [0.7, -0.4]
  r : real in positive from 0.05
  each s ~ normal(0, 1)[3]
  level fit {
    y : real[2] from x
    e ~ normal(0, 1)[2]
    minimize 0.5 * quad(Q, y - s) + 0.1 * sqnorm(y * x) + 0.3 * dot(e, y)
    by INNER for 6 steps
  }
  minimize mean[s] (OBJECTIVE) + 0.1 * sqnorm(x)
  by OUTER for 3 steps
}"""
INNER = {"sgd": "sgd(lr = r)", "momentum": "sgd(lr = r, momentum = 0.5)", "adam": "adam(lr = r, beta1 = 0.5)"}


class Loop:
    """Outer steps as they are described: draws of the step stay, copies advance together, the state is cut."""

    def __init__(self, inner: str, adaptive: bool, summed: bool, window: int, order: int = 2) -> None:
        self.inner, self.adaptive, self.summed, self.window, self.order = inner, adaptive, summed, window, order
        self.free = torch.cat([tensor([0.7, -0.4]), tensor([0.05]).log()])
        self.moments, self.updates, self.values = begun("adam", self.free), 0, list[float]()

    def outer_step(self, number: int) -> None:
        key = fold(fold(make_key(0), "top"), number)
        s = normal(fold(key, "s"), 3, dtype=torch.float64)
        keys = fold(fold(key, "fit"), torch.arange(6))
        e = normal(fold(fold(keys, "e"), torch.arange(3)), 2, dtype=torch.float64)
        carried: list[tuple[Tensor, tuple[Tensor, ...]]] | None = None
        values = []
        for first in range(0, 6, self.window):
            free = self.free.clone().requires_grad_()
            states = carried or [(free[:2] + 0, begun(self.inner, free[:2])) for _ in range(3)]
            value, states = self.through(free, states, s, e, first)
            self.update(torch.autograd.grad(value, free)[0])
            carried = [(x.detach(), tuple(v.detach() for v in state)) for x, state in states]
            values.append(value.item())
        self.values.append(sum(values) / len(values))

    def through(self, free: Tensor, states: Any, s: Tensor, e: Tensor, first: int) -> tuple[Tensor, Any]:
        """One window of all copies, and the objective at its end."""
        x, total, ends = free[:2], 0.1 * (free[:2] ** 2).sum(), []
        for copy, (y, state) in enumerate(states):
            for step in range(first, first + self.window):

                def inner(z: Tensor, step: int = step, copy: int = copy) -> Tensor:
                    away = z - s[copy]
                    return 0.5 * away @ Q @ away + 0.1 * ((z * x) ** 2).sum() + 0.3 * e[step, copy] @ z

                g = slope(inner, y)
                g = g.detach() if self.order == 1 else g
                y, state = moved(self.inner, step + 1, y, state, g, free[2].exp(), tensor(0.5))
                total = total + ((y - 1) ** 2).sum() * (step + 1) / 3 if self.summed else total
            total = total + (y**2).sum() / 3
            ends.append((y, state))
        return total, ends

    def update(self, g: Tensor) -> None:
        self.updates += 1
        if not self.adaptive:
            self.free = self.free - 0.1 * g
            return
        # Outermost Adam is that of torch, with epsilon beside the root.
        first, second = 0.9 * self.moments[0] + 0.1 * g, 0.999 * self.moments[1] + 0.001 * g * g
        root = (second / (1 - 0.999**self.updates)).sqrt() + 1e-8
        self.free, self.moments = self.free - 0.1 * first / (1 - 0.9**self.updates) / root, (first, second)


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize("window", (1, 2, 3, 6))
@pytest.mark.parametrize("summed", (False, True))
def test_windows_are_the_loop_cut_by_hand(inner: str, window: int, summed: bool) -> None:
    check(inner, window, summed, adaptive=False)


@pytest.mark.parametrize("order", (1, 2))
def test_the_outer_solver_counts_its_updates(order: int) -> None:
    check("momentum", 2, summed=True, adaptive=True, order=order)


def check(inner: str, window: int, summed: bool, adaptive: bool, order: int = 2) -> None:
    objective = "(sum[k in 1..6] k * sqnorm(y@k - 1)) + sqnorm(y)" if summed else "sqnorm(y)"
    text = TEXT.replace("INNER", INNER[inner]).replace("OBJECTIVE", objective)
    text = text.replace("OUTER", "adam(lr = 0.1)" if adaptive else "sgd(lr = 0.1)")
    first = "order = 1, " if order == 1 else ""
    text = scheduled(text, fit=f"rmd({first}window = {window}, update = each)")
    assert plan_text(text).exactness == "surrogate"
    compiled = compile_text(text, {"Q": Q})
    loop, key = Loop(inner, adaptive, summed, window, order), compiled.key()
    state = compiled.phase.begin(key)
    for number in range(2):
        loop.outer_step(number)
        state, value = compiled.phase.step(state, key)
        assert value.item() == pytest.approx(loop.values[-1], rel=1e-9)
        assert torch.allclose(torch.cat([state.x[0], state.x[1][None]]), loop.free, rtol=1e-9, atol=1e-12)


def test_one_window_of_all_steps_is_one_exact_update() -> None:
    text = TEXT.replace("INNER", INNER["adam"]).replace("OBJECTIVE", "sqnorm(y)").replace("OUTER", "sgd(lr = 0.1)")
    phases = [compile_text(scheduled(text, fit=m), {"Q": Q}).phase for m in ("rmd", "rmd(window = 6, update = each)")]
    key = make_key(0)
    (one, _), (other, _) = (phase.step(phase.begin(key), key) for phase in phases)
    assert torch.allclose(one.x[0], other.x[0], rtol=1e-12) and torch.allclose(one.x[1], other.x[1], rtol=1e-12)


# ---- lists of networks ---------------------------------------------------------------------------------------

NETS = """recipe ragged
use nets = [mlp(3, 4, 1), mlp(3, 2, 3, 1)]
use d = points(count = 5)
level top {
  r : real in positive from 0.02
  each net in nets
  level fit {
    w : params(net) from 0.3
    minimize mean((net[w](d.all.x) - 0.5)^2)
    by sgd(lr = r, momentum = 0.5) for 6 steps
  }
  minimize mean[net] (sum[k in 1..6] mean((net[w@k](d.all.x) + d.all.x)^2))
  by sgd(lr = 0.1) for 2 steps
}"""
WIDTHS = ((3, 4, 1), (3, 2, 3, 1))


def forward(flat: Tensor, widths: tuple[int, ...], x: Tensor) -> Tensor:
    """A network whose weights and biases lie one after the other, layer by layer."""
    done = 0
    for number, (inputs, outputs) in enumerate(zip(widths, widths[1:], strict=False)):
        weight = flat[done : done + inputs * outputs].reshape(outputs, inputs)
        done += inputs * outputs
        bias, done = flat[done : done + outputs], done + outputs
        x = x @ weight.T + bias
        x = torch.relu(x) if number < len(widths) - 2 else x
    return x


@pytest.mark.parametrize("window", (2, 6))
def test_windows_over_networks_of_different_shape(window: int) -> None:
    x = torch.tensor(points(5)[0])
    compiled = compile_text(scheduled(NETS, fit=f"rmd(window = {window}, update = each)"))
    state, _ = compiled.phase.step(compiled.phase.begin(compiled.key()), compiled.key())
    sizes = [sum(a * b + b for a, b in zip(w, w[1:], strict=False)) for w in WIDTHS]
    states = [(tensor([0.3] * n), begun("momentum", tensor([0.3] * n))) for n in sizes]
    log_rate = tensor(0.02).log()
    for first in range(0, 6, window):
        free, total, ends = log_rate.clone().requires_grad_(), tensor(0.0), []
        for widths, (w, v) in zip(WIDTHS, states, strict=True):
            for step in range(first, first + window):
                g = slope(lambda z, widths=widths: ((forward(z, widths, x) - 0.5) ** 2).mean(), w)  # type: ignore[misc]
                w, v = moved("momentum", step + 1, w, v, g, free.exp(), tensor(0.5))
                total = total + ((forward(w, widths, x) + x) ** 2).mean() / 2
            ends.append((w.detach(), (v[0].detach(),)))
        log_rate, states = log_rate - 0.1 * torch.autograd.grad(total, free)[0], ends
    assert torch.allclose(state.x, log_rate.detach(), rtol=1e-9)


STARTED = """recipe started
level tune {
  a : real from 0.5
  level fit {
    x : real from START
    minimize (x - TARGET)^2
    by sgd(lr = RATE) for 4 steps
  }
  minimize x^2DIRECT
  by sgd(lr = 0.1) for 2 steps
}
schedule { fit : rmd(window = WINDOW) }"""


@pytest.mark.parametrize(
    ("start", "target", "rate", "direct", "window", "told"),
    [
        ("a", "1", "0.1", "", 3, True),
        ("a", "1", "0.1", "", 4, False),
        ("a", "a", "0.1", "", 3, False),
        ("a", "1", "0.2 * a", "", 3, False),
        ("a", "1", "0.1", " + a^2", 3, False),
        ("a", "1", "0.1", " + (x@0 - 3)^2", 3, False),
        ("a", "1", "0.1", " + (x@1 - 3)^2", 3, True),
    ],
)
def test_a_window_that_would_give_a_gradient_of_zero_is_refused(
    start: str, target: str, rate: str, direct: str, window: int, told: bool
) -> None:
    """Only through the start: before the window. Otherwise the hypergradient is not zero, and the window is run."""
    text = STARTED.replace("START", start).replace("TARGET", target).replace("RATE", rate).replace("DIRECT", direct)
    text = text.replace("WINDOW", str(window))
    if told:
        with pytest.raises(RecipeError, match=r"B404.*`rmd\(window = 3\)` gives `a` a gradient of exactly zero"):
            plan_text(text)
        return
    compiled = compile_text(text)
    key = compiled.key()
    gradient, _ = compiled.phase.hypergradient(compiled.phase.begin(key), key)
    assert abs(float(gradient)) > 1e-3


def test_a_level_beside_windows_is_refused() -> None:
    """Its solution would have to be found anew after every step of the outer solver."""
    text = """recipe beside
level tune {
  a : real from 0.5
  level first {
    x : real from a
    minimize (x - 1)^2
    by sgd(lr = 0.1) for 2 steps
  }
  level second {
    y : real from a
    minimize (y - x)^2
    by sgd(lr = 0.1) for 4 steps
  }
  minimize y^2
  by sgd(lr = 0.1) for 2 steps
}
schedule { second : rmd(window = 2, update = each) }"""
    with pytest.raises(RecipeError, match=r"B507\]: .* with `first` beside `second`"):
        plan_text(text)


@pytest.mark.parametrize(
    ("objective", "mode", "why"),
    [
        ("(w@2 - 1)^2", "rmd(window = 3, store = residuals)", "reads iterates"),
        ("(w - 1)^2", "rmd(order = 1, store = residuals)", "goes with no other option but `window`"),
        ("(w@2 - 1)^2", "rmd(checkpoint = 2, store = residuals)", "reads iterates"),
        ("(w - 1)^2", "rmd(checkpoint = 2, window = 3, store = residuals)", "goes with no other option but `store`"),
        ("(w - 1)^2", "rmd(checkpoint = binomial, store = residuals)", "one step at a time"),
    ],
)
def test_residuals_of_a_window_are_refused_where_they_do_not_suffice(objective: str, mode: str, why: str) -> None:
    text = f"""recipe kept
level tune {{
  a : real from 0.5
  level fit {{
    w : real from a
    minimize (w - a)^2
    by sgd(lr = 0.1) for 6 steps
  }}
  minimize {objective}
  by sgd(lr = 0.1) for 2 steps
}}
schedule {{ fit : {mode} }}"""
    with pytest.raises(RecipeError, match=why):
        plan_text(text)


IDLE = """recipe idle
use Q : real[2, 2]
param n = 6
level top {
  x : real[2] from [0.7, -0.4]
  each s ~ normal(0, 1)[3]
  level fit {
    y : real[2] from x
    minimize quad(Q, y - s - 0.1 * x)
    by sgd(lr = 0.1) for n steps
  }
  minimize mean[s] sum(y^2)
  by sgd(lr = 0.1) for 2 steps
}
schedule { fit : rmd(window = WINDOW)  s : vmap(chunk = CHUNK) }"""


@pytest.mark.parametrize(
    ("window", "chunk", "told"), [(5, 2, []), (6, 2, ["window = 6"]), (9, 3, ["window = 9", "chunk = 3"])]
)
def test_a_window_or_chunk_of_everything_is_named_by_check_and_by_the_plan(
    window: int, chunk: int, told: list[str]
) -> None:
    text = IDLE.replace("WINDOW", str(window)).replace("CHUNK", str(chunk))
    recipe = bilevel.parse(text)
    found = pipeline.problems(recipe.written, pipeline.Options())
    assert [(d.code, d.severity, d.span.text if d.span else "") for d in found] == [
        ("B804", "warning", t) for t in told
    ]
    plan = str(plan_text(text))
    assert all(f"`{t}` has no effect" in plan for t in told)
    assert plan.count("has no effect") == len(told)
