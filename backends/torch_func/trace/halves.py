"""A step and the way back through it as one graph, cut in two: what needs no cotangent runs with the step.

The first half gives the step's results and what the second one reads of it (its residuals); the second gives
cotangents. Of all ways to cut the one that keeps the fewest bytes is taken. What costs a pass over memory at most may be
computed again for that; products, reductions and transcendental functions never are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.cuts import least_cut
from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.nodes import aten, tensor_of
from bilevel.backends.torch_func.trace.signature import Slot, filled, mapped
from bilevel.backends.torch_func.trace.simplify import FILLED, SAME, SHAPED

MOVES = (aten.t.default, aten.transpose.int, aten.permute.default, aten.unsqueeze.default, aten.squeeze.dim)
FREE = (*SAME, *SHAPED, *MOVES, *FILLED, aten.full.default)
"""views, and arrays of one number: what the second half makes again rather than keeps"""
CHEAP = frozenset(
    (
        *(aten.add.Tensor, aten.add.Scalar, aten.sub.Tensor, aten.sub.Scalar, aten.rsub.Scalar, aten.neg.default),
        *(aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar, aten.reciprocal.default),
        *(aten.addcmul.default, aten.addcdiv.default, aten.abs.default, aten.sign.default, aten.relu.default),
        *(aten.gt.Scalar, aten.ge.Scalar, aten.lt.Scalar, aten.le.Scalar, aten.eq.Scalar, aten.ne.Scalar),
        *(aten.gt.Tensor, aten.ge.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.eq.Tensor, aten.ne.Tensor),
        *(aten.where.self, aten.logical_and.default, aten.logical_not.default, aten.maximum.default),
        *(aten.minimum.default, aten.clamp.default, aten.clamp_min.default, aten._to_copy.default, aten.clone.default),
        *(aten.tanh_backward.default, aten.sigmoid_backward.default, aten.threshold_backward.default),
    )
)
"""one pass over arrays: what may be computed again"""


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
    kept = _fewest(nodes, late, outputs)
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


def _fewest(nodes: Sequence[fx.Node], late: set[fx.Node], outputs: Sequence[Sequence[fx.Node]]) -> list[fx.Node]:
    """The values of fewest bytes from which all that depends on the cotangent can be computed, in order: a least cut.

    Its sources are what must not be computed again, its sinks what the second half reads; inputs cost nothing. Of equal
    cuts the one nearest to the cotangent is taken, after which least is computed again.
    """
    needed = _read(outputs[1], lambda _: True)
    early = [node for node in nodes if node.op == "call_function" and node in needed and node not in late]
    widths = {node: 0.0 if node in outputs[0] else _width(node) for node in early}
    found = least_cut(
        widths,
        [(before, node) for node in early for before in node.all_input_nodes if before in widths],
        [node for node in early if node.target not in FREE and node.target not in CHEAP],
        [node for node in early if node in outputs[1] or not late.isdisjoint(node.users)],
    )
    return [node for node in early if node in found]


def _width(node: fx.Node) -> float:
    """The bytes of a value; infinitely many where it is a view, or no array that can be handed on."""
    value = tensor_of(node)
    return math.inf if value is None or node.target in FREE else float(value.numel() * value.element_size())


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
