"""How sure a gain is: over drawn copies, and over parts of the samples where a recipe draws nothing."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from statistics import stdev

import pytest
import torch
from torch import Tensor

from benchmarks.every_recipe import Result, joined, markdown
from benchmarks.folds import FOLDS
from benchmarks.improvement import Improvement, improvement
from bilevel.backends.torch_func.keyed import make_key, permutation
from bilevel.program import Program
from bilevel.program import compile as build
from bilevel.recipe import parse
from bilevel.spread import Estimator

FIT = """recipe fit
use d = sparse_text(words = 20, documents = 50, telling = 5)
let loss(w, d) = mean(softplus(dot(d.x, w)) - d.y * dot(d.x, w))
level fit {
  w : real[20] from 0
  minimize loss(w, d.train)
  by sgd(lr = 1.0) for 20 steps
  report test = REPORT every 20 steps
}"""
DRAWN = """recipe drawn
param asked = 7
level fit {
  w : real from 0
  each s ~ normal(1, 1)[4]
  minimize mean[s] (w - s)^2
  by sgd(lr = 0.1) for 3 steps
  report few  = mean[s] (w - s)^2 with s ~ normal(1, 1)[asked] every 3 steps
  report most = mean[s] (w - s)^2 with s ~ normal(1, 1)[9] every 3 steps
  report one  = mean[s] (w - s)^2 with s ~ normal(1, 1)[1] every 3 steps
}"""


def fitted(report: str) -> Program:
    return build(parse(FIT.replace("REPORT", report)))


def losses(program: Program, w: Tensor) -> Tensor:
    """The test loss of each document."""
    test = program.parts.objects["d"].test
    return torch.nn.functional.softplus(test.x @ w) - test.y * (test.x @ w)


def test_a_recipe_without_chance_is_judged_on_parts_of_its_samples() -> None:
    program = fitted("loss(w, d.test)")
    run = program.run(seed=0)
    found = improvement(program, [run, program.run(seed=1)])
    gains = losses(program, torch.zeros(20)) - losses(program, run.state["w"])
    order = permutation(make_key(0), len(gains))
    parts = [float(gains[order[place::FOLDS]].mean()) for place in range(FOLDS)]
    assert found.over == f"{FOLDS} parts of its samples"
    error = stdev(parts) / math.sqrt(FOLDS)
    assert found.errors == pytest.approx(sum(parts) / FOLDS / error, rel=1e-3)
    assert found.first - found.last == pytest.approx(float(gains.mean()), rel=1e-4)


def test_what_is_no_mean_over_samples_has_no_parts() -> None:
    program = fitted("loss(w, d.test)^2")
    run = program.run(seed=0)
    assert improvement(program, [run, run]).over == "2 seeds"


def test_rows_of_several_calls_are_joined(tmp_path: Path) -> None:
    """In the order of their names, the later of two; a recipe that did not run keeps its reason."""
    gain = Improvement("val", 2.0, 1.0, 4.5, "50 copies")
    calls = [[Result("b", "B", problem="no"), Result("c", "C", "exact", 9.0, gain, "exact to 1e-09", True)]]
    calls += [[Result("a", "A", problem="no"), Result("b", "B", "exact", 8.0, gain, "", True)]]
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, results in zip(files, calls, strict=True):
        file.write_text(json.dumps([asdict(result) for result in results]), "utf-8")
    assert joined(files) == [calls[1][0], calls[1][1], calls[0][1]]
    assert "| c | C | exact | 9 | val | 2 | 1 | 4.5 (50 copies) |" in markdown(joined(files))


def test_copies_may_be_counted_by_a_param() -> None:
    assert Estimator(build(parse(DRAWN))).counts == {"few": 7, "most": 9}
    assert Estimator(build(parse(DRAWN).with_({"asked": 5}))).counts == {"few": 5, "most": 9}
