"""Text for everything that is drawn: starts of variables, indices, mini-batches, noise.

A draw is a pure function of a key; a level that is copied has one key for each copy, made by folding the number of
the copy into it.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.backends.torch_func.expressions import (
    Writer,
    copy_numbers,
    free_reads,
    list_key,
    mapped,
    over_lists,
    write,
)
from bilevel.dsl.datatypes import Array, Records, Stream, Tree, Type
from bilevel.dsl.shapes import is_number


def copy_key(writer: Writer, program: ir.Program, key: str, axes: tuple[str, ...]) -> str:
    """The key of every copy along some indices, from the key that they share."""
    for axis in axes:
        if axis.startswith("@"):
            continue  # all members of a population share their draws
        depth = index_axes(program, axis).index(axis)
        count = f"length({writer.name(axis)}{f', {depth}' if depth else ''})"
        key = f"fold({key}, {copy_numbers(writer, axis, count, 'key')})"
    return key


def index_axes(program: ir.Program, name: str) -> tuple[str, ...]:
    """The leading axes of the value of an index: the copies of the level that opens it, and itself."""
    for level in program.walk_levels():
        if any(i.name == name for i in level.indices):
            return (*(a for a in level.batched if not a.startswith("@")), name)
    raise KeyError(name)


def axis_values(program: ir.Program, axes: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """For each axis a name whose value has it, with all leading axes of that value."""
    found: dict[str, tuple[str, ...]] = {}
    for axis in axes:
        if axis.startswith("@"):
            searched = program.level(axis[1:])
            found[searched.names[0]] = (axis, *searched.batched)
        else:
            found[axis] = index_axes(program, axis)
    return found


def index_draw(writer: Writer, program: ir.Program, level: ir.Level, index: ir.Index) -> str:
    """`each task ~ tasks.train[32]`, or for `each x in source` the source itself."""
    if index.name in writer.lists:
        return write(writer, index.source)
    if not isinstance(index.source, ir.Sample) or index.source.count is None:
        return f"everything({write(writer, index.source)})"
    lists = opened_lists(writer, level, index.source.axes)
    key = list_key(copy_key(writer, program, f'fold(key, "{index.name}")', level.batched), lists)
    text = sample(writer, index.source.source, [write(writer, index.source.count)], key, 0)
    return over_lists(text, lists, list_reads(writer, index.source, lists))


def opened_lists(writer: Writer, level: ir.Level, axes: tuple[str, ...]) -> list[str]:
    """The lists among some axes that this very level runs over; those around it are one element here."""
    own = {i.name for i in level.indices}
    return [a for a in axes if a in writer.lists and a in own]


def list_reads(writer: Writer, expr: ir.Expr, lists: list[str]) -> dict[str, tuple[str, ...]]:
    """The Python names that an expression reads, with their axes, each list among them."""
    reads = {writer.name(n): axes for n, axes in free_reads(expr).items()}
    return reads | {writer.name(a): (a,) for a in lists}


def batch_draw(writer: Writer, program: ir.Program, level: ir.Level, draw: ir.Draw, count: str | None = None) -> str:
    """`b ~ data.train[128]`, one draw for each copy of the level."""
    source = draw.source
    key = f'fold(key, "{draw.name}")'
    if isinstance(source, ir.NoiseKeys):
        return copy_key(writer, program, key, level.batched)
    if isinstance(source, ir.Builtin):
        return distribution(writer, source, copy_key(writer, program, key, level.batched), "dtype", draw.type, ())
    assert isinstance(source, ir.Sample)
    lists = opened_lists(writer, level, source.axes)
    batched = tuple(a for a in source.axes if a not in writer.lists)
    axes = batched or level.batched
    counts = [str(s) for s in draw.type.shape] if isinstance(draw.type, Array) else [count or _count(writer, source)]
    drawn_key = list_key(copy_key(writer, program, key, axes), lists)
    text = sample(writer, source.source, counts, drawn_key, len(batched))
    return over_lists(text, lists, list_reads(writer, source, lists))


def _count(writer: Writer, source: ir.Sample) -> str:
    return "1" if source.count is None else write(writer, source.count)


def epoch_draw(writer: Writer, program: ir.Program, level: ir.Level, draw: ir.Draw) -> str:
    """The batch of one step when the level counts epochs; every copy shuffles for itself."""
    assert isinstance(draw.source, ir.Sample)
    source, count = write(writer, draw.source.source), _count(writer, draw.source)
    key = copy_key(writer, program, "level_key", level.batched)
    return f'draw_epoch({source}, {count}, {key}, step, "{draw.name}")'


def sample(writer: Writer, source: ir.Expr, counts: list[str], key: str, depth: int) -> str:
    """`counts` draws of a source for every key."""
    if isinstance(source, ir.Builtin) and source.function != "without":
        if isinstance(source.type, Stream) and isinstance(source.type.item, Tree):
            network = write(writer, source.arguments[0], 9)
            return f"{network}.initial(fold({key}, numbers({counts[0]}, key)))"
        return distribution(writer, source, key, "", source.type, tuple(counts))
    text = write(writer, source)
    return f"draw({text}, {', '.join(counts)}, {key}{f', {depth}' if depth else ''})"


def distribution(writer: Writer, source: ir.Builtin, key: str, like: str, type_: Type, shape: tuple[str, ...]) -> str:
    """normal(...) or uniform(...), as one array of `shape` or like a tree."""
    first, second = (write(writer, a) for a in source.arguments)
    template = like if like not in ("", "dtype") else "torch.empty(0, device=device, dtype=dtype)"
    sizes = f", ({', '.join(shape)},)" if shape else ""
    return f"draw_{source.function}({key}, {first}, {second}, {template}{sizes})"


# ---- starts --------------------------------------------------------------------------------------------------


def start(writer: Writer, program: ir.Program, level: ir.Level, variable: ir.Variable) -> str:
    """The first value of a variable, for all copies, in its own coordinates."""
    key = f'fold(key, "{variable.name}")'
    expr = variable.start
    if isinstance(expr, ir.Builtin) and expr.function == "warm":
        expr = expr.arguments[0]
    if expr is None or (isinstance(expr, ir.Builtin) and expr.function == "init"):
        assert isinstance(variable.type, Tree)
        keys = copy_key(writer, program, key, level.batched)
        for count in variable.type.count:
            keys = f"fold({keys}, numbers({count}, key))"
        fresh = f"{network_name(writer, variable.type)}.initial({keys}{part(variable.type)})"
        return for_members(writer, program, level, fresh)
    if isinstance(expr, ir.Builtin) and expr.function in ("normal", "uniform"):
        keys = copy_key(writer, program, key, level.batched)
        like, shape = template(writer, variable)
        drawn = distribution(writer, expr, keys, like, variable.type, shape)
        return for_members(writer, program, level, drawn)
    if isinstance(expr, ir.Builtin) and expr.function == "identity":
        assert isinstance(variable.type, Tree)
        text = f"identity_parameters({network_name(writer, variable.type)}{part(variable.type)})"
        text = _several_trees(variable.type, text)
    else:
        text = _shaped(writer, variable, expr)
    reads = free_reads(expr) | axis_values(program, level.batched)
    text = mapped(writer, text, level.batched, reads)
    return f"contiguous({text})" if level.batched else text


def for_members(writer: Writer, program: ir.Program, level: ir.Level, text: str) -> str:
    """The same draw for every member of the populations around."""
    for axis in reversed(level.members):
        text = f"spread({text}, length({writer.name(program.level(axis[1:]).names[0])}))"
    return text


def network_name(writer: Writer, type_: Tree) -> str:
    """The network whose parameters a tree has: a part, an element of a list, or a field of one."""
    name, dot, fields = type_.net.partition(".")
    return f"{writer.name(name)}{dot}{fields}"


def part(type_: Tree) -> str:
    """The arguments that pick the part of a network which a tree has."""
    if type_.part.only is not None:
        return f", only={type_.part.only!r}"
    return f", without={type_.part.except_!r}" if type_.part.except_ is not None else ""


def template(writer: Writer, variable: ir.Variable) -> tuple[str, tuple[str, ...]]:
    """What a random start is shaped like: a tree, or an array with this shape."""
    type_ = variable.type
    if isinstance(type_, Tree):
        if type_.kind != "params":
            like = f'{network_name(writer, type_)}.like("{type_.kind}"{part(type_)})'
        else:
            like = f"{network_name(writer, type_)}.select({part(type_).removeprefix(', ')})"
        return _several_trees(type_, like), ()
    return "", shape_of(writer, variable)


def shape_of(writer: Writer, variable: ir.Variable) -> tuple[str, ...]:
    """The sizes of an array; those that the parts say are one or several each."""
    assert isinstance(variable.type, Array)
    if variable.sizes:
        return tuple(f"*sizes({write(writer, size)})" for size in variable.sizes)
    return tuple(str(s) for s in variable.type.shape)


def _several_trees(type_: Tree, text: str) -> str:
    """The tree, as often as `params(net)[n]` has it."""
    return f"equal_trees({text}, {', '.join(map(str, type_.count))})" if type_.count else text


def _shaped(writer: Writer, variable: ir.Variable, expr: ir.Expr) -> str:
    """The start for one copy; one number is spread over all entries of the variable."""
    text = write(writer, expr)
    if not is_number(expr.type):
        return text
    if isinstance(variable.type, Tree):
        like, _ = template(writer, variable)
        return f"filled({like}, {text})" if isinstance(expr, ir.Constant) else f"add(zeros({like}), {text})"
    sizes = shape_of(writer, variable)
    shape = "".join(f"{s}, " for s in sizes)
    if isinstance(expr, ir.Read) and expr.depends and not sizes:
        return text
    if isinstance(expr, ir.Constant):
        return f"torch.full(({shape}), {text}, device=device, dtype=dtype)"
    return f"{text} + torch.zeros(({shape}), device=device, dtype=dtype)"


def finite_source(draw: ir.Draw) -> ir.Expr | None:
    """The finite source of a draw, None where it draws from a stream."""
    if isinstance(draw.source, ir.Sample) and isinstance(draw.source.source.type, Records):
        return draw.source.source
    return None
