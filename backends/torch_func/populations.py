"""Levels moved by a derivative-free solver: make a population, judge it as one batch, go on from the values.

The variables of such a level have its members as their first axis while they are judged; levels inside that read them
are solved for all members at once, on the same draws. The solution of the level is the centre of the distribution
(`cmaes`), the best point so far (`random`), or the best member of the last generation (`pbt`). Inside another level every
copy has a search of its own, and all their members are judged at once.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Function, Loop, Return, Statement
from bilevel.backends.torch_func.coder import (
    Coder,
    domain_call,
    is_warm,
    own,
    pack,
    per,
    solutions,
    steps_text,
    used_levels,
)
from bilevel.backends.torch_func.expressions import write
from bilevel.backends.torch_func.levels import end_text, inner_names, solve
from bilevel.backends.torch_func.steps import level_parameters
from bilevel.backends.torch_func.steps import step_body as drawn_step
from bilevel.plan import Step


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


# ---- inside another level ------------------------------------------------------------------------------------


def nested_functions(coder: Coder, level: ir.Level, step: Step) -> list[Function]:
    """The values of a population of every copy, and the search that all copies make side by side."""
    return [_scores(coder, level), _nested(coder, level, step)]


def _scores(coder: Coder, level: ir.Level) -> Function:
    """What the members of all copies are worth."""
    names, inside = own(coder, level), used_levels(coder, level)
    body: list[Statement] = [Assign(pack(names).strip("()"), "members"), *values(coder, level)]
    for inner in inside:
        body += solve(coder, inner, False)
    body.append(Return(coder.call(f"{level.name}_objective")))
    local = [*names, *solutions(coder, level), *inner_names(coder, level), "keep"]
    needed = coder.needs(f"{level.name}_objective", *(f"{i.name}_forward" for i in inside), without=local)
    doc = f"The values of the members of {level.name}{per(level)}, the members as the first axis."
    return coder.function(f"{level.name}_scores", ["members", *needed, "key"], doc, body, None, 1)


def _nested(coder: Coder, level: ir.Level, step: Step) -> Function:
    """All generations of one solve."""
    x, steps = pack(own(coder, level)), steps_text(coder, level)
    arguments, depth = _arguments(coder, level), len(level.batched)
    keyed: list[Statement] = [Assign("step_key", "keys[step]")] if level.draws or level.indices else []
    scores = coder.call(f"{level.name}_scores", key="keys[step]")
    body: list[Statement] = [Assign(x, coder.call(f"{level.name}_start"))]
    body.append(Assign("keys", f"fold(key, numbers({steps}, key))"))
    if level.phases[0].solvers[0].name == "random":
        start = coder.call(f"{level.name}_start", key="one")
        body.append(Assign("best", "None"))
        draw = f'candidates(lambda one: {start}, fold(keys[step], "random"), {arguments["population"]})'
        loop: list[Statement] = [*keyed, *drawn_step(coder, level), Assign("members", draw), Assign("scores", scores)]
        loop.append(Assign(f"{x}, best", f"keep_best({x}, best, members, scores)"))
        found = x
    else:
        sigma, population = arguments.get("sigma", "0.3"), arguments.get("population", "None")
        given = f'{x}, {depth}, {len(level.members)}, {sigma}, {population}, fold(key, "cmaes")'
        body.append(Assign("search", f"Evolutions({given})"))
        loop = [*keyed, *drawn_step(coder, level), Assign("members", "search.ask()"), Assign("scores", scores)]
        loop.append(Assign("search", "search.tell(scores)"))
        found = "search.mean()"
    body += [Loop("step", f"range({steps})", tuple(loop)), Return(f"[({found}, ())]")]
    parameters = [p for p in level_parameters(coder, level, ["start", "draw", "scores"]) if p != "members"]
    doc = f"The end of a search for {level.name}{per(level)}: a list with one state."
    return coder.function(f"{level.name}_forward", [*parameters, "keep"], doc, body, step.span)
