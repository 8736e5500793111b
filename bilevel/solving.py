"""Solving one level of a finished run on data of the user's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.tree import tree_map
from bilevel.dsl.nearest import nearest
from bilevel.errors import fail

if TYPE_CHECKING:
    from bilevel.run import Run


def solve(run: Run, level: str, steps: int | None, seed: int, copies: bool, given: Mapping[str, Any]) -> Any:
    """The solution of `level` at the state of a run; see `Run.solve`."""
    program = run.program if steps is None else _with_steps(run, level, steps)
    phase = next((p for p in program.phases if level in p.solves and p.name in run.states), None)
    if phase is None:
        raise _no_level(run, level)
    function, names = phase.solves[level]
    if set(given) != set(names):
        wanted = ", ".join(names) or "nothing"
        raise fail("B614", f"`{level}` is solved on {wanted}; given: {', '.join(given) or 'nothing'}")
    batched = bool(run.program.plan.program.level(level).batched)
    items = [_placed(run, given[n], batched and not copies) for n in names]
    outside = [run.state[n] for n in phase.reads]
    with torch.no_grad(), program.kernels.resting():
        found = function(run.states[phase.name], make_key(seed, run.program.parts.device), *items, *outside)
    values = {n: tree_map(lambda leaf: leaf[0], v) if batched and not copies else v for n, v in found.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _placed(run: Run, item: Any, alone: bool) -> Any:
    """Tensors on the run's device, real ones in its dtype; a single item gets a first axis."""
    parts = run.program.parts

    def one(leaf: torch.Tensor) -> torch.Tensor:
        moved = leaf.to(parts.device, parts.dtype if leaf.is_floating_point() else leaf.dtype)
        return moved[None] if alone else moved

    return tree_map(one, item)


def _with_steps(run: Run, level: str, steps: int) -> Any:
    """The program with another number of steps, its parts taken over as they are."""
    from bilevel.program import compile as compile_recipe

    program = run.program
    recipe = program.recipe.with_({f"{level}.steps": steps})
    objects = dict(program.parts.objects)
    return compile_recipe(recipe, device=program.parts.device, dtype=program.parts.dtype, **objects)


def _no_level(run: Run, level: str) -> Exception:
    known = [name for p in run.program.phases for name in p.solves]
    guess = nearest(level, known)
    note = f"levels that can be solved: {', '.join(known) or 'none'}"
    return fail("B614", f"`{level}` is no level that this run can solve", fix=guess or "", note=note)
