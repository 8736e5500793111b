"""From a function of trees to a graph of aten operators, made smaller without changing a value.

Derivatives are taken while tracing, so that neither autograd nor functorch is left at run time. Tracing works on fake
tensors: what depends on a value, or calls code that is no tensor operator, fails here and is not frozen into a kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx._lazy_graph_module import _use_lazy_graph_module as made_when_read
from torch.fx.experimental.proxy_tensor import make_fx

from bilevel.backends.torch_func.trace.channels import by_channel
from bilevel.backends.torch_func.trace.convolutions import faster_convolutions
from bilevel.backends.torch_func.trace.fused import fused
from bilevel.backends.torch_func.trace.joins import rejoined
from bilevel.backends.torch_func.trace.layouts import channels_last, has_images
from bilevel.backends.torch_func.trace.nodes import replace, tensor_of
from bilevel.backends.torch_func.trace.normalising import written_out
from bilevel.backends.torch_func.trace.pooling import pooled_first
from bilevel.backends.torch_func.trace.products import rewritten
from bilevel.backends.torch_func.trace.signature import as_tensor, mapped, template
from bilevel.backends.torch_func.trace.simplify import simplified
from bilevel.garbage import uncollected


@dataclass(frozen=True, slots=True)
class Traced:
    """A graph of some of the inputs; where each result comes from, (True, input) or (False, output of the graph)."""

    module: fx.GraphModule
    inputs: tuple[int, ...]
    sources: tuple[tuple[bool, int], ...]
    form: Any
    """the result with slots in place of its tensors"""

    @property
    def size(self) -> int:
        """The number of operators."""
        return sum(node.op == "call_function" for node in self.module.graph.nodes)

    @property
    def bytes(self) -> int:
        """The bytes of all that the operators make, views included."""
        values = [tensor_of(node) for node in self.module.graph.nodes if node.op == "call_function"]
        return sum(value.numel() * value.element_size() for value in values if value is not None)


@uncollected()
def trace(function: Callable[..., Any], arguments: tuple[Any, ...], leaves: list[Any], dtype: torch.dtype) -> Traced:
    """The function for arguments of this form; raises whatever tracing raises.

    Invariant: all inputs are distinct tensors, since tracing takes identical ones for one and the same.
    """
    device = next((leaf.device for leaf in leaves if isinstance(leaf, Tensor)), torch.device("cpu"))
    inputs = [torch.empty_like(as_tensor(leaf, dtype, device)) for leaf in leaves]
    forms: list[Any] = []

    def flat(*given: Tensor) -> list[Tensor]:
        values = iter(given)
        result = function(*mapped(arguments, lambda leaf: _given(leaf, next(values))))
        forms.append(template(result))
        found: list[Tensor] = []
        mapped(result, lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) else None)
        return [tensor.contiguous() for tensor in found]

    def made() -> fx.GraphModule:
        with torch.no_grad(), made_when_read(True):  # the text of a module: it is rewritten, or compiled, before
            # Which function of torch an operator came from would be noted by a mode around every call: nothing reads it.
            return make_fx(
                functionalize(flat),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
                _disable_torch_fn_metadata_mode=True,
            )(*inputs)

    module = made()
    held = constants(module)
    if held and not all(_unchanged(a, b) for a, b in zip(held, constants(made()), strict=True)):
        raise TypeError("it makes tensors of values that torch cannot follow")
    return _reduced(module, forms[-1])


def constants(module: fx.GraphModule) -> list[Tensor]:
    """Tensors that a graph holds: data and buffers from outside, and literals in the code."""
    return [getattr(module, node.target) for node in module.graph.nodes if node.op == "get_attr"]


def _unchanged(first: Tensor, second: Tensor) -> bool:
    """Whether a constant is the same when a function is traced again.

    What is no operator of torch (numpy, say) makes a tensor of the values that it meets while tracing.
    """
    return first is second or (first.shape == second.shape and torch.equal(first, second))


def _given(leaf: Any, value: Tensor) -> Any:
    """What the function gets for a leaf: the steps of a run one by one."""
    return list(value.unbind()) if isinstance(leaf, range) else value


def _once(module: fx.GraphModule) -> fx.GraphModule:
    """Every operator on the same values once; in place, where torch's own pass copies the graph and its text.

    Numbers are the same where type and digits are: of whole numbers, x + 1 and x + 1.0 differ.
    """
    known: dict[Any, fx.Node] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_function":
            first = known.setdefault((node.target, _exactly(node.args), _exactly(node.kwargs)), node)
            if first is not node:
                replace(node, first)
    module.graph.eliminate_dead_code()
    return module


def _exactly(value: Any) -> Any:
    """Arguments as a key, equal for the same values alone."""
    if isinstance(value, list | tuple):
        return tuple(map(_exactly, value))
    if isinstance(value, dict):
        return tuple((name, _exactly(one)) for name, one in value.items())
    return value if isinstance(value, fx.Node) else (type(value), repr(value))


def _reduced(module: fx.GraphModule, form: Any) -> Traced:
    """Only operators that a result needs, each once, and only inputs that are read.

    What rewrites the graph leaves the module's text as it was: it is made once, when somebody runs it.
    """
    module.graph.eliminate_dead_code()
    module = simplified(module)
    module = _once(rewritten(rejoined(_once(module))))
    if has_images(module):
        module = _once(written_out(pooled_first(faster_convolutions(module))))
        module = _once(channels_last(by_channel(module)))
    module = fused(module)
    graph = module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    output = next(node for node in graph.nodes if node.op == "output")
    computed = list(dict.fromkeys(node for node in output.args[0] if node.op != "placeholder"))
    sources = tuple(
        (True, placeholders.index(node)) if node.op == "placeholder" else (False, computed.index(node))
        for node in output.args[0]
    )
    output.args = (tuple(computed),)
    read = [place for place, node in enumerate(placeholders) if node.users]
    for node in placeholders:
        if not node.users:
            graph.erase_node(node)
    module.recompile()
    return Traced(module, tuple(read), sources, form)


def reason_of(error: Exception) -> str:
    """Why a function cannot be traced, or recorded, in a line."""
    kind = type(error).__name__
    if "DataDependent" in kind:
        return "its Python code looks at values"
    return f"{kind}: {str(error).strip().partition(chr(10))[0]}"
