"""A graph with loops over slices (`slices.py`) for a compiler that knows no loops: what is between them, piece by piece.

The bodies of the loops are graphs of their own. What is around stays Python text, which frees a value after its last use;
views of what a piece does not make are taken there, so that no piece gives the memory of an input out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import getitem

import torch
from torch import Tensor, fx, nn

from bilevel.backends.torch_func.trace.lifetimes import is_view

Compile = Callable[[fx.GraphModule, list[Tensor]], Callable[..., Sequence[Tensor]]]


class Piece(nn.Module):
    """A compiled graph in the place of a module."""

    def __init__(self, module: fx.GraphModule, run: Callable[..., Sequence[Tensor]]) -> None:
        super().__init__()
        self.graph, self.run = module.graph, run

    def forward(self, *given: Tensor) -> Sequence[Tensor]:
        """The outputs of the graph."""
        return self.run(*given)


def compiled_alone(module: fx.GraphModule, compile_graph: Compile) -> Piece:
    """A graph compiled for inputs of the shapes and layouts of its fake ones."""
    return Piece(
        module, compile_graph(module, [_like(node) for node in module.graph.nodes if node.op == "placeholder"])
    )


def _like(node: fx.Node) -> Tensor:
    """An array as a node stands for, of any numbers."""
    value: Tensor = node.meta["val"]
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def in_pieces(module: fx.GraphModule, compile_graph: Compile) -> fx.GraphModule:
    """The same graph with what is between modules compiled; its nodes must carry fake values."""
    graph, known, held = fx.Graph(), dict[fx.Node, fx.Node](), dict(module.named_children())
    held |= {node.target: getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"}
    groups = _groups(module.graph)
    for node in module.graph.nodes:
        if node not in groups:
            known[node] = graph.node_copy(node, known.__getitem__)
        elif node is groups[node][-1]:
            name = f"piece_{len(held)}"
            inputs, outputs, part = _cut_out(module, groups[node])
            held[name] = compiled_alone(part, compile_graph)
            call = graph.call_module(name, tuple(known[a] for a in inputs))
            known |= {one: graph.call_function(getitem, (call, place)) for place, one in enumerate(outputs)}
    return fx.GraphModule(held, graph)


def _groups(graph: fx.Graph) -> dict[fx.Node, list[fx.Node]]:
    """For every operator that is in a piece all of that piece, in order: those between two modules."""
    found: dict[fx.Node, list[fx.Node]] = {}
    group: list[fx.Node] = []
    for node in graph.nodes:
        if node.op == "call_module":
            group = []
        elif node.op == "call_function" and not (is_view(node) and node.all_input_nodes[0] not in found):
            group.append(node)
            found[node] = group
    return found


def _cut_out(module: fx.GraphModule, group: Sequence[fx.Node]) -> tuple[list[fx.Node], list[fx.Node], fx.GraphModule]:
    """What some operators read of others, what others read of them, and their graph from one to the other."""
    inside = set(group)
    inputs = list(dict.fromkeys(a for node in group for a in node.all_input_nodes if a not in inside))
    outputs = [node for node in group if not inside.issuperset(node.users)]
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for place, node in enumerate(inputs):
        known[node] = graph.placeholder(f"given_{place}")
        known[node].meta = dict(node.meta)
    for node in group:
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(tuple(known[node] for node in outputs))
    return inputs, outputs, fx.GraphModule(module, graph)
