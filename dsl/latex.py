"""The nested problem of a checked program as LaTeX equations."""

from __future__ import annotations

from bilevel import ir


def to_latex(program: ir.Program) -> str:
    """The nested problem as equations."""
    return program.name
