"""What runs the graph of a kernel: its own Python text (fx), or code that Inductor compiles for it.

Where the time of small networks goes, with Inductor on one core (25 networks 1-40-40-1 on 10 points, 5 steps and their
way back as one graph, 0.62 ms): 43 products of 10 x 40 x 40 for 25 networks each, 4.5 to 7 us by the loop in `small.cpp`
(12.5 by MKL, with which it was 0.86 ms), are 0.25 ms; the rest are passes over the weights and the calls. Tried without
gain: products as multiply-and-sum, Inductor's own matrix products, its C++ wrapper (6% less time, twice the compile
time). Longer runs go in chunks whose way back computes the activations of the way forth again, and reads states that no
longer fit the cache. Cutting the graph of 5 steps and their way back so that the way forth hands on its products gained
2 to 4% at T = 20 and lost at T = 100; runs of 10 steps gained 5%, for graphs of twice the size to compile (both measured
with MKL's products, on one core).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, fx
from torch.fx._lazy_graph_module import _LazyGraphModule

from bilevel.backends.torch_func.trace.biases import apart
from bilevel.backends.torch_func.trace.elementary import written_out
from bilevel.backends.torch_func.trace.flattened import flattened, relaid
from bilevel.backends.torch_func.trace.fused import fused
from bilevel.backends.torch_func.trace.graph import Traced
from bilevel.backends.torch_func.trace.joins import turned_joins
from bilevel.backends.torch_func.trace.libraries import chosen
from bilevel.backends.torch_func.trace.nodes import aten
from bilevel.backends.torch_func.trace.pieces import compiled_alone, in_pieces
from bilevel.backends.torch_func.trace.reuse import reused, stored, written
from bilevel.backends.torch_func.trace.slices import LARGE, Loop, sliced
from bilevel.errors import fail, pass_on
from bilevel.garbage import uncollected

Kind: TypeAlias = Literal["none", "fx", "inductor", "fx+graphs", "inductor+graphs"]
KINDS: tuple[Kind, ...] = ("none", "fx", "inductor", "fx+graphs", "inductor+graphs")
"""with graphs: every kernel is recorded on the GPU once, and replayed (`replays.py`)"""
Compiled: TypeAlias = Callable[..., Sequence[Tensor]]


def _by_kind(none: int = 0, fx: int = 0, inductor: int = 0, recorded: int = 0) -> dict[Kind, int]:
    """A number for each kind; with graphs, whatever runs the kernels."""
    return {"none": none, "fx": fx, "inductor": inductor, "fx+graphs": recorded, "inductor+graphs": recorded}


LARGEST: dict[Kind, int] = _by_kind(fx=600, inductor=600, recorded=600)
"""The most operators of one run of steps: the time to compile grows with them, what is saved in a call does not."""
LONGEST: dict[Kind, int] = _by_kind(none=1, fx=1, inductor=5, recorded=5)
"""The most steps of one run: fx gains nothing by more than one, the others the way from and to Python."""
WHOLE: dict[Kind, int] = _by_kind(fx=2, inductor=2, recorded=2)
"""The steps of levels inside, forth and back, up to which a function becomes one kernel whatever its size."""
LARGEST_WHOLE: dict[Kind, int] = _by_kind(inductor=800, recorded=800)
"""The most operators of steps inside, forth and back, of a function that becomes one kernel as a whole."""
HASHED = 8
"""The most operators that Inductor writes into a reader of whole numbers that are hashed."""
MOST_KEPT = 64 << 20
"""The most bytes that those operators make: one graph keeps for the way back what it has computed on the way forth."""


def compiled(traced: Traced, inputs: list[Tensor], kind: Kind) -> Compiled:
    """The graph as a function of its inputs; its products are given to who is fastest at them."""
    return compiled_over(traced, inputs, kind, ())[0]


@uncollected()
def compiled_over(
    traced: Traced, inputs: list[Tensor], kind: Kind, dead: Collection[int]
) -> tuple[Compiled, tuple[int, ...]]:
    """The graph as a function of its inputs, and those of the `dead` inputs that it writes results over.

    `dead`: of the graph's inputs those that nothing reads afterwards, and that are no results.
    """
    if not any(node.op == "call_function" for node in traced.module.graph.nodes) or base(kind) == "fx":
        return _as_text(traced.module, _is_here(inputs), traced.bytes >= LARGE, dead)
    if inputs and inputs[0].device.type != "cpu":
        return _by_inductor(traced.module, inputs, {}), ()
    in_slices = _in_slices(traced, inputs)
    if in_slices is not None or not dead:
        return in_slices or _compiled(traced.module, inputs), ()
    return _compiled_over(traced.module, inputs, dead)


def _in_slices(traced: Traced, inputs: list[Tensor]) -> Compiled | None:
    """A large graph in slices, the bodies of its loops and what is between them compiled; None where there are no loops."""
    module = sliced(traced.module) if traced.bytes >= LARGE and _is_here(inputs) else traced.module
    if not loops_of(module):
        return None
    whole = in_pieces(module, _compiled)
    for loop in loops_of(whole):
        loop.run = compiled_alone(loop.body, _compiled)
    run: Compiled = whole.forward
    return run


def loops_of(module: fx.GraphModule) -> list[Loop]:
    """The loops over slices that a graph runs."""
    return [loop for loop in module.children() if isinstance(loop, Loop)]


def _compiled_over(
    module: fx.GraphModule, inputs: list[Tensor], dead: Collection[int]
) -> tuple[Compiled, tuple[int, ...]]:
    """A graph on a CPU by Inductor, which stores some of its results in dead inputs; and these."""
    module = _copied(module)  # whoever has the graph too would write over inputs as well
    places = stored(module, dead)
    # Inputs that are one tensor now are taken to be so ever after by who compiles writes to them.
    run = _compiled(module, [torch.empty_like(one) for one in inputs])

    def whole(*given: Tensor) -> list[Tensor]:
        made = iter(run(*given))
        return [next(made) if place is None else given[place] for place in places]

    return whole, tuple(place for place in places if place is not None)


def _compiled(given: fx.GraphModule, inputs: list[Tensor]) -> Compiled:
    """A graph on a CPU by Inductor, its products given to who is fastest at them."""
    module = chosen(written_out(apart(turned_joins(given))), inductor=True)
    from bilevel.backends.torch_func.trace import ahead

    ahead.begun(next((x.dtype for x in inputs if x.is_floating_point()), torch.float32)).wait(ahead.PATIENCE)
    more = _for_hashes(module)
    try:
        return _by_inductor(module, inputs, {**ahead.options(), **more})
    except Exception as error:
        pass_on(error)
        if (options := ahead.narrower()) is None:
            raise _told(error) from error
    try:
        return _by_inductor(module, inputs, {**options, **more})
    except Exception as error:
        pass_on(error)
        raise _told(error) from error


def _for_hashes(module: fx.GraphModule) -> dict[str, Any]:
    """Options for a graph with random numbers, which are hashes: every value of theirs is read twice by the next.

    Inductor writes an operator into each of its readers until 30 come together, and takes time for each way through
    them, 2 to the number of values in a chain: 58 s for the random start of a network of 200 units, 6 s in this way.
    """
    hashed = any(
        node.target in (aten.__rshift__.Scalar, aten.bitwise_right_shift.Tensor_Scalar) for node in module.graph.nodes
    )
    return {"realize_opcount_threshold": HASHED} if hashed else {}


def _told(error: Exception) -> Exception:
    """B712 where the C++ compiler has refused what Inductor wrote; whatever else has happened as it is."""
    from torch._inductor.exc import CppCompileError

    refused = getattr(error, "inner_exception", error)
    if not isinstance(refused, CppCompileError):
        return error
    lines = [line.strip() for line in refused.output.splitlines() if line.strip()]
    said = next((line for line in lines if "error" in line), lines[0] if lines else "it says nothing")
    return fail(
        "B712",
        f"no inductor kernels here: `{refused.cmd[0]}` does not compile them",
        why=f"it says: {said[:200]}",
        fix="--compile fx, which needs no compiler; or CXX=... in the environment, a newer one (g++ 11 or later, clang 14 or later)",
    )


def _as_text(
    module: fx.GraphModule, is_here: bool, is_large: bool, dead: Collection[int]
) -> tuple[Compiled, tuple[int, ...]]:
    """The graph by its own Python text: on a CPU a large one in slices, with results written over what is not read again.

    One of small arrays with fewer operators, since the time is that of asking for them.
    """
    if is_here and is_large:
        return _large_as_text(_copied(module) if dead else module, dead)
    chosen(module, inductor=False)
    if is_here:
        _with_fewer(module)
    return _text(module), ()


def _large_as_text(module: fx.GraphModule, dead: Collection[int]) -> tuple[Compiled, tuple[int, ...]]:
    """A large graph by its text, and the dead inputs that it writes over."""
    module = sliced(module)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    for part in (module, *(loop.body for loop in loops_of(module))):
        chosen(part, inductor=False)
        reused(part, [inputs[place] for place in dead] if part is module else ())
    over = written(module)
    if not set(over) <= set(dead):
        raise ValueError("a graph writes over an input that somebody may read")
    return _text(module), over


def _text(module: fx.GraphModule) -> Compiled:
    """What runs the text of a graph, made now: a method that makes it first would look for it in every call."""
    _LazyGraphModule.force_recompile(module)
    forward: Compiled = module.forward
    return forward


def _copied(module: fx.GraphModule) -> fx.GraphModule:
    """The same operators in a graph of their own."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    return fx.GraphModule(module, graph)


def _with_fewer(module: fx.GraphModule) -> None:
    """Let a graph of small arrays ask for fewer operators."""
    before = list(module.graph.nodes)
    flattened(fused(relaid(module), beside_products=True))
    if list(module.graph.nodes) != before:
        module.recompile()


def _is_here(inputs: Sequence[Tensor]) -> bool:
    return all(value.device.type == "cpu" for value in inputs)


def _by_inductor(module: fx.GraphModule, inputs: list[Tensor], options: dict[str, Any]) -> Compiled:
    from torch._inductor import compile as compile_graph

    from bilevel.backends.torch_func.trace.batches import together

    with torch.no_grad(), together(), _kept(module, inputs):
        made: Any = compile_graph(module, list[Any](inputs), options=options)
    result: Compiled = made
    return result


def _kept(module: fx.GraphModule, inputs: list[Tensor]) -> AbstractContextManager[Any]:
    """While it lasts, Inductor takes what an earlier process made of the same graph, on the processor, and keeps it.

    Not for a graph that holds tensors: what is kept should depend on a graph's text alone. A GPU was not tried.
    """
    if any(node.op == "get_attr" for node in module.graph.nodes) or any(x.device.type != "cpu" for x in inputs):
        return nullcontext()
    from torch._guards import TracingContext, tracing
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Without an environment of shapes nothing is looked up; with a static one no shape becomes a symbol.
    shapes = ShapeEnv(assume_static_by_default=True)
    return tracing(TracingContext(FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)))


def base(kind: Kind) -> str:
    """What runs the graphs of kernels: none, fx or inductor."""
    return kind.partition("+")[0]


def has_graphs(kind: Kind) -> bool:
    """Whether kernels are recorded on the device."""
    return kind.endswith("+graphs")


def begin(kind: Kind, device: torch.device, dtype: torch.dtype) -> None:
    """Begin with what a compiler does once, where there will be work for it."""
    if kind == "inductor" and device.type == "cpu":
        from bilevel.backends.torch_func.trace import ahead

        ahead.begun(dtype)


def why_not(kind: Kind, device: torch.device) -> str | None:
    """What is missing here for a kind of kernel, None where nothing is."""
    if has_graphs(kind) and device.type != "cuda":
        return f"no GPU to record graphs on, the device is {device}"
    if base(kind) == "inductor" and device.type == "cpu" and compiler() is None:
        return "no C++ compiler"
    if base(kind) == "inductor" and device.type == "cpu" and not _can_wrap():
        return f"PyTorch {torch.__version__}, whose Inductor cannot be told that whole numbers wrap around"
    if base(kind) == "inductor" and device.type == "cuda":
        return None if find_spec("triton") else "no Triton"
    return None


def _can_wrap() -> bool:
    from bilevel.backends.torch_func.trace import wrapping

    return wrapping.can_be_told()


def compiler() -> str | None:
    """The C++ compiler that Inductor would call."""
    from torch._inductor import config

    named: Any = config.cpp.cxx
    candidates = named if isinstance(named, tuple | list) else (named,)
    return next((found for name in candidates if name and (found := shutil.which(name))), None)
