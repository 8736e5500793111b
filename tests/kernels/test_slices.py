"""Large graphs in slices of a batch, with results written over operands: the same numbers, fewer bytes alive at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, grad, jvp
from torch.nn.functional import conv1d, cross_entropy, softmax

from benchmarks.live_bytes import peak_bytes as measured
from bilevel.backends.torch_func.trace import compilers, pieces, reuse, slices
from bilevel.backends.torch_func.trace.lifetimes import bytes_of, is_view, owners, peak_bytes
from bilevel.backends.torch_func.trace.nodes import aten
from bilevel.backends.torch_func.trace.reuse import OVER, reused
from bilevel.backends.torch_func.trace.signature import flatten
from tests.kernels.tools import graph_of

FLOAT = torch.float64
BATCH, LENGTH, WIDTH, WORDS, CLASSES = 16, 6, 8, 11, 3


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(sum(shape)))


def whole(*shape: int, below: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(sum(shape)))


def picked(scores: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy as the language has it."""
    return -torch.log_softmax(scores, -1).gather(-1, labels[:, None]).mean()


class Reader(nn.Module):
    """A small transformer: embedding, attention, a normalisation and GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.word = nn.Embedding(WORDS, WIDTH)
        self.ask, self.norm = nn.Linear(WIDTH, 3 * WIDTH), nn.LayerNorm(WIDTH)
        self.widen, self.out = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.word(tokens)
        query, key, value = self.ask(x).reshape(*x.shape[:2], 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
        weights = softmax(query @ key.transpose(-1, -2), -1)
        x = self.norm(x + (weights @ value).transpose(1, 2).reshape(x.shape))
        scores: Tensor = self.out(nn.functional.gelu(self.widen(x)).mean(-2))
        return scores


def reader(repeats: int = 1) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The adjoint of a step of a transformer: a gradient, something of it, and the product of both derivatives with it."""
    torch.manual_seed(0)
    net = Reader().to(FLOAT)
    weights = {name: value.detach() for name, value in net.named_parameters()}
    tokens, labels = whole(BATCH * repeats, LENGTH, below=WORDS), whole(BATCH * repeats, below=CLASSES)

    def slope(at: Any) -> Any:
        return grad(lambda w: picked(functional_call(net, w, (tokens,)), labels))(at)

    def back(at: Any) -> Any:
        along = {name: value / (value.norm() + 1) for name, value in slope(at).items()}
        return jvp(slope, (at,), (along,))[1]

    return back, (weights,)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, and results over operands, also of small arrays."""
    from_bytes(monkeypatch, 0)
    for name, value in (("LEAST_MADE", 0), ("MOST_LEFT", 10.0), ("LEAST_COVERED", 0.0)):
        monkeypatch.setattr(slices, name, value)
    monkeypatch.setattr(reuse, "LEAST", 0)


def from_bytes(monkeypatch: pytest.MonkeyPatch, least: int) -> None:
    """Let a graph be large from so many bytes on, and slices enough below them."""
    monkeypatch.setattr(compilers, "LARGE", least)
    monkeypatch.setattr(slices, "LARGE", least)
    monkeypatch.setattr(slices, "ENOUGH", least)


def loops(module: fx.GraphModule) -> list[slices.Loop]:
    return [part for part in module.children() if isinstance(part, slices.Loop)]


def both(
    function: Callable[..., Any], *arguments: Any, kind: compilers.Kind = "fx"
) -> tuple[fx.GraphModule, int, list[Tensor]]:
    """A function's graph as it is run, the peak of the graph before, its inputs; after a check that both give the same."""
    traced = graph_of(function, *arguments)
    given: list[Any] = []
    flatten(arguments, given)
    inputs = [given[place] for place in traced.inputs]
    before, expected, peak = [value.clone() for value in inputs], traced.module(*inputs), peak_bytes(traced.module)
    made: Any = compilers.compiled(traced, inputs, kind)
    for _ in range(2):  # what the graph holds must be the same the second time
        for a, b in zip(made(*inputs), expected, strict=True):
            assert a.shape == b.shape and a.stride() == b.stride()
            assert float((a - b).norm()) <= 1e-12 * max(1.0, float(b.norm()))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    return made.__self__, peak, inputs


def test_the_adjoint_of_a_transformer_goes_in_two_loops(soon: None) -> None:
    """One for the gradient, one for the products with it; every operator of the network is inside."""
    made, peak, _ = both(*flat(reader()))
    first, second = loops(made)
    assert first.parts == 8 and second.parts == 16 and first.peak <= second.peak
    assert not any(n.target in (aten.gelu.default, aten._softmax.default, aten.bmm.default) for n in made.graph.nodes)
    assert peak_bytes(made) < 0.3 * peak


def flat(given: tuple[Callable[..., Any], tuple[Any, ...]]) -> tuple[Any, ...]:
    return (given[0], *given[1])


def test_the_bytes_counted_are_those_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Live storages while it runs are at most what was counted from shapes, and a third of those of the whole at once."""
    from_bytes(monkeypatch, 1 << 20)
    monkeypatch.setattr(slices, "LEAST_MADE", 16 << 10)
    function, arguments = reader(repeats=16)
    traced = graph_of(function, *arguments)
    inputs = [list(arguments[0].values())[place] for place in traced.inputs]
    peak, before = peak_bytes(traced.module), measured(lambda: traced.module(*inputs))
    assert 0.9 * peak <= before <= peak
    run: Any = compilers.compiled(traced, inputs, "fx")
    after = measured(lambda: run(*inputs))
    assert loops(run.__self__) and after <= 1.1 * peak_bytes(run.__self__) and after < peak / 3


def test_what_is_small_stays_one_graph() -> None:
    made, _, _ = both(*flat(reader()))
    assert not loops(made) and not any(n.target in OVER.values() for n in made.graph.nodes)


def test_a_graph_in_slices_has_as_many_as_are_worth_it(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "LEAST_MADE", 1 << 10)
    few = loops(both(*flat(reader()))[0])
    assert few and all(2 <= loop.parts < 16 for loop in few)
    monkeypatch.setattr(slices, "LEAST_MADE", 1 << 30)
    assert not loops(both(*flat(reader()))[0])


def test_what_is_between_loops_is_compiled_in_pieces(soon: None) -> None:
    """Only views are left around, of inputs too, whose memory no piece gives out; the numbers are those of the graph."""
    function, arguments = reader()
    traced = graph_of(function, *arguments)
    inputs = [list(arguments[0].values())[place] for place in traced.inputs]
    expected, asked = traced.module(*inputs), list[fx.GraphModule]()

    def as_it_is(module: fx.GraphModule, given: list[Tensor]) -> Any:
        values = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
        assert [(v.shape, v.stride(), v.dtype) for v in values] == [(v.shape, v.stride(), v.dtype) for v in given]
        asked.append(module)
        return module.forward

    module = slices.sliced(traced.module)
    made = pieces.in_pieces(module, as_it_is)
    assert all(torch.equal(a, b) for a, b in zip(made(*inputs), expected_by(module, inputs), strict=True))
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(made(*inputs), expected, strict=True))
    assert len(loops(made)) == 2 and len(asked) >= 1
    assert all(is_view(node) for node in made.graph.nodes if node.op == "call_function")
    for part in asked:
        owner, (output,) = owners(part.graph), [node for node in part.graph.nodes if node.op == "output"]
        assert all(owner[node].op == "call_function" for node in output.args[0])


def expected_by(module: fx.GraphModule, inputs: list[Tensor]) -> list[Tensor]:
    found: list[Tensor] = module(*inputs)
    return found


def test_inductor_compiles_loops_and_what_is_between(soon: None) -> None:
    """The slope of a network, and the product of its derivative with something of it: two loops, a piece in between."""
    tokens, labels = random(BATCH, 5), whole(BATCH, below=4)

    def slope(at: Tensor) -> Any:
        return grad(lambda w: picked(torch.tanh(tokens @ w), labels))(at)

    made, _, _ = both(lambda at: jvp(slope, (at,), (torch.sin(slope(at)),))[1], W, kind="inductor")
    assert len(loops(made)) == 2 and all(isinstance(loop.run, pieces.Piece) for loop in loops(made))
    assert any(isinstance(part, pieces.Piece) for part in made.children())
    assert all(is_view(node) for node in made.graph.nodes if node.op == "call_function")


X, Y, W = random(BATCH, 5), random(BATCH, 5), random(5, 4)
LABELS = whole(BATCH, below=4)

PASSING: dict[str, Callable[[Tensor], Any]] = {
    "sum": lambda x: torch.tanh(x @ W).sum(0),
    "mean": lambda x: torch.tanh(x @ W).mean(),
    "rows": lambda x: torch.tanh(x @ W) * x.sum(1, keepdim=True),
    "with another array of the batch": lambda x: (torch.tanh(x) * Y).sum(0),
    "a row for all": lambda x: (torch.exp(x) - Y[:1]).mean(0),
    "softmax of rows": lambda x: softmax(x, -1).square().sum(),
    "cross entropy": lambda x: picked(x @ W, LABELS),
    "its derivative": grad(lambda x: picked(torch.tanh(x @ W), LABELS)),
    "inner product over the batch": lambda x: torch.exp(x).T @ Y,
    "many products": lambda x: (x.reshape(BATCH, 5, 1) @ Y.reshape(BATCH, 1, 5)).sum(0),
    "side by side": lambda x: torch.cat([torch.exp(x), Y], 1).mean(0),
    "stacked": lambda x: torch.stack([torch.exp(x), Y]).sum(1),
    "a part": lambda x: torch.exp(x)[:, 1:4].sum(0) + torch.exp(x)[:, 1].sum(),
    "the derivative of a part": grad(lambda x: (torch.exp(x)[:, 1:4] ** 2).sum()),
    "spread": lambda x: torch.exp(x)[:, None, :].expand(BATCH, 3, 5).sum((0, 1)),
    "statistics of rows": lambda x: torch.nn.functional.layer_norm(x, (5,)).square().mean(0),
    "the largest of a row": lambda x: (torch.exp(x) - torch.exp(x).amax(1, keepdim=True)).mean(),
}
"""where every slice gives its share"""

MEETING: dict[str, Callable[[Tensor], Any]] = {
    "softmax of the batch": lambda x: (softmax(torch.exp(x), 0) * Y).sum(1),
    "statistics of the batch": lambda x: torch.tanh((torch.exp(x) - torch.exp(x).mean(0)) / torch.exp(x).std(0)).sum(),
    "the largest of the batch": lambda x: torch.exp(x).amax(0),
    "a mean, and what it is taken from": lambda x: ((torch.exp(x) - torch.exp(x).mean(0)) ** 2).mean(),
    "a function of a mean": grad(lambda x: torch.log(torch.exp(x @ W).mean())),
    "all pairs of the batch": lambda x: softmax(torch.exp(x) @ torch.exp(x).T, -1).sum(0),
    "neighbours in the batch": lambda x: torch.exp(x)[1:].sum(0) + torch.exp(x)[:-1].sum(),
    "turned": lambda x: torch.exp(x).T.reshape(BATCH, 5).sum(0),
    "sums of neighbours": lambda x: torch.exp(x).cumsum(0).sum(1),
    "convolved over the batch": lambda x: conv1d(torch.exp(x).T[None], torch.ones(1, 5, 3, dtype=FLOAT)).sum(),
    "torch's cross entropy, which counts labels": grad(lambda x: cross_entropy(torch.tanh(x @ W), LABELS)),
    "upside down": lambda x: torch.exp(x).flip(0).sum(1),
}
"""where the samples of a batch meet on the way, so that whole values are needed"""


@pytest.mark.parametrize("name", PASSING)
def test_a_batch_passes_in_slices(name: str, soon: None) -> None:
    """Nothing of the batch is outside of the loop but its inputs, and the loop's own results."""
    made, _, _ = both(PASSING[name], X)
    assert len(loops(made)) == 1
    inside = {
        aten.exp.default,
        aten.tanh.default,
        aten._softmax.default,
        aten.native_layer_norm.default,
        aten.bmm.default,
    }
    assert not any(node.target in inside for node in made.graph.nodes)


@pytest.mark.parametrize("name", MEETING)
def test_where_samples_meet_the_whole_is_taken(name: str, soon: None) -> None:
    """`both` compares the numbers; a rule that let the slices pass would give others."""
    both(MEETING[name], X)


def test_parameters_are_no_batch_that_helps(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph through which no axis goes from end to end stays as it is."""
    monkeypatch.setattr(slices, "LEAST_COVERED", 0.5)
    square = random(8, 8)
    made, _, _ = both(lambda a: torch.linalg.inv(torch.linalg.inv(a @ a) @ a), square)
    assert not loops(made)


# ---- results over operands ---------------------------------------------------------------------------------------


def test_results_are_written_over_what_nothing_reads_again(soon: None) -> None:
    traced = graph_of(lambda x: torch.exp(x * 2.0).sub(Y).mul(Y), X)
    expected = traced.module(X)
    peak = peak_bytes(traced.module)
    made = reused(traced.module)
    assert [n.target for n in made.graph.nodes if n.op == "call_function"][1:] == [
        aten.exp_.default,
        aten.sub_.Tensor,
        aten.mul_.Tensor,
    ]
    assert all(torch.equal(a, b) for a, b in zip(made(X), expected, strict=True))
    assert peak == 2 * bytes_of(X) and peak_bytes(made) == bytes_of(X)


def read_later(x: Tensor) -> Any:
    a = x @ W
    return torch.exp(a) @ a.T


def read_later_by_another_name(x: Tensor) -> Any:
    a = (x @ W).T
    return torch.exp(a) @ a.T


def read_later_through_a_copy(x: Tensor) -> Any:
    a = (x @ W).T
    b = a.reshape(4, 2, -1)  # a copy, and a view of it that does not declare itself
    return torch.exp(b).sum(0) @ b.reshape(-1, 2).exp().reshape(-1, 4)[: BATCH // 2] + b.sum()


def a_result(x: Tensor) -> Any:
    a = x @ W
    return a, torch.exp(a)


def a_view_as_a_result(x: Tensor) -> Any:
    a = x @ W
    return a.view(-1), torch.exp(a)


def both_operands(x: Tensor) -> Any:
    a = x @ W
    return a.view(4, BATCH) * a.T


KEPT: dict[str, Callable[[Tensor], Any]] = {
    "an input": torch.exp,
    "what the graph holds": lambda x: Y * torch.exp(x.sum()),
    "what is read later": read_later,
    "what is read later by another name": read_later_by_another_name,
    "what both operands are": both_operands,
    "what is read later through a copy": read_later_through_a_copy,
    "a result": a_result,
    "a view as a result": a_view_as_a_result,
    "one number for many": lambda x: (x @ W).sum().expand(4, 4).exp(),
    "a smaller operand": lambda x: (x @ W).sum(0) * (x @ W),
    "another type": lambda x: (x @ W > 0) * (x @ W).exp(),
}


@pytest.mark.parametrize("name", KEPT)
def test_nothing_that_is_still_needed_is_written_over(name: str, soon: None) -> None:
    made, _, _ = both(KEPT[name], X)
    for part in (made, *(loop.body for loop in loops(made))):
        owner = owners(part.graph)
        for node in part.graph.nodes:
            if node.target in OVER.values():
                assert owner[node].op == "call_function"
