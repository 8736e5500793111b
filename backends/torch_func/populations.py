"""Outermost levels moved by a derivative-free solver: make a population, judge it as one batch, go on from the values.

The variables of such a level have its members as their first axis while they are judged; levels inside that read them
are solved for all members at once, on the same draws. The solution of the level is the centre of the distribution
(`cmaes`), the best point so far (`random`), or the best member of the last generation (`pbt`).
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Return, Statement
from bilevel.backends.torch_func.coder import Coder, domain_call, end_text, is_warm, own, pack, used_levels
from bilevel.backends.torch_func.expressions import write
from bilevel.backends.torch_func.levels import solve


def member_axis(level: ir.Level) -> str:
    """The axis of the members that a level judges."""
    return f"@{level.name}"


def _arguments(coder: Coder, level: ir.Level) -> dict[str, str]:
    return {n: write(coder.writer, a) for n, a in level.phases[0].solvers[0].arguments.items()}


def _start(coder: Coder, level: ir.Level) -> str:
    """The start of the level as a function of a key, as text."""
    return f"lambda key: {coder.call(f'{level.name}_start')}"


def first_search(coder: Coder, level: ir.Level) -> str:
    """The search before its first generation."""
    arguments = _arguments(coder, level)
    match level.phases[0].solvers[0].name:
        case "random":
            return "torch.tensor(torch.inf, device=device, dtype=dtype)"
        case "pbt":
            sigma = arguments.get("sigma", "0.2")
            members = f'first_members({_start(coder, level)}, fold(key, "pbt"), {arguments["population"]}, {sigma})'
            return f"({members}, torch.tensor(0, device=device))"
    sigma, population = arguments.get("sigma", "0.3"), arguments.get("population", "None")
    return f'Evolution({pack(own(coder, level))}, {sigma}, {population}, fold(key, "cmaes"))'


def first_point(coder: Coder, level: ir.Level) -> str:
    """The point before the first generation: for `pbt` the first member, else the start."""
    x = pack(own(coder, level))
    pbt = level.phases[0].solvers[0].name == "pbt"
    return "tree_map(lambda leaf: leaf[0], solver[0])" if pbt else x


def step_body(coder: Coder, level: ir.Level, drawing: list[Statement]) -> list[Statement]:
    """One generation."""
    names = own(coder, level)
    lines: list[Statement] = [Assign("members", _members(coder, level))]
    lines += [Assign(pack(names).strip("()"), "members"), *values(coder, level), *drawing]
    for inner in used_levels(coder, level):
        lines += solve(coder, inner)
    lines.append(Assign("scores", coder.call(f"{level.name}_objective")))
    return [*lines, *_told(coder, level)]


def _members(coder: Coder, level: ir.Level) -> str:
    """The population that is judged."""
    match level.phases[0].solvers[0].name:
        case "random":
            population = _arguments(coder, level)["population"]
            return f'candidates({_start(coder, level)}, fold(key, "random"), {population})'
        case "pbt":
            return "state.solver[0]"
    return "state.solver.ask()"


def _told(coder: Coder, level: ir.Level) -> list[Statement]:
    """The next state, and the best value of the population."""
    sign = "-" if level.objective is not None and level.objective.sense == "maximize" else ""
    lines: list[Statement] = []
    match level.phases[0].solvers[0].name:
        case "random":
            lines.append(Assign("x, solver", "keep_best(state.x, state.solver, members, scores)"))
            lines.append(Assign("ends, notes", f'{{}}, {{"{level.name}.best": {sign}solver}}'))
        case "pbt":
            arguments = _arguments(coder, level)
            share, sigma = arguments.get("share", "0.2"), arguments.get("sigma", "0.2")
            lines.append(
                Assign("x, solver, ends", f"trained(members, scores, {{{_ends(coder, level)}}}, {share}, {sigma}, key)")
            )
            lines.append(Assign("notes", "{}"))
        case _:
            lines.append(Assign("solver", "state.solver.tell(scores)"))
            lines.append(Assign("x, ends", "solver.mean(), {}"))
            lines.append(Assign("notes", f'{{"{level.name}.best": torch.tensor({sign}solver.best)}}'))
    lines.append(Assign("value", "torch.where(torch.isfinite(scores), scores, torch.inf).min()"))
    return [*lines, Return(f"State(state.step + 1, x, solver, ends, notes), {sign}value")]


def _ends(coder: Coder, level: ir.Level) -> str:
    """Where the warm levels inside ended, by name."""
    return ", ".join(f"{i.name!r}: {end_text(coder, i)}" for i in used_levels(coder, level) if is_warm(i))


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
