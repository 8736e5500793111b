"""A step and the way back through it as one graph, cut in two: what needs no cotangent runs with the step.

The first half gives the step's results and what the second one reads of it (its residuals); the second gives
cotangents. Nothing is computed twice but what costs nothing: views and arrays of one number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.nodes import aten
from bilevel.backends.torch_func.trace.signature import Slot, filled, mapped
from bilevel.backends.torch_func.trace.simplify import FILLED, SAME, SHAPED

MOVES = (aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim)
FREE = (*SAME, *SHAPED, *MOVES, *FILLED)
"""what the second half makes again rather than keeps"""


@dataclass(frozen=True, slots=True)
class Half:
    """A graph as in `Traced`; `inputs` and `sources` count the leaves of arguments and cotangent together."""

    traced: Traced
    kept: int
    """of the first half the last outputs, of the second the first inputs: the residuals"""

    def result(self, given: Mapping[int, Tensor] | Sequence[Tensor], found: Sequence[Tensor]) -> Any:
        """The result as a tree, from the leaves that were given and the outputs of the graph."""
        sources = self.traced.sources
        return filled(self.traced.form, [given[place] if is_given else found[place] for is_given, place in sources])


def halves(traced: Traced, first: int) -> tuple[Half, Half]:
    """The graph of (results, cotangents) in two; leaves from number `first` on are those of the cotangent.

    Invariant: the first half reads no leaf of the cotangent; every output is that of the whole graph, bit for bit.
    """
    nodes = list(traced.module.graph.nodes)
    leaf = dict(zip((n for n in nodes if n.op == "placeholder"), traced.inputs, strict=True))
    computed: Sequence[fx.Node] = nodes[-1].args[0]
    late = _depending(nodes, {node for node, place in leaf.items() if place >= first})
    forms = [_from_zero(form) for form in traced.form]
    sources = [traced.sources[: forms[0][1]], traced.sources[forms[0][1] :]]
    outputs = [[computed[place] for given, place in some if not given] for some in sources]
    kept = [n for n in nodes if n in _read(outputs[1], lambda n: n in late or n.target in FREE) and _is_kept(n, late)]
    found = []
    for form, some, inputs, results in zip(forms, sources, ([], kept), ([*outputs[0], *kept], outputs[1]), strict=True):
        module, read = _part(traced.module, inputs, results)
        places = tuple(leaf[node] for node in read)
        found.append(Half(Traced(module, places, _numbered(some), form[0]), len(kept)))
    return found[0], found[1]


def random_like(result: Any) -> Any:
    """A cotangent of a result, to trace and to compare with: normal numbers, zero for whole ones."""
    generator = torch.Generator().manual_seed(0)

    def drawn(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_floating_point():
            return torch.zeros_like(leaf)
        return torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype).to(leaf.device)

    return mapped(result, drawn)


def _from_zero(form: Any) -> tuple[Any, int]:
    """A part of a template with its slots numbered from 0, and how many there are."""
    slots: list[Slot] = []

    class Next:
        def __getitem__(self, _: int) -> Slot:
            slots.append(Slot(len(slots)))
            return slots[-1]

    values: Any = Next()
    return filled(form, values), len(slots)


def _numbered(sources: Sequence[tuple[bool, int]]) -> tuple[tuple[bool, int], ...]:
    """The sources of a half, whose graph has the outputs that it computes in their order."""
    places = iter(range(len(sources)))
    return tuple((given, place if given else next(places)) for given, place in sources)


def _depending(nodes: Sequence[fx.Node], first: set[fx.Node]) -> set[fx.Node]:
    """The nodes that read one of these, and these."""
    found = set(first)
    for node in nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def _is_kept(node: fx.Node, late: set[fx.Node]) -> bool:
    return node.op == "call_function" and node not in late and node.target not in FREE


def _read(outputs: Sequence[fx.Node], passes: Callable[[fx.Node], bool]) -> set[fx.Node]:
    """The nodes that outputs need, down to the first on every way that does not pass."""
    found, ahead = set[fx.Node](), list(outputs)
    while ahead:
        node = ahead.pop()
        if node not in found:
            found.add(node)
            ahead += node.all_input_nodes if passes(node) else []
    return found


def _part(
    module: fx.GraphModule, inputs: list[fx.Node], outputs: list[fx.Node]
) -> tuple[fx.GraphModule, list[fx.Node]]:
    """The part of a graph from these inputs, and such of its own as are read, to these outputs; and those of its own."""
    needed = _read(outputs, lambda node: node not in inputs)
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    own = [node for node in module.graph.nodes if node.op == "placeholder" and node in needed]
    for place, node in enumerate([*inputs, *own]):
        copies[node] = graph.placeholder(f"given_{place}")
        copies[node].meta = dict(node.meta)
    for node in module.graph.nodes:
        if node in needed and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    return fx.GraphModule(module, graph), own
