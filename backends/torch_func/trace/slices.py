"""Large graphs a slice of an axis at a time: the same sums, with the activations of some samples instead of all.

What a batch goes through is computed for one slice of it after the other, and the gradients that are sums over the
batch are added up. A sum that the batch is needed for again (the gradient, whose step is differentiated) ends one loop
over the slices, and the next begins where it is read; what both loops read of the batch is computed in both.

It takes no more products than the whole at once, and arrays that were larger than the caches fit into them. Values
differ by rounding, since sums are added in another order; the slices depend on shapes alone.

The adjoint of a step of the transformer of W5 (two blocks of width 128, 32 texts of 64 tokens) has 108 MB alive at once as
one graph, of which some 75 are activations and their tangents, and 29 seven arrays of one GELU's second derivative;
in slices of 4 texts 13 MB, beside 10 of gradients and states. More slices would hold less and take longer, since the
operators are asked for by Python; of many Inductor makes one (`pieces.py`), and its slices take no longer than the whole.
By fx, to give freed memory back to the system before each loop saved another 15 MB of resident memory there and took a
fifth more time, before each slice 30 MB and three fifths: its pages have to be got again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn

from bilevel.backends.torch_func.trace.axes import Passed, Place, passed
from bilevel.backends.torch_func.trace.lifetimes import bytes_of, is_view, peak_bytes
from bilevel.backends.torch_func.trace.nodes import tensor_of

LARGE = 32 << 20
"""The least bytes alive at once of a graph that is sliced."""
ENOUGH = 16 << 20
"""The bytes alive at once at which there are slices enough."""
LEAST_MADE = 128 << 10
"""The bytes that an operator on a slice makes on average, at least: of less, asking for it is what takes the time.

W5 with two steps, resident memory and time beside the graph as a whole with two threads: 128 kB 65 MB and 1.23 times,
256 kB 88 MB and 1.07 times, 512 kB 115 MB and 0.95 times; with one thread 128 kB takes 0.98 times.
"""
PARTS = (2, 4, 8, 16, 32)
"""The numbers of slices; powers of 2, by which means are divided exactly"""
MOST_LEFT = 0.75
"""The share of a graph's bytes alive at once that slices may leave."""
LEAST_COVERED = 0.5
"""The share of the bytes of all that a graph makes that slices must go through."""
NEARLY_ALL = 0.9
"""The share at which no other inputs are tried."""
MOST_TRIED = 100
"""The most inputs that are tried."""
MOST_AGAIN = 1.1
"""How many times the bytes of the sliced operators may be made, by operators that are in several loops."""


@dataclass
class Cut:
    """Where the slices are in a graph."""

    parts: int
    where: dict[fx.Node, Any] = field(default_factory=dict)
    """the places of what is computed inside loops, and of the inputs that are sliced"""
    rules: dict[fx.Node, Passed] = field(default_factory=dict)
    """of the operators inside loops"""
    stage: dict[fx.Node, int] = field(default_factory=dict)
    """the number of the loop; of what is outside, how many loops are before it"""
    outputs: dict[int, list[fx.Node]] = field(default_factory=dict)
    """of each loop: shares that are put together, and values of which the whole is needed"""


class Loop(nn.Module):
    """A graph that is run on one slice after the other; what it gives is added up, or put side by side.

    Cost: that of the graph for each slice, and a pass over each sum for every slice but the first.
    """

    def __init__(self, body: fx.GraphModule, parts: int, read: Sequence[int | None], joins: Sequence[Join]) -> None:
        super().__init__()
        self.body, self.parts, self.read, self.joins = body, parts, tuple(read), tuple(joins)
        self.run: nn.Module = body
        """what runs for a slice: the graph, or what a compiler has made of it"""
        self.peak = peak_bytes(body)
        """the bytes alive at once of one slice"""

    def forward(self, *whole: Tensor) -> list[Tensor]:
        """The outputs of all slices together."""
        made: list[Tensor] = []
        for number in range(self.parts):
            given = zip(whole, self.read, strict=True)
            found = self.run(*[_given(value, axis, number, self.parts) for value, axis in given])
            made = made or [join.begin(one) for join, one in zip(self.joins, found, strict=True)]
            for join, so_far, one in zip(self.joins, made, found, strict=True):
                join.add(so_far, one, number)
        return made


@dataclass(frozen=True, slots=True)
class Join:
    """How what a slice gives is put together: along an axis, as a sum, or as a mean."""

    place: Place
    parts: int
    shape: torch.Size
    stride: tuple[int, ...]

    def begin(self, first: Tensor) -> Tensor:
        """What the slices are put into: the memory of the first where they are added up."""
        if isinstance(self.place, str) and first.stride() == self.stride:
            return first
        return torch.empty_strided(self.shape, self.stride, dtype=first.dtype, device=first.device)

    def add(self, so_far: Tensor, found: Tensor, number: int) -> None:
        """The result of one slice more."""
        if not isinstance(self.place, str):
            _slice(so_far, self.place, number, self.parts).copy_(found)
        elif number:
            so_far.add_(found)
        elif so_far is not found:
            so_far.copy_(found)
        if self.place == "mean" and number == self.parts - 1:
            so_far.div_(self.parts)


def _given(value: Tensor, axis: int | None, number: int, parts: int) -> Tensor:
    """What a slice of a loop reads of a value: the value itself where it is not sliced, else as one block of memory."""
    return value if axis is None else _slice(value, axis, number, parts).contiguous()


def _slice(value: Tensor, axis: int | None, number: int, parts: int) -> Tensor:
    """One of several slices of equal size; the value itself without an axis."""
    if axis is None:
        return value
    size = value.shape[axis] // parts
    return value.narrow(axis, number * size, size)


def sliced(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with loops over slices in it where that holds less memory; the same graph where not."""
    values = [v for node in module.graph.nodes if (v := tensor_of(node)) is not None]
    if sum(bytes_of(value) for value in values) < LARGE or any(value.device.type != "cpu" for value in values):
        return module
    whole = peak_bytes(module)
    if whole < LARGE:
        return module
    made, cuts = module, list[Cut]()
    for cut in _cuts(module):
        cuts.append(cut)
        one = min((_with_loops(module, cuts, late) for late in (True, False)), key=peak_bytes)
        made = one if peak_bytes(one) <= MOST_LEFT * whole else made
        if peak_bytes(made) <= ENOUGH:
            break
    return made


def _cuts(module: fx.GraphModule) -> Iterator[Cut]:
    """The cuts of the leaves that most goes through, as long as more slices are worth it; none where there are none."""
    leaves = _best(module)
    cuts = (_cut(module, leaves, parts) for parts in PARTS if leaves and _divides(leaves, parts))
    return takewhile(lambda cut: _is_worth(module.graph, cut), cuts)


def _best(module: fx.GraphModule) -> list[fx.Node]:
    """The leaves that most of a graph's bytes depend on slice by slice; the first by which nearly all do."""
    total = sum(bytes_of(n.meta.get("val")) for n in module.graph.nodes if n.op == "call_function" and not is_view(n))
    most, best = LEAST_COVERED * total, list[fx.Node]()
    for leaves in _leaves(module)[:MOST_TRIED]:
        covered = _covered(_cut(module, leaves, PARTS[0]))
        if covered > most:
            most, best = covered, leaves
        if most > NEARLY_ALL * total:
            break
    return best


def _is_worth(graph: fx.Graph, cut: Cut) -> bool:
    return bool(cut.outputs) and _average(cut) >= LEAST_MADE * cut.parts and _repeated(graph, cut) <= MOST_AGAIN


def _leaves(module: fx.GraphModule) -> list[list[fx.Node]]:
    """What can be sliced at its first axis: tensors that the graph holds, each with all its names, then inputs."""
    found: dict[int, list[fx.Node]] = {}
    for kind in ("get_attr", "placeholder"):
        for node in (node for node in module.graph.nodes if node.op == kind):
            found.setdefault(id(getattr(module, node.target) if kind == "get_attr" else node), []).append(node)
    return [leaves for leaves in found.values() if _divides(leaves, PARTS[0])]


def _divides(leaves: Sequence[fx.Node], parts: int) -> bool:
    value = tensor_of(leaves[0])
    return value is not None and value.dim() > 0 and value.shape[0] > 0 and value.shape[0] % parts == 0


# ---- where the slices go -----------------------------------------------------------------------------------------


def _cut(module: fx.GraphModule, leaves: Iterable[fx.Node], parts: int) -> Cut:
    """The operators that slices of some inputs pass through, from these on."""
    cut = Cut(parts, where=dict.fromkeys(leaves, 0))
    for node in module.graph.nodes:
        reads = any(a in cut.where for a in node.all_input_nodes)
        rule = passed(node, cut.where, parts) if reads and node.op == "call_function" else None
        if rule is None:
            _outside(cut, node)
        else:
            _inside(cut, node, rule)
    return cut


def _inside(cut: Cut, node: fx.Node, rule: Passed) -> None:
    """An operator of the loop after all that it reads."""
    cut.rules[node] = rule
    sources = node.all_input_nodes
    cut.stage[node] = max(cut.stage.get(a, 0) if a in cut.where else _ready(cut, a) for a in sources)
    if isinstance(rule.made, str):
        _given_out(cut, node)
    else:
        cut.where[node] = rule.made


def _outside(cut: Cut, node: fx.Node) -> None:
    """An operator on whole values, which comes after the loops that make them."""
    for source in node.all_input_nodes:
        if source in cut.rules and source in cut.where:
            _given_out(cut, source)
    cut.stage[node] = max((_ready(cut, a) for a in node.all_input_nodes), default=0)


def _given_out(cut: Cut, node: fx.Node) -> None:
    found = cut.outputs.setdefault(cut.stage[node], [])
    if node not in found:
        found.append(node)


def _ready(cut: Cut, node: fx.Node) -> int:
    """How many loops are before the whole value of a node."""
    return cut.stage.get(node, 0) + (node in cut.rules)


def _covered(cut: Cut) -> int:
    """The bytes of what is made inside loops."""
    return sum(bytes_of(node.meta["val"]) for node in cut.where if node in cut.rules and not is_view(node))


def _average(cut: Cut) -> float:
    """The bytes that an operator inside makes of the whole."""
    made = [node for node in cut.rules if not is_view(node)]
    return sum(bytes_of(node.meta["val"]) for node in made) / max(1, len(made))


def _repeated(graph: fx.Graph, cut: Cut) -> float:
    """How many times the bytes of all that is inside are made."""
    loops = [node for stage in cut.outputs for node in _body(graph, cut, stage)]
    sizes = [sum(bytes_of(n.meta["val"]) for n in some if not is_view(n)) for some in (loops, set(loops))]
    return sizes[0] / max(1, sizes[1])


def _body(graph: fx.Graph, cut: Cut, stage: int) -> list[fx.Node]:
    """The operators of a loop, in order: all that its outputs need of slices."""
    needed, ahead = set[fx.Node](), list(cut.outputs[stage])
    while ahead:
        node = ahead.pop()
        if node in cut.rules and node not in needed:
            needed.add(node)
            ahead += [a for a in node.all_input_nodes if a in cut.where]
    return [node for node in graph.nodes if node in needed]


# ---- the graph with loops ----------------------------------------------------------------------------------------


def _with_loops(module: fx.GraphModule, cuts: Sequence[Cut], late: bool) -> fx.GraphModule:
    """The same results, by a loop for every stage of the last cut; what is outside comes as late, or early, as it can."""
    graph, known, cut = fx.Graph(), dict[fx.Node, fx.Node](), cuts[-1]
    held: dict[str, Any] = {n.target: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"}
    for node in module.graph.nodes:
        if node.op == "placeholder":
            known[node] = graph.node_copy(node)
    loops = _loops(module, cuts)
    for stage in sorted(cut.outputs):
        outside = [n for n in cut.stage if n not in cut.rules and cut.stage[n] <= stage and n.op != "output"]
        read = _read_by(module.graph, cut, stage)
        _write(module, graph, known, [*([] if late else outside), *[node for node, _ in read]])
        held[f"loop_{stage}"] = loops[stage]
        call = graph.call_module(f"loop_{stage}", tuple(known[node] for node, _ in read))
        call.meta["val"] = [node.meta["val"] for node in cut.outputs[stage]]
        for place, node in enumerate(cut.outputs[stage]):
            known[node] = graph.call_function(getitem, (call, place))
            known[node].meta["val"] = node.meta["val"]
    output = next(node for node in module.graph.nodes if node.op == "output")
    _write(module, graph, known, output.all_input_nodes)
    graph.node_copy(output, known.__getitem__)
    return fx.GraphModule(held, graph)


def _loops(module: fx.GraphModule, cuts: Sequence[Cut]) -> dict[int, Loop]:
    """The loop of every stage: with the fewest slices with which it is not above all loops of the last cut."""
    alike = [cut for cut in cuts if _are_alike(cut, cuts[-1])]
    found = {stage: _loop(module, cuts[-1], stage) for stage in cuts[-1].outputs}
    most = max(loop.peak for loop in found.values())
    for cut in reversed(alike[:-1]):
        fewer = {stage: _loop(module, cut, stage) for stage in found}
        found |= {stage: loop for stage, loop in fewer.items() if loop.peak <= most}
    return found


def _are_alike(one: Cut, other: Cut) -> bool:
    """Whether two cuts differ in the number of slices alone."""
    if one.outputs != other.outputs or one.stage != other.stage or one.rules.keys() != other.rules.keys():
        return False
    return all(rule.read == other.rules[node].read for node, rule in one.rules.items())


def _write(module: fx.GraphModule, graph: fx.Graph, known: dict[fx.Node, fx.Node], wanted: Iterable[fx.Node]) -> None:
    """Put what is not known yet of these values, and of what they are made of, into the graph, in the old order."""
    needed, ahead = set[fx.Node](), list(wanted)
    while ahead:
        node = ahead.pop()
        if node not in known and node not in needed:
            needed.add(node)
            ahead += node.all_input_nodes
    for node in module.graph.nodes:
        if node in needed:
            known[node] = graph.node_copy(node, known.__getitem__)


def _read_by(graph: fx.Graph, cut: Cut, stage: int) -> list[tuple[fx.Node, int | None]]:
    """What a loop reads, each with the axis that is sliced."""
    found: dict[tuple[fx.Node, int | None], None] = {}
    for node in _body(graph, cut, stage):
        for source, axis in cut.rules[node].read.items():
            if source not in cut.rules or source not in cut.where:
                found[source, axis] = None
    return list(found)


def _loop(module: fx.GraphModule, cut: Cut, stage: int) -> Loop:
    """The loop of a stage."""
    graph, known, read = fx.Graph(), dict[tuple[fx.Node, int | None], fx.Node](), _read_by(module.graph, cut, stage)
    for number, (source, axis) in enumerate(read):
        node = graph.placeholder(f"given_{number}")
        node.meta["val"] = _given(source.meta["val"], axis, 0, cut.parts)
        known[source, axis] = node
    inside: dict[fx.Node, fx.Node] = {}
    for node in _body(module.graph, cut, stage):
        rule = cut.rules[node]
        sources = {a: inside[a] if a in inside else known[a, axis] for a, axis in rule.read.items()}
        inside[node] = _on_slice(graph, node, rule, sources)
    outputs = cut.outputs[stage]
    graph.output(tuple(inside[node] for node in outputs))
    joins = [_join(node, cut) for node in outputs]
    return Loop(fx.GraphModule(module, graph), cut.parts, [axis for _, axis in read], joins)


def _join(node: fx.Node, cut: Cut) -> Join:
    value: Tensor = node.meta["val"]
    place: Any = cut.rules[node].made
    return Join(place, cut.parts, value.shape, value.stride())


def _on_slice(graph: fx.Graph, node: fx.Node, rule: Passed, sources: Mapping[fx.Node, fx.Node]) -> fx.Node:
    """An operator on slices, with its fake value."""
    given = fx.node.map_arg(rule.given, sources.__getitem__)
    named = fx.node.map_arg(node.kwargs, sources.__getitem__)
    operator: Any = node.target
    made = graph.call_function(operator, given, named)
    values: Any = fx.node.map_arg((given, named), lambda a: a.meta["val"])
    made.meta["val"] = operator(*values[0], **values[1])
    return made
