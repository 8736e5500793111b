"""The text of one solver: which runtime function it is, its arguments, what it reads, its state before the first step.

Takes `ir.Solver`; gives text. Knows nothing of levels beside the copies over which a call has to be mapped.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.torch_func.expressions import Axes, Writer, free_reads, write
from bilevel.dsl.datatypes import Array, Tree
from bilevel.dsl.solvers import RATES

STATEFUL = ("sgd", "adam", "adamw", "rmsprop")
"""solvers with a function NAME_state"""


OPTIMIZERS = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW", "rmsprop": "RMSprop"}
"""those that torch.optim has, under its names: they move outermost levels"""


def exprs(solver: ir.Solver) -> list[ir.Expr]:
    """All expressions of a solver."""
    return [*solver.arguments.values(), *([solver.learned] if solver.learned is not None else [])]


def reads(solver: ir.Solver) -> Axes:
    """The names that a solver reads, with the axes over which their values are copied."""
    return {n: a for e in exprs(solver) for n, a in free_reads(e).items()}


def is_scheduled(solver: ir.Solver) -> bool:
    """Whether its rate changes over the steps of the level."""
    return any(_rate(a) for a in solver.arguments.values())


def _rate(argument: ir.Expr) -> bool:
    return isinstance(argument, ir.Builtin) and argument.function in RATES


def arguments(writer: Writer, solver: ir.Solver, total: str) -> dict[str, str]:
    """The arguments as text; `total` is the number of steps over which a rate is scheduled."""
    return {n: _argument(writer, a, total) for n, a in solver.arguments.items()}


def _argument(writer: Writer, argument: ir.Expr, total: str) -> str:
    if isinstance(argument, ir.Builtin) and argument.function in RATES:
        rate, *rest = (write(writer, a) for a in argument.arguments)
        # `steps` alone has more: a factor, then the milestones.
        more = "".join([f", {t}" for t in rest[:1]] + [f", ({', '.join(rest[1:])},)"] * bool(rest))
        return f"{argument.function}_rate({rate}, count, {total}{more})"
    return write(writer, argument)


def call(
    writer: Writer, level: ir.Level, solver: ir.Solver, total: str, x: str, state: str, gradient: str, each: bool
) -> str:
    """One step: x, state and gradient are given as text; `each`: `count` is one number for each copy."""
    named = arguments(writer, solver, total)
    given = [f"{n}={t}" for n, t in named.items()] if solver.part is None else _options(writer, solver, named)
    given += _more(writer, level, solver)
    text = f"{function(level, solver)}({{}}, count{''.join(f', {g}' for g in given)})"
    read = reads(solver)
    if level.batched and (_alone(level, solver) or any(read.values()) or each):
        # One rate or count for each copy, or a norm over one copy: none lines up with leading axes by itself.
        inner = text.format("variables, solver, gradient")
        counted = {"count": level.batched} if each else {}
        return _over_copies(writer, level, inner, read, counted, (x, state, gradient))
    return text.format(f"{x}, {state}, {gradient}")


def _over_copies(
    writer: Writer, level: ir.Level, text: str, read: Axes, counted: Axes, given: tuple[str, str, str]
) -> str:
    """A call that moves `variables` along `gradient` for one copy, over all copies of the level."""
    for axis in reversed(level.batched):
        names = sorted(writer.name(n) for n, axes in read.items() if axis in axes)
        names += counted
        values = [*names, *(("variables", "solver", "gradient") if axis != level.batched[0] else given)]
        text = (
            f"each_copy(lambda {', '.join([*names, 'variables', 'solver', 'gradient'])}: {text})({', '.join(values)})"
        )
    return text


def _options(writer: Writer, solver: ir.Solver, named: dict[str, str]) -> list[str]:
    """The registered solver, its options and the common ones."""
    assert solver.part is not None
    own = ", ".join(f"{n}={t}" for n, t in named.items() if n != "clip")
    clip = [f"clip={named['clip']}"] if "clip" in named else []
    return [write(writer, solver.part), f"dict({own})", *clip]


def function(level: ir.Level, solver: ir.Solver) -> str:
    """The runtime function that takes the step."""
    if solver.part is not None:
        return "registered"
    return f"mirror_{metric(level, solver)}" if solver.name == "mirror" else solver.name


def metric(level: ir.Level, solver: ir.Solver) -> str:
    """What the matrix of `mirror` is: diagonal, dense or factored layer by layer."""
    matrix = solver.arguments["M"].type
    moved = next(v.type for v in level.variables if v.name in solver.variables)
    if isinstance(matrix, Tree) and matrix.kind in ("kron", "factors"):
        return "kron"
    dense = isinstance(matrix, Array) and len(matrix.shape) == 2 and isinstance(moved, Array) and len(moved.shape) == 1
    return "dense" if dense else "diagonal"


def _alone(level: ir.Level, solver: ir.Solver) -> bool:
    """Whether the function takes one copy at a time."""
    return (
        "clip" in solver.arguments
        or solver.part is not None
        or function(level, solver) in ("mirror_dense", "mirror_kron")
    )


def _more(writer: Writer, level: ir.Level, solver: ir.Solver) -> list[str]:
    """What the function needs beside the arguments of the recipe: a network, or the domain that it keeps."""
    if solver.learned is not None:
        return learned(writer, solver)
    if solver.name not in ("pgd", "exponentiated", "frank_wolfe"):
        return []
    kept = [v.kept or ("", ()) for v in level.variables if v.name in solver.variables]
    if len(kept) > 1:
        return [f"domain={tuple(d for d, _ in kept)!r}".replace("'", '"'), f"bounds={tuple(b for _, b in kept)!r}"]
    domain, bounds = kept[0]
    return [f'domain="{domain}"'] * bool(domain) + [f"bounds={bounds!r}"] * bool(bounds)


def learned(writer: Writer, solver: ir.Solver) -> list[str]:
    """The network of a learned solver and its parameters."""
    assert isinstance(solver.learned, ir.Item)
    groups = [write(writer, item) for item in solver.learned.items]
    parameters = groups[0] if len(groups) == 1 else f"merge({', '.join(groups)})"
    return [write(writer, solver.learned.base), parameters]


def state(writer: Writer, level: ir.Level, solver: ir.Solver, x: str) -> str:
    """The state before the first step; a registered solver is asked for it copy by copy."""
    if solver.part is not None:
        text = f"registered_state(variables, {write(writer, solver.part)})"
        for _ in level.batched[1:]:
            text = f"each_copy(lambda variables: {text})(variables)"
        return f"each_copy(lambda variables: {text})({x})" if level.batched else text.replace("variables", x, 1)
    if solver.learned is not None:
        return f"learned_state({x}, {learned(writer, solver)[0]})"
    return f"{solver.name}_state({x}{_momentum(writer, solver)})" if solver.name in STATEFUL else "()"


def makes_zeros(solver: ir.Solver) -> bool:
    """Whether the state before the first step is new zeros, and not what a part of the user's gives."""
    return solver.part is None and solver.learned is None and solver.name in STATEFUL


def _momentum(writer: Writer, solver: ir.Solver) -> str:
    """The argument that says whether sgd has a velocity; momentum that a step computes is not known before it."""
    momentum = solver.arguments.get("momentum")
    if momentum is None or solver.name != "sgd":
        return ""
    known = isinstance(momentum, ir.Constant) or momentum.reads <= writer.constants
    return f", {write(writer, momentum)}" if known else ", 1.0"


def optimizer_call(solver: ir.Solver, arguments: dict[str, str], x: str, state: str, gradient: str) -> str:
    """torch.optim's own optimiser, with our names for its options."""
    options = {n: t for n, t in arguments.items() if n not in ("beta1", "beta2", "epsilon", "clip")}
    if "beta1" in arguments or "beta2" in arguments:
        options["betas"] = f"({arguments.get('beta1', '0.9')}, {arguments.get('beta2', '0.999')})"
    if "epsilon" in arguments:
        options["eps"] = arguments["epsilon"]
    inner = ", ".join(f'"{n}": {t}' for n, t in options.items())
    clip = f", clip={arguments['clip']}" if "clip" in arguments else ""
    return f"torch_optimize(torch.optim.{OPTIMIZERS[solver.name]}, {{{inner}}}, {x}, {state}, {gradient}{clip})"
