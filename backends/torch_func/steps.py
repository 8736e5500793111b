"""What the forward pass and the way back of a level have in common: its counter, draws, keys, start and parameters."""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, If, Loop, Statement
from bilevel.backends.torch_func.coder import (
    Coder,
    batches,
    carried,
    counter,
    counts_each,
    drawn,
    is_warm,
    own,
    pack,
    slot,
    solutions,
    step_settings,
)
from bilevel.backends.torch_func.expressions import write
from bilevel.backends.torch_func.levels import cold_begin, solver_state
from bilevel.backends.torch_func.solver_text import makes_zeros
from bilevel.kinds import moves_by_next


def step_body(coder: Coder, level: ir.Level) -> list[Statement]:
    """The counter and the draws of one step."""
    lines = counting(coder, level)
    if level.draws or level.indices:
        lines.append(Assign(", ".join(drawn(coder, level)), _draw_call(coder, level)))
    return lines


def _draw_call(coder: Coder, level: ir.Level) -> str:
    return coder.call(f"{level.name}_draw", key="step_key", level_key="key")


def counting(coder: Coder, level: ir.Level) -> list[Statement]:
    """The counter that the recipe names."""
    name = counter(coder, level)
    return [] if name is None else [Assign(name, f"counted({_counter_value(coder, level)})")]


def _counter_value(coder: Coder, level: ir.Level) -> str:
    duration = level.phases[0].duration
    assert isinstance(duration, ir.Steps) and duration.first is not None
    passed = f"step // ({batches(coder, level)})" if duration.unit == "epochs" else "step"
    return f"{write(coder.writer, duration.first)} + {passed}"


def count_text(coder: Coder, level: ir.Level) -> str:
    """Steps that the solver has taken before this one: a warm level goes on counting."""
    if not is_warm(level):
        return "step"
    begin = f"{level.name}_begin"
    if counts_each(coder, level):
        return f"begun_each({begin}, {pack(own(coder, level))}, {len(level.batched)}) + step"
    return f"begun({begin}) + step"


def each_step(coder: Coder, level: ir.Level, iterable: str, body: list[Statement]) -> Loop:
    """A loop over steps, with the key of each where steps need keys."""
    key = [Assign("step_key", "keys[step]")] if uses_keys(coder, level) else []
    return Loop("step", iterable, (*key, *body))


def traceable(coder: Coder, level: ir.Level) -> bool:
    """Whether a run of steps is a function of tensors: where warm levels ended is told with numbers of steps."""
    return not is_warm(level) and not carried(coder, level) and not sees_iterate(coder, level)


def sees_iterate(coder: Coder, level: ir.Level) -> bool:
    """Whether a draw uses the variables of its own level (under `stop`): it is made in its step, not before a run."""
    if not (level.draws or level.indices):
        return False
    return bool(set(own(coder, level)) & set(coder.known[f"{level.name}_draw"]))


# ---- runs of steps ---------------------------------------------------------------------------------------------


def runs(level: ir.Level, first: str, last: str) -> str:
    """The steps first..last-1 in runs, each computed by one call."""
    return f'kernels.runs("{level.name}", {first}, {last})'


def run_given(coder: Coder, level: ir.Level) -> dict[str, str]:
    """What a run of steps is given for each of its steps: keys and draws, which are made outside of kernels."""
    given: dict[str, str] = {}
    if uses_keys(coder, level):
        given["keys"] = "within(keys, steps)"
    if (level.draws or level.indices) and not sees_iterate(coder, level):
        text = coder.call(f"{level.name}_draw", key="step_key", level_key="key", **_counter_given(coder, level))
        given["drawn"] = f"[{text} for step, step_key in zip(steps, within(keys, steps))]"
    return given


def _counter_given(coder: Coder, level: ir.Level) -> dict[str, str]:
    name = counter(coder, level)
    return {} if name is None else {name: f"({_counter_value(coder, level)})"}


def over_run(coder: Coder, level: ir.Level, more: dict[str, str], backwards: bool, body: list[Statement]) -> Loop:
    """The loop over the steps of a run; `more` maps names in the loop to lists with one entry for each step.

    The first line of `body` takes the state apart.
    """
    lists = {"step": "steps", **more}
    if "keys" in run_given(coder, level):
        lists["step_key"] = "keys"
    if "drawn" in run_given(coder, level):
        names = drawn(coder, level)
        lists[names[0] if len(names) == 1 else f"({', '.join(names)})"] = "drawn"
    joined = f"zip({', '.join(lists.values())})" if len(lists) > 1 else "steps"
    walked = (
        f"reversed(list({joined}))" if backwards and len(lists) > 1 else f"reversed({joined})" if backwards else joined
    )
    if sees_iterate(coder, level):
        body = [body[0], Assign(", ".join(drawn(coder, level)), _draw_call(coder, level)), *body[1:]]
    return Loop(", ".join(lists), walked, (*counting(coder, level), *body))


def run_parameters(coder: Coder, level: ir.Level, operations: list[str]) -> list[str]:
    """What a run of steps needs from outside beside its states."""
    return level_parameters(coder, level, [*operations, *(["draw"] if sees_iterate(coder, level) else [])])


def level_parameters(coder: Coder, level: ir.Level, operations: list[str]) -> list[str]:
    """What a solve of the level needs from outside."""
    local = [*own(coder, level), *solutions(coder, level), *drawn(coder, level), counter(coder, level) or ""]
    local += [f"{i.name}_{word}" for i in carried(coder, level) for word in ("begin", "end")]
    local += ["variables", "solver", "gradient", "count", "step", "level_key", *RUN]
    functions = [f"{level.name}_{o}" for o in operations]
    found = coder.needs(*functions, without=local)
    settings = [p for p in step_settings(coder, level) if p not in found and p not in local]
    warm = [f"{level.name}_begin"] if is_warm(level) else []
    keyed = ["key"] if "key" not in found else []
    return [*(p for p in found if p != "key"), *settings, *warm, *keyed, *(p for p in found if p == "key")]


RUN = ("steps", "keys", "drawn", "step_key")
"""parameters of a run of steps that its callers make"""


def targets(coder: Coder, level: ir.Level) -> list[str]:
    """The names whose cotangents are wanted of a level."""
    return [coder.writer.name(t) for t in coder.plan.facts[level.name].targets]


def uses_keys(coder: Coder, level: ir.Level) -> bool:
    """Whether the steps of a level need keys of their own."""
    inner = coder.known.get(f"{level.name}_{'update' if moves_by_next(level) else 'gradient'}", ())
    return bool(level.draws or level.indices) or "key" in inner


def keys(coder: Coder, level: ir.Level, count: str) -> list[Statement]:
    """One key for each step, where they are needed."""
    return [Assign("keys", f"fold(key, numbers({count}, key))")] if uses_keys(coder, level) else []


def begin(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The start, or for a warm level the end of the solve before; nothing warm inside has been solved at a start."""
    start = coder.call(f"{level.name}_start")
    state = "()" if moves_by_next(level) else solver_state(coder, level, x)
    cold: list[Statement] = [Assign("solver", state), *cold_begins(coder, level)]
    if not is_warm(level):
        return [Assign(x, start), *cold]
    given = f"{level.name}_begin"
    cold = [Assign(x, f"stop({start})"), *cold]
    goes_on = Assign(f"{x}, {slot(coder, level)}", f"stop({given}[:2])")
    return [If(f"not {given}", tuple(cold)), If(given, (goes_on,))]


def carry_mark(made: list[str]) -> Assign:
    """The mark of the states of a loop, which made some of the first one itself; a start may be somebody else's."""
    return Assign("carry", f"kernels.carry({', '.join(made)})", "kernels may write over states that it says are dead")


def zeros_made(level: ir.Level) -> list[str]:
    """The solver's state by name, where it begins with zeros that a solve has made itself."""
    solvers = level.phases[0].solvers
    return ["solver"] * (not is_warm(level) and not moves_by_next(level) and all(map(makes_zeros, solvers)))


def first_states(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """The list of states before the first step, which no other name holds, and the mark of those that come."""
    mark = [carry_mark(zeros_made(level))] if traceable(coder, level) else []
    names = ", ".join([*own(coder, level), "solver"])
    return [Assign("states", f"[({x}, {slot(coder, level)})]"), *mark, Assign("", f"del {names}")]


def given_up(coder: Coder, level: ir.Level, state: str, dead: str = "") -> str:
    """A state as a run of steps is given it; `dead`: what says that nothing reads it afterwards, as text."""
    if not traceable(coder, level):
        return state
    return f"carry({state}{f', {dead}' if dead else ''})"


def cold_begins(coder: Coder, level: ir.Level) -> list[Statement]:
    """Warm levels inside that have not been solved yet."""
    return [Assign(f"{i.name}_begin", cold_begin(coder, i)) for i in carried(coder, level)]


def gradient_of_step(coder: Coder, level: ir.Level, key: str) -> Statement:
    """The gradient of one step, with where warm levels inside ended."""
    ends = "".join(f"{i.name}_end, " for i in carried(coder, level)).rstrip()
    return Assign(f"gradient, ({ends})" if ends else "gradient", coder.call(f"{level.name}_gradient", key=key))


def gradient_call(coder: Coder, level: ir.Level, **replaced: str) -> str:
    """The gradient alone, as text."""
    return coder.call(f"{level.name}_gradient", **replaced) + "[0]" * bool(carried(coder, level))


def carry(coder: Coder, level: ir.Level, stopped: bool) -> list[Statement]:
    """After a step: warm levels inside go on from where they ended, except in copies that have stopped."""
    lines: list[Statement] = []
    for inner in carried(coder, level):
        begin, end = f"{inner.name}_begin", f"{inner.name}_end"
        shared = inner.batched[: len(level.batched)] != level.batched
        lines.append(Assign(begin, end if shared or not stopped else f"held_each(active, {end}, {begin})"))
    return lines
