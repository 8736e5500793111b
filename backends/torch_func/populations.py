"""Outermost levels moved by a derivative-free solver: ask for a population, judge it as one batch, tell the values.

The variables of such a level have its members as their first axis while they are judged; levels inside that read them
are solved for all members at once. The solution of the level is the centre of the distribution.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Return, Statement
from bilevel.backends.torch_func.coder import Coder, domain_call, own, pack, used_levels
from bilevel.backends.torch_func.expressions import write
from bilevel.backends.torch_func.levels import solve


def member_axis(level: ir.Level) -> str:
    """The axis of the members that a level judges."""
    return f"@{level.name}"


def first_search(coder: Coder, level: ir.Level) -> str:
    """The search before its first generation."""
    arguments = {n: write(coder.writer, a) for n, a in level.phases[0].solvers[0].arguments.items()}
    sigma, population = arguments.get("sigma", "0.3"), arguments.get("population", "None")
    return f'Evolution({pack(own(coder, level))}, {sigma}, {population}, fold(key, "cmaes"))'


def step_body(coder: Coder, level: ir.Level, drawing: list[Statement]) -> list[Statement]:
    """One generation."""
    names = own(coder, level)
    sign = "-" if level.objective is not None and level.objective.sense == "maximize" else ""
    lines: list[Statement] = [Assign(pack(names), "state.solver.ask()"), *values(coder, level), *drawing]
    for inner in used_levels(coder, level):
        lines += solve(coder, inner)
    lines += [
        Assign("scores", coder.call(f"{level.name}_objective")),
        Assign("solver", "state.solver.tell(scores)"),
        Assign("notes", f'{{"{level.name}.best": torch.tensor({sign}solver.best)}}'),
        Assign("value", "torch.where(torch.isfinite(scores), scores, torch.inf).min()"),
        Return(f"State(state.step + 1, solver.mean(), solver, {{}}, notes), {sign}value"),
    ]
    return lines


def values(coder: Coder, level: ir.Level) -> list[Statement]:
    """The variables' values from their free coordinates."""
    found: list[Statement] = []
    for variable in level.variables:
        if variable.domain is not None:
            name = coder.writer.name(variable.name)
            found.append(Assign(name, domain_call(variable, f"{name}_free")))
    return found


def no_gradient(level: ir.Level) -> list[Statement]:
    """What stands in place of a hypergradient."""
    text = (
        f"`{level.name}` is moved by {level.phases[0].solvers[0].name}, which compares values: it has no hypergradient"
    )
    return [Assign("", f'raise Failure("B509", "{text}")')]
