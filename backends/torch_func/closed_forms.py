"""`closed_form`: a level whose solution is one linear system for each copy, or a formula."""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, Function, Return, Statement
from bilevel.backends.torch_func import draws
from bilevel.backends.torch_func.coder import Coder, carried, own, pack, per
from bilevel.backends.torch_func.expressions import free_reads, mapped, write
from bilevel.backends.torch_func.steps import cold_begins, keys, level_parameters, step_body
from bilevel.modes.closed_form import formula
from bilevel.plan import Step


def closed_form_function(coder: Coder, level: ir.Level, step: Step) -> Function:
    """The stationary point: from one linear system for each copy, or by the formula that sympy finds."""
    names = own(coder, level)
    x = pack(names)
    name = x if len(names) == 1 else "variables"
    unpack = "" if len(names) == 1 else f"(lambda {', '.join(names)}: "
    gradient = coder.call(f"{level.name}_gradient", key="step_key") + "[0]" * bool(carried(coder, level))
    function = f"lambda {name}: {unpack}{gradient}{f')(*{name})' if unpack else ''}"
    start = coder.call(f"{level.name}_start")
    solution = formula(level)
    value = "" if solution is None else f"{_copied_value(coder, level, solution)}, "
    solver = "stationary_point" if solution is None else "formula_point"
    solved = f'{solver}({value}{function}, {start}, {len(level.batched)}, "{level.name}")'
    key = keys(coder, level, "1")
    body: list[Statement] = [Assign("step", "0"), *key, *([Assign("step_key", "keys[0]")] if key else [])]
    body += step_body(coder, level)
    body += cold_begins(coder, level)  # one step: nothing before it
    body += [Assign(x, solved), Return(f"[({x}, ())]")]
    parameters = level_parameters(coder, level, ["start", "draw", "gradient"])
    doc = f"The stationary point of the objective of {level.name}{per(level)}, in closed form."
    return coder.function(f"{level.name}_forward", [*parameters, "keep"], doc, body, step.span, 0)


def _copied_value(coder: Coder, level: ir.Level, solution: ir.Expr) -> str:
    """A formula for all copies of a level, as text."""
    reads = free_reads(solution) | draws.axis_values(coder.program, level.batched)
    text = f"torch.as_tensor({write(coder.writer, solution)}, device=device, dtype=dtype)"
    return mapped(coder.writer, text, level.batched, reads)
