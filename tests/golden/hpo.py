"""hpo: emitted by bilevel 0.1.0, plan 76b97d, hypergradients exact. Needs torch alone.

    phase, = build(net=..., data=...)
    key = make_key(seed)
    state = phase.begin(key)
    state, value = phase.step(state, key)      # as often as phase.steps says

Comments name the recipe lines. Values of copied levels have the copies as leading axes.
"""

from __future__ import annotations

import hashlib
import math
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import CodeType, FunctionType
from itertools import pairwise
from typing import Any, NamedTuple, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, jvp, vjp, vmap

# ---- runtime


def fail(code, message, why="", fix=""):
    """An error in the compiler's words, without its printer."""
    return ValueError("\n".join(part for part in (f"[{code}] {message}", why, fix) if part))


GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number


FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9


SECOND = -7723592293110705685  # 0x94D049BB133111EB


MASK = (1 << 64) - 1


def mix(z: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 tensors of any shape; products wrap around, shifts are logical."""
    z = (z >> 30).bitwise_and_((1 << 34) - 1).bitwise_xor_(z).mul_(FIRST)
    z = (z >> 27).bitwise_and_((1 << 37) - 1).bitwise_xor_(z).mul_(SECOND)
    return (z >> 31).bitwise_and_((1 << 33) - 1).bitwise_xor_(z)


def make_key(seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The key of a run, int64[]."""
    return mix(torch.tensor(seed, dtype=torch.int64, device=device) * GOLDEN + 1)


def fold(key: Tensor, *words: str | int | Tensor) -> Tensor:
    """The key of a part of what `key` stands for: a draw by its name, a step or a copy by its number.

    A tensor of numbers gives a tensor of keys: `fold(key, torch.arange(5))` has shape key.shape + [5].
    """
    for word in words:
        if isinstance(word, Tensor):
            key = mix(mix(key[..., None] + GOLDEN) ^ mix(word.to(key.device, torch.int64) * GOLDEN + 3))
        else:
            key = mix(mix(key + GOLDEN) ^ mixed_number(_number(word)))
    return key


def mixed_number(number: int) -> int:
    """mix(number * GOLDEN + 3) as a signed number of 64 bits: what a word adds to a key, known without a tensor."""
    z = (number * GOLDEN + 3) & MASK
    z = ((z ^ (z >> 30)) * FIRST) & MASK
    z = ((z ^ (z >> 27)) * SECOND) & MASK
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


def _number(word: str | int) -> int:
    """A whole number below 2**62 that stands for a name."""
    if isinstance(word, int):
        return word
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 2


def bits(key: Tensor, *shape: int) -> Tensor:
    """Random int64 of shape key.shape + shape."""
    count = math.prod(shape)
    positions = torch.arange(1, count + 1, dtype=torch.int64, device=key.device)
    return mix(mix(key[..., None] + positions * GOLDEN) ^ key[..., None]).reshape((*key.shape, *shape))


def uniform(
    key: Tensor, *shape: int, low: float = 0.0, high: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Uniform numbers in [low, high), shape key.shape + shape; made in float64, so that all dtypes agree."""
    unit = ((bits(key, *shape) >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
    return (low + (high - low) * unit).to(dtype)


def normal(
    key: Tensor, *shape: int, mean: float = 0.0, deviation: float = 1.0, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Normal numbers, shape key.shape + shape, by the transform of Box and Muller; made in float64."""
    radius = torch.sqrt(-2.0 * torch.log1p(-uniform(fold(key, 1), *shape, dtype=torch.float64)))
    angle = 2.0 * math.pi * uniform(fold(key, 2), *shape, dtype=torch.float64)
    return (mean + deviation * radius * torch.cos(angle)).to(dtype)


def choose(key: Tensor, count: int, size: int) -> Tensor:
    """`count` different positions out of `size`, int64 of shape key.shape + [count]; needs count <= size.

    The first of `permutation(key, size)`, without sorting the others: cost size + count log count.
    """
    return torch.topk(bits(key, size), count, largest=False, sorted=True).indices


Tree: TypeAlias = Any


def tree_map(function: Callable[..., Any], tree: Tree, *others: Tree) -> Tree:
    """`function` of the corresponding leaves; a number or tensor among `others` goes with every leaf of a part."""
    if isinstance(tree, dict):
        return {k: tree_map(function, v, *(part(o, k) for o in others)) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        items = [tree_map(function, v, *(part(o, i) for o in others)) for i, v in enumerate(tree)]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return function(tree, *others)


def part(tree: Tree, key: Any) -> Tree:
    """The branch of a tree, or the leaf itself where it stands for all branches."""
    return tree[key] if isinstance(tree, (dict, tuple, list)) else tree


def leaves(tree: Tree) -> list[Tensor]:
    """The tensors of a tree, in the order of its branches."""
    if isinstance(tree, dict):
        return [leaf for branch in tree.values() for leaf in leaves(branch)]
    if isinstance(tree, (tuple, list)):
        return [leaf for branch in tree for leaf in leaves(branch)]
    return [tree] if isinstance(tree, Tensor) else []


def combine(function: Callable[[Any, Any], Any], left: Tree, right: Tree) -> Tree:
    """`function` of corresponding leaves, where either side may be a single number."""
    if isinstance(left, (dict, tuple, list)):
        return tree_map(function, left, right)
    return tree_map(lambda b, a: function(a, b), right, left)


def add(left: Tree, right: Tree) -> Tree:
    """left + right, leaf by leaf."""
    return combine(lambda a, b: a + b, left, right)


def subtract(left: Tree, right: Tree) -> Tree:
    """left - right, leaf by leaf."""
    return combine(lambda a, b: a - b, left, right)


def multiply(left: Tree, right: Tree) -> Tree:
    """left * right, leaf by leaf."""
    return combine(lambda a, b: a * b, left, right)


def power(left: Tree, right: Tree) -> Tree:
    """left ** right, leaf by leaf."""
    return combine(lambda a, b: a**b, left, right)


def zeros(tree: Tree) -> Tree:
    """Zeros shaped like the tree."""
    return tree_map(torch.zeros_like, tree)


def filled(tree: Tree, value: float) -> Tree:
    """The number `value` everywhere, shaped like the tree."""
    return tree_map(lambda a: torch.full_like(a, value), tree)


def total(value: Tree) -> Tensor:
    """Sum of all entries of an array or tree, real[]."""
    parts = [leaf.sum() for leaf in leaves(value)]
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def mean(value: Tree) -> Tensor:
    """Mean of all entries of an array or tree, real[]."""
    found = leaves(value)
    return found[0].mean() if len(found) == 1 else total(value) / sum(leaf.numel() for leaf in found)


def sqnorm(value: Tree) -> Tensor:
    """Sum of squares over all entries, real[]."""
    return total(tree_map(lambda a: a * a, value))


def clip(value: Tree, low: Tree, high: Tree) -> Tree:
    """Entries limited to [low, high]."""
    above = combine(lambda a, b: torch.maximum(a, torch.as_tensor(b, dtype=a.dtype)), value, low)
    return combine(lambda a, b: torch.minimum(a, torch.as_tensor(b, dtype=a.dtype)), above, high)


def ce(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy real[...] of logits real[..., classes] with labels int64[...] or probabilities real[..., classes]."""
    logs = torch.log_softmax(logits, -1)
    if target.is_floating_point():
        return -(target * logs).sum(-1)
    return -logs.gather(-1, target[..., None])[..., 0]


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label, real[]."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean()


def positive(free: Tree) -> Tree:
    """exp(free), above 0."""
    return tree_map(torch.exp, free)


def positive_free(value: Tree) -> Tree:
    """log(value)."""
    return tree_map(torch.log, value)


def unit(free: Tree) -> Tree:
    """The logistic function, between 0 and 1."""
    return tree_map(torch.sigmoid, free)


Rule = Callable[[nn.Module, str, Tensor, Tensor, torch.dtype], Tensor]


@runtime_checkable
class Initialises(Protocol):
    """A module that draws the parameters below it itself.

    `key` is int64 of any shape; the result maps names, relative to the module, to tensors of shape
    key.shape + parameter shape (the functions of `random` give that shape without more ado).
    """

    def initialise(self, key: Tensor) -> Mapping[str, Tensor]:
        """Fresh parameters by name, one set per key."""


def initial_parameters(network: nn.Module, keys: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Fresh parameters of `network` by name, one set per key, distributed as by torch's defaults.

    Shapes: int64[...] keys give real[..., *shape of the parameter], in `dtype`, on the device of `keys`.
    Invariant: a number depends on its own key, the parameter's name and its position only.
    Cost: one hash for each number. Fails when: a module has parameters and no known rule (B605).
    """
    wanted = dict(network.named_parameters())
    drawn = dict(_drawn(network, "", wanted, keys, dtype))
    return {name: drawn[name] for name in wanted}


def _drawn(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all parameters at and below `module`; a shared one is drawn where it is named first."""
    if isinstance(module, Initialises):
        yield from _own(module, prefix, wanted, keys, dtype)
        return
    if isinstance(module, nn.Transformer):
        yield from _transformer(module, prefix, wanted, keys, dtype)
        return
    yield from _by_rules(module, prefix, wanted, keys, dtype)


def _by_rules(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """The module's own parameters by the rules below, then those of its children."""
    for name, parameter in module.named_parameters(recurse=False):
        if prefix + name in wanted:
            rule = _rule(module, prefix, name)
            yield prefix + name, rule(module, name, parameter, fold(keys, prefix + name), dtype)
    for name, child in module.named_children():
        yield from _drawn(child, f"{prefix}{name}.", wanted, keys, dtype)


def _transformer(
    module: nn.Module, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """As its layers would be drawn, but every matrix in it again by `_xavier`."""
    for name, value in _by_rules(module, prefix, wanted, keys, dtype):
        matrix = wanted[name].dim() > 1
        yield name, _xavier(module, name, wanted[name], fold(keys, name), dtype) if matrix else value


def _own(
    module: Initialises, prefix: str, wanted: Mapping[str, Tensor], keys: Tensor, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    """What `module.initialise` draws, after a check of names and shapes."""
    values = module.initialise(fold(keys, prefix))
    expected = {name: keys.shape + value.shape for name, value in wanted.items() if name.startswith(prefix)}
    found = {prefix + name: value.shape for name, value in values.items()}
    if found != expected:
        raise fail(
            "B605",
            f"`initialise` of `{type(module).__name__}` does not give the parameters that the module has",
            why=f"expected {_shapes(expected)}; found {_shapes(found)}",
            fix="return every parameter by its name, with shape key.shape + shape of the parameter",
        )
    yield from ((prefix + name, value.to(dtype)) for name, value in values.items())


def _shapes(shapes: Mapping[str, torch.Size]) -> str:
    return ", ".join(f"{name}: {list(shape)}" for name, shape in sorted(shapes.items())) or "nothing"


def _by_inputs(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within 1 / sqrt(inputs of one unit), which is what kaiming_uniform(a = sqrt(5)) amounts to."""
    shape = module.get_parameter("weight").shape
    inputs = shape[1] if isinstance(module, nn.Bilinear) else math.prod(shape[1:])  # torch counts one side of two
    return _within(1.0 / math.sqrt(max(1, inputs)), parameter, key, dtype)


def _by_width(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within 1 / sqrt(hidden units)."""
    width = cast(int, module.hidden_size)
    return _within(1.0 / math.sqrt(max(1, width)), parameter, key, dtype)


def _xavier(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform within sqrt(6 / (inputs + outputs)) of the matrix as it is stored."""
    return _within(math.sqrt(6.0 / sum(parameter.shape)), parameter, key, dtype)


def _attention(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices by `_xavier`, biases zero; the extra key and value normal with variance 1 / width."""
    if name == "in_proj_bias":
        return torch.zeros((*key.shape, *parameter.shape), dtype=dtype, device=key.device)
    if name in ("bias_k", "bias_v"):
        return normal(key, *parameter.shape, deviation=1.0 / math.sqrt(parameter.shape[-1]), dtype=dtype)
    return _xavier(module, name, parameter, key, dtype)


def _projection(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention ends with: a linear layer whose bias is zero."""
    if name == "weight":
        return _by_inputs(module, name, parameter, key, dtype)
    return torch.zeros((*key.shape, *parameter.shape), dtype=dtype, device=key.device)


def _within(bound: float, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    return uniform(key, *parameter.shape, low=-bound, high=bound, dtype=dtype)


def _one_and_zero(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Scale one, shift zero."""
    value = 1.0 if name == "weight" else 0.0
    return torch.full((*key.shape, *parameter.shape), value, dtype=dtype, device=key.device)


def _standard_normal(module: nn.Module, name: str, parameter: Tensor, key: Tensor, dtype: torch.dtype) -> Tensor:
    """Normal with deviation one; the row of the padding index is zero."""
    drawn = normal(key, *parameter.shape, dtype=dtype)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        rows = torch.arange(module.num_embeddings, device=key.device)
        drawn = torch.where((rows == module.padding_idx)[:, None], torch.zeros_like(drawn), drawn)
    return drawn


LAYER = ("weight", "bias")


ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v")


CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


LINEAR = (nn.Linear, nn.Bilinear)


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


RULES: tuple[tuple[tuple[type[nn.Module], ...], tuple[str, ...], Rule], ...] = (
    ((nn.modules.linear.NonDynamicallyQuantizableLinear,), LAYER, _projection),  # used in attention only
    ((*LINEAR, *CONVOLUTIONS), LAYER, _by_inputs),
    ((nn.MultiheadAttention,), ATTENTION, _attention),
    ((nn.RNNCellBase,), CELL, _by_width),
    ((nn.RNNBase,), (), _by_width),
    ((*NORMS, *INSTANCE_NORMS), LAYER, _one_and_zero),
    ((nn.Embedding,), ("weight",), _standard_normal),
)


def _rule(module: nn.Module, prefix: str, name: str) -> Rule:
    for kinds, names, rule in RULES:
        if isinstance(module, kinds) and (name in names or not names):
            return rule
    kind_name = type(module).__name__
    place = f"`{prefix.rstrip('.')}`" if prefix else "the network itself"
    raise fail(
        "B605",
        f"`{kind_name}` has a parameter `{name}`, and nothing says how it starts",
        why=f"{place} is a `{kind_name}`; copies of a level draw their starts from keys, so torch's own generator "
        "cannot be used",
        fix=f"give `{kind_name}` a method  initialise(self, key) -> dict  from names to tensors of shape\n"
        "key.shape + shape of the parameter, drawn with bilevel.backends.torch_func.keyed",
    )


FUSED = frozenset({"scaled_dot_product_attention"})


def attends(module: nn.Module) -> bool:
    """Whether a network calls torch's attention: by a layer of torch's, or in code of its own."""
    return any(isinstance(m, nn.MultiheadAttention) for m in module.modules()) or module_calls(module, FUSED)


def module_calls(module: nn.Module, wanted: frozenset[str]) -> bool:
    """Whether code of a network's own classes uses one of these names."""
    known: set[CodeType] = set()
    return any(class_calls(type(m), wanted, known) for m in module.modules())


def class_calls(kind: type, wanted: frozenset[str], known: set[CodeType]) -> bool:
    """Whether a method of a class that is not torch's uses one of these names; `known` are pieces of code that do not."""
    bases = [base for base in kind.__mro__ if not (base.__module__ or "").startswith(("torch.", "builtins"))]
    methods = [value for base in bases for value in vars(base).values() if isinstance(value, FunctionType)]
    return any(function_calls(method, wanted, known) for method in methods)


def function_calls(function: FunctionType, wanted: frozenset[str], known: set[CodeType]) -> bool:
    """Whether a function, or one of its module that it calls, uses one of these names."""
    if function.__code__ in known:
        return False
    known.add(function.__code__)
    names = set(code_names(function.__code__))
    if wanted & names:
        return True
    called = [function.__globals__.get(name) for name in names]
    own = [f for f in called if isinstance(f, FunctionType) and not (f.__module__ or "").startswith("torch.")]
    return any(function_calls(f, wanted, known) for f in own)


def code_names(code: CodeType) -> Iterator[str]:
    """The names that a piece of code, and the functions inside it, use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_names(constant)


@contextmanager
def unfused() -> Iterator[None]:
    """While it lasts, attention runs by the composite kernel, and torch's layers take no short cut around it."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    mha: Any = torch.backends.mha
    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        mha.set_fastpath_enabled(before)


def derivatives_apart() -> bool:
    """Whether the derivatives in force here are nested in a way that fused normalisation does not support.

    Supported are one derivative, and any derivative directly around a reverse one, with copies around or inside both.
    """
    stack = [level.key().name for level in torch._C._functorch.get_interpreter_stack() or ()]
    places = [place for place, name in enumerate(stack) if name in ("Grad", "Jvp")]
    if len(places) < 2:
        return False
    return len(places) > 2 or stack[places[1]] == "Jvp" or "Vmap" in stack[places[0] : places[1]]


def written_norms(always: bool = False) -> AbstractContextManager[Any]:
    """While it lasts, normalisation is by its formula, where the fused one has wrong derivatives; or `always`."""
    return WrittenNorms() if always or derivatives_apart() else nullcontext()


NATIVE = frozenset({"native_batch_norm", "_native_batch_norm_legit", "native_layer_norm", "_weight_norm"})


def normalises_natively(part: Any) -> bool:
    """Whether a network or function calls one of these, by itself or by torch's `weight_norm`."""
    if isinstance(part, nn.Module):
        return any(map(_has_weight_norm, part.modules())) or module_calls(part, NATIVE)
    return isinstance(part, FunctionType) and function_calls(part, NATIVE, set())


def _has_weight_norm(module: nn.Module) -> bool:
    """Whether a weight is a direction times a length: a parametrization of torch's, or its older hook."""
    kinds = (type(module), *(type(hook) for hook in module._forward_pre_hooks.values()))
    return any((k.__module__ or "").startswith("torch.nn.utils") and "WeightNorm" in k.__name__ for k in kinds)


class WrittenNorms(torch.overrides.TorchFunctionMode):
    """Calls of torch's normalisation become calls of the formulas below."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What `func` gives."""
        written = WRITTEN.get(func) or WRITTEN.get(getattr(torch, _aten_name(func), None), func)
        return written(*args, **(kwargs or {}))


def _aten_name(func: Any) -> str:
    """`layer_norm` for `torch.ops.aten.layer_norm` and its overloads."""
    name = str(func)
    return name.removeprefix("aten.").partition(".")[0] if name.startswith("aten.") else ""


def normalised(x: Tensor, axes: tuple[int, ...], weight: Any, bias: Any, eps: float) -> Tensor:
    """x less its mean over the axes, divided by sqrt(variance + eps), scaled and shifted; shapes broadcast."""
    x = x - x.mean(axes, keepdim=True)
    return scaled(x * torch.rsqrt(x.square().mean(axes, keepdim=True) + eps), weight, bias)


def scaled(x: Tensor, weight: Any, bias: Any) -> Tensor:
    """x times a weight plus a bias, where they are given."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def by_channel(vector: Any, x: Tensor) -> Any:
    """A vector of one number for each channel, in the shape that meets samples real[n, channels, ...]."""
    return vector if vector is None else vector.reshape(-1, *(1,) * (x.dim() - 2))


def batch_norm_written(
    input: Tensor, running_mean: Any, running_var: Any, weight: Any = None, bias: Any = None, training: bool = False,
    momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`functional.batch_norm`; running averages are read, where asked for, and never changed."""
    weight, bias, mean, var = (by_channel(v, input) for v in (weight, bias, running_mean, running_var))
    if training or mean is None:
        return normalised(input, (0, *range(2, input.dim())), weight, bias, eps)
    return scaled((input - mean) * torch.rsqrt(var + eps), weight, bias)


def instance_norm_written(
    input: Tensor, running_mean: Any = None, running_var: Any = None, weight: Any = None, bias: Any = None,
    use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5,
) -> Tensor:  # fmt: skip
    """`functional.instance_norm`."""
    if not use_input_stats:
        return batch_norm_written(input, running_mean, running_var, weight, bias, False, momentum, eps)
    weight, bias = by_channel(weight, input), by_channel(bias, input)
    return normalised(input, tuple(range(2, input.dim())), weight, bias, eps)


def layer_norm_written(
    input: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """`functional.layer_norm`."""
    return normalised(input, tuple(range(-len(normalized_shape), 0)), weight, bias, eps)


def native_batch_norm_written(
    input: Tensor, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`torch.native_batch_norm`: with the batch's statistics also its mean and 1 / deviation, by channel."""
    value = batch_norm_written(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        return value, input.new_zeros(0), input.new_zeros(0)
    mean, scale = statistics(input, (0, *range(2, input.dim())), eps)
    return value, mean.flatten(), scale.flatten()


def native_layer_norm_written(
    input: Tensor, normalized_shape: Any, weight: Any, bias: Any, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.native_layer_norm`: also mean and 1 / deviation, with ones for the axes that are normalised."""
    value = layer_norm_written(input, normalized_shape, weight, bias, eps)
    return value, *statistics(input, tuple(range(-len(normalized_shape), 0)), eps)


def statistics(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(variance + eps) over the axes, which are kept."""
    mean = x.mean(axes, keepdim=True)
    return mean, torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + eps)


def weight_norm_written(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`torch._weight_norm`: v g / ||v||, the norm over all axes but `dim` (-1: over all)."""
    axes = tuple(axis for axis in range(v.dim()) if dim == -1 or axis != dim % v.dim())
    return v * (g / v.square().sum(axes, keepdim=dim != -1).sqrt())


def legit_batch_norm_written(input: Tensor, weight: Any, bias: Any, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`torch._native_batch_norm_legit`, which may leave the running averages out."""
    averages = given if len(given) == 5 else (None, None, *given)
    return native_batch_norm_written(input, weight, bias, *averages)


WRITTEN: dict[Any, Callable[..., Any]] = {
    nn.functional.batch_norm: batch_norm_written,
    nn.functional.instance_norm: instance_norm_written,
    nn.functional.layer_norm: layer_norm_written,
    torch.batch_norm: lambda x, w, b, m, v, training, momentum, eps, _: batch_norm_written(
        x, m, v, w, b, training, momentum, eps
    ),
    torch.instance_norm: lambda x, w, b, m, v, given, momentum, eps, _: instance_norm_written(
        x, m, v, w, b, given, momentum, eps
    ),
    torch.layer_norm: lambda x, shape, w=None, b=None, eps=1e-5, _=True: layer_norm_written(x, shape, w, b, eps),
    torch.native_batch_norm: native_batch_norm_written,
    torch._native_batch_norm_legit: legit_batch_norm_written,
    torch.native_layer_norm: native_layer_norm_written,
    torch._weight_norm: weight_norm_written,
}


def numbers(count: int, like: Tensor) -> Tensor:
    """0, 1, ..., count - 1, to fold into a key: one key for each copy, step or draw."""
    return torch.arange(count, device=like.device)


def length(source: Tree, axis: int = 0) -> int:
    """The number of samples of a finite source, or of copies along an axis."""
    return int(leaves(source)[0].shape[axis])


def draw(source: Any, count: int, keys: Tensor, depth: int = 0) -> Tree:
    """`count` samples without replacement for every key, or `count` new items of a stream.

    Shapes: fields have the leading axes keys.shape + [count]. `depth`: how many leading axes of the source are
    copies; then they are those of the keys, and every copy draws from its own samples.
    """
    if not isinstance(source, tuple):
        return source.sample(fold(keys, numbers(count, keys)))
    return take(source, choose(keys, count, enough(source, count, depth)), depth)


def enough(source: Any, count: int, depth: int = 0) -> int:
    """The number of samples of a finite source, which a draw of `count` does not exceed; raises B312.

    What a stream gives shows its length only here, where its registration does not say it.
    """
    available = length(source, depth)
    if count > available:
        raise fail(
            "B312",
            f"{count} samples are drawn from data that has {available}",
            why="one draw takes different samples: it draws without replacement",
            fix=f"a draw of {available} or fewer, or larger data" if available else "data with one sample or more",
        )
    return available


def take(source: Any, positions: Tensor, depth: int) -> Tree:
    """The samples at `positions` int64[..., n] with one more field, `index`, that holds them."""

    def at(record: Any, place: Tensor) -> Any:
        return tree_map(lambda field: field[place], record)

    pick: Callable[..., Any] = at
    for _ in range(depth):
        pick = vmap(pick)
    return placed(pick(source, positions), positions)


def placed(record: Any, positions: Tensor) -> Tree:
    """The record with one more field, `index`, that holds positions."""
    names = [n for n in record._fields if n != "index"]
    return drawn_type(*names, "index")(*(getattr(record, n) for n in names), positions)


@cache
def drawn_type(*names: str) -> Any:
    """The type of draws with these fields; made once, since to make it takes longer than to draw."""
    return namedtuple("Drawn", names)


def without(items: list[Any], left_out: Any) -> Any:
    """The samples of all finite sources of a list but one."""
    kept = [item for item in items if item is not left_out]
    return tree_map(lambda *fields: torch.cat(fields), kept[0], *kept[1:])


class Network:
    """A torch module as a function of its parameters: `net(w, x)` is f_w(x)."""

    def __init__(
        self, module: nn.Module, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str
    ) -> None:
        self.module = module.to(device=device, dtype=dtype)
        self.parts, self.dtype = parts, dtype
        self.attends, self.natively = attends(module), normalises_natively(module)

    def __call__(self, parameters: dict[str, Tensor], x: Tensor | list[Any]) -> Any:
        """Outputs for a batch of samples with a leading axis; a list holds the inputs of a network that takes several."""
        inputs = tuple(x) if isinstance(x, list) else (x,)
        with unfused() if self.attends else nullcontext(), written_norms(self.natively):
            return functional_call(self.module, parameters, inputs)

    def single(self, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        """The output for one sample without a leading axis."""
        return self(parameters, x[None])[0]

    def select(self, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """The module's own parameters: all, one part, or all but one part."""
        own = {name: p.detach() for name, p in self.module.named_parameters()}
        pattern = only if only is not None else without
        if pattern is None:
            return own
        chosen = matching(own, self.parts.get(pattern, pattern))
        if not chosen:
            raise ValueError(f"no parameter of the network belongs to its part `{pattern}`")
        return {n: p for n, p in own.items() if (n in chosen) == (only is not None)}

    def like(self, kind: str, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """Zeros shaped like `layers(net)`, `factors(net)` or `kron(net)`."""
        return zeros_like_kind(self.module, self.select(only, without), kind)

    def initial(self, keys: Tensor, only: str | None = None, without: str | None = None) -> dict[str, Tensor]:
        """Fresh parameters for every key."""
        drawn = initial_parameters(self.module, keys, self.dtype)
        return {name: drawn[name] for name in self.select(only, without)}


def zeros_like_kind(module: nn.Module, chosen: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """One number for each parameter tensor (`layers`), or the vectors a, b of each layer (`factors`, `kron`).

    A layer is a linear or convolutional one whose weight is chosen: a has one entry for each input of an output
    (and one for the bias), b one for each output.
    """
    if kind == "layers":
        return {name: p.new_zeros(()) for name, p in chosen.items()}
    found: dict[str, Tensor] = {}
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        weight = chosen.get(f"{prefix}weight")
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and weight is not None:
            found[f"{prefix}a"] = weight.new_zeros(weight[0].numel() + (f"{prefix}bias" in chosen))
            found[f"{prefix}b"] = weight.new_zeros(len(weight))
    return found


def matching(names: Any, pattern: str) -> set[str]:
    """The names that a pattern with `*` matches."""
    from fnmatch import fnmatchcase

    return {n for n in names if fnmatchcase(n, pattern)}


def network(part: Any, parts: dict[str, str], dtype: torch.dtype, device: torch.device | str) -> Any:
    """A module as a `Network`; anything else as it is."""
    return Network(part, parts, dtype, device) if isinstance(part, nn.Module) else part


def sgd_state(x: Tree, momentum: Tree = 0.0) -> Tree:
    """The velocity, zero; nothing where there is no momentum."""
    return zeros(x) if isinstance(momentum, Tensor) or momentum else ()


def sgd(
    x: Tree, state: Tree, gradient: Tree, count: int, lr: Tree, momentum: Tree = 0.0, clip: Tree = 0.0
) -> tuple[Tree, Tree]:
    """x - lr v with v = momentum v + gradient, as torch.optim.SGD (the first velocity is the gradient)."""
    gradient = clipped(gradient, clip)
    if leaves(state):
        state = gradient = add(multiply(momentum, state), gradient)
    return tree_map(lambda a, d, r: a - r * d, x, gradient, lr), state


def adam(
    x: Tree,
    state: Tree,
    gradient: Tree,
    count: int,
    lr: Tree,
    beta1: Tree = 0.9,
    beta2: Tree = 0.999,
    epsilon: float = 1e-8,
    clip: Tree = 0.0,
) -> tuple[Tree, Tree]:
    """Adam (Kingma and Ba 2015, algorithm 1) with epsilon inside the root as well.

    sqrt has no derivative at 0, so that a zero gradient would give a NaN in the hypergradient; epsilon**2 inside
    the root keeps the size of the step within epsilon of Adam's.
    """
    gradient = clipped(gradient, clip)
    first = tree_map(lambda m, d, b: b * m + (1 - b) * d, state[0], gradient, beta1)
    second = tree_map(lambda v, d, b: b * v + (1 - b) * (d * d), state[1], gradient, beta2)
    one = tree_map(lambda m, b: unbiased(m, b, count), first, beta1)
    two = tree_map(lambda v, b: unbiased(v, b, count), second, beta2)
    moved = tree_map(lambda a, m, v, r: a - r * m / torch.sqrt(v + epsilon * epsilon), x, one, two, lr)
    return moved, (first, second)


def unbiased(moment: Tensor, decay: Tree, count: Any) -> Tensor:
    """A moment over 1 - decay^(count + 1); a count that is a tensor is raised in float64, where 0.999 keeps its digits."""
    if not isinstance(count, Tensor):
        return moment / (1 - decay ** (count + 1))
    return moment / (1 - decay ** (count.double() + 1)).to(moment.dtype)


def clipped(gradient: Tree, limit: Tree) -> Tree:
    """The gradient, shortened to norm `limit` where it is longer; 0 is no limit."""
    if not isinstance(limit, Tensor) and not limit:
        return gradient
    norm = torch.sqrt(sqnorm(gradient) + 1e-30)
    return multiply(torch.clamp(limit / norm, max=1.0), gradient)


def torch_optimize(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], x: Tree, state: Tree, gradient: Tree, clip: float = 0.0
) -> tuple[Tree, Tree]:
    """One step of a torch.optim optimiser as a pure function: x and state are copied, not changed.

    `state` is what the optimiser keeps for each tensor, () before the first step.
    """
    parameters = [leaf.detach().clone() for leaf in leaves(x)]
    optimizer = kind([torch.nn.Parameter(p) for p in parameters], **options)
    given = optimizer.param_groups[0]["params"]
    for parameter, direction in zip(given, leaves(clipped(gradient, clip)), strict=True):
        parameter.grad = direction.detach()
    for parameter, kept in zip(given, state, strict=bool(state)):
        optimizer.state[parameter] = {k: v.clone() if isinstance(v, Tensor) else v for k, v in kept.items()}
    optimizer.step()
    moved = iter([p.detach() for p in given])
    return tree_map(lambda _: next(moved), x), [dict(optimizer.state[p]) for p in given]


Plainly: TypeAlias = Callable[..., Any]


Carried: TypeAlias = Callable[..., Any]


class Plain:
    """Runs every function as it is, one step in each run."""

    def kernel(self, function: Plainly) -> Plainly:
        """The function itself."""
        return function

    def pulled(self, function: Plainly) -> Plainly:
        """The function itself."""
        return function

    def carry(self, *made: Any) -> Carried:
        """What a loop gives its state to a step with: `carry(state, dead)`, `dead` if nothing reads it after the step.

        A kernel may write the next state over a dead one: over what kernels have made of states that came this way, and
        over `made`, which the loop made itself and nobody else has. Never over a start, which may be somebody else's.
        """
        return as_it_is

    def runs(self, level: str, first: int, last: int) -> list[range]:
        """The steps first..last-1 of a level, as runs of steps that are computed together."""
        return [range(step, step + 1) for step in range(first, last)]


def as_it_is(state: Any, dead: bool = True) -> Any:
    """The state: functions as they are write over nothing."""
    return state


class Count(int):
    """A number of steps: it changes from call to call, so that a kernel takes it as an input."""


def counted(number: Any) -> Any:
    """A whole number as a `Count`; inside a kernel it is a tensor already."""
    return Count(number) if isinstance(number, int) else number


def within(sequence: Sequence[Any], steps: range, first: int = 0) -> Any:
    """The entries for some steps of a sequence that begins with step `first`."""
    return sequence[steps.start - first : steps.stop - first]


State = Any


def along(function: Callable[..., Tree], point: tuple[Tree, ...], direction: tuple[Tree, ...]) -> Tree:
    """The derivative of a function at a point along a direction: one jvp, in the shapes and dtypes of the value.

    torch (seen in 2.11 and 2.13) makes a tangent of float64 of a scalar times a Python number, whatever the scalar's own
    dtype is; all that was computed with it would be float64 from there on.
    """
    value, tangent = jvp(function, point, direction)[:2]
    return tree_map(lambda there, moved: moved.to(there.dtype), value, tangent)


Product = Callable[[Tree], Tree]


class Failure(ArithmeticError):
    """A computation that cannot go on; `code` names the message, the text says what was met."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def any_broken(mask: Tensor) -> bool:
    """Whether anything has gone wrong, for a mask of any shape."""
    return bool(mask.any())


def flat(tree: Tree, depth: int) -> Tensor:
    """All leaves of each copy side by side, real[*copies, m]."""
    return torch.cat([leaf.reshape(*leaf.shape[:depth], -1) for leaf in leaves(tree)], -1)


def unflat(vector: Tensor, like: Tree, depth: int) -> Tree:
    """The inverse of `flat`, for a tree shaped like `like`."""
    done = 0

    def block(leaf: Tensor) -> Tensor:
        nonlocal done
        count = math.prod(leaf.shape[depth:])
        done += count
        return vector[..., done - count : done].reshape(leaf.shape)

    return tree_map(block, like)


def norm_each(tree: Tree, depth: int) -> Tensor:
    """The norm of each copy, real[*copies]."""
    return flat(tree, depth).norm(dim=-1)


def relative_residual(product: Product, v: Tree, b: Tree, depth: int) -> Tensor:
    """|product(v) - b| / |b| for each copy; 0 where b is 0 and v solves it."""
    size = norm_each(b, depth)
    return norm_each(subtract(product(v), b), depth) / torch.where(size > 0, size, torch.ones_like(size))


def dense(product: Product, b: Tree, depth: int) -> Tensor:
    """The matrix of a product for each copy, real[*copies, m, m]; m products, batched."""
    like = flat(b, depth)
    size = like.shape[-1]
    units = torch.eye(size, dtype=like.dtype, device=like.device)
    columns: Tensor = vmap(lambda unit: flat(product(unflat(unit.expand_as(like), b, depth)), depth), out_dims=-1)(
        units
    )
    return columns


def exact(product: Product, b: Tree, depth: int) -> tuple[Tree, Tensor]:
    """A dense solve; m products and m^3 work. Fails when the matrix is singular (B705)."""
    matrix = dense(product, b, depth)
    solution, info = torch.linalg.solve_ex(matrix, flat(b, depth)[..., None])
    if any_broken(info != 0):
        raise Failure("B705", "the linear system is singular")
    v = unflat(solution[..., 0], b, depth)
    return v, relative_residual(product, v, b, depth)


class State(NamedTuple):
    """All that a level carries on: variables in free coordinates, solver state, warm starts, residuals of the step."""

    step: int
    x: Any
    solver: Any
    ends: Any
    notes: Any


class Phase(NamedTuple):
    """An outermost level; its functions are pure. `reads`: solutions of earlier levels, given to each of them last."""

    name: str
    variables: tuple
    steps: int
    begin: Callable
    step: Callable
    hypergradient: Callable
    values: Callable
    reads: tuple
    reports: dict
    solves: dict


# ---- the recipe


def build(net, data, device="cpu", dtype=torch.float32, kernels=Plain()):
    """The outermost levels of hpo, from the parts that the recipe names."""
    net = network(net, {'hidden': 'hidden.*', 'output': 'output.*', 'cn': '*cn.*'}, dtype, device)
    # ---- level train: w; sgd(lr = lr, momentum = 0.9) for 500 steps; rmd, exact

    @kernels.kernel
    def train_start(key):  # hpo.bl:11
        """Where w starts."""
        return net.initial(fold(key, "w"))

    def train_draw(key):  # hpo.bl:12
        """The draws of one step of train."""
        b = draw(data.train, 128, fold(key, "b"))  # hpo.bl:12
        return b

    def train_objective(w, b, decay):  # hpo.bl:13
        """What train minimizes."""
        return mean(ce(net(w, b.x), b.y)) + 0.5 * total(multiply(decay, power(w, 2)))

    @kernels.kernel
    def train_gradient(w, b, decay):  # hpo.bl:13
        """Gradient of the objective of train."""
        return grad(train_objective)(w, b, decay)

    @kernels.kernel
    def train_update(w, solver, gradient, count, lr):  # hpo.bl:14
        """One step of sgd(lr = lr, momentum = 0.9): the next w and the solver's state."""
        return sgd(w, solver, gradient, count, lr=lr, momentum=0.9)

    @kernels.kernel
    def train_run(state, steps, keys, drawn, decay, lr, keep):
        """The states of train from the one before some steps to the one after them: all, or only the last."""
        states = [state]
        for step, step_key, b in zip(steps, keys, drawn):
            w, solver = states[-1][:2]
            gradient = train_gradient(w, b, decay)
            w, solver = train_update(w, solver, gradient, counted(step), lr)
            states.append((w, solver))
            if not keep:
                del states[0]
        return states

    def train_forward(decay, lr, key, keep):  # hpo.bl:14
        """The states (iterate, solver's state) of train: all, or only the last."""
        w = train_start(key)
        solver = sgd_state(w, 0.9)
        states = [(w, solver)]
        carry = kernels.carry(solver)  # kernels may write over states that it says are dead
        del w, solver
        keys = fold(key, numbers(500, key))
        for steps in kernels.runs("train", 0, 500):
            states[-1:] = train_run(
                carry(states[-1], not keep),
                steps,
                within(keys, steps),
                [train_draw(step_key) for step, step_key in zip(steps, within(keys, steps))],
                decay,
                lr,
                keep,
            )
            if not keep:
                del states[:-1]
        return states

    @kernels.kernel
    def train_back(states, steps, keys, drawn, d_w, d_solver, d_decay, d_lr, decay, lr):
        """Cotangents of the states of train before some steps, and of what these read, from those after them."""
        for step, state, step_key, b in reversed(list(zip(steps, states, keys, drawn))):
            w, solver = state[:2]
            gradient = train_gradient(w, b, decay)
            _, pull = vjp(
                lambda w, solver, gradient, lr: train_update(w, solver, gradient, step, lr),
                w,
                solver,
                gradient,
                lr,
            )
            d_w, d_solver, d_grad, more_lr = pull((d_w, d_solver))
            d_lr = add(d_lr, more_lr)
            (curvature, more_decay) = along(
                lambda w: grad(train_objective, argnums=(0, 2))(w, b, decay),
                (w,),
                (d_grad,),
            )
            d_w = add(d_w, curvature)
            d_decay = add(d_decay, more_decay)
        return d_w, d_solver, d_decay, d_lr

    def train_pullback(states, d_w, decay, lr, key):  # hpo.bl:14
        """Cotangents of decay, lr from those of what train solves for; forward over reverse: both products from one jvp of the gradient."""
        d_solver = zeros(states[-1][1])
        d_decay = zeros(decay)
        d_lr = zeros(lr)
        carry = kernels.carry(d_solver, d_decay, d_lr)  # kernels may write over states that it says are dead
        keys = fold(key, numbers(len(states) - 1, key))
        for steps in reversed(kernels.runs("train", 0, len(states) - 1)):
            d_w, d_solver, d_decay, d_lr = train_back(
                within(states, steps),
                steps,
                within(keys, steps),
                [train_draw(step_key) for step, step_key in zip(steps, within(keys, steps))],
                d_w,
                carry(d_solver),
                carry(d_decay),
                carry(d_lr),
                decay,
                lr,
            )
        return d_decay, d_lr

    # ---- level tune: decay, lr; adam(lr = 0.01) for 200 steps

    def tune_start():  # hpo.bl:7
        """Where decay and lr start."""
        return (
            positive_free(filled(net.select(), 0.0001)),
            positive_free(torch.full((), 0.05, device=device, dtype=dtype)),
        )

    def tune_draw(key):  # hpo.bl:17
        """The draws of one step of tune."""
        v = draw(data.val, 256, fold(key, "v"))  # hpo.bl:17
        return v

    def tune_objective(w, v):  # hpo.bl:18
        """What tune minimizes."""
        return mean(ce(net(w, v.x), v.y))

    @kernels.kernel
    def tune_slopes(w, v):
        """The derivative of the objective of tune in w alone."""
        return grad_and_value(tune_objective, argnums=(0,))(w, v)

    @kernels.kernel
    def tune_gradient(decay_free, lr_free, v, key):  # hpo.bl:18
        """Gradient of the objective of tune in decay and lr, through train."""
        decay, decay_back = vjp(lambda free: positive(free), decay_free)
        lr, lr_back = vjp(lambda free: positive(free), lr_free)
        train_states = train_forward(decay, lr, fold(key, "train"), True)
        w = train_states[-1][0]
        (d_w,), value = tune_slopes(w, v)
        d_decay, d_lr = train_pullback(train_states, d_w, decay, lr, fold(key, "train"))
        (d_decay,) = decay_back(d_decay)
        (d_lr,) = lr_back(d_lr)
        return (d_decay, d_lr), value, {}, {}

    def tune_update(variables, solver, gradient):  # hpo.bl:19
        """One step of adam(lr = 0.01): the next decay and lr and the solver's state."""
        return torch_optimize(torch.optim.Adam, {"lr": 0.01}, variables, solver, gradient)

    def tune_hypergradient(state, key):  # hpo.bl:19
        """The gradient that the next step of tune would follow, and the objective; no step is taken."""
        level_key = fold(key, "tune")
        key = fold(level_key, state.step)
        decay_free, lr_free = state.x
        v = tune_draw(key)
        return tune_gradient(decay_free, lr_free, v, key)[:2]

    def tune_step(state, key):  # hpo.bl:19
        """One step of tune: the next state, and the objective before the step."""
        level_key = fold(key, "tune")
        key = fold(level_key, state.step)
        decay_free, lr_free = state.x
        v = tune_draw(key)
        gradient, value, ends, notes = tune_gradient(decay_free, lr_free, v, key)
        (decay_free, lr_free), solver = tune_update((decay_free, lr_free), state.solver, gradient)
        return State(state.step + 1, (decay_free, lr_free), solver, ends, notes), value

    def tune_report_test(state, key):  # hpo.bl:21
        """The report test."""
        level_key = fold(key, "tune")
        key = fold(level_key, "report")
        decay_free, lr_free = state.x
        decay = positive(decay_free)
        lr = positive(lr_free)
        v = draw(data.val, 256, fold(key, "v"))
        train_states = train_forward(decay, lr, fold(key, "train"), False)
        w = train_states[-1][0]
        return accuracy(net(w, data.test.x), data.test.y)

    def tune_begin(key):
        """The state of tune before its first step."""
        (decay_free, lr_free) = tune_start()
        return State(0, (decay_free, lr_free), (), {}, {})

    def tune_values(state):
        """The variables of tune by name."""
        decay_free, lr_free = state.x
        decay = positive(decay_free)
        lr = positive(lr_free)
        return {"decay": decay, "lr": lr}

    def tune_solve_train(state, key):  # hpo.bl:10
        """The solution of train at a state of tune, as the recipe writes it."""
        key = fold(fold(key, "tune"), "solve")
        decay_free, lr_free = state.x
        decay = positive(decay_free)
        lr = positive(lr_free)
        train_states = train_forward(decay, lr, fold(key, "train"), False)
        w = train_states[-1][0]
        return {"w": w}

    return (
        Phase(
            "tune",
            ("decay", "lr",),
            200,
            tune_begin,
            tune_step,
            tune_hypergradient,
            tune_values,
            (),
            {"test": (10, tune_report_test)},
            {"train": (tune_solve_train, ())},
        ),
    )
