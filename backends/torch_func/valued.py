"""What is made of a level's values alone: one number for each copy, and gradients estimated from them.

A line search and an estimate from values need the objective of every copy by itself, where the gradient needs only
their sum.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Function, Return, Statement
from bilevel.backends.torch_func import draws
from bilevel.backends.torch_func.coder import Coder, own, pack, per, solutions, to_values
from bilevel.backends.torch_func.expressions import free_reads, mapped, parameters_of, write
from bilevel.kinds import line_searches
from bilevel.plan import Step


def is_valued(level: ir.Level) -> bool:
    """Whether a level needs its objective copy by copy."""
    return level.phases[0].estimator is not None or line_searches(level)


def losses_function(coder: Coder, level: ir.Level) -> Function:
    """The objective of every copy, as a function of the coordinates that the solver steps in."""
    assert level.objective is not None
    value = level.objective.value
    coder.writer.maximised = level.objective.sense == "maximize"
    text = write(coder.writer, value)
    coder.writer.maximised = False
    reads = free_reads(value) | {a: draws.index_axes(coder.program, a) for a in level.batched}
    text = mapped(coder.writer, text, level.batched, reads)
    text = f"-({text})" if level.objective.sense == "maximize" else text
    names = own(coder, level)
    given = [*parameters_of(coder.writer, value), *(coder.writer.name(a) for a in level.batched)]
    given = [p for p in given if p not in solutions(coder, level)]
    body: list[Statement] = [*to_values(coder, level, pack(names)), Return(text)]
    doc = f"What {level.name} {level.objective.sense}s{per(level)}."
    return coder.function(f"{level.name}_losses", [*names, *given], doc, body, level.objective.span, len(names))


def losses_lambda(coder: Coder, level: ir.Level) -> str:
    """The objective of every copy as a function of the packed variables, as text."""
    names, call = own(coder, level), coder.call(f"{level.name}_losses")
    return _packed(names, call)


def _packed(names: list[str], call: str) -> str:
    """`call` as a function of one value that holds all variables."""
    if len(names) == 1:
        return f"lambda {names[0]}: {call}"
    return f"lambda variables: (lambda {', '.join(names)}: {call})(*variables)"


def estimate_function(coder: Coder, step: Step) -> Function:
    """What the solver sees in place of the gradient."""
    level = coder.program.level(step.level)
    estimator = level.phases[0].estimator
    assert estimator is not None
    key = draws.copy_key(coder.writer, coder.program, "key", level.batched)
    given = f"{losses_lambda(coder, level)}, {pack(own(coder, level))}, {key}"
    if estimator.part is None:
        options = ", ".join(write(coder.writer, estimator.arguments[n]) for n in ("samples", "radius"))
        text = f"zeroth({given}, {options})"
    else:
        options = ", ".join(f"{n}={write(coder.writer, a)}" for n, a in estimator.arguments.items())
        text = f"estimated({given}, {write(coder.writer, estimator.part)}, dict({options}))"
    body: list[Statement] = [Assign("estimate, value", text)]
    body.append(Return("estimate, value, {}, {}" if level.parent is None else "estimate"))
    outside = [p for p in coder.known[f"{level.name}_losses"] if p not in own(coder, level)]
    settings = parameters_of(coder.writer, *estimator.arguments.values())
    indices = [coder.writer.name(a) for a in level.batched]
    doc = f"An estimate of the gradient of {level.name} from values alone."
    parameters = [*own(coder, level), *dict.fromkeys([*outside, *settings, *indices]), "key"]
    return coder.function(f"{level.name}_gradient", parameters, doc, body, estimator.span)


def search_text(coder: Coder, level: ir.Level, tol: str, cap: str) -> str:
    """The solution by L-BFGS, as text."""
    names = own(coder, level)
    both = f"({coder.call(f'{level.name}_losses')}, {coder.call(f'{level.name}_gradient')})"
    history = level.phases[0].solvers[0].arguments.get("history")
    kept = "10" if history is None else write(coder.writer, history)
    return f"lbfgs({_packed(names, both)}, {pack(names)}, {len(level.batched)}, {kept}, {tol}, {cap})"
