"""Small scalar recipes unrolled in sympy: an oracle that shares no code with torch.

Takes a checked program whose variables are single numbers, with `for` levels moved by sgd (with or without
momentum), and gives the outer objective as one expression in the outer variables; sympy differentiates it. Literals
become exact rationals of their decimal spelling, so the answer is exact wherever functions allow it. Expressions grow
with every step: use it for a few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

import mpmath  # type: ignore[import-untyped]
import sympy

from bilevel import ir
from bilevel.backends.reference.support import Unsupported
from bilevel.dsl.datatypes import Array

Values = Mapping[str, sympy.Expr]

FUNCTIONS: dict[str, Callable[..., sympy.Expr]] = {
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "tanh": sympy.tanh,
    "cos": sympy.cos,
    "sigmoid": lambda v: 1 / (1 + sympy.exp(-v)),
    "softplus": lambda v: sympy.log(1 + sympy.exp(v)),
    "sqnorm": lambda v: v**2,
    "sum": lambda v: v,
    "mean": lambda v: v,
    "dot": lambda a, b: a * b,
}
DOMAINS: dict[str, tuple[Callable[..., sympy.Expr], Callable[..., sympy.Expr]]] = {
    "positive": (sympy.exp, sympy.log),
    "nonnegative": (lambda u: sympy.log(1 + sympy.exp(u)), lambda v: sympy.log(sympy.exp(v) - 1)),
    "unit": (lambda u: 1 / (1 + sympy.exp(-u)), lambda v: sympy.log(v / (1 - v))),
    "between": (
        lambda u, low, high: low + (high - low) / (1 + sympy.exp(-u)),
        lambda v, low, high: sympy.log((v - low) / (high - v)),
    ),
}
"""domain: value of the free coordinate, and back"""


@dataclass(frozen=True, slots=True)
class Unrolled:
    """The outer objective as the recipe writes it, in the free coordinates of the outer variables, and where those start."""

    objective: sympy.Expr
    variables: dict[str, sympy.Symbol]
    start: dict[str, sympy.Expr]

    def value(self) -> sympy.Expr:
        """The objective at the start."""
        return self.objective.subs(self._start())

    def hypergradient(self) -> dict[str, sympy.Expr]:
        """The derivative in every outer variable at the start: exact, a rational where the functions are."""
        at = self._start()
        return {name: sympy.diff(self.objective, symbol).subs(at) for name, symbol in self.variables.items()}

    def numbers(self, digits: int = 40) -> tuple[float, dict[str, float]]:
        """Objective and hypergradient as floats, worked out with `digits` digits.

        Shared parts of the formulas are computed once: written out, they grow exponentially with the steps.
        """
        symbols = list(self.variables.values())
        formulas = [self.objective, *(sympy.diff(self.objective, symbol) for symbol in symbols)]
        function = sympy.lambdify(symbols, formulas, modules="mpmath", cse=True)
        with mpmath.workdps(digits):
            at = [mpmath.mpf(sympy.N(self.start[name], digits)) for name in self.variables]
            value, *slopes = function(*at)
            return float(value), dict(zip(self.variables, map(float, slopes), strict=True))

    def _start(self) -> dict[sympy.Symbol, sympy.Expr]:
        return {symbol: self.start[name] for name, symbol in self.variables.items()}


def unroll(program: ir.Program) -> Unrolled:
    """The only outermost level of a program, its levels inside written out; raises `Unsupported`."""
    (level,) = program.levels
    known = {p.name: rational(p.value) for p in program.params}
    variables = {v.name: sympy.Symbol(v.name, real=True) for v in level.variables}
    start = {v.name: _free(v, _start(v, known)) for v in level.variables}
    natural = {v.name: _natural(v, variables[v.name]) for v in level.variables}
    objective = _objective(level, {**known, **natural})
    maximised = level.objective is not None and level.objective.sense == "maximize"
    return Unrolled(-objective if maximised else objective, variables, start)


def rational(value: object) -> sympy.Expr:
    """A number by its decimal spelling: 0.1 is 1/10."""
    if not isinstance(value, int | float):
        raise Unsupported("text in formulas")
    fraction = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    return sympy.Rational(fraction.numerator, fraction.denominator)


# ---- levels --------------------------------------------------------------------------------------------------


def _objective(level: ir.Level, values: Values) -> sympy.Expr:
    """What a level minimises, with the levels inside solved."""
    if level.draws or level.indices or level.objective is None:
        raise Unsupported("draws and indices")
    for inner in level.levels:
        values = {**values, **_solve(inner, values)}
    found = evaluate(level.objective.value, values)
    return found if level.objective.sense == "minimize" else -found


def _solve(level: ir.Level, values: Values) -> dict[str, sympy.Expr]:
    """The solution of a level after its steps, its iterates under `NAME@k`."""
    x = {v.name: _free(v, _start(v, values)) for v in level.variables}
    velocity = dict.fromkeys(x, sympy.Integer(0))
    found = _iterate(level, x, 0)
    for step in range(_steps(level, values)):
        inside = _counted(level, values, step)
        slopes = _slopes(level, x, inside)
        for solver in level.phases[0].solvers:
            rate, momentum = _arguments(solver, inside)
            for name in solver.variables:
                velocity[name] = momentum * velocity[name] + slopes[name]
                x = {**x, name: x[name] - rate * velocity[name]}
        found |= _iterate(level, x, step + 1)
    return found | {v.name: _natural(v, x[v.name]) for v in level.variables}


def _iterate(level: ir.Level, x: Values, step: int) -> dict[str, sympy.Expr]:
    return {f"{v.name}@{step}": _natural(v, x[v.name]) for v in level.variables}


def _slopes(level: ir.Level, x: Values, values: Values) -> dict[str, sympy.Expr]:
    """The derivative of the objective in every free coordinate, at `x`."""
    symbols = {v.name: sympy.Symbol(f"{level.name}.{v.name}", real=True) for v in level.variables}
    natural = {v.name: _natural(v, symbols[v.name]) for v in level.variables}
    objective = _objective(level, {**values, **natural})
    at = {symbols[name]: x[name] for name in x}
    return {name: sympy.diff(objective, symbol).subs(at, simultaneous=True) for name, symbol in symbols.items()}


def _steps(level: ir.Level, values: Values) -> int:
    duration = level.phases[0].duration
    if not isinstance(duration, ir.Steps) or duration.unit != "steps" or len(level.phases) > 1:
        raise Unsupported("levels other than `for N steps`")
    count = evaluate(duration.count, values)
    first = evaluate(duration.first, values) if duration.first is not None else sympy.Integer(1)
    return int(count - first + 1)


def _counted(level: ir.Level, values: Values, step: int) -> Values:
    duration = level.phases[0].duration
    if not isinstance(duration, ir.Steps) or duration.counter is None:
        return values
    first = evaluate(duration.first, values) if duration.first is not None else sympy.Integer(1)
    return {**values, duration.counter: first + step}


def _arguments(solver: ir.Solver, values: Values) -> tuple[sympy.Expr, sympy.Expr]:
    """Rate and momentum of sgd."""
    if solver.name != "sgd" or set(solver.arguments) - {"lr", "momentum"}:
        raise Unsupported(f"{solver.name} in formulas")
    given = {name: evaluate(argument, values) for name, argument in solver.arguments.items()}
    return given["lr"], given.get("momentum", sympy.Integer(0))


def _start(variable: ir.Variable, values: Values) -> sympy.Expr:
    if variable.start is None or not isinstance(variable.type, Array) or variable.type.shape:
        raise Unsupported("variables that are no single numbers")
    return evaluate(variable.start, values)


def _free(variable: ir.Variable, value: sympy.Expr) -> sympy.Expr:
    if variable.domain is None:
        return value
    return DOMAINS[variable.domain][1](value, *map(rational, variable.domain_arguments))


def _natural(variable: ir.Variable, free: sympy.Expr) -> sympy.Expr:
    if variable.domain is None:
        return free
    return DOMAINS[variable.domain][0](free, *map(rational, variable.domain_arguments))


# ---- expressions ---------------------------------------------------------------------------------------------


def evaluate(expr: ir.Expr, values: Values) -> sympy.Expr:
    """An expression of numbers as a formula."""
    match expr:
        case ir.Constant(value=value):
            return rational(value)
        case ir.Read(name=name):
            return values[name]
        case ir.Operate(operator=sign, operands=operands):
            return _operate(sign, [evaluate(o, values) for o in operands])
        case ir.Builtin(function=name, arguments=arguments) if name in FUNCTIONS:
            return FUNCTIONS[name](*(evaluate(a, values) for a in arguments))
        case ir.CallLet(parameters=names, arguments=arguments, body=body):
            given = dict(zip(names, (evaluate(a, values) for a in arguments), strict=True))
            return evaluate(body, {**values, **given})
        case ir.IterateOf(name=name, at=at):
            return values[f"{name}@{int(evaluate(at, values))}"]
        case ir.Reduced(kind="sum" | "mean" as kind, binders=(binder,)) if isinstance(binder.source, ir.Counting):
            low, high = (int(evaluate(e, values)) for e in (binder.source.low, binder.source.high))
            terms = [evaluate(expr.body, {**values, binder.name: sympy.Integer(k)}) for k in range(low, high + 1)]
            return sympy.Add(*terms) / (len(terms) if kind == "mean" else 1)
    raise Unsupported(f"{type(expr).__name__} in formulas")


def _operate(sign: str, operands: list[sympy.Expr]) -> sympy.Expr:
    if sign == "neg":
        return -operands[0]
    left, right = operands
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
    return left**right
