"""Derivatives that operators of built parts do not have: a walk of the graphs that their calls leave behind. B616.

One hypergradient of the plan runs on tensors without numbers, and what each network and each registered function is
called with is kept. Each is then called once more by itself: its graph shows the `autograd.Function`s in it, whose
declarations say what they lack, and torch says of its own operators which derivative they miss.

Declarations have to be read, since no error comes: under `torch.func` the second derivative of a function whose
backward is `once_differentiable` is zero, without a word (torch 2.13).
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.func import functional_call, grad, jvp, vjp
from torch.utils._pytree import tree_flatten, tree_unflatten

from bilevel.backends.torch_func.attention import FUSED, attends, function_calls, unfused
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.norms import normalises_natively, written_norms
from bilevel.binding import Parts
from bilevel.errors import Diagnostic, RecipeError, pass_on
from bilevel.facts import Facts
from bilevel.lacks import Derivatives, Lack, Missing, Part, What, first_lacks
from bilevel.plan import Plan
from bilevel.registry import MARK, GradientSolver, Registration

MOST = 4
"""calls of one part that are looked at, of different shapes"""
KINKED = {
    "relu", "leaky_relu", "prelu_kernel", "threshold", "hardtanh", "hardswish", "hardsigmoid", "clamp", "clamp_min",
    "clamp_max", "abs", "max", "min", "amax", "amin", "maximum", "minimum", "sort", "topk", "median", "kthvalue",
    "cummax", "cummin", "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "smooth_l1_loss",
    "huber_loss", "elu", "rrelu_with_noise",
}  # fmt: skip
"""operators with kinks in themselves or in their derivative, as torch calls their nodes"""
FLAT = {"round", "floor", "ceil", "trunc", "sign", "sgn", "NotImplemented"}
"""operators whose derivative is zero wherever it exists"""


OURS = ("bilevel.recipes.", "torch.nn.modules.")
SEPARATE = ("torch.nn.modules.rnn", "torch.nn.modules.sparse", "torch.nn.modules.loss", "torch.nn.modules.adaptive")
"""modules of torch whose layers may call operators without all derivatives"""


def found_derivatives(plan: Plan, parts: Parts, every: bool = False) -> Derivatives:
    """By name of a part, what its operators lack and where it has kinks; raises B616 for what nothing can do without.

    Parts made of torch's common layers and the packaged functions lack nothing, and are walked only where `every`
    part is wanted, for people to read. Cost: one hypergradient and a few calls of every part, without numbers. Parts
    that need numbers are left out.
    """
    seen = _Seen()
    if not every and all(map(_is_known, parts.objects.values())):
        return {}
    with suppress(Exception):  # what cannot be traced is said by the plan, where costs are counted
        _call_all(plan, parts, seen)
    met = {name: tuple(calls) for name, calls in seen.calls.items()}  # to look at them is to call them again
    found = {name: _merged([_examined(call, parts.device) for call in calls]) for name, calls in met.items()}
    known = {name: part for name, part in found.items() if part.lacks or part.kinks or part.flat}
    _check(plan, known)
    return known


def _is_known(part: Any) -> bool:
    """Whether a part is no code of the caller's, or a module of layers that have every derivative."""
    if isinstance(part, nn.Module):
        names = {type(module).__module__ for module in part.modules()}
        return all(name.startswith(OURS) and not name.startswith(SEPARATE) for name in names)
    if isinstance(part, tuple | list):
        return all(map(_is_known, part))
    function = part.update if isinstance(part, GradientSolver) else part
    return not inspect.isfunction(function) or function.__module__.startswith(OURS)


def _merged(parts: list[Part]) -> Part:
    lacks = dict.fromkeys(lack for part in parts for lack in part.lacks)
    kinks = dict.fromkeys(kink for part in parts for kink in part.kinks)
    return Part(tuple(lacks), tuple(kinks), bool(parts) and all(part.flat for part in parts))


# ---- what parts are called with ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Call:
    """A part with the shapes of one call; `copies`: it was called for all copies at once; `steps`: of a solver."""

    part: Any
    shapes: tuple[Any, ...]
    form: Any
    copies: bool
    steps: bool = False


@dataclass(slots=True)
class _Seen:
    """Calls by name of the part, of different shapes."""

    calls: dict[str, list[_Call]] = field(default_factory=dict)

    def note(self, name: str, part: Any, arguments: Any, more: Any, steps: bool = False) -> None:
        """Keep the shapes of a call; `more`: tensors whose copies count as well."""
        leaves, form = tree_flatten(arguments)
        shapes = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        copies = any(_is_mapped(leaf) for leaf in (*leaves, *more) if isinstance(leaf, Tensor))
        call, known = _Call(part, shapes, form, copies, steps), self.calls.setdefault(name, [])
        if call not in known and len(known) < MOST:
            known.append(call)


def _is_mapped(leaf: Tensor) -> bool:
    while _functorch.is_functorch_wrapped_tensor(leaf):
        if _functorch.is_batchedtensor(leaf):
            return True
        leaf = _functorch.get_unwrapped(leaf)
    return False


def _call_all(plan: Plan, parts: Parts, seen: _Seen) -> None:
    """One hypergradient of every outermost level, of as few steps as the plan allows."""
    from bilevel import pipeline
    from bilevel.costs import reference
    from bilevel.estimates import Estimator
    from bilevel.tracing import cut, load

    estimator = Estimator(plan.program, plan.facts, parts, reference())
    tracer = estimator.tracer
    tracer.parts = watched = _watched(tracer.parts, seen)
    known: dict[str, Any] = {}
    key = make_key(0, "meta")
    for level in plan.program.levels:
        with suppress(Exception):
            _, point, knobs = tracer.points(plan, level.name, estimator.steps, estimator.products(plan))[0]
            phase = next(p for p in load(pipeline.emit(cut(plan, knobs, point)), watched) if p.name == level.name)
            given = [known[n] for n in phase.reads]
            state = phase.begin(key, *given)
            known |= phase.values(state)
            with torch.no_grad():
                phase.hypergradient(state, key, *given)


def _watched(parts: Parts, seen: _Seen) -> Parts:
    """The parts with every network, function, solver and estimator telling what it is called with."""
    return replace(parts, objects={name: _watching(name, part, seen) for name, part in parts.objects.items()})


def _watching(name: str, part: Any, seen: _Seen) -> Any:
    if isinstance(part, nn.Module):

        def before(module: nn.Module, arguments: Any) -> None:
            seen.note(name, module, arguments, module.parameters())

        part.register_forward_pre_hook(before)
        return part
    if isinstance(part, GradientSolver):
        return _watching_steps(name, part, seen)
    if _is_estimator(part):
        return _watching_estimates(name, part, seen)
    if inspect.isfunction(part):

        @functools.wraps(part)
        def told(*arguments: Any) -> Any:
            seen.note(name, part, arguments, ())
            return part(*arguments)

        return told
    if isinstance(part, tuple | list):
        items = [_watching(name, item, seen) for item in part]
        return type(part)(*items) if hasattr(part, "_fields") else type(part)(items)
    return part


def _watching_steps(name: str, part: GradientSolver, seen: _Seen) -> GradientSolver:
    """A registered solver as a function of gradient, state, x, count and options, told by its steps."""

    @functools.wraps(part.update)
    def step(gradient: Any, state: Any, x: Any, count: Any, options: Mapping[str, Any]) -> Any:
        return part.update(x, state, gradient, count, **options)

    def told(x: Any, state: Any, gradient: Any, count: Any, **options: Any) -> Any:
        seen.note(name, step, (gradient, state, x, count, options), (), steps=True)
        return part.update(x, state, gradient, count, **options)

    return replace(part, update=told)


def _is_estimator(part: Any) -> bool:
    mark = getattr(part, MARK, None)
    return isinstance(mark, Registration) and mark.description.kind == "estimator"


def _watching_estimates(name: str, part: Any, seen: _Seen) -> Any:
    """A registered estimator of the gradient of some smooth function, since the objective is looked at by itself."""

    @functools.wraps(part)
    def estimate(x: Any, key: Tensor, options: Mapping[str, Any]) -> Any:
        def losses(x: Any) -> Tensor:
            return cast(Tensor, sum(leaf.square().reshape(*key.shape, -1).sum(-1) for leaf in tree_flatten(x)[0]))

        return part(losses, x, key, **options)

    @functools.wraps(part)
    def told(losses: Any, x: Any, key: Tensor, **options: Any) -> Any:
        seen.note(name, estimate, (x, key, options), ())
        return part(losses, x, key, **options)

    return told


# ---- one part ------------------------------------------------------------------------------------------------


def _examined(call: _Call, device: torch.device) -> Part:
    """What one call of a part lacks."""
    with suppress(Exception), _kernel(call.part):
        function, inputs = _as_function(call, device)
        nodes = _graph(function, inputs)
        if nodes is None:
            return Part((Lack(_name(call.part), "first", "no derivative passes through it", _place(call.part)),))
        own = [lack for kind in _customs(nodes) for lack in _declared(kind, call.copies)]
        missing = {lack.what for lack in own}
        kinks = tuple(sorted({name for name in map(_operator, nodes) if name in KINKED}))
        flat = call.steps and _moves_flatly(call, device)
        if "first" in missing:
            return Part(tuple(own), kinks, flat)
        return Part((*own, *_refused(function, inputs, missing)), kinks, flat)
    return Part()


def _moves_flatly(call: _Call, device: torch.device) -> bool:
    """Whether the next point of a registered solver has the derivative zero in its gradient and in its state."""

    @functools.wraps(call.part)
    def moved(gradient: Any, state: Any, *others: Any) -> Any:
        return call.part(gradient, state, *others)[0]

    function, inputs = _as_function(replace(call, part=moved), device)
    real = [isinstance(shape, tuple) and shape[1].is_floating_point for shape in call.shapes]
    gradient, state, *_ = tree_unflatten(real, call.form)
    count = sum(tree_flatten((gradient, state))[0])
    return count > 0 and _graph(lambda *given: function(*given, *inputs[count:]), inputs[:count]) is None


@contextmanager
def _kernel(part: Any) -> Iterator[None]:
    """The kernels that the run takes."""
    fused = not (isinstance(part, nn.Module) and attends(part))
    with nullcontext() if fused else unfused(), written_norms(normalises_natively(inspect.unwrap(part))):
        yield


def _as_function(call: _Call, device: torch.device) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The sum of all that a part gives, as a function of its real arguments and parameters; and such arguments.

    On the meta device, unless torch would choose another kernel there: then zeros on the device of the run.
    """
    fused = inspect.isfunction(call.part) and function_calls(call.part, FUSED, set())
    place = device if fused else torch.device("meta")
    leaves = [torch.zeros(s[0], dtype=s[1], device=place) if isinstance(s, tuple) else s for s in call.shapes]
    real = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    held = dict(call.part.named_parameters()) if isinstance(call.part, nn.Module) else {}
    names = list(held)

    def function(*inputs: Tensor) -> Tensor:
        filled = list(leaves)
        for place, value in zip(real, inputs, strict=False):
            filled[place] = value
        arguments = tree_unflatten(filled, call.form)
        own = dict(zip(names, inputs[len(real) :], strict=True))
        value = functional_call(call.part, own, arguments) if names else call.part(*arguments)
        parts = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        return cast(Tensor, sum(leaf.sum() for leaf in parts))

    return function, (*(cast(Tensor, leaves[i]) for i in real), *(held[n].detach() for n in names))


def _graph(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> list[Any] | None:
    """The nodes between a value and its inputs, flat ones left out with what is behind them; None without any."""
    given = tuple(leaf.detach().requires_grad_() for leaf in inputs)
    with torch.enable_grad():
        root = function(*given).grad_fn
    if root is None:
        return None
    parents: dict[Any, list[Any]] = {root: []}
    ahead, ends = [root], []
    while ahead:
        node = ahead.pop()
        if type(node).__name__ == "AccumulateGrad":
            ends.append(node)
        for other, _ in () if _operator(node) in FLAT else node.next_functions:
            if other is not None and other not in parents:
                ahead.append(other)
            if other is not None:
                parents.setdefault(other, []).append(node)
    return _behind(ends, parents) or None


def _behind(ends: list[Any], parents: dict[Any, list[Any]]) -> list[Any]:
    """The nodes from which one gets to `ends`."""
    found, ahead = dict.fromkeys(ends), list(ends)
    while ahead:
        new = [node for node in parents[ahead.pop()] if node not in found]
        found |= dict.fromkeys(new)
        ahead += new
    return list(found)


def _operator(node: Any) -> str:
    """`ReluBackward0` as `relu`, `MaxPool2DWithIndicesBackward0` as `max_pool2d_with_indices`."""
    name = re.sub(r"Backward\d*$", "", type(node).__name__)
    if name == "NotImplemented":
        return name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=\d)(?=[A-Z][a-z])", "_", name).lower().replace("2_d_", "2d_")


def _customs(nodes: list[Any]) -> Iterator[type[torch.autograd.Function]]:
    """The classes of autograd functions among the nodes, each once."""
    kinds = (getattr(node, "_forward_cls", None) for node in nodes)
    yield from dict.fromkeys(kind for kind in kinds if kind is not None)


def _declared(kind: type[torch.autograd.Function], copies: bool) -> Iterator[Lack]:
    """What a class of autograd functions says that it lacks."""
    name, at, base = kind.__name__, _place(kind), torch.autograd.Function

    def lack(what: What, why: str) -> Lack:
        return Lack(name, what, why, at)

    if kind.setup_context is base.setup_context:
        yield lack("first", "torch.func needs a `setup_context` beside `forward`")
        return
    if kind.jvp is base.jvp:
        yield lack("forward", "it has no `jvp`")
    if _once(kind.backward):
        yield lack("second", "its `backward` is `once_differentiable`")
    if copies and not kind.generate_vmap_rule and kind.vmap is base.vmap:
        yield lack("copies", "it has neither `generate_vmap_rule = True` nor a `vmap`")


def _once(backward: Any) -> bool:
    """Whether a backward stands below `@once_differentiable`, which leaves its mark in the code that runs."""
    code = getattr(backward, "__code__", None)
    return code is not None and hasattr(backward, "__wrapped__") and code.co_filename == _autograd_file()


def _autograd_file() -> str:
    return torch.autograd.function.once_differentiable.__code__.co_filename


def _refused(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], known: set[What]) -> Iterator[Lack]:
    """What torch says of its own operators; a kind of derivative that is known to be missing is not tried."""
    places = tuple(range(len(inputs)))
    slope = grad(function, argnums=places)
    tries: list[tuple[What, Callable[[], object]]] = [
        ("first", lambda: slope(*inputs)),
        ("forward", lambda: jvp(function, inputs, inputs)),
        ("forward", lambda: jvp(slope, inputs, inputs)),
        ("second", lambda: vjp(slope, *inputs)[1](inputs)),
    ]
    for what, attempt in tries:
        if what in known:
            continue
        try:
            attempt()
        except (NotImplementedError, RuntimeError) as error:
            pass_on(error)
            operator = _blamed(str(error))
            if operator is not None:
                known = {*known, what}
                yield Lack(operator, what, " ".join(str(error).partition("\n")[0].split())[:100])


BLAMED = (
    re.compile(r"forward AD with (\S+) that does not support it"),
    re.compile(r"derivative for '?(?:aten::)?(\w+)'? is not implemented"),
)


def _blamed(text: str) -> str | None:
    """The operator that torch names in one of its messages."""
    found = next((match for pattern in BLAMED if (match := pattern.search(text))), None)
    return None if found is None else found[1]


def _name(part: Any) -> str:
    return part.__name__ if inspect.isfunction(part) else type(part).__name__


def _place(part: Any) -> str:
    """`parts.py:12`, where a class or function is defined; empty where that is not known."""
    with suppress(OSError, TypeError):
        kind = inspect.unwrap(part) if inspect.isclass(part) or inspect.isfunction(part) else type(part)
        return f"{Path(inspect.getfile(kind)).name}:{inspect.getsourcelines(kind)[1]}"
    return ""


# ---- what nothing can do without -----------------------------------------------------------------------------


def _check(plan: Plan, known: Derivatives) -> None:
    """B616: a level whose own solver, or whose copies, ask for what an operator lacks."""
    problems = dict.fromkeys(
        _lacking(plan.facts, level.name, missing)
        for level in plan.program.walk_levels()
        for missing in first_lacks(plan.program, level, bool(plan.facts[level.name].targets), known)
    )
    if problems:
        raise RecipeError(list(problems))


def _lacking(facts: Facts, level: str, missing: Missing) -> Diagnostic:
    lack = missing.lack
    fixes: dict[What, str] = {
        "first": 'a `setup_context` beside a `forward` without ctx (torch.autograd.Function, "Extending torch.func")',
        "second": "a `backward` made of operators that have derivatives, without `once_differentiable`",
        "copies": "generate_vmap_rule = True  in the class",
        "forward": "",
    }
    return Diagnostic(
        "B616",
        str(lack),
        missing.span,
        label=f"which `{level}` asks for" if lack.what != "copies" else f"which `{level}` is solved for",
        why=lack.why,
        fix=fixes[lack.what] if lack.at else "operators that have one",
    )
