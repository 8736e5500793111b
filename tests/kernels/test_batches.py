"""C++ that is compiled as few files is the C++ that Inductor compiles file by file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.utils import counters
from torch._inductor import config
from torch._inductor.async_compile import AsyncCompile
from torch._inductor.cpu_vec_isa import VecISA
from torch.fx.experimental.proxy_tensor import make_fx

from bilevel.backends.torch_func.trace import ahead, batches, compilers
from bilevel.backends.torch_func.trace.graph import Traced

SHAPES = ((12, 9), (9, 16), (16, 16), (16, 16), (16, 5))
GROUP = '#include <torch/csrc/inductor/cpp_prefix.h>\nextern "C"  void  kernel(float* a)\n{\n}\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "first"))
    return tmp_path


def network(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """Products with another group of loops after each."""
    for place, weight in enumerate(weights):
        x = torch.tanh(x @ weight) * (place + 0.5) if place % 2 else torch.relu(x @ weight) - x.mean() / (place + 3)
    return x, x.exp().sum(0)


def scaled_by(numbers: list[float]) -> Callable[[Tensor], tuple[Tensor]]:
    """A function that holds a tensor."""
    held = torch.tensor(numbers)
    return lambda x: (x * held + 1,)


def traced(dtype: torch.dtype) -> tuple[fx.GraphModule, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]
    return make_fx(network, tracing_mode="fake")(*inputs), inputs


def libraries(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.so")}


def test_together_gives_the_same_bits_from_fewer_libraries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = traced(torch.float32)
    ahead.begun(torch.float32).wait(ahead.PATIENCE)
    before = libraries(folder)
    few = [value.clone() for value in compilers._by_inductor(module, inputs, ahead.options())(*inputs)]
    together = libraries(folder) - before
    counters.clear()
    again = compilers._by_inductor(module, inputs, ahead.options())(*inputs)
    assert counters["inductor"]["fxgraph_cache_hit"] == 1
    assert all(torch.equal(a, b) for a, b in zip(few, again, strict=True))
    assert libraries(folder) - before == together
    monkeypatch.setattr(batches, "together", nullcontext)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "second"))
    one_by_one = compilers._by_inductor(module, inputs, ahead.options())(*inputs)
    assert len(together) <= 2 < len(libraries(folder) - before - together)
    assert all(torch.equal(a, b) for a, b in zip(few, one_by_one, strict=True))
    expected = network(*inputs)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(few, expected, strict=True))


def test_graphs_that_hold_other_numbers_are_not_mistaken_for_each_other() -> None:
    x = torch.arange(3.0)
    for numbers in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        (found,) = compilers._by_inductor(make_fx(scaled_by(numbers))(x), [x], ahead.options())(x)
        assert torch.equal(found, x * torch.tensor(numbers) + 1)


def test_inductor_is_left_as_it_was() -> None:
    with batches.together():
        assert AsyncCompile.cpp_pybinding is not batches.OWN_BINDING
    with pytest.raises(ValueError, match="mine"), batches.together():
        raise ValueError("mine")
    assert AsyncCompile.cpp_pybinding is batches.OWN_BINDING
    assert AsyncCompile.wait is batches.OWN_WAIT


@pytest.mark.parametrize(
    ("source", "batched"),
    [
        (GROUP, True),
        (GROUP.replace("<torch/csrc/inductor/cpp_prefix.h>", '"/a/folder/cpp_prefix.h"'), True),
        (GROUP + 'extern "C" void other() {}\n', False),
        (GROUP.replace("extern", "#include <vector>\nextern"), False),
        (GROUP + "#include <vector>\n", False),
        (GROUP.replace("extern", "struct Micro {};\nextern"), False),
        (GROUP.replace("kernel(", "gemm("), False),
    ],
)
def test_only_loops_of_the_known_form_are_compiled_together(
    source: str, batched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "OWN_BINDING", lambda self, types, text: ("alone", types, text))
    with batches.together():
        made: Any = AsyncCompile().cpp_pybinding(["float*"], source)
    assert isinstance(made, batches.Waiting) if batched else made == ("alone", ["float*"], source)


@pytest.mark.parametrize(("count", "files"), [(1, 1), (3, 1), (9, 2), (30, 3)])
def test_every_function_is_in_one_file_and_files_are_of_one_size(count: int, files: int) -> None:
    loops = [batches.Loops((), "", "x" * (100 + 37 * i % 50)) for i in range(count)]
    shared = batches._shared(loops, files)
    assert sorted(place for file in shared for place in file) == list(range(count))
    sizes = [sum(len(loops[place].text) for place in file) for file in shared]
    assert max(sizes) - min(sizes) <= 150 or files == 1


# ---- vector instructions -------------------------------------------------------------------------------------


def test_options_leave_what_the_user_said() -> None:
    assert ahead.options() == {"cpp.vec_isa_ok": True}
    with config.patch({"cpp.simdlen": 256}):
        assert ahead.options() == {}
    with config.patch({"cpp.vec_isa_ok": False}):
        assert ahead.options() == {}


def test_a_compiler_that_knows_fewer_instructions_gets_narrower_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    module, inputs = traced(torch.float64)
    asked: list[dict[str, Any]] = []

    def by_inductor(module: fx.GraphModule, inputs: list[Tensor], options: dict[str, Any]) -> Any:
        asked.append(options)
        if "cpp.simdlen" not in options:
            raise RuntimeError("the compiler does not know -mavx512f")
        return module.forward

    monkeypatch.setattr(compilers, "_by_inductor", by_inductor)
    form = Traced(module, tuple(range(len(inputs))), (), None)
    monkeypatch.setattr(VecISA, "check_build", lambda self, code: True)
    with pytest.raises(RuntimeError, match="mavx512f"):  # all of them compile: the fault is another one
        compilers.compiled(form, inputs, "inductor")
    monkeypatch.setattr(VecISA, "check_build", lambda self, code: self.bit_width() < 256)
    compilers.compiled(form, inputs, "inductor")
    told = {"cpp.vec_isa_ok": True}
    assert asked == [told, told, told | {"cpp.simdlen": 1}]


def test_what_fails_ahead_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise OSError("no space")

    monkeypatch.setattr(ahead, "pick_vec_isa", broken)
    assert ahead.begun.__wrapped__(torch.float32).wait(5.0)


def test_options_are_set_while_the_compiler_is_asked_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to torch 2.11 all threads would compile with them, and take them for what the user said."""
    told: list[tuple[str, Any]] = []
    monkeypatch.setattr(ahead, "pick_vec_isa", lambda: told.append(("asks", config.cpp.vec_isa_ok)))
    monkeypatch.setattr(ahead, "loop", lambda dtype: told.append(("compiles", config.cpp.vec_isa_ok)))
    ahead._prepare(Event(), torch.float32)
    assert told == [("asks", True), ("compiles", None)]


def test_with_a_torch_that_was_not_tried_inductor_compiles_as_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    with batches.together():
        assert AsyncCompile.cpp_pybinding is batches.OWN_BINDING
        assert AsyncCompile.wait is batches.OWN_WAIT
