"""The nested problem of a checked program as LaTeX: one aligned line for each level, then the definitions it uses.

An outermost level is a minimisation `subject to` what the levels inside it give: `until` and closed forms as an
argmin, `for N steps` as the result of N steps of a solver. Gives an `aligned` environment, which stands inside a
displayed equation; needs amsmath. Writes nothing about how a derivative is taken.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from bilevel import ir
from bilevel.errors import Span

GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)
SHORT = {"lam": "lambda", "eps": "varepsilon"}
DOMAINS = {
    "positive": "{} > 0",
    "nonnegative": r"{} \geq 0",
    "unit": r"{} \in (0, 1)",
    "simplex": r"{} \in \Delta",
    "psd": r"{} \succeq 0",
    "orthogonal": r"{0}^{{\top}} {0} = I",
}
MACROS = frozenset("exp log cos tanh max min det".split())
DRAWN, TAKEN = r"\sim", r"\in"
ADD, MULTIPLY, NEGATE, POWER, ATOM = range(5)


def to_latex(program: ir.Program) -> str:
    """The nested problem as an `aligned` environment."""
    rows = [row for level in program.levels for row in _problem(level)]
    rows += list(_definitions(program))
    body = " \\\\\n".join(f"  {left} & {right}" for left, right in rows)
    return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n"


# ---- levels --------------------------------------------------------------------------------------------------

Row = tuple[str, str]


def _problem(level: ir.Level) -> Iterator[Row]:
    """An outermost level and all inside it."""
    if level.objective is None:
        yield "", _solved(level)
    else:
        word = r"\max" if level.objective.sense == "maximize" else r"\min"
        yield rf"{word}_{{{_names(level)}}}\quad", f"{_value(level)}{_note(_duration(level))}"
    conditions = [*_given(level), *(row for inner in level.levels for row in _inner(inner, 0))]
    for place, condition in enumerate(conditions):
        yield r"\text{subject to}\quad" if place == 0 else "", condition


def _inner(level: ir.Level, depth: int) -> Iterator[str]:
    """A level inside another one: what it solves for, then what that rests on."""
    indent = r"\qquad " * depth
    yield f"{indent}{_solved(level)}{_note(_copies(level))}"
    for condition in _given(level):
        yield f"{indent}\\qquad {condition}"
    for inner in level.levels:
        yield from _inner(inner, depth + 1)


def _solved(level: ir.Level) -> str:
    """`phi = argmin ...`, `phi = 5 steps of sgd on ...` or `x_{t+1} = ...`."""
    phase = level.phases[-1]
    solver, names = phase.solvers[0], _names(level)
    if solver.name == "next":
        changed = ", ".join(_text(value) for value in solver.arguments.values())
        return rf"{names}_{{t+1}} = {changed},\quad t < {_steps(phase)}{_start(level)}"
    if isinstance(phase.duration, ir.Until) or phase.duration is None:
        word = r"arg\,max" if level.objective is not None and level.objective.sense == "maximize" else r"arg\,min"
        return rf"{names} = \operatorname*{{{word}}}_{{{names}}} {_value(level)}"
    word = "maximising" if level.objective is not None and level.objective.sense == "maximize" else "minimising"
    return rf"{names} = \text{{{_duration(level)}, {word} }} {_value(level)}{_start(level)}"


def _value(level: ir.Level) -> str:
    return r"\cdot" if level.objective is None else _text(level.objective.value)


def _names(level: ir.Level) -> str:
    return ", ".join(latex_name(name) for name in level.names)


def _start(level: ir.Level) -> str:
    """Where each variable starts, if the recipe says so."""
    starts = [(v.name, v.start) for v in level.variables if v.start is not None]
    return "".join(rf",\ {latex_name(name)}^{{(0)}} = {_text(start)}" for name, start in starts)


def _given(level: ir.Level) -> Iterator[str]:
    """Domains of the variables, and what is drawn for a step."""
    for variable in level.variables:
        domain, bounds = variable.kept or (variable.domain, variable.domain_arguments)
        if domain == "between":
            low, high = (_number(bound) for bound in bounds)
            yield rf"{latex_name(variable.name)} \in ({low}, {high})"
        elif domain is not None:
            yield DOMAINS[domain].format(latex_name(variable.name))
    for index in level.indices:
        yield f"{latex_name(index.name)} {DRAWN if index.drawn else TAKEN} {_text(index.source)}"
    for draw in (d for d in level.draws if d.name != ir.NOISE):
        yield f"{latex_name(draw.name)} {DRAWN} {_text(draw.source)}"


def _duration(level: ir.Level) -> str:
    """`5 steps of sgd(lr = 0.01), then ...` as text."""
    return ", then ".join(_phase(phase) for phase in level.phases)


def _phase(phase: ir.Phase) -> str:
    solver = " and ".join(_plain(solver.span) for solver in phase.solvers)
    if isinstance(phase.duration, ir.Until):
        return f"{solver} {_plain(phase.duration.span)}"
    if phase.duration is None:
        return solver
    steps = _steps(phase)
    unit = phase.duration.unit.rstrip("s") if steps == "1" else phase.duration.unit
    return f"{steps} {unit} of {solver}"


def _steps(phase: ir.Phase) -> str:
    """The number of steps, in words that are fit for text and for mathematics."""
    if isinstance(phase.duration, ir.Until):
        return _plain(phase.duration.cap.span)
    count = phase.duration.count if phase.duration is not None else None
    if isinstance(count, ir.Constant) and isinstance(count.value, int):
        return f"{count.value:,}".replace(",", r"\,")
    return "" if count is None else _plain(count.span)


def _copies(level: ir.Level) -> str:
    return f"one for each {' and '.join(_escaped(copy) for copy in level.copies)}" if level.copies else ""


def _note(text: str) -> str:
    return rf"\quad \text{{({text})}}" if text else ""


def _plain(span: Span) -> str:
    """A piece of a recipe inside text."""
    return _escaped(" ".join(part for line in span.text.split("\n") for part in line.partition("#")[0].split()))


def _escaped(text: str) -> str:
    r"""Any text, safe inside \text."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {sign: f"\\{sign}" for sign in "_#$%&{}"}
    return "".join(special.get(sign, sign) for sign in text)


# ---- definitions ---------------------------------------------------------------------------------------------


def _definitions(program: ir.Program) -> Iterator[Row]:
    """The lets that the equations call, in the order in which they are met, one level deep after another."""
    seen: dict[str, ir.CallLet] = {}
    pending = [e for level in program.walk_levels() for e in _expressions(level)]
    while pending:
        found = [e for expr in pending for e in _shown(expr) if isinstance(e, ir.CallLet) and e.name not in seen]
        for call in found:
            seen.setdefault(call.name, call)
        pending = [call.body for call in found]
    for place, call in enumerate(seen.values()):
        parameters = ", ".join(latex_name(name) for name in call.parameters)
        left = f"{latex_name(call.name)}({parameters})" if call.parameters else latex_name(call.name)
        yield r"\text{where}\quad" if place == 0 else "", f"{left} = {_text(call.body)}"


def _expressions(level: ir.Level) -> Iterator[ir.Expr]:
    """What the line of a level shows."""
    if level.objective is not None:
        yield level.objective.value
    for variable in level.variables:
        if variable.start is not None:
            yield variable.start
    yield from (index.source for index in level.indices)
    yield from (draw.source for draw in level.draws if draw.name != ir.NOISE)
    solvers = [solver for phase in level.phases for solver in phase.solvers if solver.name == "next"]
    yield from (value for solver in solvers for value in solver.arguments.values())


def _shown(expr: ir.Expr) -> Iterator[ir.Expr]:
    """The expression and what is printed with it: not the bodies of the lets that it calls."""
    yield expr
    inside = expr.arguments if isinstance(expr, ir.CallLet) else ir.children(expr)
    for child in inside:
        yield from _shown(child)


# ---- expressions ---------------------------------------------------------------------------------------------


def _text(expr: ir.Expr, around: int = ADD) -> str:
    """The expression; in parentheses where it binds less than what is around it."""
    text, binding = _bound(expr)
    return rf"\left({text}\right)" if binding < around else text


def _bound(expr: ir.Expr) -> tuple[str, int]:
    """The expression and how strongly its last operation binds."""
    match expr:
        case ir.Constant(value=value):
            return (_number(value), ATOM) if not isinstance(value, str) else (rf"\text{{{_escaped(value)}}}", ATOM)
        case ir.Read(name=name):
            return latex_name(name), ATOM
        case ir.Operate(operator=operator, operands=operands):
            return _operation(operator, operands)
        case ir.Reduced():
            return _reduced(expr), MULTIPLY
        case ir.Builtin(function=function, arguments=arguments):
            return _builtin(function, arguments), ATOM
    return _atom(expr), ATOM


def _atom(expr: ir.Expr) -> str:
    """Calls, fields, items and iterates."""
    match expr:
        case ir.Apply(network=network, parameters=parameters, input=value, output=output):
            name = _text(network, ATOM) + (rf".\mathrm{{{_escaped(output)}}}" if output else "")
            return rf"{name}_{{{_list(parameters)}}}({_text(value)})"
        case ir.CallLet(name=name, arguments=arguments):
            return f"{latex_name(name)}({_list(arguments)})" if arguments else latex_name(name)
        case ir.CallPart(function=function, arguments=arguments):
            return f"{_text(function, ATOM)}({_list(arguments)})"
        case ir.GradientOf(call=call):
            return rf"\nabla {_text(call, ATOM)}"
        case ir.Field(base=base, name=name):
            return rf"{_text(base, ATOM)}.\mathrm{{{_escaped(name)}}}"
        case ir.Item(base=base, items=items):
            return rf"{{{_text(base, ATOM)}}}_{{[{_list(items)}]}}"
        case ir.IterateOf(name=name, at=at):
            return rf"{latex_name(name)}^{{({_text(at)})}}"
        case ir.Several(items=items):
            return rf"[{_list(items)}]"
        case ir.Counting(low=low, high=high):
            return rf"{_text(low)}, \ldots, {_text(high)}"
        case ir.Sample(source=source, count=count):
            return _text(source, ATOM) + (f"[{_text(count)}]" if count is not None else "")
    return rf"\text{{{_plain(expr.span)}}}"


def _list(items: tuple[ir.Expr, ...]) -> str:
    return ", ".join(_text(item) for item in items)


def _operation(operator: str, operands: tuple[ir.Expr, ...]) -> tuple[str, int]:
    match operator:
        case "neg":
            return f"-{_text(operands[0], NEGATE)}", NEGATE
        case "^":
            return f"{{{_text(operands[0], ATOM)}}}^{{{_text(operands[1])}}}", POWER
        case "/":
            return rf"\frac{{{_text(operands[0])}}}{{{_text(operands[1])}}}", MULTIPLY
        case "*":
            left, right = _text(operands[0], MULTIPLY), _text(operands[1], MULTIPLY)
            sign = r"\cdot" if right[0].isdigit() else r"\,"
            return f"{left} {sign} {right}", MULTIPLY
    right = _text(operands[1], MULTIPLY if operator == "-" else ADD)
    return f"{_text(operands[0])} {operator} {right}", ADD


def _reduced(expr: ir.Reduced) -> str:
    word = r"\sum" if expr.kind == "sum" else rf"\operatorname*{{{expr.kind}}}"
    binders = ", ".join(map(_binder, expr.binders))
    return rf"{word}_{{{binders}}} {_text(expr.body, MULTIPLY)}"


def _binder(binder: ir.Binder) -> str:
    name = latex_name(binder.name)
    if binder.source is None:
        return name
    sign = DRAWN if isinstance(binder.source, ir.Sample) else TAKEN
    return f"{name} {sign} {_text(binder.source)}"


def _builtin(function: str, arguments: tuple[ir.Expr, ...]) -> str:
    inside = _list(arguments)
    match function:
        case "sqnorm":
            return rf"\left\lVert {inside} \right\rVert^{{2}}"
        case "norm1":
            return rf"\left\lVert {inside} \right\rVert_{{1}}"
        case "abs":
            return rf"\left\lvert {inside} \right\rvert"
        case "sqrt":
            return rf"\sqrt{{{inside}}}"
        case "dot" if len(arguments) == 2:
            return rf"\left\langle {inside} \right\rangle"
        case "inv":
            return rf"{_text(arguments[0], ATOM)}^{{-1}}"
        case "transpose":
            return rf"{_text(arguments[0], ATOM)}^{{\top}}"
    word = rf"\{function}" if function in MACROS else rf"\operatorname{{{_escaped(function)}}}"
    return rf"{word}({inside})"


def _number(value: int | float) -> str:
    r"""`0.01`, `10^{-4}`, `2.5 \cdot 10^{-7}`."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    mantissa, e, exponent = text.partition("e")
    if not e:
        return text
    power = rf"10^{{{int(exponent)}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"


def latex_name(name: str) -> str:
    """A name of a recipe: Greek letters as macros, what follows `_` or a final number as a subscript."""
    head, _, rest = name.partition("_")
    if not rest and head[-1:].isdigit():
        letters = head.rstrip("0123456789")
        head, rest = letters, head[len(letters) :]
    if not head:
        return rf"\mathit{{{_escaped(name)}}}"
    base = _symbol(head)
    if not rest:
        return base
    if base.startswith(r"\mathit"):  # a word of several letters: its parts are words, too
        return rf"\mathit{{{_escaped(name)}}}"
    return rf"{base}_{{{rest if rest.isdigit() else _symbol(rest)}}}"


def _symbol(word: str) -> str:
    plain = SHORT.get(word, word)
    if len(plain) == 1:
        plain = _greek(plain)
    if plain in GREEK or plain in SHORT.values():
        return f"\\{plain}"
    return plain if len(plain) == 1 else rf"\mathit{{{_escaped(plain)}}}"


def _greek(letter: str) -> str:
    """`theta` for the letter itself, and any other letter unchanged."""
    words = unicodedata.name(letter, "").split()
    if words[:1] != ["GREEK"] or len(words) != 4:
        return letter
    name = {"lamda": "lambda"}.get(words[3].lower(), words[3].lower())
    return name.capitalize() if words[1] == "CAPITAL" else name
