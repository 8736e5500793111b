"""MAML on sine waves by Betty's own engine: one problem for each task, unrolled, under one that takes no step."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from betty.configs import Config, EngineConfig
from betty.engine import Engine
from betty.problems import ImplicitProblem, IterativeProblem
from torch.nn.functional import mse_loss

from benchmarks.peers import dense, given, numbers_of
from benchmarks.workload import Arrays, Work


class Outer(ImplicitProblem):
    """The start of all tasks; where the engine wants a step it keeps the gradient."""

    query: tuple[Any, Any]
    found: list[Any]

    def get_batch(self) -> tuple[Any, Any]:
        return self.query

    def training_step(self, batch: tuple[Any, Any]) -> Any:
        losses = [mse_loss(task(batch[0][i]), batch[1][i]) for i, task in enumerate(self.children)]
        return sum(losses) / len(losses)

    def custom_optimizer_step(self) -> None:
        self.found = [parameter.grad for parameter in self.module.parameters()]


class Task(IterativeProblem):
    """One wave; before its first step it takes the start, with the graph, and no momentum of the last solve."""

    support: tuple[Any, Any]

    def on_inner_loop_start(self) -> None:
        self.params = tuple(parameter.clone() for parameter in self.outer.module.parameters())
        self.optimizer.state = [{"momentum_buffer": None} for _ in self.params]

    def get_batch(self) -> tuple[Any, Any]:
        return self.support

    def forward(self, x: Any) -> Any:
        return self.fmodule(self.params, self.buffers, x)

    def training_step(self, batch: tuple[Any, Any]) -> Any:
        return mse_loss(self(batch[0]), batch[1])


def work(steps: int, rate: float, data: Arrays) -> Work:
    """T steps of the engine, after the last of which it has the gradient of the outer problem."""
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    device = str(torch.get_default_device())
    net, (xs, ys, xq, yq) = dense(data, "relu"), given(data, "xs", "ys", "xq", "yq")
    outer = Outer("outer", Config(first_order=False, retain_graph=True), module=net, device=device)
    outer.query = (xq, yq)
    tasks = [_task(number, steps, rate, data, device) for number in range(len(xs))]
    for number, task in enumerate(tasks):
        task.support = (xs[number], ys[number])
    edges = {"u2l": {outer: tasks}, "l2u": {task: [outer] for task in tasks}}
    engine = Engine(config=EngineConfig(valid_step=1_000_000), problems=[outer, *tasks], dependencies=edges)
    engine.train()

    def run() -> list[Any]:
        for _ in range(steps):
            engine.train_step()
        return outer.found

    return Work(run, numbers_of)


def _task(number: int, steps: int, rate: float, data: Arrays, device: str) -> Task:
    net = dense(data, "relu")
    config = Config(unroll_steps=steps, first_order=False, retain_graph=True)
    return Task(f"task{number}", config, net, torch.optim.SGD(net.parameters(), lr=rate), device=device)
