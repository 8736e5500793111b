"""CUDA graphs on a GPU: they give what the functions give, keep apart what is kept, and fail without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import bilevel
from bilevel.backends.torch_func.trace.cuda import CudaGraphs
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.backends.torch_func.trace.replays import Replayed, Replays
from bilevel.backends.torch_func.tree import leaves
from bilevel.compiling import Asked
from bilevel.measuring import Allocator, Clock
from bilevel.meter import Meter
from bilevel.recipe import load, parse
from tests.kernels.test_halves import RECIPE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
GPU = torch.device("cuda")


def recorded() -> Kernels:
    """A compiler of kernels that are recorded on the GPU."""
    return Kernels("fx+graphs", torch.float32, GPU, replays=Replays(CudaGraphs(GPU), GPU))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(GPU)


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm()) <= 1e-5 * float(expected.norm())


def test_states_that_are_kept_are_those_of_the_function() -> None:
    kernels = recorded()
    kernel = kernels.kernel(lambda x: (x @ x.t() * 0.1).tanh() @ x)
    with torch.no_grad():
        found, expected = [random(8, 5)], [random(8, 5)]
        for _ in range(10):
            found.append(kernel(found[-1]))
            expected.append((expected[-1] @ expected[-1].t() * 0.1).tanh() @ expected[-1])
    assert all(near(a, b) for a, b in zip(found, expected, strict=True))
    assert isinstance(kernels.made[0].run, Replayed), kernels.made[0]


def test_kernels_that_share_memory_do_not_write_over_each_other() -> None:
    kernels = recorded()
    double, both = kernels.kernel(lambda x: 2 * x), kernels.kernel(lambda x, y: (x + y, (x * y).sum(), (y > 0).sum()))
    x, y = random(300), random(300)
    with torch.no_grad():
        for place in range(5):
            first = double(x + place)
            total, product, count = both(first, y)
            second = double(y)
            assert torch.equal(first, 2 * (x + place)) and torch.equal(second, 2 * y)
            assert torch.equal(total, first + y) and near(product, (first * y).sum()) and count == (y > 0).sum()
    assert all(isinstance(made.run, Replayed) for made in kernels.made)


def test_calls_in_different_streams_wait_for_each_other() -> None:
    """The buffers are the same in all streams: a call may not copy into them while another one's replay reads."""
    kernels = recorded()

    def slow(x: Tensor) -> Tensor:
        for _ in range(20):
            x = (x @ x).tanh()
        return x

    kernel = kernels.kernel(slow)
    given = [random(1024, 1024) * scale for scale in (0.1, 0.2, 0.3, 0.4)]
    with torch.no_grad():
        expected = [slow(value) for value in given]
        kernel(given[0])
        torch.cuda.synchronize()
        found = []
        for value in given:
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.default_stream())
            with torch.cuda.stream(stream):
                found.append(kernel(value))
        torch.cuda.synchronize()
    assert all(near(a, b) for a, b in zip(found, expected, strict=True))


def test_many_calls_hold_no_more_than_the_first() -> None:
    kernel = recorded().kernel(lambda x: ((x * 2).sin(), x.cos()))
    with torch.no_grad():
        for _ in range(3):
            kernel(random(1000))
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        for _ in range(50):
            kernel(random(1000))
        torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= held


def test_a_capture_that_fails_leaves_the_stream_and_later_captures_as_they_were() -> None:
    replays = Replays(CudaGraphs(GPU), GPU)
    x = random(4)
    before = torch.cuda.current_stream()
    with torch.no_grad():
        recording = replays.recorder.recording()
        with pytest.raises(RuntimeError):
            recording.record(lambda: [x * float(x.sum())])
        assert torch.cuda.current_stream() == before
        kernels = Kernels("fx+graphs", torch.float32, GPU, replays=replays)
        kernel = kernels.kernel(lambda x: x * 3)
        for place in range(3):
            assert torch.equal(kernel(x + place), (x + place) * 3)
    assert isinstance(kernels.made[0].run, Replayed), kernels.made[0]


def test_what_waits_for_the_gpu_is_no_graph_and_the_reason_is_known() -> None:
    kernels = recorded()
    kernel = kernels.kernel(lambda x: torch.ops.aten.index_put.default(x, [x > 0], x.sum()))
    with torch.no_grad():
        for place in range(2):
            x = random(9) + place
            assert torch.equal(kernel(x), torch.where(x > 0, x.sum(), x))
    assert kernels.made[0].unrecorded == "index_put waits for numbers of the device"


@pytest.mark.parametrize("mode", ["rmd", "rmd(store = residuals)", "rmd(checkpoint = sqrt)", "fmd"])
@pytest.mark.parametrize("kind", ["fx", "fx+graphs", "inductor", "inductor+graphs"])
def test_every_kind_computes_the_hypergradient(mode: str, kind: Asked) -> None:
    """In float64 against the functions as they are, on the processor and on the GPU; steps first, so that states move."""
    recipe = parse(RECIPE.replace("MODE", mode), "recorded.bl")
    found = []
    for device, used in (("cpu", "none"), ("cuda", "none"), ("cuda", kind)):
        asked: Any = used
        program = bilevel.compile(recipe, compile=asked, dtype=torch.float64, device=device)
        (phase,) = program.phases
        key = torch.tensor(3, device=device)
        state = phase.begin(key)
        with torch.no_grad():
            states = [state] + [state := phase.step(state, key)[0] for _ in range(3)]
            tree = [*leaves(phase.hypergradient(state, key)[0]), *leaves(states)]
        found.append([leaf.cpu() for leaf in tree])
    for other in found[1:]:
        for a, b in zip(other, found[0], strict=True):
            assert torch.equal(a, b) or float((a - b).norm()) <= 1e-11 * float(b.norm())
    if kind.endswith("+graphs"):
        assert [made.unrecorded for made in program.kernels.made if made.run is not None and made.unrecorded] == []


def test_a_run_with_graphs_is_the_run_of_the_functions() -> None:
    recipe = load("maml_sine").changed(["meta.steps=6"])
    plain = bilevel.compile(recipe, compile="none", device="cuda").run(seed=3)
    whole = bilevel.compile(recipe, compile="fx+graphs", device="cuda").run(seed=3)
    assert whole.losses == pytest.approx(plain.losses, rel=1e-4)
    assert any(isinstance(made.run, Replayed) for made in whole.program.kernels.made)


def test_readings_wait_for_the_gpu() -> None:
    x = random(4096, 4096)
    clock, gauge = Clock(GPU), Allocator(Meter(), GPU)
    torch.cuda.synchronize()
    began = clock.read()[0]
    for _ in range(20):
        y = x @ x
    seconds = clock.read()[0] - began
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    begin.record()  # type: ignore[no-untyped-call]
    for _ in range(20):
        y = x @ x
    end.record()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    assert seconds >= 0.5e-3 * begin.elapsed_time(end)  # type: ignore[no-untyped-call]
    assert gauge.read()[2] >= y.numel() * y.element_size()
