"""What the forward pass and the way back of a level have in common: its counter, draws, keys, start and parameters."""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, If, Statement
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
from bilevel.kinds import moves_by_next


def step_body(coder: Coder, level: ir.Level) -> list[Statement]:
    """The counter and the draws of one step, which the forward pass and the adjoint make alike."""
    lines: list[Statement] = []
    name = counter(coder, level)
    duration = level.phases[0].duration
    if name is not None and isinstance(duration, ir.Steps) and duration.first is not None:
        passed = f"step // ({batches(coder, level)})" if duration.unit == "epochs" else "step"
        lines.append(Assign(name, f"{write(coder.writer, duration.first)} + {passed}"))
    if level.draws or level.indices:
        call = coder.call(f"{level.name}_draw", key="keys[step]", level_key="key")
        lines.append(Assign(", ".join(drawn(coder, level)), call))
    return lines


def count_text(coder: Coder, level: ir.Level) -> str:
    """Steps that the solver has taken before this one: a warm level goes on counting."""
    if not is_warm(level):
        return "step"
    begin = f"{level.name}_begin"
    if counts_each(coder, level):
        return f"begun_each({begin}, {pack(own(coder, level))}, {len(level.batched)}) + step"
    return f"begun({begin}) + step"


def level_parameters(coder: Coder, level: ir.Level, operations: list[str]) -> list[str]:
    """What a solve of the level needs from outside."""
    local = [*own(coder, level), *solutions(coder, level), *drawn(coder, level), counter(coder, level) or ""]
    local += [f"{i.name}_{word}" for i in carried(coder, level) for word in ("begin", "end")]
    local += ["variables", "solver", "gradient", "count", "step", "level_key"]
    functions = [f"{level.name}_{o}" for o in operations]
    found = coder.needs(*functions, without=local)
    settings = [p for p in step_settings(coder, level) if p not in found and p not in local]
    warm = [f"{level.name}_begin"] if is_warm(level) else []
    keyed = ["key"] if "key" not in found else []
    return [*(p for p in found if p != "key"), *settings, *warm, *keyed, *(p for p in found if p == "key")]


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
