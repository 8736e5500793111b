"""Steps that end with a test: which copies go on, and the mask that holds the others where they are.

A copy that has passed its test is frozen: its later steps are the identity. `taken` (whole numbers, [*copies]) says
after how many steps each copy stopped, so that `step < taken` is the mask of a step wherever it is computed again;
counts and masks have no derivative.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.source import Assign, If, Statement
from bilevel.backends.torch_func import draws
from bilevel.backends.torch_func.coder import Coder, own, pack, to_values
from bilevel.backends.torch_func.expressions import free_reads, mapped, write
from bilevel.kinds import kind, moves_by_next, stops, tests_gradient
from bilevel.modes import Tangents, Unroll

MASK = Assign("active", "step < taken")
"""the copies that move in a step, once it is known how many steps each took"""


def unrolled(coder: Coder, level: ir.Level) -> bool:
    """Whether a test ends the steps of a level and the steps themselves are what is differentiated, if anything is."""
    adjoint = coder.plan.choices[level.name].adjoint if level.parent is not None else None
    return stops(level) and (not tests_gradient(level) or isinstance(adjoint, Unroll | Tangents))


def masked(coder: Coder, level: ir.Level, moved: str, x: str) -> str:
    """One step as text, where copies that have stopped stay at `x` (and their solver's state)."""
    if not unrolled(coder, level):
        return moved
    return f"where_each(active, {moved}, {x if moves_by_next(level) else f'({x}, solver)'})"


def first(coder: Coder, level: ir.Level) -> list[Statement]:
    """Before the first step: every copy goes on, none has taken a step."""
    if not unrolled(coder, level):
        return []
    lines: list[Statement] = [Assign("active, taken", "True, 0")]
    return lines + [Assign("waited", "()")] * (_until(level).test == "plateau")


def test(coder: Coder, level: ir.Level, x: str) -> list[Statement]:
    """Which copies go on, and the end of the loop where none does; `gradient` or `moved` is at hand where asked."""
    duration = _until(level)
    end: list[Statement] = [If("not bool(active.any())", (Assign("", "break"),))]
    match duration.test:
        case "below":
            bound = _each(coder, level, duration.arguments["bound"])
            found = f"~(stop({_each(coder, level, duration.arguments['value'])}) < {bound})"
            return [*_values(coder, level), Assign("active", f"active & {found}"), *end]
        case "plateau":
            value = _each(coder, level, duration.arguments["value"])
            patience = write(coder.writer, duration.arguments["patience"])
            lines = [*_values(coder, level), Assign("waited", f"waiting(stop({value}), waited)")]
            return [*lines, Assign("active", f"active & (waited[1] < {patience})"), *end]
    return [*_stationary(coder, level, x, duration), *end]


def _stationary(coder: Coder, level: ir.Level, x: str, duration: ir.Until) -> list[Statement]:
    """The largest entry of what should vanish, asked every so many steps."""
    depth, every = len(level.batched), duration.arguments.get("every")
    # With draws, every step follows a batch of its own, and the test asks one batch that is drawn once for the solve.
    tested = "gradient"
    if kind(level) == "fixed point":
        tested = f"subtract(moved, {x})"
    elif level.draws or level.indices:
        tested = coder.call(f"{level.name}_slope", **{packed(coder, level): x})
    found = Assign("active", f"active & (largest_each({tested}, {depth}) > {tolerance(coder, duration)})")
    return [found] if every is None else [If(f"step % {write(coder.writer, every)} == 0", (found,))]


def tolerance(coder: Coder, duration: ir.Until) -> str:
    """What the largest entry has to come down to, as text."""
    return write(coder.writer, duration.arguments["tol"])


def last_slope(coder: Coder, level: ir.Level) -> list[Statement]:
    """The largest entry of what should vanish where the steps ended, for every copy."""
    slope = coder.call(f"{level.name}_slope", **{packed(coder, level): pack(own(coder, level))})
    return [Assign("slope", f"largest_each({slope}, {len(level.batched)})")]


def close(coder: Coder, level: ir.Level, states: str = "states") -> list[Statement]:
    """The last state with what is known at the end: what should vanish, where that was promised, and all counts."""
    if not unrolled(coder, level):
        return []
    slope = last_slope(coder, level) if tests_gradient(level) else []
    known = f"{'slope, ' * bool(slope)}taken"
    return [*slope, Assign(f"{states}[-1]", f"(*{states}[-1], {known})")]


def packed(coder: Coder, level: ir.Level) -> str:
    """The parameter that holds all variables of a level."""
    names = own(coder, level)
    return names[0] if len(names) == 1 else "variables"


def _until(level: ir.Level) -> ir.Until:
    duration = level.phases[-1].duration
    assert isinstance(duration, ir.Until)
    return duration


def _values(coder: Coder, level: ir.Level) -> list[Statement]:
    """The variables' own values, which the expressions of a test read."""
    return to_values(coder, level, pack(own(coder, level)))


def _each(coder: Coder, level: ir.Level, expr: ir.Expr) -> str:
    """An expression for every copy of a level, as text."""
    if isinstance(expr, ir.Constant):
        return write(coder.writer, expr)
    reads = free_reads(expr) | draws.axis_values(coder.program, level.batched)
    text = f"torch.as_tensor({write(coder.writer, expr)}, device=device, dtype=dtype)"
    return mapped(coder.writer, text, level.batched, reads)
