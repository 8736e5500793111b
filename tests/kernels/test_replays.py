"""Kernels that are recorded and replayed: buffers, copies, limits, and what cannot be recorded. See `tapes.py`."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel.backends.torch_func.trace.graph import trace
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.trace.replays import Replayed, Replays, unrecordable
from bilevel.backends.torch_func.tree import leaves
from bilevel.commands.recipes import KERNELS
from bilevel.compiling import ASKED, COMPILING, TRACING, kernel_lines, kernels_for, step_calls
from bilevel.errors import RecipeError
from bilevel.program import load_phases
from bilevel.recipe import load, parse
from tests.kernels.tapes import Tapes
from tests.kernels.test_halves import RECIPE

FLOAT, CPU = torch.float64, torch.device("cpu")
KEPT = "rmd(checkpoint = sqrt, store = residuals)"


def recorded(tapes: Tapes | None = None, **limits: int) -> Kernels:
    """A compiler of kernels that are recorded."""
    return Kernels("fx+graphs", FLOAT, CPU, replays=Replays(tapes or Tapes(), CPU, **limits))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT, generator=torch.Generator().manual_seed(sum(shape)))


def kept_states(step: Callable[[Tensor], Tensor], count: int) -> list[Tensor]:
    """A state and those after it, each made of the one before."""
    states = [random(4)]
    for _ in range(count):
        states.append(step(states[-1]))
    return states


def test_states_that_are_kept_are_those_of_the_function() -> None:
    kernels = recorded()
    found = kept_states(kernels.kernel(lambda x: (x * 0.9).tanh()), 6)
    for a, b in zip(found, kept_states(lambda x: (x * 0.9).tanh(), 6), strict=True):
        assert torch.equal(a, b)
    (made,) = kernels.made
    assert isinstance(made.run, Replayed) and not made.unrecorded


def test_an_output_that_is_no_copy_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above rests on: a kernel that gives the places themselves gives states that change afterwards."""

    def stale(self: Replayed, *inputs: Tensor) -> list[Tensor]:
        self.recorder.follow()
        for buffer, given in zip(self.buffers, inputs, strict=True):
            buffer.copy_(given)
        self.recording.replay()
        return self.outputs

    monkeypatch.setattr(Replayed, "__call__", stale)
    found = kept_states(recorded().kernel(lambda x: (x * 0.9).tanh()), 6)
    expected = kept_states(lambda x: (x * 0.9).tanh(), 6)
    assert not all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_kernels_that_share_memory_do_not_write_over_each_other() -> None:
    kernels = recorded()
    double, both = kernels.kernel(lambda x: 2 * x), kernels.kernel(lambda x, y: (x + y, x.sum(), (y > 0).sum()))
    x, y = random(3), random(3)
    for place in range(4):
        first = double(x + place)
        total, added, count = both(first, y)
        second = double(y)
        assert torch.equal(first, 2 * (x + place)) and torch.equal(second, 2 * y)
        assert torch.equal(total, first + y) and torch.equal(added, first.sum()) and count == (y > 0).sum()


def test_a_view_of_an_input_is_given_as_a_copy() -> None:
    kernels = recorded()
    kernel = kernels.kernel(lambda x: (x[0], x.t() + 0 * x.t(), x.sum(0)))
    first = kernel(random(3, 3))
    expected = [value.clone() for value in first]
    given = 5 * random(3, 3)
    second = kernel(given)
    assert all(torch.equal(a, b) for a, b in zip(first, expected, strict=True))
    assert torch.equal(second[0], given[0]) and torch.equal(second[2], given.sum(0))


def test_every_form_of_arguments_has_its_recording() -> None:
    tapes = Tapes()
    kernels = recorded(tapes)
    kernel = kernels.kernel(lambda x, steps: x * len(steps) + sum(steps))
    for size, first in ((2, 0), (3, 1), (2, 5), (3, 7)):
        x = random(size)
        assert torch.equal(kernel(x, range(first, first + 2)), x * 2 + 2 * first + 1)
    assert len(kernels.made) == len(tapes.tapes) == 2
    assert [tape.replays for tape in tapes.tapes] == [3, 3], "one to check it, and two calls"


@pytest.mark.parametrize(
    "mode", ["rmd", "rmd(store = residuals)", "rmd(checkpoint = sqrt)", KEPT, "rmd(window = 7)", "fmd"]
)
def test_hypergradients_by_recorded_kernels(mode: str) -> None:
    """Whole steps of a recipe, with iterates, checkpoints and residuals that are kept while kernels are replayed."""
    recipe = parse(RECIPE.replace("MODE", mode), "recorded.bl")
    program = bilevel.compile(recipe, compile="none", dtype=FLOAT)
    tapes = Tapes()
    kernels = recorded(tapes)
    found = []
    for used in (None, kernels):
        (phase,) = load_phases(program.source, program.parts, used)
        state, key = phase.begin(torch.tensor(3)), torch.tensor(3)
        with torch.no_grad():
            states = [state] + [state := phase.step(state, key)[0] for _ in range(3)]
            found.append([*leaves(phase.hypergradient(state, key)[0]), *leaves(states)])
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b) or float((a - b).norm()) <= 1e-12 * float(b.norm())
    assert any(made.run is not None for made in kernels.made)
    assert all(not made.unrecorded for made in kernels.made) and sum(tape.replays for tape in tapes.tapes) > 3


def test_many_calls_hold_no_more_than_the_first() -> None:
    kernels = recorded()
    kernel = kernels.kernel(lambda x: (x.sin(), x.cos()))

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    for _ in range(2):
        kernel(random(5))
    held = tensors()
    for _ in range(20):
        kernel(random(5))
    assert tensors() <= held


# ---- what is not recorded ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"), [({"most": 1}, "more than 1 graphs"), ({"most_bytes": 64}, "hold more than 0 MB")]
)
def test_kernels_beyond_a_limit_run_unrecorded(limits: dict[str, int], reason: str) -> None:
    kernels = recorded(**limits)
    kernel = kernels.kernel(lambda x: x * 2)
    for size in (2, 3, 4):
        assert torch.equal(kernel(random(size)), 2 * random(size))
        assert torch.equal(kernel(random(size) + 1), 2 * (random(size) + 1))
    assert kernels.replays is not None and kernels.replays.bytes <= kernels.replays.most_bytes
    first, *rest = kernels.made
    assert isinstance(first.run, Replayed)
    assert all(reason in made.unrecorded and made.run is not None for made in rest)


def test_what_a_device_refuses_to_record_runs_unrecorded_and_says_why() -> None:
    kernels = recorded(Tapes(refuses="operation not permitted when stream is capturing"))
    kernel = kernels.kernel(lambda x: x * 2)
    for _ in range(2):
        assert torch.equal(kernel(random(3)), 2 * random(3))
    (made,) = kernels.made
    assert made.unrecorded == "not recorded: RuntimeError: operation not permitted when stream is capturing"
    assert kernels.replays is not None and kernels.replays.count == kernels.replays.bytes == 0


def masked(x: Tensor) -> Tensor:
    return torch.ops.aten.index_put.default(x, [x > 0], x.sum())


@pytest.mark.parametrize(
    ("function", "device", "reason"),
    [
        (lambda x: x + torch.ops.aten.bernoulli.default(x.sigmoid()), "cpu", "bernoulli draws random numbers"),
        (masked, "cpu", "index_put waits for numbers of the device"),
        (lambda x: x * 2, "cuda", "an input is not on cuda"),
        (lambda x: x * 2, "cpu", ""),
    ],
)
def test_why_a_graph_cannot_be_recorded(function: Any, device: str, reason: str) -> None:
    x = random(4)
    traced = trace(function, (x,), [x], FLOAT)
    assert unrecordable(traced.module, [x], torch.device(device)) == reason


def test_a_constant_elsewhere_cannot_be_recorded() -> None:
    x, data = random(4), random(4)
    traced = trace(lambda x: x * data, (x,), [x], FLOAT)
    assert unrecordable(traced.module, [], torch.device("cuda")) == "a constant is not on cuda"


# ---- how it is asked for -------------------------------------------------------------------------------------


def test_every_verb_knows_every_kind() -> None:
    assert set(KERNELS) == set(ASKED)


@pytest.mark.parametrize("kind", ["fx+graphs", "inductor+graphs"])
def test_graphs_on_a_processor_are_b712(kind: Any) -> None:
    with pytest.raises(RecipeError) as caught:
        bilevel.compile("maml_sine", compile=kind)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "B712" and "no GPU" in diagnostic.message
    assert any(f"--compile {kind.partition('+')[0]}" in fix for fix in (str(diagnostic.fix),))


def test_by_default_kernels_on_a_gpu_are_recorded() -> None:
    """Decided from the recipe's numbers; nothing of a GPU is touched before a kernel is made."""
    for steps in (10, 3_000, 60_000):
        program = bilevel.compile(load("maml_sine").changed([f"meta.steps={steps}"]), compile="auto")
        kernels = kernels_for(program.plan, "auto", torch.device("cuda"), torch.float32)
        count = step_calls(program.plan)
        if count < TRACING:
            assert kernels.kind == "none" and kernels.replays is None
            continue
        assert kernels.kind in (("fx+graphs",) if count < COMPILING else ("inductor+graphs", "fx+graphs"))
        assert kernels.replays is not None and "asked for a kernel at once" in kernels.reason


def test_what_is_not_recorded_is_said_before_the_run() -> None:
    program = bilevel.compile("maml_sine", decided={"adapt": "rmd"}, compile="fx")
    kernels = program.kernels
    kernels.replays = Replays(Tapes(), CPU, most=1)
    lines = "".join(f"{line}\n" for line in (program.explain_kernels(), *kernel_lines(program)))
    assert "1 graphs, which hold" in lines
    assert "no graph of" in lines and "[more than 1 graphs]" in lines
