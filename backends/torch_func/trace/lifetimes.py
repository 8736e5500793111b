"""The bytes that the arrays of a graph need at once, counted from their shapes: nothing is computed."""

from __future__ import annotations

from collections import Counter
from operator import getitem
from typing import Any

from torch import Tensor, fx

from bilevel.backends.torch_func.trace.nodes import aten

UNSAFE = (aten._unsafe_view.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default)
"""views whose declarations do not say so"""


def bytes_of(value: Any) -> int:
    """The bytes of a fake tensor, or of several."""
    if isinstance(value, tuple | list):
        return sum(map(bytes_of, value))
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def is_view(node: fx.Node) -> bool:
    """Whether a result shares the memory of the first input, or may."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    return node.target in (getitem, *UNSAFE) or (
        schema is not None and any(r.alias_info is not None for r in schema.returns)
    )


def owners(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """For every node the one that made its memory."""
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        source = node.all_input_nodes[0] if is_view(node) and node.all_input_nodes else node
        found[node] = found.get(source, source)
    return found


def peak_bytes(module: fx.GraphModule) -> int:
    """The most bytes alive at once of all that the nodes make, in their order; inputs are not counted.

    Of a module called inside (`slices.py`) its own peak counts beside what is alive around it.
    """
    owner = owners(module.graph)
    uses = Counter(owner[a] for node in module.graph.nodes for a in node.all_input_nodes)
    now = peak = 0
    for node in module.graph.nodes:
        made = bytes_of(node.meta.get("val")) if node.op in ("call_function", "call_module") else 0
        now += made * (owner[node] is node)
        inside = getattr(module.get_submodule(str(node.target)), "peak", 0) if node.op == "call_module" else 0
        peak = max(peak, now + inside)
        for source in node.all_input_nodes:
            uses[owner[source]] -= 1
            if not uses[owner[source]] and owner[source].op in ("call_function", "call_module"):
                now -= bytes_of(owner[source].meta.get("val"))
        if not uses[node] and owner[node] is node and not node.users:
            now -= made
    return peak
