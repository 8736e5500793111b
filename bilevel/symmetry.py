"""Linear systems of `ift` around levels whose derivative is no exact one: they are not symmetric.

The gradient of a level has a symmetric derivative because it is the gradient of something. Where a level inside is cut
short by its mode, the direction is nobody's gradient: its derivative has to be transposed, and conjugate gradients,
which ask for symmetry, solve another system. Reports B507.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bilevel import ir
from bilevel.errors import Diagnostic, RecipeError
from bilevel.modes import Implicit, Leaping, Perturb, Unroll
from bilevel.plan import Choice


def unsymmetric(program: ir.Program, choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The choices with the linear systems that they lead to; refuses a method that asks for a symmetric one."""
    found = dict(choices)
    for level in program.walk_levels():
        choice = choices.get(level.name)
        if choice is None or not isinstance(choice.adjoint, Implicit) or not choice.adjoint.symmetric:
            continue
        bent = next((i for i in level.levels if _is_bent(choices[i.name])), None)
        if bent is not None and choice.adjoint.through is None:
            found[level.name] = replace(choice, adjoint=_transposed(level, choice, choice.adjoint, choices[bent.name]))
    return found


def _is_bent(choice: Choice) -> bool:
    """Whether a mode gives another derivative than that of the value it leaves."""
    match choice.adjoint:
        case Unroll(product="none") | Leaping() | Perturb():
            return True
        case Unroll(window=window):
            return window is not None
        case Implicit():
            return choice.exactness != "exact"
    return False


def _transposed(level: ir.Level, choice: Choice, adjoint: Implicit, inside: Choice) -> Implicit:
    """The same by products with the transpose, by gmres where the method was left open."""
    if adjoint.method in ("neumann", "exact", "gmres"):
        return replace(adjoint, symmetric=False)
    if "linear =" not in choice.mode:
        return replace(adjoint, method="gmres", symmetric=False)
    why = f"`{inside.level}` is differentiated by `{inside.mode}`, which is not exact: the system is not symmetric"
    message = f"`{choice.mode}` cannot solve the linear system of `{level.name}`"
    fix = f"{level.name} : ift(linear = gmres)"
    raise RecipeError([Diagnostic("B507", message, choice.at or level.span, why=why, fix=fix)])
