"""Learned solvers: the coordinate-wise LSTM as `by opt[psi]`, its hypergradient, and the recursion of papers/004."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from bilevel.backends.torch_func.learned import join_state, learned, learned_state, split_state
from bilevel.backends.torch_func.sampling import Network
from bilevel.errors import RecipeError
from bilevel.recipes.networks import coordinate_lstm, gradient_features
from bilevel.trees import check_trees
from tests.solvers.agreement import check_modes, difference_error, flat, gradient, scheduled
from tests.zoo.compiled import compile_text, plan_text, run

FIT = """recipe fit
use opt = coordinate_lstm(hidden = 3)
level learn {{
  psi : params(opt)
  each s ~ normal(0, 1)[2]
  level fit {{
    w : real[3] from 0.4
    v : real from s
    e ~ normal(0, 1)[3]
    minimize sqnorm(w - s + 0.1 * e) + (v * sum(w) - 1)^2
    by opt[psi] for 4 steps
  }}
  minimize mean[s] ({value} + sqnorm(v - s))
  by adam(lr = 0.01) for 2 steps
}}
"""


def test_modes_agree_on_a_learned_solver() -> None:
    check_modes(FIT.format(value="sqnorm(w)"), "fit", modes=("rmd", "rmd(checkpoint = 2)", "rmd(checkpoint = sqrt)",
                "rmd(checkpoint = binomial)", "rmd(store = residuals)", "rmd(window = 4)", "fmd"))  # fmt: skip


def test_iterates_of_a_learned_solver_carry_derivatives() -> None:
    text = FIT.format(value="sum[k in 1..4] k * sqnorm(w@k)")
    check_modes(text, "fit", modes=("rmd", "rmd(store = residuals)"))


def test_the_gradient_keeps_its_own_adjoint() -> None:
    """The network is pulled back apart from the gradient, whose Hessian still needs one jvp only."""
    choice = plan_text(FIT.format(value="sqnorm(w)")).choices["fit"]
    assert choice.exactness == "exact"
    adjoint: Any = choice.adjoint
    assert (adjoint.product, adjoint.gradient) == ("mixed", "again")


def test_a_window_is_the_derivative_with_the_earlier_state_cut() -> None:
    """The last two of four steps, from a state of solver and variable that is held."""
    text = ONE.replace("for 5 steps", "for 4 steps")
    compiled = scheduled(text, "fit", "rmd(window = 2)")
    module, begin = compiled.parts["opt"], compiled.phase.begin(compiled.key())

    def value(psi: dict[str, Tensor]) -> Tensor:
        w, state = steps(
            module, {n: p.detach() for n, p in begin.x.items()}, torch.full((3,), 0.4, dtype=torch.float64), None, 2
        )
        w, _ = steps(module, psi, w.detach(), tuple(s.detach() for s in state), 2)
        return (w * w * w).sum()

    expected = flat(grad(value)(begin.x))
    assert float((gradient(compiled) - expected).abs().max()) < 1e-12
    assert difference_error(scheduled(text, "fit", "rmd")) < 1e-6


# ---- the recursion -------------------------------------------------------------------------------------------

ONE = """recipe one
use opt = coordinate_lstm(hidden = 3)
level learn {
  psi : params(opt)
  level fit {
    w : real[3] from 0.4
    minimize sum(cos(w)) + sum(w)^4
    by opt[psi] for 5 steps
  }
  minimize sum(w^3)
  by adam(lr = 0.01) for 2 steps
}
"""


def slope(w: Tensor) -> Tensor:
    """The inner gradient, by hand."""
    return -torch.sin(w) + 4 * w.sum() ** 3


def steps(module: nn.Module, psi: dict[str, Tensor], w: Tensor, state: Any, count: int) -> tuple[Tensor, Any]:
    state = module.begin(w) if state is None else state  # type: ignore[operator]
    for _ in range(count):
        step, state = functional_call(module, psi, (slope(w), state))
        w = w - step
    return w, state


def test_the_recursion_of_statement_1_is_the_hypergradient() -> None:
    """papers/004, eq. 7-9, with H^(k) in place of the misprinted H^(k-1) of eq. 9 (eq. S7 has it right)."""
    compiled = compile_text(ONE)
    module: Any = compiled.parts["opt"]
    begun = compiled.phase.begin(compiled.key()).x
    names = list(begun)

    def network(phi: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Gamma and Pi: the step, and the state as one vector."""
        done, psi = 0, {}
        for name in names:
            done += begun[name].numel()
            psi[name] = phi[done - begun[name].numel() : done].reshape(begun[name].shape)
        hidden, memory = h.reshape(2, 3, 3)
        step, state = functional_call(module, psi, (g, (hidden, memory)))
        return step, torch.cat([s.reshape(-1) for s in state])

    phi = torch.cat([begun[name].reshape(-1) for name in names])
    w, h = torch.full((3,), 0.4, dtype=torch.float64), torch.zeros(18, dtype=torch.float64)
    through_w, through_h = torch.zeros(3, len(phi)).double(), torch.zeros(18, len(phi)).double()
    for _ in range(5):
        g, curvature = slope(w), jacrev(slope)(w)
        gamma, pi = jacrev(network, argnums=(0, 1, 2))(phi, g, h)
        through_g = curvature @ through_w
        step, after = network(phi, g, h)
        through_w, through_h = (
            through_w - gamma[0] - gamma[1] @ through_g - gamma[2] @ through_h,
            pi[0] + pi[1] @ through_g + pi[2] @ through_h,
        )
        w, h = w - step, after
    expected = 3 * w**2 @ through_w
    assert float((gradient(compiled) - expected).abs().max()) < 1e-9
    assert float((gradient(scheduled(ONE, "fit", "fmd")) - expected).abs().max()) < 1e-9


# ---- the parts -----------------------------------------------------------------------------------------------


def test_the_written_out_cell_is_torchs() -> None:
    module = coordinate_lstm(hidden=4).double()
    g = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    state = (torch.randn(6, 4).double(), torch.randn(6, 4).double())
    step, (hidden, memory) = module(g, state)
    expected = module.cell(gradient_features(g), state)
    assert torch.allclose(hidden, expected[0], atol=1e-14) and torch.allclose(memory, expected[1], atol=1e-14)
    assert torch.allclose(step, 0.1 * module.output(expected[0])[:, 0], atol=1e-14)


def test_gradients_of_all_sizes_give_inputs_of_one_size() -> None:
    given = torch.tensor([0.0, 1e-30, -1e-3, 1.0, -100.0], dtype=torch.float64)
    found = gradient_features(given)
    assert found[:, 0].tolist() == pytest.approx([-1.0, -1.0, -0.6907755, 0.0, 0.4605170])
    assert found[:, 1].tolist() == [0.0, 1.0, -1.0, 1.0, -1.0]
    slope = grad(lambda g: gradient_features(g).sum())(given)
    assert bool(torch.isfinite(slope).all()) and float(slope[0]) == 0.0


def test_coordinates_do_not_see_each_other() -> None:
    module = Network(coordinate_lstm(hidden=2), {}, torch.float64, "cpu")
    parameters = module.select()
    x = {"a": torch.ones(2, 3).double(), "b": torch.zeros(()).double()}
    g = {"a": torch.arange(6.0).double().reshape(2, 3) - 2, "b": torch.tensor(0.5).double()}
    state = learned_state(x, module)
    moved, after = learned(x, state, g, 0, module, parameters)
    alone, _ = learned(x["a"][1], learned_state(x["a"][1], module), g["a"][1], 0, module, parameters)
    assert torch.equal(moved["a"][1], alone)
    assert [s.shape for s in after[0]] == [(2, 3, 2), (2, 3, 2)] and after[1][0].shape == (2,)
    again = split_state(join_state(after, x), x)
    assert all(torch.equal(p, q) for a, b in zip(after, again, strict=True) for p, q in zip(a, b, strict=True))


def test_a_solver_without_a_state_has_none() -> None:
    class Sign(nn.Module):
        def forward(self, gradient: Tensor, state: Any) -> tuple[Tensor, Any]:
            return torch.sign(gradient), state

    module = Network(Sign(), {}, torch.float64, "cpu")
    x = torch.tensor([1.0, 2.0]).double()
    moved, state = learned(x, learned_state(x, module), torch.tensor([3.0, -3.0]).double(), 0, module, {})
    assert moved.tolist() == [0.0, 3.0] and state == ()


def test_a_learned_solver_needs_all_its_parameters() -> None:
    text = ONE.replace("psi : params(opt)", 'psi : params(opt, only = "cell")')
    compiled = scheduled(text, "fit", "rmd")
    from bilevel.binding import Parts

    parts = Parts(compiled.parts, torch.device("cpu"), torch.float64, {"opt": {"cell": "cell.*"}})
    with pytest.raises(RecipeError) as caught:
        check_trees(compiled.plan.program, parts)
    assert caught.value.diagnostics[0].code == "B304"


def test_what_was_learned_solves_an_outermost_level() -> None:
    text = (
        ONE
        + """
level deploy {
  u : real[2] from 0.3
  minimize sqnorm(u - 1)
  by opt[psi] for 3 steps
}
"""
    )
    compiled = compile_text(text)
    key = compiled.key()
    psi = compiled.phases[0].values(run(compiled.phases[0], key))["psi"]
    u = compiled.phases[1].values(run(compiled.phases[1], key, {"psi": psi}))["u"]
    module: Any = compiled.parts["opt"]
    w = torch.full((2,), 0.3, dtype=torch.float64)
    state = module.begin(w)
    for _ in range(3):
        step, state = functional_call(module, psi, (2 * (w - 1), state))
        w = w - step
    assert torch.allclose(u, w, atol=1e-14)
