"""From a plan to a readable torch.func module: one function for each step of the plan, in the plan's order.

The module needs torch alone: what it uses of the runtime is copied into it. `build(...)` takes the parts that the
recipe names and gives the outermost levels as `Phase`s, whose functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from bilevel import ir
from bilevel.backends.source import Class, Comment, Function, Module, Statement, Text, to_text
from bilevel.backends.torch_func import adjoint, gradients, inline, levels, top, valued, windows
from bilevel.backends.torch_func.coder import Coder
from bilevel.backends.torch_func.expressions import Writer, let_functions, write
from bilevel.backends.torch_func.forward import forward_functions
from bilevel.backends.torch_func.parts import made_part
from bilevel.chunks import chunked as chunk_index
from bilevel.dsl.datatypes import ListType
from bilevel.plan import Plan, Step

HEADER = """from __future__ import annotations

import hashlib
import math
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import CodeType, FunctionType
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vjp, vmap
"""
RECIPE = "---- the recipe"
"""the heading of what follows the runtime"""
STATE = Class(
    "State",
    (("step", "int"), ("x", "Any"), ("solver", "Any"), ("ends", "Any"), ("notes", "Any")),
    "All that a level carries on: variables in free coordinates, solver state, warm starts, residuals of the step.",
)
PHASE = Class(
    "Phase",
    (
        ("name", "str"),
        ("variables", "tuple"),
        ("steps", "int"),
        ("begin", "Callable"),
        ("step", "Callable"),
        ("hypergradient", "Callable"),
        ("values", "Callable"),
        ("reads", "tuple"),
        ("reports", "dict"),
        ("solves", "dict"),
    ),
    "An outermost level; its functions are pure. `reads`: solutions of earlier levels, given to each of them last.",
)


def emit(plan: Plan, version: str) -> str:
    """The source text of a plan's module; the same plan gives the same bytes."""
    coder = Coder(plan, _writer(plan))
    functions = [f for step in plan.steps for f in _functions(coder, step)]
    for level in plan.program.levels:
        functions += [top.begin_function(coder, level), top.values_function(coder, level)]
        functions += top.solve_functions(coder, level)
    result = top.phases(coder, plan)
    body: list[Statement] = [*_params(coder), *let_functions(coder.writer), *_titled(plan, functions), *result]
    build = Function(
        "build",
        (*_parts(coder), 'device="cpu"', "dtype=torch.float32", "kernels=Plain()"),
        _build_doc(plan),
        tuple(body),
    )
    text = to_text(Module("", (build,))).partition("\n\n")[2]
    runtime = inline.runtime_text(f"{text} make_key")
    header = HEADER + ("import cma\nimport numpy\nimport copy\n" if "Evolution" in runtime else "")
    statements = (
        Text(header),
        Comment("---- runtime"),
        Text("\n"),
        Text(runtime),
        Text("\n"),
        STATE,
        Text(""),
        PHASE,
        Text(""),
    )
    head = Module(_doc(plan, version), (*statements, Comment(RECIPE), Text("\n")))
    return to_text(head) + "\n\n" + text


def _writer(plan: Plan) -> Writer:
    program = plan.program
    constants = frozenset({u.name for u in program.uses} | {p.name for p in program.params})
    operations: tuple[str, ...] = (
        "start",
        "draw",
        "objective",
        "gradient",
        "update",
        "forward",
        "pullback",
        "move",
        "advance",
        "slope",
        "attach",
        "begun",
        "losses",
        "run",
        "back",
        "slopes",
        "product",
        "cross_product",
        "start_pullback",
        "portion",
    )
    operations = (*operations, "step", "begin", "values")
    taken = {f"{lv.name}_{o}" for lv in program.walk_levels() for o in (*operations, "states", "hypergradient")}
    taken |= {f"{lv.name}_report_{r.name}" for lv in program.walk_levels() for r in lv.reports}
    lists = frozenset(a for lv in program.walk_levels() for a in lv.lists) | frozenset(_listed(program))
    names = frozenset(taken | set(inline.definitions()) | set(plan.settings.values()))
    pairs = (chunk_index(program, level) for level in program.walk_levels())
    chunked = frozenset(pair[0] for pair in pairs if pair is not None)
    names |= {"found", "share"} if chunked else set()
    return Writer(constants, names, plan.settings, lists=lists, chunked=chunked)


def _listed(program: ir.Program) -> Iterator[str]:
    """Indices over lists, also where no level inside is copied over them."""
    for level in program.walk_levels():
        for index in (*level.indices, *(i for report in level.reports for i in report.indices)):
            if not index.drawn and isinstance(index.source.type, ListType):
                yield index.name


def _functions(coder: Coder, step: Step) -> list[Function]:
    """The functions of one step of the plan."""
    match step.operation:
        case "start":
            return [levels.start_function(coder, step)]
        case "draw":
            return [levels.draw_function(coder, step)]
        case "objective":
            return [levels.objective_function(coder, step)]
        case "gradient":
            level = coder.program.level(step.level)
            cut = windows.windowed(coder.plan, level)
            if valued.is_valued(level):
                losses = valued.losses_function(coder, level)
                if level.phases[0].estimator is not None:
                    return [losses, valued.estimate_function(coder, step)]
                return [losses, *gradients.gradient_functions(coder, step)]
            if cut:
                return [windows.gradient_function(coder, level, *cut, step)]
            return gradients.gradient_functions(coder, step)
        case "update":
            return [levels.update_function(coder, step)]
        case "forward":
            return forward_functions(coder, step)
        case "pullback":
            return adjoint.pullback_functions(coder, step)
        case "step":
            return [top.hypergradient_function(coder, step), top.step_function(coder, step)]
        case "report":
            return [top.report_function(coder, step)]
    raise ValueError(step.operation)


def _titled(plan: Plan, functions: list[Function]) -> list[Statement]:
    """The functions with a heading before the first of each level."""
    statements: list[Statement] = []
    current = ""
    for function in functions:
        level = next(lv for lv in plan.program.walk_levels() if function.name.startswith(f"{lv.name}_"))
        if level.name != current:
            statements += [Comment(f"---- {_heading(plan, level.name)}"), Comment("")]
            current = level.name
        statements.append(function)
    return statements


def _heading(plan: Plan, name: str) -> str:
    level = plan.program.level(name)
    choice = plan.choices.get(name)
    copies = f", one per {' and '.join(level.copies)}" if level.copies else ""
    mode = f"; {choice.mode}, {choice.exactness}" if choice is not None else ""
    return f"level {name}: {', '.join(level.names)}{copies}; {level.phases[0].span.text}{mode}"


def _parts(coder: Coder) -> tuple[str, ...]:
    return tuple(coder.writer.name(u.name) for u in coder.program.uses)


def _params(coder: Coder) -> list[Statement]:
    """Params of the recipe, as numbers."""
    from bilevel.backends.source import Assign

    found: list[Statement] = []
    for param in coder.program.params:
        place = param.span
        at = f"{param.span.source.name.rpartition('/')[2]}:{param.span.line}"
        if place not in coder.plan.settings:
            found.append(Assign(coder.writer.name(param.name), repr(param.value), at))
    for use in coder.program.uses:
        name = coder.writer.name(use.name)
        made = made_part(use.type, name)
        if made != name:
            found.append(Assign(name, made))
    return found


def _doc(plan: Plan, version: str) -> str:
    recipe = plan.program
    parts = ", ".join(f"{u.name}=..." for u in recipe.uses)
    lines = [
        f"{recipe.name}: emitted by bilevel {version}, plan {plan.identity}, hypergradients {plan.exactness}. Needs torch alone.",
        "",
        f"    phase, = build({parts})",
        "    key = make_key(seed)",
        "    state = phase.begin(key)",
        "    state, value = phase.step(state, key)      # as often as phase.steps says",
        "",
        "Comments name the recipe lines. Values of copied levels have the copies as leading axes.",
        "",
    ]
    return "\n".join(lines)


def _build_doc(plan: Plan) -> str:
    return f"The outermost levels of {plan.program.name}, from the parts that the recipe names."


__all__ = ["emit", "write"]
