"""The minimum of an elementwise formula in one variable, by sympy, as an expression of the recipe's own language.

Takes a level whose objective is a formula of one number or, for an array, a sum of one formula over its entries; all
else that the formula reads is a symbol. Imports sympy, so it is itself imported only where a closed form asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Any

import sympy

from bilevel import ir
from bilevel.dsl.datatypes import Array
from bilevel.errors import Span

LONGEST = 200
"""operations in a derivative, above which sympy is not asked: it may take hours and rarely finds anything"""

ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "exp": sympy.exp,
    "log": sympy.log,
    "sqrt": sympy.sqrt,
    "tanh": sympy.tanh,
    "sigmoid": lambda v: 1 / (1 + sympy.exp(-v)),
    "softplus": lambda v: sympy.log(1 + sympy.exp(v)),
}
"""functions of an entry; periodic ones are left out, since sympy lists only some of their stationary points"""
POSITIVE = ("exp", "softplus", "sigmoid", "softmax")
"""functions whose values are positive, which decides many signs"""
ALONE: dict[str, Callable[..., Any]] = {
    "sum": lambda v: v,
    "mean": lambda v: v,
    "sqnorm": lambda v: v**2,
    "dot": lambda a, b: a * b,
}
"""functions of all entries, where there is one entry"""
COUNT = sympy.Symbol("entries", positive=True)
"""the number of entries, where `mean` divides by it"""


class Unsolved(Exception):
    """There is no closed form; the text says what is in the way. `solved`: sympy was asked, and this is its answer."""

    def __init__(self, text: str, solved: bool = False) -> None:
        super().__init__(text)
        self.solved = solved


def minimum(level: ir.Level) -> ir.Expr:
    """The only minimum of a level's objective in its variable; raises `Unsolved`."""
    assert level.objective is not None
    solution, symbols = _solution(level)
    return Spelling(level.objective.value.span, symbols).expression(solution)


def described(level: ir.Level) -> str:
    """The same as text."""
    return spelled(_solution(level)[0])


def _solution(level: ir.Level) -> tuple[sympy.Expr, dict[sympy.Symbol, ir.Expr]]:
    """The minimum as a formula, and what its symbols stand for."""
    if len(level.variables) > 1:
        raise Unsolved("a formula is solved for one variable only")
    (variable,) = level.variables
    if level.objective is None or not isinstance(variable.type, Array) or not variable.type.ranked:
        raise Unsolved(f"`{variable.name}` is no number or array")
    formula = Formula(variable, {n for inner in level.levels for n in inner.names})
    value = formula.whole(inlined(level.objective.value, {}))
    sign = 1 if level.objective.sense == "minimize" else -1
    solution = solved(sign * value, formula.unknown)
    if COUNT in solution.free_symbols:
        raise Unsolved("the number of entries, by which `mean` divides, does not cancel")
    return solution, formula.symbols


# ---- formulas ------------------------------------------------------------------------------------------------


def inlined(expr: ir.Expr, bound: Mapping[str, ir.Expr]) -> ir.Expr:
    """The expression with calls of lets written out; `bound` are the arguments of the call around it."""
    match expr:
        case ir.Read(name=name):
            return bound.get(name, expr)
        case ir.CallLet():
            given = [inlined(a, bound) for a in expr.arguments]
            return inlined(expr.body, dict(zip(expr.parameters, given, strict=True)))
        case ir.GradientOf(call=call):
            return replace(expr, call=replace(call, arguments=tuple(inlined(a, bound) for a in call.arguments)))
    changed = {f.name: _inlined_part(getattr(expr, f.name), bound) for f in fields(expr)}
    return replace(expr, **changed)


def _inlined_part(part: Any, bound: Mapping[str, ir.Expr]) -> Any:
    if isinstance(part, tuple):
        return tuple(_inlined_part(item, bound) for item in part)
    if isinstance(part, ir.Binder) and part.source is not None:
        return replace(part, source=inlined(part.source, bound))
    return inlined(part, bound) if isinstance(part, ir.Expr) else part


@dataclass(slots=True)
class Formula:
    """An objective as a formula of one entry of `variable`; `symbols` stand for all that does not contain it.

    `inside`: solutions of levels inside, which cannot stand in a formula.
    """

    variable: ir.Variable
    inside: set[str]
    symbols: dict[sympy.Symbol, ir.Expr] = field(default_factory=dict)

    @property
    def unknown(self) -> sympy.Symbol:
        return sympy.Symbol(self.variable.name, real=True)

    @property
    def shape(self) -> tuple[Any, ...]:
        assert isinstance(self.variable.type, Array)
        return self.variable.type.shape

    def contains(self, expr: ir.Expr) -> bool:
        """Whether an expression reads the variable."""
        return any(isinstance(e, ir.Read | ir.IterateOf) and e.name == self.variable.name for e in ir.walk(expr))

    def whole(self, expr: ir.Expr) -> sympy.Expr:
        """What an entry contributes to a number: the formula whose sum over all entries it is, constants left out."""
        if not self.shape:
            return self.entry(expr)
        match expr:
            case _ if not self.contains(expr):
                return sympy.Integer(0)
            case ir.Operate(operator="neg", operands=(operand,)):
                return -self.whole(operand)
            case ir.Operate(operator="+", operands=(left, right)):
                return self.whole(left) + self.whole(right)
            case ir.Operate(operator="-", operands=(left, right)):
                return self.whole(left) - self.whole(right)
            case ir.Operate(operator="*", operands=(left, right)) if not self.contains(left):
                return self._factor(left) * self.whole(right)
            case ir.Operate(operator="*", operands=(left, right)) if not self.contains(right):
                return self.whole(left) * self._factor(right)
            case ir.Operate(operator="/", operands=(left, right)) if not self.contains(right):
                return self.whole(left) / self._factor(right)
            case ir.Builtin(function="sum" | "mean" | "sqnorm" | "dot" as name, arguments=arguments):
                if all(isinstance(a.type, Array) and a.type.shape == self.shape for a in arguments):
                    if name != "dot" or len(self.shape) == 1:
                        value = ALONE[name](*map(self.entry, arguments))
                        return value / self._count() if name == "mean" else value
        raise Unsolved(f"`{expr.span.text}` is no sum of a formula over the entries of `{self.variable.name}`")

    def _factor(self, expr: ir.Expr) -> sympy.Expr:
        if not isinstance(expr.type, Array) or expr.type.shape:
            raise Unsolved(f"`{expr.span.text}` is no number")
        return self.entry(expr)

    def _count(self) -> sympy.Expr:
        sizes = [sympy.Integer(s) for s in self.shape if isinstance(s, int)]
        return sympy.Mul(*sizes) if len(sizes) == len(self.shape) else COUNT

    def entry(self, expr: ir.Expr) -> sympy.Expr:
        """One entry of an expression, as a formula of that entry of the variable."""
        known = ELEMENTWISE if self.shape else ELEMENTWISE | ALONE
        inside = self.contains(expr)
        match expr:
            case ir.Constant(value=int() | float() as value):
                return exact(value)
            case ir.Read(name=name) if name == self.variable.name:
                return self.unknown
            case ir.Operate(operator="neg", operands=(operand,)) if self._fits(expr):
                return -self.entry(operand)
            case ir.Operate(operator=sign, operands=(left, right)) if self._fits(expr):
                return operated(sign, self.entry(left), self.entry(right))
            case ir.Builtin(function=name, arguments=arguments) if inside and name in known:
                return known[name](*map(self.entry, arguments))
        if inside or not self._fits(expr):
            raise Unsolved(f"`{expr.span.text}` is no formula of single numbers")
        return self._symbol(expr)

    def _fits(self, expr: ir.Expr) -> bool:
        """A number, or an array with an entry for each of the variable's, of nothing that is solved inside."""
        read = {e.name for e in ir.walk(expr) if isinstance(e, ir.Read | ir.IterateOf)}
        return (
            isinstance(expr.type, Array)
            and expr.type.ranked
            and expr.type.shape in ((), self.shape)
            and not read & self.inside
        )

    def _symbol(self, expr: ir.Expr) -> sympy.Symbol:
        """The symbol that stands for an expression without the variable; equal expressions have the same."""
        for symbol, other in self.symbols.items():
            if other == expr:
                return symbol
        name = " ".join(expr.span.text.split())
        taken = {s.name for s in self.symbols} | {self.variable.name}
        known = {"positive": True} if isinstance(expr, ir.Builtin) and expr.function in POSITIVE else {"real": True}
        symbol = sympy.Symbol(name if name not in taken else f"{name} ({len(taken)})", **known)
        self.symbols[symbol] = expr
        return symbol


def exact(value: float) -> sympy.Rational:
    """A number by its decimal spelling: 0.1 is 1/10."""
    fraction = Fraction(repr(value))
    return sympy.Rational(fraction.numerator, fraction.denominator)


def operated(sign: str, left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
    """Two formulas joined by an operator of the language."""
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


# ---- solving -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=64)
def solved(value: sympy.Expr, unknown: sympy.Symbol) -> sympy.Expr:
    """The only real solution of d value / d unknown = 0 that is a minimum; raises `Unsolved`."""
    slope = sympy.diff(value, unknown)
    if sympy.count_ops(slope) > LONGEST:
        raise Unsolved(f"its derivative in `{unknown}` has more than {LONGEST} operations", solved=True)
    try:
        found = [s for s in sympy.solve(slope, unknown) if s.is_real is not False]
    except NotImplementedError:
        raise Unsolved(f"sympy cannot solve  {spelled(slope)} = 0  for `{unknown}`", solved=True) from None
    curvature = sympy.diff(slope, unknown)
    lowest = [s for s in found if sympy.simplify(curvature.subs(unknown, s)).is_positive is not False]
    if len(lowest) == 1:
        return min(lowest[0], sympy.expand_log(lowest[0]), key=sympy.count_ops)  # no log(exp(...)), which overflows
    equation = f"sympy solves  {spelled(slope)} = 0  by "
    every = " and ".join(f"{unknown} = {spelled(s)}" for s in lowest or found) or "no real number"
    saddle = ", where the second derivative is not positive" * bool(found)
    reason = ", and nothing says which is meant" if lowest else saddle
    raise Unsolved(f"{equation}{every}{reason}", solved=True)


def spelled(value: sympy.Expr) -> str:
    """A formula as the language would write it, cut where it is long."""
    text = str(value).replace("**", "^")
    return text if len(text) <= 100 else f"{text[:97]}..."


# ---- back to the language ------------------------------------------------------------------------------------

POWERS = {sympy.Rational(1, 2): "sqrt"}
FUNCTIONS = {"exp": "exp", "log": "log", "tanh": "tanh", "Abs": "abs", "sign": "sign"}


@dataclass(frozen=True, slots=True)
class Spelling:
    """Formulas as expressions of the language, which all stand at `span`; `symbols` say what symbols stand for."""

    span: Span
    symbols: Mapping[sympy.Symbol, ir.Expr]

    def expression(self, value: sympy.Expr) -> ir.Expr:
        """A formula as an expression; raises `Unsolved` for functions that the language does not have."""
        if value in self.symbols:
            return self.symbols[value]
        if value.is_Integer:
            return self._number(int(value))
        if value.is_Rational:
            return self._operate("/", self._number(int(value.p)), self._number(int(value.q)))
        if value.is_NumberSymbol:
            return self._number(float(value))
        if value.is_Add:
            return self._sum(value)
        if value.is_Mul:
            return self._product(value)
        if value.is_Pow:
            return self._power(value)
        name = FUNCTIONS.get(type(value).__name__)
        if name is None:
            raise Unsolved(f"sympy finds {spelled(value)}, for which the language has no function", solved=True)
        return self._call(name, value.args[0])

    def _sum(self, value: sympy.Expr) -> ir.Expr:
        """Terms with a minus sign last, so that the text has as few signs as possible."""
        terms = sorted(value.as_ordered_terms(), key=lambda t: bool(t.could_extract_minus_sign()))
        found = self.expression(terms[0])
        for term in terms[1:]:
            minus = term.could_extract_minus_sign()
            found = self._operate("-" if minus else "+", found, self.expression(-term if minus else term))
        return found

    def _product(self, value: sympy.Expr) -> ir.Expr:
        if value.could_extract_minus_sign():
            inside = self.expression(-value)
            return ir.Operate(span=self.span, type=inside.type, operator="neg", operands=(inside,))
        over, under = sympy.fraction(value)
        if under != 1:
            return self._operate("/", self.expression(over), self.expression(under))
        return reduce(lambda a, b: self._operate("*", a, b), map(self.expression, value.as_ordered_factors()))

    def _power(self, value: sympy.Expr) -> ir.Expr:
        base, exponent = value.args
        if exponent.could_extract_minus_sign():
            return self._operate("/", self._number(1), self.expression(1 / value))
        if exponent in POWERS:
            return self._call(POWERS[exponent], base)
        return self._operate("^", self.expression(base), self.expression(exponent))

    def _number(self, value: float) -> ir.Expr:
        return ir.Constant(span=self.span, type=Array(), value=value)

    def _call(self, name: str, argument: sympy.Expr) -> ir.Expr:
        given = self.expression(argument)
        return ir.Builtin(span=self.span, type=given.type, function=name, arguments=(given,))

    def _operate(self, sign: Any, left: ir.Expr, right: ir.Expr) -> ir.Expr:
        wider = max(left.type, right.type, key=lambda t: len(t.shape) if isinstance(t, Array) else 0)
        return ir.Operate(span=self.span, type=wider, operator=sign, operands=(left, right))
