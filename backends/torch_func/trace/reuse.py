"""Results written over an operand that nothing reads again: fewer bytes alive at once, and less memory to pass through.

Only memory that an operator of the graph made is written to, and that of inputs which the caller gives up
(`carries.py`), never another input or a tensor that the graph holds; and only by the last operator that reads it, by
whatever name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx

from bilevel.backends.torch_func.trace.lifetimes import bytes_of, owners
from bilevel.backends.torch_func.trace.nodes import alike, arguments, aten

LEAST = 32 << 10
"""The bytes of a result from which its memory matters more than what is asked for twice as often from the caches."""
SYMMETRIC = {aten.add.Tensor: aten.add_.Tensor, aten.mul.Tensor: aten.mul_.Tensor}
"""where the second operand may be written over as well"""
OVER: dict[Any, Any] = {
    **SYMMETRIC,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.div.Tensor: aten.div_.Tensor,
    aten.add.Scalar: aten.add_.Scalar,
    aten.sub.Scalar: aten.sub_.Scalar,
    aten.mul.Scalar: aten.mul_.Scalar,
    aten.div.Scalar: aten.div_.Scalar,
    aten.addcmul.default: aten.addcmul_.default,
    aten.addcdiv.default: aten.addcdiv_.default,
    aten.exp.default: aten.exp_.default,
    aten.neg.default: aten.neg_.default,
    aten.sqrt.default: aten.sqrt_.default,
    aten.rsqrt.default: aten.rsqrt_.default,
    aten.reciprocal.default: aten.reciprocal_.default,
    aten.tanh.default: aten.tanh_.default,
}
"""operators on single numbers, and those that write over their first operand"""


def reused(module: fx.GraphModule, dead: Collection[fx.Node] = ()) -> fx.GraphModule:
    """The graph with results written over operands; changes the graph. Every value is the same, bit for bit.

    `dead`: inputs that nothing reads after the graph, nor through a result.
    """
    graph, owner = module.graph, owners(module.graph)
    if any(node.target is aten._efficientzerotensor.default for node in graph.nodes):
        return module  # zeros without memory, which nothing can be written to
    place = {node: number for number, node in enumerate(graph.nodes)}
    last: dict[fx.Node, int] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            last[owner[source]] = place[node]
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in OVER and bytes_of(node.meta.get("val")) >= LEAST:
            free = (a for a in _candidates(node) if owner[a].op == "call_function" or owner[a] in dead)
            over = next((a for a in free if _is_free(a, node, owner, last[owner[a]] == place[node])), None)
            if over is not None:
                _write_over(node, over)
                last[owner[over]] = last.get(node, place[node])
                owner |= {n: owner[over] for n, made in owner.items() if made is node}
    module.recompile()
    return module


def _candidates(node: fx.Node) -> list[fx.Node]:
    """The operands that may be written over."""
    some = arguments(node)[: 2 if node.target in SYMMETRIC and not node.kwargs else 1]
    return [value for value in some if isinstance(value, fx.Node)]


def _is_free(value: fx.Node, node: fx.Node, owner: dict[fx.Node, fx.Node], is_last: bool) -> bool:
    """Whether an operand's memory is read here for the last time, by this name alone, and is like the result."""
    names = [a for a in arguments(node) if isinstance(a, fx.Node) and owner[a] is owner[value]]
    return is_last and len(names) == 1 and alike(value, node)


def written(module: fx.GraphModule) -> tuple[int, ...]:
    """The inputs that a graph writes over."""
    owner, targets = owners(module.graph), set(OVER.values())
    hit = {owner[arguments(node)[0]] for node in module.graph.nodes if node.target in targets}
    inputs = (node for node in module.graph.nodes if node.op == "placeholder")
    return tuple(place for place, node in enumerate(inputs) if node in hit)


def stored(module: fx.GraphModule, dead: Collection[int]) -> list[int | None]:
    """Where each result is: in a dead input, or (None) among those that the graph still gives, in their order.

    Changes the graph: it copies results into dead inputs, each into the first like it. A compiler that writes loops over
    entries leaves the copies out and stores entries there, where nothing reads the old ones later.
    """
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    output = next(node for node in module.graph.nodes if node.op == "output")
    owner, free, places = owners(module.graph), sorted(dead), list[int | None]()
    with module.graph.inserting_before(output):
        for node in output.args[0]:
            own = owner[node].op == "call_function"
            place = next((place for place in free if own and alike(inputs[place], node)), None)
            places.append(place)
            if place is not None:
                free.remove(place)
                module.graph.call_function(aten.copy_.default, (inputs[place], node)).meta["val"] = node.meta["val"]
    output.args = (tuple(node for node, place in zip(output.args[0], places, strict=True) if place is None),)
    module.recompile()
    return places


def _write_over(node: fx.Node, over: fx.Node) -> None:
    """The operator in place, the operand that it writes over first."""
    given = arguments(node)
    node.args = given if given[0] is over else (given[1], given[0])
    node.target = OVER[node.target]
