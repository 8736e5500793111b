"""Checked expressions as Python text, for one copy; `mapped` lifts the text over the copies by vmap.

Takes `ir.Expr`; gives text in which every name is a parameter of the function it will stand in. Knows nothing of
levels or derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bilevel import ir
from bilevel.backends.source import Comment, Function, Return, Statement
from bilevel.backends.torch_func.naming import python_name
from bilevel.dsl.datatypes import Array, Records, Tree, Type, Union, Unknown
from bilevel.errors import Span

OPERATORS = {"+": "add", "-": "subtract", "*": "multiply", "/": "divide", "^": "power"}
RENAMED = {"sum": "total", "max": "largest", "min": "smallest", "abs": "absolute", "eig": "spectrum"}
"""functions of the language that Python, or the runtime, has under another name"""
FACTORED = ("quad", "min_eig", "max_eig", "identity_gap")
"""functions of a matrix that may be given by factors for each layer of a network"""
REDUCERS = {"mean": "mean(0)", "sum": "sum(0)", "max": "amax(0)", "min": "amin(0)"}
PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}

Axes = Mapping[str, tuple[str, ...]]
Place = Span


@dataclass(slots=True)
class Writer:
    """What the writing of one module has collected: its parts, its lets, and the names that runtime code takes.

    `constants` are names in scope of the whole module (parts and params); `settings` are literals that a report
    replaces, by their place in the recipe.
    """

    constants: frozenset[str]
    taken: frozenset[str]
    settings: Mapping[Place, str]
    maximised: bool = False
    windowed: frozenset[str] = frozenset()
    """variables whose iterates are those of one window, by number"""
    lists: frozenset[str] = frozenset()
    """indices that run over a list of parts: values copied over them are Python lists"""
    chunked: frozenset[str] = frozenset()
    """indices whose copies are computed a few at a time: `INDEX_first` is the number of the first of these"""
    lets: dict[str, list[Function]] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    """what the reducers around an expression add to the key of its noise"""

    def name(self, name: str) -> str:
        """The Python name of a recipe's name; `@phi` stands for the list of iterates of phi."""
        if name == ir.NOISE:
            return "noise"
        if name.startswith(ir.place_of("")):
            return f"{self.name(name.removeprefix(ir.place_of('')))}_number"
        if name.startswith("@"):
            return f"{python_name(name[1:], self.taken)}_at"
        return python_name(name, self.taken)


def first_name(writer: Writer, index: str) -> str:
    """The name of the number of the first copy of those that are computed at a time."""
    return f"{writer.name(index)}_first"


def copy_numbers(writer: Writer, index: str, count: str, like: str) -> str:
    """The numbers of the copies of an index, as text."""
    if index in writer.chunked:
        return f"numbers_from({first_name(writer, index)}, {count}, {like})"
    return f"numbers({count}, {like})"


def write(writer: Writer, expr: ir.Expr, parent: int = 0) -> str:
    """The expression as Python text; `parent` is the precedence of the operator around it."""
    match expr:
        case ir.Constant(value=value):
            return _constant(writer, expr, value)
        case ir.Read(name=name):
            return writer.name(name)
        case ir.Operate():
            return _operate(writer, expr, parent)
        case ir.Builtin(function=name, arguments=arguments):
            return _builtin(writer, name, arguments)
        case ir.Apply():
            return _apply(writer, expr)
        case ir.CallLet():
            return f"{let_function(writer, expr)}({', '.join(_call_arguments(writer, expr))})"
        case ir.CallPart(function=function, arguments=arguments):
            return f"{write(writer, function, 9)}({', '.join(write(writer, a) for a in arguments)})"
        case ir.GradientOf(call=call):
            return _gradient(writer, call)
        case ir.Field() | ir.Item():
            return _member(writer, expr)
        case ir.IterateOf(name=name, at=at):
            return f"{writer.name(f'@{name}')}[{write(writer, at)}]"
        case ir.Several(items=items):
            return _several(writer, expr, items)
        case ir.Reduced():
            return _reduced(writer, expr)
    raise TypeError(f"no text for {type(expr).__name__} at {expr.span}")


def _member(writer: Writer, expr: ir.Field | ir.Item) -> str:
    """A field of a record, or an entry of an array or of several trees."""
    base = expr.base
    if isinstance(expr, ir.Field):
        positions = expr.name == "index" and isinstance(base.type, Records)
        return f"source_positions({write(writer, base)})" if positions else f"{write(writer, base, 9)}.{expr.name}"
    items = ", ".join(write(writer, i) for i in expr.items)
    if isinstance(base.type, Tree):
        return f"tree_at({write(writer, base)}, {items})"
    return f"{write(writer, base, 9)}[{items}]"


def _constant(writer: Writer, expr: ir.Expr, value: int | float | str) -> str:
    name = writer.settings.get(expr.span)
    return name if name is not None else repr(value)


def _is_tree(type_: Type) -> bool:
    return isinstance(type_, Tree | Union | Unknown)


def _operate(writer: Writer, expr: ir.Operate, parent: int) -> str:
    if any(_is_tree(o.type) for o in expr.operands):
        inner = ", ".join(write(writer, o) for o in expr.operands)
        return f"negative({inner})" if expr.operator == "neg" else f"{OPERATORS[expr.operator]}({inner})"
    if expr.operator == "neg":
        text, own = f"-{write(writer, expr.operands[0], 3)}", 3
    else:
        own = PRECEDENCE[expr.operator]
        left, right = expr.operands
        sign = "**" if expr.operator == "^" else f" {expr.operator} "
        # Only + and * may drop brackets on their right; ** binds from the right, so brackets go to its left.
        sides = (own + 1, own) if expr.operator == "^" else (own, own + 1)
        text = f"{write(writer, left, sides[0])}{sign}{write(writer, right, sides[1])}"
    return f"({text})" if own < parent else text


def _builtin(writer: Writer, name: str, arguments: tuple[ir.Expr, ...]) -> str:
    inner = ", ".join(write(writer, a) for a in arguments)
    if name in ("arange", "eye"):
        return (
            f"torch.{name}({inner}, device=device)"
            if name == "arange"
            else f"torch.eye({inner}, device=device, dtype=dtype)"
        )
    if name == "onehot":
        return f"onehot({inner}, dtype)"
    if name in FACTORED and isinstance(arguments[0].type, Tree) and arguments[0].type.kind in ("kron", "factors"):
        return f"{name}_kron({inner})"
    return f"{RENAMED.get(name, name)}({inner})"


def _apply(writer: Writer, expr: ir.Apply) -> str:
    groups = [write(writer, p) for p in expr.parameters]
    parameters = groups[0] if len(groups) == 1 else f"merge({', '.join(groups)})"
    single = ".single" if expr.single else ""
    given = [parameters, write(writer, expr.input)]
    if expr.noise is not None:
        given.append(folded(*writer.words, *[str(expr.noise.place)] * (expr.noise.place > 0)))
    network = write(writer, expr.network, 9)
    network = network if expr.output is None else f'named_output({network}, "{expr.output}")'
    return f"{network}{single}({', '.join(given)})"


def folded(*words: str) -> str:
    """The key of a part of the noise of a step."""
    return f"fold(noise, {', '.join(words)})" if words else "noise"


def _several(writer: Writer, expr: ir.Several, items: tuple[ir.Expr, ...]) -> str:
    inner = ", ".join(write(writer, i) for i in items)
    if isinstance(expr.type, Union):
        return f"merge({inner})"
    if isinstance(expr.type, Array) and all(_is_literal(i) for i in items):
        # Not `torch.tensor`, which torch refuses on the meta device inside a derivative: a plan would have no sizes.
        return f"torch.as_tensor([{inner}], device=device, dtype=dtype)"
    if isinstance(expr.type, Array):
        return f"torch.stack([{', '.join(_entry(writer, i) for i in items)}])"
    return f"[{inner}]"


def _is_literal(expr: ir.Expr) -> bool:
    """Whether an expression is made of numbers alone, so that its text is a Python number."""
    return all(isinstance(e, ir.Constant | ir.Operate) for e in ir.walk(expr))


def _entry(writer: Writer, expr: ir.Expr) -> str:
    """One entry of a list that is stacked: params and counters are Python numbers, and become tensors here."""
    text = write(writer, expr)
    plain = not expr.depends and isinstance(expr.type, Array) and not expr.type.shape
    return f"torch.as_tensor({text}, device=device, dtype=dtype)" if plain else text


def _gradient(writer: Writer, call: ir.CallLet | ir.CallPart) -> str:
    if isinstance(call, ir.CallLet):
        return f"grad({let_function(writer, call)})({', '.join(_call_arguments(writer, call))})"
    return f"grad({write(writer, call.function, 9)})({', '.join(write(writer, a) for a in call.arguments)})"


# ---- lets ----------------------------------------------------------------------------------------------------


def _call_arguments(writer: Writer, call: ir.CallLet) -> list[str]:
    free = [writer.name(n) for n in call.free if n not in writer.constants]
    free += [folded(*writer.words, str(call.noise.place))] if call.noise is not None else []
    return [write(writer, a) for a in call.arguments] + free + sorted(_settings(writer, call.body))


def let_function(writer: Writer, call: ir.CallLet) -> str:
    """The name of the function for a let with these argument types; written once for each different body."""
    parameters = [writer.name(p) for p in (*call.parameters, *(n for n in call.free if n not in writer.constants))]
    parameters += ["noise"] * (call.noise is not None)
    around, writer.words = writer.words, ()
    body = (Return(write(writer, call.body)),)
    writer.words = around
    known = writer.lets.setdefault(call.name, [])
    at = f"{call.body.span.source.name}:{call.body.span.line}"
    name = writer.name(call.name) + (f"_{len(known) + 1}" if known else "")
    settings = sorted(_settings(writer, call.body))
    function = Function(name, (*parameters, *settings), "", body, at)
    for other in known:
        if (other.parameters, other.body) == (function.parameters, function.body):
            return other.name
    known.append(function)
    return name


def let_functions(writer: Writer) -> list[Statement]:
    """All lets written so far, in the order in which they were first needed."""
    if not writer.lets:
        return []
    functions: list[Statement] = [f for variants in writer.lets.values() for f in variants]
    return [Comment("---- definitions"), Comment(""), *functions]


# ---- reducers and copies -------------------------------------------------------------------------------------


def _reduced(writer: Writer, expr: ir.Reduced) -> str:
    """Open indices are closed by a vmap over their copies, counters by a list."""
    closed = [b.name for b in expr.binders if b.source is None]
    order = [a for a in expr.body.axes if a in closed]
    text, around = _reduced_body(writer, expr, bool(order))
    kind = "min" if expr.kind == "worst" and writer.maximised else "max" if expr.kind == "worst" else expr.kind
    for binder in reversed([b for b in expr.binders if b.source is not None]):
        text = f"gathered([{text} for {_counter(writer, binder)}{_in_window(writer, expr, binder)}]).{REDUCERS[kind]}"
    text = mapped(writer, text, order, free_reads(expr.body) if not _counted(expr) else free_reads(expr), around)
    if kind == "pcgrad":
        return f"({text} * weight).sum()"  # one gradient at a time: the weights pick it
    for _ in order:
        text = f"{text}.{REDUCERS[kind]}"
    return text


def _reduced_body(writer: Writer, expr: ir.Reduced, apart: bool) -> tuple[str, tuple[str, ...]]:
    """What is reduced, with noise of its own for every number of a counter; what the reducers around add to its key.

    `apart`: there are open indices too, whose copies get keys that hold those words.
    """
    around = writer.words
    counters = [b for b in expr.binders if b.source is not None]
    writer.words = () if apart else around
    writer.words += tuple(word for b in counters for word in (f'"{b.name}"', _number(writer, b)))
    text = write(writer, expr.body)
    writer.words = around
    return text, around


def _in_window(writer: Writer, expr: ir.Reduced, binder: ir.Binder) -> str:
    """Leaves out the terms whose iterates are not of the window."""
    found = [e for e in ir.walk(expr.body) if isinstance(e, ir.IterateOf) and e.name in writer.windowed]
    tests = {f"{write(writer, e.at)} in {writer.name(f'@{e.name}')}" for e in found if binder.name in free_reads(e.at)}
    return f" if {' and '.join(sorted(tests))}" if tests else ""


def _counted(expr: ir.Reduced) -> bool:
    return any(b.source is not None for b in expr.binders)


def _number(writer: Writer, binder: ir.Binder) -> str:
    """The number of a counter, or the place of an element in its list."""
    name = writer.name(binder.name)
    if binder.source is None or isinstance(binder.source, ir.Counting):
        return name
    return writer.name(ir.place_of(binder.name))


def _counter(writer: Writer, binder: ir.Binder) -> str:
    assert binder.source is not None
    if not isinstance(binder.source, ir.Counting):
        place = writer.name(ir.place_of(binder.name))
        return f"{place}, {writer.name(binder.name)} in enumerate({write(writer, binder.source)})"
    low, high = write(writer, binder.source.low), write(writer, binder.source.high)
    return f"{writer.name(binder.name)} in range({low}, {high} + 1)"


def mapped(
    writer: Writer,
    text: str,
    axes: list[str] | tuple[str, ...],
    reads: Axes,
    words: tuple[str, ...] | None = None,
) -> str:
    """`text`, which is for one copy, over all copies of `axes` (outermost first); one vmap for each axis.

    Values without an axis are closed over; torch.func differentiates through closures. `words`: the axes are those of
    a reducer, whose copies get keys of their own for their noise, which hold these words.
    """
    for place, axis in reversed(list(enumerate(axes))):
        names = sorted(writer.name(n) for n, own in reads.items() if axis in own)
        listed = axis in writer.lists
        given = list(names)
        if words is not None and ir.NOISE in reads:
            count = f"{'len' if listed else 'length'}({names[0]})"
            names.append("noise")
            given.append(
                folded(*(words if place == 0 else ()), f'"{axis}"', copy_numbers(writer, axis, count, "noise"))
            )
        inside, values = ", ".join(names), ", ".join(given)
        if listed:
            text = f"torch.stack([{text} for {inside}{',' * (len(names) == 1)} in zip({values}, strict=True)])"
        else:
            text = f"each_copy(lambda {inside}: {text})({values})"
    return text


def over_lists(text: str, axes: list[str], reads: Axes) -> str:
    """`text` for every element of some lists, outermost axis first, as lists in lists; `place_AXIS` is the position."""
    for axis in reversed(axes):
        names = sorted(n for n, own in reads.items() if axis in own)
        inside = ", ".join(names)
        comma = "," * (len(names) == 1)
        text = f"[{text} for place_{axis}, ({inside}{comma}) in enumerate(zip({inside}, strict=True))]"
    return text


def list_key(key: str, axes: list[str]) -> str:
    """The key of one element of some lists."""
    for axis in axes:
        key = f"fold({key}, place_{axis})"
    return key


def free_reads(expr: ir.Expr, bound: frozenset[str] = frozenset()) -> dict[str, tuple[str, ...]]:
    """The names that the text of an expression reads, with the axes over which their values are copied.

    Iterates are read as `@NAME`; bodies of lets count with what they take from around the let.
    """
    found: dict[str, tuple[str, ...]] = {}
    match expr:
        case ir.Read(name=name):
            if name not in bound:
                found[name] = expr.axes
        case ir.IterateOf(name=name, at=at):
            found[f"@{name}"] = tuple(a for a in expr.axes if a not in at.axes)
            found |= free_reads(at, bound)
        case ir.CallLet():
            for argument in expr.arguments:
                found |= free_reads(argument, bound)
            inner = free_reads(expr.body, frozenset(expr.parameters))
            found |= {n: a for n, a in inner.items() if n not in bound}
        case ir.Apply(noise=ir.Noise(axes=axes)):
            found[ir.NOISE] = axes
            for child in ir.children(expr):
                found |= free_reads(child, bound)
        case ir.Reduced():
            names = {b.name for b in expr.binders if b.source is not None}
            found |= free_reads(expr.body, bound | names | set(map(ir.place_of, names)))
            for binder in expr.binders:
                if binder.source is not None:
                    found |= free_reads(binder.source, bound)
        case _:
            for child in ir.children(expr):
                found |= free_reads(child, bound)
    return found


def _settings(writer: Writer, expr: ir.Expr) -> set[str]:
    """The replaceable literals inside an expression."""
    if not writer.settings:
        return set()
    places = {e.span for e in ir.walk(expr) if isinstance(e, ir.Constant)}
    return {name for place, name in writer.settings.items() if place in places}


def parameters_of(writer: Writer, *exprs: ir.Expr) -> list[str]:
    """The Python names that the text of some expressions needs, parts and params left out, in a stable order."""
    names: dict[str, None] = {}
    for expr in exprs:
        for name in free_reads(expr):
            if name not in writer.constants:
                names[writer.name(name)] = None
        names |= dict.fromkeys(sorted(_settings(writer, expr)))
    return list(names)
