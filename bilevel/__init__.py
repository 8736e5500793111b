"""bilevel: a compiler for nested optimisation.

Recipes are loaded, parsed and checked without torch; what needs torch is imported when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilevel.errors import Diagnostic, RecipeError
from bilevel.registry import data, estimator, func, model, solver, tasks
from bilevel.version import VERSION as __version__

if TYPE_CHECKING:
    from bilevel.plan import Plan
    from bilevel.program import Program, compile
    from bilevel.recipe import Recipe, load, parse
    from bilevel.run import Run

__all__ = [
    "Diagnostic",
    "Plan",
    "Program",
    "Recipe",
    "RecipeError",
    "Run",
    "__version__",
    "compile",
    "data",
    "estimator",
    "func",
    "load",
    "model",
    "parse",
    "solver",
    "tasks",
]
LATER = {
    "Plan": "bilevel.plan",
    "Program": "bilevel.program",
    "Recipe": "bilevel.recipe",
    "Run": "bilevel.run",
    "compile": "bilevel.program",
    "load": "bilevel.recipe",
    "parse": "bilevel.recipe",
}


def __getattr__(name: str) -> Any:
    """Names whose modules import the parser, networkx or torch, on first use."""
    if name not in LATER:
        raise AttributeError(f"module 'bilevel' has no attribute '{name}'")
    from importlib import import_module

    from bilevel.garbage import uncollected

    with uncollected():
        return getattr(import_module(LATER[name]), name)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext bilevel`: the cell magic `%%recipe`."""
    from bilevel.notebook import register

    register(shell)
