"""`mirror` with diagonal, dense and factored matrices, against dense linear algebra and finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bilevel.backends.torch_func import mirror
from bilevel.backends.torch_func.functions import quad
from bilevel.backends.torch_func.sampling import zeros_like_kind
from tests.solvers.agreement import UNROLLED, check_modes, scheduled
from tests.zoo.compiled import compile_text

Q = torch.tensor([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]], dtype=torch.float64)

DIAGONAL = """recipe diagonal
use net = mlp(2, 3, 1)
level meta {
  M : params(net) in positive from uniform(0.8, 1.6)
  lr : layers(net) in positive from 0.05
  each s ~ normal(0, 1)[2]
  level fit {
    w : params(net) from init(net)
    v : real from s
    e ~ normal(0, 1)[4, 2]
    minimize sqnorm(net[w](e) - s) + (v - s * sum(w))^2
    by w : mirror(M, lr = lr), v : sgd(lr = 0.1) for 5 steps
  }
  minimize mean[s] (quad(M, w) + sqnorm(v)) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}
"""
DENSE = """recipe dense
use Q : real[3, 3]
level meta {
  M : real[3, 3] in psd from Q
  each s ~ normal(0, 1)[2]
  level fit {
    w : real[3] from 0.4
    minimize quad(Q, w - s) + s * sum(w^4)
    by mirror(M, lr = 0.1) for 5 steps
  }
  minimize mean[s] quad(M, w - s) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}
"""
FACTORED = """recipe factored
use net = mlp(2, 3, 2)
level meta {
  M : kron(net) from normal(0, 0.6)
  let breg(u, v) = 0.5 * quad(M, u - v)
  each s ~ normal(0, 1)[2]
  level fit {
    w : params(net) from init(net)
    e ~ normal(0, 1)[4, 2]
    minimize sqnorm(net[w](e) - s)
    by mirror(M, lr = 0.05) for 5 steps
  }
  minimize mean[s] breg(w, 0.1 * w) + 0.1 / min_eig(M) + identity_gap(M) + 0.1 * max_eig(M)
  by adam(lr = 0.01) for 2 steps
}
"""


@pytest.mark.parametrize("text", [DIAGONAL, DENSE, DENSE.replace(" in psd", ""), FACTORED])
def test_modes_agree(text: str) -> None:
    check_modes(text, "fit", {"Q": Q} if "use Q" in text else None)


def test_the_start_of_the_steps_may_be_read() -> None:
    text = FACTORED.replace("breg(w, 0.1 * w)", "breg(w, w@0)")
    check_modes(text, "fit", modes=("rmd", "rmd(store = residuals)"))


def test_mirror_descent_with_the_hessian_is_newtons_method() -> None:
    text = """recipe newton
use Q : real[3, 3]
level meta {
  c : real[3] from 0.7
  level fit {
    w : real[3] from 0.4
    minimize 0.5 * quad(Q, w - c)
    by mirror(Q, lr = 1.0) for 1 steps
  }
  minimize sum(w^3)
  by adam(lr = 0.01) for 2 steps
}
"""
    found = check_modes(text, "fit", {"Q": Q})
    assert torch.allclose(found, torch.full((3,), 3 * 0.7**2, dtype=torch.float64), atol=1e-12)


def test_the_update_is_linear_in_the_gradient() -> None:
    """So the adjoint needs the gradient's value only for the derivative in M."""
    adjoint = scheduled(DENSE, "fit", "rmd", {"Q": Q}).plan.choices["fit"].adjoint
    assert getattr(adjoint, "gradient", None) == "again"
    plain = DENSE.replace("mirror(M", "mirror(Q").replace("quad(Q, w - s)", "quad(M, w - s)")
    adjoint = scheduled(plain, "fit", "rmd", {"Q": Q}).plan.choices["fit"].adjoint
    assert getattr(adjoint, "gradient", None) == "unused"


# ---- factors against the matrices that they stand for ----------------------------------------------------------


def network() -> nn.Module:
    """A convolution with a bias, a linear layer without one, and parameters of another kind between them."""
    layers = nn.Sequential(nn.Conv2d(2, 3, 2), nn.LayerNorm(3), nn.Linear(4, 2, bias=False))
    return layers.double()


def setting() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, list[str]]:
    """Factors, a vector, the dense matrix, and the order of its rows as names of parameters."""
    module = network()
    generator = torch.Generator().manual_seed(3)
    vector = {n: torch.randn(p.shape, generator=generator).double() for n, p in module.named_parameters()}
    shapes = zeros_like_kind(module, vector, "kron")
    factors = {n: torch.randn(v.shape, generator=generator).double() for n, v in shapes.items()}
    return factors, vector, dense(factors, vector), list(vector)


def eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def dense(factors: dict[str, Tensor], vector: dict[str, Tensor]) -> Tensor:
    """Blocks B (x) A on weights row by row, bias as the last column; I elsewhere. Rows as `side_by_side` has them."""
    blocks = []
    for layer in ("0.", "2."):
        a, b = factors[f"{layer}a"], factors[f"{layer}b"]
        blocks.append(torch.kron(torch.outer(b, b) + eye(len(b)), torch.outer(a, a) + eye(len(a))))
    return torch.block_diag(*blocks, eye(6))


def side_by_side(tree: dict[str, Tensor]) -> Tensor:
    first = torch.cat([tree["0.weight"].flatten(1), tree["0.bias"][:, None]], 1)
    return torch.cat([first.reshape(-1), tree["2.weight"].reshape(-1), tree["1.weight"], tree["1.bias"]])


def test_factors_have_the_sizes_of_the_layers() -> None:
    factors, *_ = setting()
    assert {n: len(v) for n, v in factors.items()} == {"0.a": 9, "0.b": 3, "2.a": 4, "2.b": 2}
    module = network()
    only = zeros_like_kind(module, {"0.weight": module[0].weight}, "kron")  # type: ignore[index]
    assert {n: len(v) for n, v in only.items()} == {"0.a": 8, "0.b": 3}
    layers = zeros_like_kind(module, dict(module.named_parameters()), "layers")
    assert set(layers) == {n for n, _ in module.named_parameters()} and layers["0.bias"].shape == ()


def test_a_step_is_a_solve_with_the_dense_matrix() -> None:
    factors, vector, matrix, _ = setting()
    zero = {n: torch.zeros_like(v) for n, v in vector.items()}
    moved, state = mirror.mirror_kron(zero, (), vector, 0, factors, 0.5)
    expected = -0.5 * torch.linalg.solve(matrix, side_by_side(vector))
    assert state == () and float((side_by_side(moved) - expected).abs().max()) < 1e-12


def test_quad_and_eigenvalues_are_those_of_the_dense_matrix() -> None:
    factors, vector, matrix, _ = setting()
    u = side_by_side(vector)
    assert float(mirror.quad_kron(factors, vector) - u @ matrix @ u) == pytest.approx(0, abs=1e-10)
    blocks = matrix[:35, :35]
    values = torch.linalg.eigvalsh(blocks)
    assert float(mirror.min_eig_kron(factors)) == pytest.approx(float(values[0]), abs=1e-12)
    assert float(mirror.max_eig_kron(factors)) == pytest.approx(float(values[-1]), rel=1e-12)


def test_the_distance_from_the_identity_has_the_squares_of_both() -> None:
    """papers/002, eq. 5.32 prints sum sigma_i(A) sigma_j(B); the squares are meant."""
    factors, _, matrix, _ = setting()
    gap = float(mirror.identity_gap_kron(factors))
    assert gap == pytest.approx(float((matrix - eye(len(matrix))).square().sum()), rel=1e-12)
    printed = 0.0
    for layer in ("0.", "2."):
        a, b = factors[f"{layer}a"], factors[f"{layer}b"]
        big_a, big_b = torch.outer(a, a) + eye(len(a)), torch.outer(b, b) + eye(len(b))
        product = torch.outer(torch.linalg.svdvals(big_a), torch.linalg.svdvals(big_b)).sum()
        printed += float(product + len(a) * len(b) - 2 * big_a.trace() * big_b.trace())
    assert abs(printed - gap) > 1.0


def test_the_smallest_eigenvalue_is_one_and_zero_factors_do_not_move() -> None:
    """papers/002, section 5.4.2: aa' + I has the eigenvalue 1 for every a; at a = 0 all derivatives are zero."""
    factors, vector, *_ = setting()
    assert float(mirror.min_eig_kron(factors)) == 1.0
    zero = {n: torch.zeros_like(v) for n, v in factors.items()}
    slopes = torch.func.grad(lambda f: mirror.quad_kron(f, vector) + mirror.identity_gap_kron(f))(zero)
    assert all(float(s.abs().max()) == 0 for s in slopes.values())


def test_a_layer_of_one_input_and_output() -> None:
    factors = {"a": torch.tensor([2.0]).double(), "b": torch.tensor([3.0]).double()}
    assert float(mirror.min_eig_kron(factors)) == float(mirror.max_eig_kron(factors)) == 50.0
    assert float(mirror.identity_gap_kron(factors)) == 49.0**2
    assert float(mirror.quad_kron(factors, {"weight": torch.ones(1, 1).double()})) == 50.0


def test_functions_of_diagonal_and_dense_matrices() -> None:
    diagonal = {"a": torch.tensor([1.5, 2.0]).double(), "b": torch.tensor(0.5).double()}
    vector = {"a": torch.tensor([1.0, -1.0]).double(), "b": torch.tensor(2.0).double()}
    assert float(quad(diagonal, vector)) == 1.5 + 2.0 + 0.5 * 4
    assert (float(mirror.min_eig(diagonal)), float(mirror.max_eig(diagonal))) == (0.5, 2.0)
    assert float(mirror.identity_gap(diagonal)) == 0.25 + 1 + 0.25
    values = torch.linalg.eigvalsh(Q)
    assert float(mirror.min_eig(Q)) == pytest.approx(float(values[0]))
    assert float(mirror.max_eig(Q)) == pytest.approx(float(values[-1]))
    assert float(mirror.identity_gap(Q)) == pytest.approx(float((Q - eye(3)).square().sum()))


@pytest.mark.parametrize("mode", UNROLLED)
def test_one_number_for_each_layer_is_a_rate(mode: str) -> None:
    """`layers(net)` as `lr`, against a loop by hand."""
    text = """recipe rates
use net = mlp(2, 2)
level meta {
  lr : layers(net) in positive from 0.2
  level fit {
    w : params(net) from 0.5
    minimize sqnorm(w - 1)
    by sgd(lr = lr) for 3 steps
  }
  minimize sqnorm(w)
  by adam(lr = 0.01) for 2 steps
}
"""
    compiled = compile_text(f"{text}schedule {{ fit : {mode} }}\n")
    key = compiled.key()
    found, _ = compiled.phase.hypergradient(compiled.phase.begin(key), key)
    rate = torch.tensor(0.2, dtype=torch.float64)
    distance = -0.5 * (1 - 2 * rate) ** 3
    slope = 2 * (1 + distance) * 3 * (1 - 2 * rate) ** 2 * rate
    assert {n: float(d) for n, d in found.items()} == pytest.approx(
        {"output.weight": 4 * float(slope), "output.bias": 2 * float(slope)}, rel=1e-12
    )
