"""The same operators on several arrays, once on one array with all their numbers: fewer calls, the same bits.

A solver does the same to every array of a tree: Adam asks for eleven operators for each, and for small arrays the time is
that of the calls. Here the leaves that operators on single numbers begin with are joined, the operators run once, and
the results are views of parts of what they give. Which operators do the same is found in the graph, whatever they are of:
an update, its way back, several steps in one graph.

    microseconds, float32, one core              six arrays of 25 networks 1-40-40-1     of one network
    a sum or product of two arrays, each                                    12 to 15           10 to 12
    a product with a number, each                                                 19                 17
    the same on all joined                                                    4 to 5             2 to 3
    to join them by a copy                                                         5                  4
    to join what lies side by side (`joined`)                                      2                  2
    views of the six parts                                                         7                  7
    an update by Adam                                               143, not 254         78, not 183

The rule counts the calls saved against joins, copies and views. Plain gradient descent stays as it is, one operator for
each array being less than to join and to part; so does momentum. An update of six arrays of 64 kB takes 226 microseconds,
not 320; of six of 160 kB, of which three are joined at a time, 532, not 559. Beyond `LARGEST` and `MOST` the time is that of
passes over memory. To find all this in the 260 operators of an adjoint of Adam takes 6 milliseconds, once.

What this gives of a step lies side by side in one memory, and is joined without a copy in the next step and on its way
back. The price: as long as one of these views is alive, all are. They are results of one kind (all weights, all
momenta), which a run keeps and forgets together; of an array of which less than half are results, these are copied. A join
may be a view of inputs, so nothing may be written over in such a graph. Inductor has no calls to save: the update joined
takes 91 microseconds, as it is 60.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import getitem
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.layouts import FIXED
from bilevel.backends.torch_func.trace.lifetimes import bytes_of, owners
from bilevel.backends.torch_func.trace.nodes import arguments, aten, insert, tensor_of

CALL = 1.3
"""microseconds of an operator on small arrays, run from Python text"""
NUMBER = 1.2
"""microseconds more where one operand is a number of Python's"""
JOIN = (1.5, 0.4)
"""microseconds of a join, and of each array in it"""
SPLIT = (0.8, 1.05)
"""microseconds of views, and of each of them"""
COPIED = 30_000
"""bytes that a join copies in a microsecond"""
LARGEST = 192 << 10
"""bytes of an array beyond which its numbers take so long that calls do not matter"""
MOST = 512 << 10
"""bytes of a flat array: operators that pass over more miss the caches, where on one array after the other they find it"""
DEPTH = 3
"""how many operators deep formulas are compared before those that are alike are followed to their ends"""
SCALED = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
"""where one operand may be a single number on the device, the same for all"""
ARRAY = "array"
"""in a form: an operand that has a number for every number of the result"""
LAST = 1 << 60
"""behind all inputs"""
EXACT = frozenset(
    (
        *SCALED,
        *(aten.add.Scalar, aten.sub.Scalar, aten.mul.Scalar, aten.div.Scalar, aten.rsub.Scalar),
        *(aten.addcmul.default, aten.addcdiv.default, aten.neg.default, aten.abs.default, aten.sign.default),
        *(aten.sqrt.default, aten.rsqrt.default, aten.reciprocal.default),
        *(aten.relu.default, aten.threshold_backward.default, aten.maximum.default, aten.minimum.default),
    )
)
"""operators that give a number the same bits wherever it is in an array; a sigmoid or a power gives others at its end"""
NUMBERS = (torch.float32, torch.float64)
PARTED = aten.unflatten_dense_tensors.default

Row: TypeAlias = tuple[fx.Node, ...]
"""the nodes in the same place, one of every array"""


def joined(parts: Sequence[Tensor]) -> Tensor:
    """The numbers of some arrays one after the other; what lies so already is a view, which nothing may write to."""
    first = parts[0]
    begin = end = first.data_ptr()
    for part in parts:
        if part.data_ptr() != end or not part.is_contiguous():
            break
        end += part.nbytes
    else:
        memory = first.untyped_storage()
        if end <= memory.data_ptr() + memory.nbytes():
            return first.as_strided(((end - begin) // first.itemsize,), (1,))
    whole: Tensor = aten.flatten_dense_tensors.default(parts)
    return whole


def flattened(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with fewer operators; changes the graph, not its text. Every value is the same, bit for bit."""
    graph, tried, flat = module.graph, set[fx.Node](), Flat()
    if any(node.target in (aten._efficientzerotensor.default, *FIXED) for node in graph.nodes):
        return module  # zeros without memory, and what reads memory by place
    known = _known(graph, flat)
    while (found := _next(known, tried, flat)) is not None:
        _write(known, found, flat)
        known = _known(graph, flat)
    if flat.rows:
        graph.eliminate_dead_code()
        _copy_few(graph)
    return module


def _copy_few(graph: fx.Graph) -> None:
    """Results that are less than half of their flat array become copies: kept for long, each would hold all of it."""
    owner, output = owners(graph), next(node for node in graph.nodes if node.op == "output")
    kept = Counter[fx.Node]()
    for node in dict.fromkeys(output.args[0]):
        kept[owner[node]] += bytes_of(node.meta["val"])
    few = {one for one, size in kept.items() if one.target is PARTED and 2 * size < bytes_of(one.meta["val"])}
    copies = {node: insert(output, aten.clone.default, node) for node in output.args[0] if owner[node] in few}
    output.args = (tuple(copies.get(node, node) for node in output.args[0]),)


def relaid(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with the layouts that operators give now where what they read was rewritten; in its fake values alone."""
    made: dict[Any, Tensor] = {}
    for node in module.graph.nodes:
        value = tensor_of(node) if node.op == "call_function" else None
        if value is not None and not value.is_contiguous() and node.target in EXACT:
            found = [a for a in map(tensor_of, node.all_input_nodes) if a is not None and a.shape == value.shape]
            if found and all(a.is_contiguous() for a in found):
                key = value.shape, value.dtype
                node.meta["val"] = made[key] = made[key] if key in made else value.new_empty(value.shape)
    return module


# ---- what does the same ------------------------------------------------------------------------------------------


@dataclass
class Flat:
    """What was joined, and what stays known of operators while others are."""

    rows: dict[Row, fx.Node] = field(default_factory=dict)
    """the flat array of the numbers of a row"""
    lead: dict[fx.Node, int] = field(default_factory=dict)
    """of parts of flat arrays, as in `Known`"""
    forms: dict[fx.Node, Form | None] = field(default_factory=dict)
    numbers: dict[Any, int] = field(default_factory=dict)
    """of forms and formulas, in the order in which they were met"""
    values: dict[Any, Any] = field(default_factory=dict)
    """fake values of flat arrays, by dtype and size"""


class Form(NamedTuple):
    """What an operator does, whatever the arrays."""

    number: int
    """equal for operators that do the same"""
    arrays: tuple[int, ...]
    """the places of operands with a number for every number of the result"""
    time: float
    """microseconds to ask for it once"""


@dataclass
class Known:
    """What is known of a graph: which operators could be joined, and how alike their formulas are."""

    place: dict[fx.Node, int] = field(default_factory=dict)
    before: dict[fx.Node, int] = field(default_factory=dict)
    """the places of all that a node depends on, its own among them, as bits"""
    forms: dict[fx.Node, Form] = field(default_factory=dict)
    """of every operator that could be joined"""
    arrays: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    """of these, the operands that are arrays"""
    alike: list[dict[fx.Node, int]] = field(default_factory=lambda: [{} for _ in range(DEPTH)])
    """for formulas one, two, ... operators deep: the number of the formula of every operator that could be joined"""
    same: dict[int, list[fx.Node]] = field(default_factory=dict)
    """the operators of each number"""
    lead: dict[fx.Node, int] = field(default_factory=dict)
    """the first input that a formula reads: by it arrays are in the same order in every graph of a program"""


def _known(graph: fx.Graph, flat: Flat) -> Known:
    known, done = Known(lead=dict(flat.lead)), set(flat.rows.values())
    for place, node in enumerate(graph.nodes):
        known.place[node], known.before[node] = place, 1 << place
        for source in node.all_input_nodes:
            known.before[node] |= known.before[source]
        if node.op == "placeholder":
            known.lead[node] = place
        elif node not in done:
            _note(known, node, flat)
    return known


def _note(known: Known, node: fx.Node, flat: Flat) -> None:
    """Which formula an operator ends, where it could be joined."""
    form = flat.forms[node] if node in flat.forms else flat.forms.setdefault(node, _form(node, flat))
    if form is None:
        return
    known.forms[node], known.arrays[node] = form, (arrays := [arguments(node)[place] for place in form.arrays])
    known.alike[0][node] = form.number
    for less, alike in pairwise(known.alike):
        key = (form.number, *[less.get(a) for a in arrays])
        alike[node] = flat.numbers.setdefault(key, len(flat.numbers))
    for alike in known.alike:
        known.same.setdefault(alike[node], []).append(node)
    known.lead[node] = min(known.lead.get(a, LAST) for a in arrays)


def _form(node: fx.Node, flat: Flat) -> Form | None:
    """What an operator does; None where it is not one that can be joined."""
    value = tensor_of(node)
    if node.op != "call_function" or node.target not in EXACT or value is None or value.dtype not in NUMBERS:
        return None
    if not 0 < value.nbytes <= LARGEST or value.dim() == 0 or not value.is_contiguous():
        return None
    given = [_operand(argument, node, value) for argument in arguments(node)]
    if None in given or any(isinstance(a, fx.Node) for a in node.kwargs.values()):
        return None
    key = (node.target, tuple(given), tuple((name, repr(a)) for name, a in node.kwargs.items()), value.dtype)
    has_number = any(isinstance(a, int | float) for a in arguments(node))
    places = tuple(place for place, one in enumerate(given) if one is ARRAY)
    number = flat.numbers.setdefault(key, len(flat.numbers))
    return Form(number, places, CALL + NUMBER * has_number) if places else None


def _operand(argument: Any, node: fx.Node, value: Tensor) -> Any:
    """An operand in a form: an array, a number, or the node of a number on the device; None for any other."""
    if not isinstance(argument, fx.Node):
        return type(argument), repr(argument)
    found = tensor_of(argument)
    if found is None or found.dtype != value.dtype:
        return None
    if found.dim() == 0:  # with a factor the last digit would depend on the place
        return argument if node.target in SCALED and not node.kwargs else None
    return ARRAY if found.shape == value.shape else None


class Region:
    """Operators that do the same to several arrays, row by row, operands first; and what that saves."""

    def __init__(self, rows: Sequence[Row], known: Known, flat: Flat) -> None:
        self.rows = dict.fromkeys(rows)
        self.own = {node for row in rows for node in row}
        found = dict.fromkeys(one for row in rows for one in _operands(row, known))
        self.read = [row for row in found if row not in self.rows]
        """the rows from outside that the operators read, each once"""
        self.given = [row for row in rows if any(not node.users.keys() <= self.own for node in row)]
        """the rows that something outside reads"""
        self.sources = {a for row in rows for node in row for a in node.all_input_nodes} - self.own
        self.sources |= {node for row in self.read for node in row}
        """what has to be there before the operators run: numbers too, and what one of them reads out of its row"""
        self.gains, self.saved = _gains(self, known, flat)


def _operands(row: Row, known: Known) -> list[Row]:
    """The operands of a row that are arrays, as rows."""
    return list(zip(*[known.arrays[node] for node in row], strict=True))


def _next(known: Known, tried: set[fx.Node], flat: Flat) -> Region | None:
    """The next operators that it is worth, from the end of the graph; notes what was tried in vain."""
    some = [node for node in reversed(known.forms) if node not in tried]
    for node in some:
        if node in tried:
            continue
        rows = {_abreast(node, alike, tried, known) for alike in (known.alike[0], known.alike[-1])}
        found = [one for row in rows if (one := _worthwhile(row, known, flat)) is not None]
        if found:
            return max(found, key=lambda one: one.saved)
        tried.update({node, *set[fx.Node].intersection(*map(set, rows))})
    return None


def _abreast(end: fx.Node, alike: Mapping[fx.Node, int], tried: set[fx.Node], known: Known) -> Row:
    """Of operators up to one, those with its formula, none of which depends on another, up to `MOST`."""
    found, before = list[fx.Node](), 0
    for node in reversed(known.same[alike[end]]):
        is_later = known.place[node] > known.place[end]
        if not is_later and node not in tried and not before >> known.place[node] & 1:
            found.append(node)
            before |= known.before[node]
    found.sort(key=lambda one: (known.lead[one], known.place[one]))
    ends = accumulate(node.meta["val"].nbytes for node in found)
    return tuple(node for node, size in zip(found, ends, strict=True) if size <= MOST)


def _worthwhile(ends: Row, known: Known, flat: Flat) -> Region | None:
    """The operators that end with these, of such arrays for which it is worth it; None where there are none."""
    while len(ends) > 1:
        region = _region(ends, known, flat)
        if not region.rows or min(region.gains) > 0:
            return region if region.saved > 0 else None
        ends = tuple(node for node, gain in zip(ends, region.gains, strict=True) if gain > 0)
    return None


def _region(ends: Row, known: Known, flat: Flat) -> Region:
    """All operators before these that do the same to all arrays, none of which depends on what another makes."""
    found, own, ahead = set[Row](), set[fx.Node](), [ends]
    while ahead:
        row = ahead.pop()
        if row not in flat.rows and own.isdisjoint(row) and _is_alike(row, known):
            found.add(row)
            own.update(row)
            ahead += _operands(row, known)
    region = Region(sorted(found, key=lambda row: known.place[row[0]]), known, flat)
    while gone := _between(region, known):
        region = Region([row for row in region.rows if row not in gone], known, flat)
    return region


def _is_alike(row: Row, known: Known) -> bool:
    """Whether a row is of operators that do the same, each another one."""
    number = known.alike[0].get(row[0])
    return number is not None and all(known.alike[0].get(a) == number for a in row) and len(set(row)) == len(row)


def _between(region: Region, known: Known) -> set[Row]:
    """The rows on which something depends that others read: an operator cannot run before and after it."""
    before = 0
    for source in region.sources:
        before |= known.before[source]
    return {row for row in region.rows if any(before >> known.place[node] & 1 for node in row)}


def _gains(region: Region, known: Known, flat: Flat) -> tuple[list[float], float]:
    """Microseconds that each array saves by being joined to others, and all do; inputs are joined without a copy."""
    last = [row for row in region.read if row[0] in flat.lead and all(n.users.keys() <= region.own for n in row)]
    joins = [row for row in region.read if row not in flat.rows]
    copies = sum(any(node.op != "placeholder" for node in row) for row in joins)
    splits = len(region.given) - len(last)  # parts that nothing else reads are not parted any more
    own = sum(known.forms[row[0]].time for row in region.rows)
    sizes = [node.meta["val"].nbytes for node in next(iter(region.rows), ())]
    gains = [own - JOIN[1] * len(joins) - copies * size / COPIED - SPLIT[1] * splits for size in sizes]
    return gains, sum(gains) - own - JOIN[0] * len(joins) - SPLIT[0] * splits


# ---- the graph with it -------------------------------------------------------------------------------------------


def _write(known: Known, region: Region, flat: Flat) -> None:
    """The operators once, after all that they read; what reads them comes after these."""
    joins = [flat.rows[row] for row in region.read if row in flat.rows]
    at = max([*region.sources, *joins], key=known.place.__getitem__)
    inputs = [node for node in known.place if node.op == "placeholder"]
    at = inputs[-1] if at.op == "placeholder" else at
    own = sum(1 << known.place[node] for node in region.own)
    nodes = [node for node in known.place if node not in region.own and known.place[node] < known.place[at]]
    late = [node for node in nodes if known.before[node] & own]
    like = max(region.read, key=lambda row: [node.op for node in row].count("placeholder"))
    for row in [*region.read, *region.rows]:
        if row not in flat.rows:
            at = flat.rows[row] = _once(at, row, known, region, flat)
    for row in region.given:
        at = _parted(at, row, like, known, flat)
    for node in late:
        at.append(node)
        at = node
    for row in reversed(region.rows):
        for node in row:
            node.graph.erase_node(node)


def _once(after: fx.Node, row: Row, known: Known, region: Region, flat: Flat) -> fx.Node:
    """The join of a row from outside, or the operator of one inside."""
    operator: Any = joined
    given, named = list[Any]([[*row]]), dict[str, Any]()
    if row in region.rows:
        operator, given, named = row[0].target, [*arguments(row[0])], dict(row[0].kwargs)
        for place, array in zip(known.forms[row[0]].arrays, _operands(row, known), strict=True):
            given[place] = flat.rows[array]
    with after.graph.inserting_after(after):
        made = after.graph.call_function(operator, tuple(given), named)
    values: list[Tensor] = [node.meta["val"] for node in row]
    key = values[0].dtype, sum(value.numel() for value in values)
    made.meta["val"] = flat.values[key] = flat.values[key] if key in flat.values else values[0].new_empty(key[1])
    return made


def _parted(after: fx.Node, row: Row, like: Row, known: Known, flat: Flat) -> fx.Node:
    """The parts of a flat array, shaped as others are, in place of the nodes of a row; the last of them."""
    graph, whole, parts = after.graph, flat.rows[row], list[fx.Node]()
    with graph.inserting_after(after):
        split = at = graph.call_function(PARTED, (whole, [*like]))
    split.meta["val"] = [node.meta["val"] for node in row]
    for number, node in enumerate(row):
        with graph.inserting_after(at):
            at = graph.call_function(getitem, (split, number))
        at.meta["val"], flat.lead[at] = node.meta["val"], known.lead[node]
        node.replace_all_uses_with(at)
        parts.append(at)
    flat.rows[tuple(parts)] = whole
    return at
