"""Recordings of kernels on a GPU: CUDA graphs that share one pool of memory.

Sharing is sound although graphs are replayed in any order: each reads only its buffers, which are no part of the pool,
and what it leaves there is copied out before another one is replayed (`replays.py`).

Source: CUDA semantics in the documentation of PyTorch, `CUDA Graphs`; `torch.cuda.make_graphed_callables` warms up and
captures in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bilevel.backends.torch_func.trace.replays import Run

WARM = 3
"""runs before a capture: the first ones load kernels and make workspaces, which a capture must not"""


@dataclass
class CudaGraphs:
    """The recorder of one program on one GPU."""

    device: torch.device
    pool: Any = None
    stream: torch.cuda.Stream | None = None
    """where functions are warmed up and captured: memory in a pool is handed on within one stream alone"""
    last: torch.cuda.Stream | None = None
    """where the last replay was asked for"""

    def warm(self, run: Run) -> None:
        """Run in the stream that captures, a few times."""
        with self._aside():
            for _ in range(WARM):
                run()

    def recording(self) -> CudaGraph:
        """An empty graph."""
        return CudaGraph(self)

    def follow(self) -> None:
        """Let the current stream wait for the one of the last replay, where that was another."""
        now = torch.cuda.current_stream(self.device)
        if self.last is not None and now != self.last:
            now.wait_stream(self.last)
        self.last = now

    def captured(self, graph: torch.cuda.CUDAGraph, run: Run) -> list[Tensor]:
        """Capture what a function asks for; raises what stood in the way.

        Other threads may use the GPU meanwhile. A capture that failed leaves a pool and a stream that are not used again.
        """
        self.pool = torch.cuda.graph_pool_handle() if self.pool is None else self.pool
        try:
            with (
                self._aside() as aside,
                torch.cuda.graph(graph, pool=self.pool, stream=aside, capture_error_mode="thread_local"),
            ):
                return list(run())
        except Exception as error:
            self.pool = self.stream = None
            raise _first(error) from error

    @contextmanager
    def _aside(self) -> Iterator[torch.cuda.Stream]:
        """While it lasts, the stream that captures is the current one; both wait for each other.

        Around a capture too, which leaves its stream current where it fails.
        """
        outside = torch.cuda.current_stream(self.device)
        aside: Any = torch.cuda.Stream(self.device) if self.stream is None else self.stream  # type: ignore[no-untyped-call]
        self.stream = aside
        aside.wait_stream(outside)
        with torch.cuda.stream(aside):
            yield aside
        outside.wait_stream(aside)


class CudaGraph:
    """One recording: a CUDA graph."""

    def __init__(self, graphs: CudaGraphs) -> None:
        self.graphs, self.graph = graphs, torch.cuda.CUDAGraph()

    def record(self, run: Run) -> list[Tensor]:
        """Capture what `run` asks for; its results, which are in the pool, hold nothing before a replay."""
        return self.graphs.captured(self.graph, run)

    def replay(self) -> None:
        """Ask for all of it in the current stream."""
        self.graph.replay()


def _first(error: BaseException) -> BaseException:
    """What went wrong first: the end of a capture fails after every failure in it."""
    while error.__context__ is not None:
        error = error.__context__
    return error
