"""An emitted file needs torch alone: run where `bilevel` cannot be imported, it gives the same bits."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel import pipeline
from bilevel.recipes.records import Task, TaskSplits
from tests.recipes.test_hypergradients import HPO, small
from tests.zoo.compiled import Compiled, build, packaged, plan_text

STEPS, SEED = 3, 11
PROGRAM = Path(__file__).with_name("alone.py")


@dataclass
class Recorder:
    """A stream that remembers what it gave."""

    stream: Any
    given: list[Task] = field(default_factory=list)

    def sample(self, keys: Tensor) -> Task:
        self.given.append(self.stream.sample(keys))
        return self.given[-1]

    def to(self, device: torch.device, dtype: torch.dtype) -> Recorder:
        return self


def plain(record: Any) -> Any:
    """Named tuples as tuples: what `weights_only` reads."""
    return tuple(map(plain, record)) if isinstance(record, tuple) else record


def in_process(compiled: Compiled) -> dict[str, Any]:
    phase, key = compiled.phase, compiled.key(SEED)
    state, values = phase.begin(key), []
    for _ in range(STEPS):
        state, value = phase.step(state, key)
        values.append(value)
    return {"values": values, "variables": phase.values(state)}


def alone(folder: Path, text: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the same file gives in another process, far from the checkout."""
    (folder / "emitted.py").write_text(text, "utf-8")
    torch.save(given | {"seed": SEED, "steps": STEPS, "threads": torch.get_num_threads()}, folder / "inputs.pt")
    command = [sys.executable, "-I", str(PROGRAM), "emitted.py", "inputs.pt", "outputs.pt"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "outputs.pt", weights_only=True)  # type: ignore[no-any-return]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return left.dtype == right.dtype and torch.equal(left, right)


@pytest.mark.parametrize(
    ("plan", "network"),
    [
        (lambda: packaged("maml_sine"), ("layers", [1, 40, 40, 1])),
        (lambda: plan_text(small("fomaml")), ("convolutions", [3, 4])),
    ],
    ids=["maml_sine", "fomaml"],
)
def test_meta_learning_alone_gives_the_same_bits(plan: Any, network: Any, tmp_path: Path) -> None:
    first = build(plan(), dtype=torch.float32)
    streams = TaskSplits(*map(Recorder, first.parts["tasks"]))
    compiled = build(plan(), {"tasks": streams}, torch.float32)
    expected = in_process(compiled)
    assert same(expected, in_process(first))
    found = alone(tmp_path, compiled.text, {"network": network, "tasks": plain(tuple(streams.train.given))})
    assert same(found, expected)


def test_hyperparameters_alone_give_the_same_bits(tmp_path: Path) -> None:
    compiled = build(plan_text(HPO), dtype=torch.float32)
    data = {name: plain(samples) for name, samples in compiled.parts["data"]._asdict().items()}
    found = alone(tmp_path, compiled.text, {"network": ("layers", [64, 8, 10]), "data": data})
    assert same(found, in_process(compiled))


@pytest.mark.parametrize("name", ["maml_sine", "fomaml", "hpo", "reptile", "meta_sgd", "maml"])
def test_emitted_files_import_torch_and_the_standard_library_only(name: str) -> None:
    tree = ast.parse(pipeline.emit(packaged(name)))
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    roots = {str(module).partition(".")[0] for module in imported}
    assert roots - set(sys.stdlib_module_names) == {"torch"}


def test_a_network_without_a_known_start_is_named(tmp_path: Path) -> None:
    """What the file borrows from the compiler's errors says the same without it."""

    class Unknown(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(2))

    module: dict[str, Any] = {}
    exec(pipeline.emit(packaged("maml_sine")), module)
    with pytest.raises(ValueError, match="`Unknown` has a parameter `scale`"):
        module["build"](Unknown(), None)[0].begin(module["make_key"](0))


GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("name", ["maml_sine", "fomaml", "hpo"])
def test_emitted_modules_are_the_golden_ones(name: str, update_golden: bool) -> None:
    golden = GOLDEN / f"{name}.py"
    text = pipeline.emit(packaged(name))
    assert text == pipeline.emit(packaged(name))
    if update_golden:
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, "utf-8")
    if not golden.exists():
        pytest.fail(f"{golden.name} is missing; run: pytest tests/recipes/test_alone.py --update-golden")
    assert text == golden.read_text("utf-8"), (
        "read the difference, then: pytest tests/recipes/test_alone.py --update-golden"
    )
