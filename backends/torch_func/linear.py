"""Linear systems given by products: cg, Neumann series, gmres, Nystroem and dense, one system for each copy.

Every solver takes `product(v)`, which maps trees shaped like the right-hand side `b` to trees of that shape and works
on all copies at once, and gives (v, residual): v with product(v) = b, residual real[copies] = |product(v) - b| / |b|.
Copies are the first `depth` axes of every leaf; each has inner products, step lengths and an end of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp, vmap

from bilevel.backends.torch_func.functions import solved
from bilevel.backends.torch_func.tree import Tree, leaves, subtract, tree_map

Product = Callable[[Tree], Tree]


class Failure(ArithmeticError):
    """A computation that cannot go on; `code` names the message, the text says what was met."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def any_left(active: Tensor) -> bool:
    """Whether any copy goes on, for a mask bool[*copies]: what iterations ask before another round.

    Like `any_broken` a function of its own, so that where tensors have no numbers both can be answered without any.
    """
    return bool(active.any())


def any_broken(mask: Tensor) -> bool:
    """Whether anything has gone wrong, for a mask of any shape."""
    return bool(mask.any())


def flat(tree: Tree, depth: int) -> Tensor:
    """All leaves of each copy side by side, real[*copies, m]."""
    return torch.cat([leaf.reshape(*leaf.shape[:depth], -1) for leaf in leaves(tree)], -1)


def unflat(vector: Tensor, like: Tree, depth: int) -> Tree:
    """The inverse of `flat`, for a tree shaped like `like`."""
    done = 0

    def block(leaf: Tensor) -> Tensor:
        nonlocal done
        count = math.prod(leaf.shape[depth:])
        done += count
        return vector[..., done - count : done].reshape(leaf.shape)

    return tree_map(block, like)


def norm_each(tree: Tree, depth: int) -> Tensor:
    """The norm of each copy, real[*copies]."""
    return flat(tree, depth).norm(dim=-1)


def largest_each(tree: Tree, depth: int) -> Tensor:
    """The largest absolute entry of each copy, real[*copies]: what `stationary(tol)` tests."""
    return flat(tree, depth).abs().amax(-1)


def where_each(chosen: Tensor, left: Tree, right: Tree) -> Tree:
    """Copies of `left` where `chosen` (bool[*copies]), of `right` elsewhere."""
    return tree_map(
        lambda a, b: torch.where(chosen.reshape(chosen.shape + (1,) * (a.dim() - chosen.dim())), a, b), left, right
    )


def waiting(value: Tensor, before: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The least value of each copy so far, and how many steps ago it was met: what `plateau` tests.

    A value counts as lower by more than 1e-4 of the least one's size, so that rounding is no progress; the first
    finite value always counts. `before`: what this gave for the step before, () for the first.
    """
    if not before:
        return value, torch.zeros(value.shape, dtype=torch.int64, device=value.device)
    least, steps = before
    fell = torch.isfinite(value) & (~torch.isfinite(least) | (value < least - 1e-4 * least.abs()))
    return torch.where(fell, value, least), torch.where(fell, 0, steps + 1)


def relative_residual(product: Product, v: Tree, b: Tree, depth: int) -> Tensor:
    """|product(v) - b| / |b| for each copy; 0 where b is 0 and v solves it."""
    size = norm_each(b, depth)
    return norm_each(subtract(product(v), b), depth) / torch.where(size > 0, size, torch.ones_like(size))


def damped(product: Product, damping: float) -> Product:
    """v -> product(v) + damping v: the system of another, better conditioned problem."""
    return lambda v: tree_map(lambda h, x: h + damping * x, product(v), v)


def cg(product: Product, b: Tree, depth: int, tol: float, steps: int) -> tuple[Tree, Tensor]:
    """Conjugate gradients (Hestenes and Stiefel 1952) for symmetric positive definite systems.

    Invariant: after k steps the error is least, in the norm of the system, over the k-th Krylov space; m steps are
    exact. Copies that have met `tol` stay as they are. Cost: one product a step. Fails when the curvature along a
    direction is not positive (B706): then the problem is not convex there, and the answer would be meaningless.
    """
    r = flat(b, depth)
    x, p, rr = torch.zeros_like(r), r, (r * r).sum(-1)
    goal = tol * tol * rr
    for _ in range(steps):
        active = (rr > goal) & (rr > 0)
        if not any_left(active):
            break
        q = flat(product(unflat(p, b, depth)), depth)
        curvature = (p * q).sum(-1)
        if any_broken(active & ~(curvature > 0)):
            raise Failure("B706", "cg met a direction whose curvature is not positive")
        length = torch.where(active, rr / torch.where(active, curvature, torch.ones_like(rr)), torch.zeros_like(rr))
        x = x + length[..., None] * p
        r = r - length[..., None] * q
        before, rr = rr, torch.where(active, (r * r).sum(-1), rr)
        ratio = torch.where(active, rr / torch.where(before > 0, before, torch.ones_like(before)), torch.zeros_like(rr))
        p = torch.where(active[..., None], r + ratio[..., None] * p, p)
    v = unflat(x, b, depth)
    return v, relative_residual(product, v, b, depth)


def largest_curvature(product: Product, b: Tree, depth: int, rounds: int = 12) -> Tensor:
    """The largest absolute eigenvalue of each copy by power iteration from b, real[*copies]."""
    v = flat(b, depth)
    for _ in range(rounds):
        size = v.norm(dim=-1, keepdim=True)
        v = flat(product(unflat(v / torch.where(size > 0, size, torch.ones_like(size)), b, depth)), depth)
    return v.norm(dim=-1)


def neumann(product: Product, b: Tree, depth: int, tol: float, steps: int, scale: float | None) -> tuple[Tree, Tensor]:
    """scale * sum over j of (I - scale H)^j b (papers/002, eq. 2.27; 2.28 with the sign of 4.6).

    `steps` terms, or fewer where a term falls below `tol` times the first. Converges where scale times the largest
    curvature is below 2; `scale` None takes 1 over that curvature. Fails when terms grow (B701).
    """
    term = flat(b, depth)
    first = term.norm(dim=-1)
    if scale is None:
        curvature = largest_curvature(product, b, depth)
        factor = (1.0 / torch.where(curvature > 0, 1.05 * curvature, torch.ones_like(curvature)))[..., None]
    else:
        factor = torch.full_like(first, scale)[..., None]
    total = torch.zeros_like(term)
    for _ in range(steps):
        total = total + term
        term = term - factor * flat(product(unflat(term, b, depth)), depth)
        size = term.norm(dim=-1)
        if any_broken((size > 100.0 * first) | ~torch.isfinite(size)):
            raise Failure("B701", "the Neumann series diverges: scale * largest curvature must stay below 2")
        if tol > 0 and not any_left(~(size <= tol * first)):
            break
    v = unflat(factor * total, b, depth)
    return v, relative_residual(product, v, b, depth)


def gmres(product: Product, b: Tree, depth: int, tol: float, steps: int) -> tuple[Tree, Tensor]:
    """Least residual over the Krylov space (Saad and Schultz 1986), for systems that need not be symmetric.

    Modified Gram-Schmidt, twice; no restart, so memory is `steps` right-hand sides. A singular but consistent
    system is solved; what is left of an inconsistent one is in the residual.
    """
    r = flat(b, depth)
    size = r.norm(dim=-1)
    safe = torch.where(size > 0, size, torch.ones_like(size))
    basis = [r / safe[..., None]]
    images: list[Tensor] = []
    best = torch.zeros_like(r)
    for _ in range(min(steps, r.shape[-1])):
        q = flat(product(unflat(basis[-1], b, depth)), depth)
        images.append(q)
        matrix = torch.stack(images, -1)
        weights = least_squares(matrix, r)
        best = (torch.stack(basis, -1) @ weights[..., None])[..., 0]
        left = (r - (matrix @ weights[..., None])[..., 0]).norm(dim=-1)
        if not any_left(~(left <= tol * size)):
            break
        for known in [*basis, *basis]:
            q = q - (q * known).sum(-1, keepdim=True) * known
        length = q.norm(dim=-1, keepdim=True)
        basis.append(torch.where(length > 1e-14 * safe[..., None], q / torch.where(length > 0, length, 1.0), 0.0 * q))
    v = unflat(best, b, depth)
    return v, relative_residual(product, v, b, depth)


def least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    """Weights that bring matrix real[..., m, k] closest to target real[..., m]; least ones where several do."""
    return (torch.linalg.pinv(matrix) @ target[..., None])[..., 0]


def dense(product: Product, b: Tree, depth: int) -> Tensor:
    """The matrix of a product for each copy, real[*copies, m, m]; m products, batched."""
    like = flat(b, depth)
    size = like.shape[-1]
    units = torch.eye(size, dtype=like.dtype, device=like.device)
    columns: Tensor = vmap(lambda unit: flat(product(unflat(unit.expand_as(like), b, depth)), depth), out_dims=-1)(
        units
    )
    return columns


def exact(product: Product, b: Tree, depth: int) -> tuple[Tree, Tensor]:
    """A dense solve; m products and m^3 work. Fails when the matrix is singular (B705)."""
    matrix = dense(product, b, depth)
    solution, info = torch.linalg.solve_ex(matrix, flat(b, depth)[..., None])
    if any_broken(info != 0):
        raise Failure("B705", "the linear system is singular")
    v = unflat(solution[..., 0], b, depth)
    return v, relative_residual(product, v, b, depth)


def nystrom(product: Product, b: Tree, depth: int, rank: int, damping: float) -> tuple[Tree, Tensor]:
    """(H_k + damping I)^-1 b with H_k the rank-k Nystroem approximation from k coordinates (Hataya and Yamada 2023).

    Coordinates are evenly spread, so that the same problem gives the same answer. Cost: k products.
    """
    like = flat(b, depth)
    size = like.shape[-1]
    places = torch.linspace(0, size - 1, min(rank, size), device=like.device).round().to(torch.int64)
    units = torch.eye(size, dtype=like.dtype, device=like.device)[places]
    columns = vmap(lambda unit: flat(product(unflat(unit.expand_as(like), b, depth)), depth), out_dims=-1)(units)
    core = columns[..., places, :]
    inner = core + columns.mT @ columns / damping
    weights = torch.linalg.pinv(inner) @ (columns.mT @ like[..., None])
    solved = like / damping - (columns @ weights)[..., 0] / (damping * damping)
    v = unflat(solved, b, depth)
    return v, relative_residual(product, v, b, depth)


def attached(
    solve: Callable[[Product, Tree], tuple[Tree, Tensor]], product: Product, held: Product, b: Tree, depth: int
) -> tuple[Tree, Tensor]:
    """The solution of product(v) = b with the derivative of a solution, where solving itself has none.

    `held` is the same product with nothing to differentiate. v = v0 - (s - stop(s)) with s = held^-1 (product(v0) - b):
    the value is v0, the first derivative that of the implicit function. Cost: a solve and a dense one.
    """
    still = tree_map(lambda a: a.detach(), b)
    v, residual = solve(held, still)
    v = tree_map(lambda a: a.detach(), v)
    correction = newton(held, subtract(product(v), b), depth)
    return tree_map(lambda a, s: a - (s - s.detach()), v, correction), residual


def newton(held: Product, slope: Tree, depth: int) -> Tree:
    """held^-1 slope, linear in the slope: the derivative of a solution where the slope is zero up to rounding.

    An iteration would stop at once, or follow rounding errors, and lose the derivative that the slope carries.
    Cost: m products and m^3 work. A singular system is solved where it is consistent.
    """
    matrix = dense(held, tree_map(lambda a: a.detach(), slope), depth)
    solved = torch.linalg.pinv(matrix) @ flat(slope, depth)[..., None]
    return unflat(solved[..., 0], slope, depth)


def stationary_point(gradient: Callable[[Tree], Tree], like: Tree, depth: int, name: str) -> Tree:
    """Where an affine gradient is zero: its matrix is read off the unit vectors, one linear system for each copy.

    Differentiable in whatever the gradient depends on. Fails when the matrix is singular, or has curvature of the
    wrong sign (B705); the gradient is that of what is minimised.
    """
    origin = tree_map(torch.zeros_like, like)
    at_origin = gradient(origin)
    matrix = dense(lambda v: subtract(gradient(v), at_origin), like, depth)
    values = torch.linalg.eigvalsh(matrix.detach())
    noise = values.shape[-1] * torch.finfo(values.dtype).eps * values.abs().amax(-1, keepdim=True)
    rank = (values.abs() > noise).sum(-1)
    if any_broken(rank < values.shape[-1]):
        raise Failure("B705", f"the system of `{name}` is singular (rank {int(rank.min())} of {values.shape[-1]})")
    if any_broken(values < 0):
        raise Failure("B705", f"the system of `{name}` is indefinite: its stationary point is no optimum")
    solution = solved(matrix, -flat(at_origin, depth)[..., None])[..., 0]
    return unflat(solution, like, depth)


def formula_point(value: Tensor, gradient: Callable[[Tensor], Tensor], like: Tensor, depth: int, name: str) -> Tensor:
    """The `value` of a formula for the minimum of each copy, real[*copies, ...], in the shape of `like`.

    `gradient` acts on every entry by itself. Fails where the value is no minimum (B705): the formula was found for
    symbols, and numbers can still make it complex, or its curvature negative.
    """
    shape = (*value.shape[:depth], *(1,) * (like.dim() - value.dim()), *value.shape[depth:])
    point = value.reshape(shape) + torch.zeros_like(like)
    still = point.detach()
    slope, curvature = (found.detach() for found in jvp(gradient, (still,), (torch.ones_like(still),)))
    off = slope.abs() > math.sqrt(torch.finfo(like.dtype).eps) * curvature * (1.0 + still.abs())
    if any_broken(~(curvature > 0) | off):
        raise Failure("B705", f"the closed form of `{name}` is no minimum for these numbers")
    return point
