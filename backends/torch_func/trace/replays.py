"""Kernels that a device does again as they were recorded: fixed places for inputs, a replay, copies of what it left.

A recording (of a GPU: `cuda.py`) reads and writes the same addresses every time, and the next replay of any recording
of the program may write over what this one left, since they share memory. So inputs are copied into buffers of their
own before a replay, and outputs are copied out before anybody sees them: what a program keeps (iterates, checkpoints,
residuals) is never a place that a replay writes to.

Operators that are asked for one by one cost a GPU more to start than to do where arrays are small; a replay asks once.
A recording holds its buffers, and the memory of what is computed between them, as long as the program lives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, fx

from bilevel.backends.torch_func.trace.compilers import Compiled
from bilevel.backends.torch_func.trace.graph import Traced, reason_of
from bilevel.backends.torch_func.trace.nodes import aten, tensor_of
from bilevel.errors import pass_on

MOST_RECORDINGS = 256
"""recordings of one program"""
MOST_BYTES = 1 << 30
"""bytes of the buffers of all recordings of one program: larger arrays take longer to copy than operators to start"""

Run = Callable[[], Sequence[Tensor]]


class Recording(Protocol):
    """What a device was asked for once."""

    def record(self, run: Run) -> list[Tensor]:
        """Note what `run` asks for; the results' places, which hold nothing before a replay."""

    def replay(self) -> None:
        """Do it again, from what now stands where it reads to where it writes."""


class Recorder(Protocol):
    """Makes the recordings of one program, which run one after the other."""

    def warm(self, run: Run) -> None:
        """Let a function load and allocate what it does once, before it is recorded."""

    def recording(self) -> Recording:
        """An empty recording, which shares its memory with the others."""

    def follow(self) -> None:
        """What is asked from here on waits for every replay before, whatever stream that was in."""


@dataclass(slots=True)
class Replays:
    """The recordings of one program, and how much they hold."""

    recorder: Recorder
    device: torch.device
    most: int = MOST_RECORDINGS
    most_bytes: int = MOST_BYTES
    count: int = 0
    bytes: int = 0

    def replayed(self, traced: Traced, run: Compiled, inputs: Sequence[Tensor]) -> Replayed | str:
        """A kernel by a recording of it, or why there is none."""
        needed = sum(_bytes(tensor) for tensor in (*inputs, *_outputs(traced.module)))
        reason = unrecordable(traced.module, inputs, self.device) or self._no_room(needed)
        if reason:
            return reason
        try:
            made = Replayed(self.recorder, run, inputs)
        except Exception as error:  # noqa: BLE001 - whatever a device refuses to record is the reason
            pass_on(error)
            return f"not recorded: {reason_of(error)}"
        self.count += 1
        self.bytes += needed
        return made

    def _no_room(self, needed: int) -> str:
        if self.count >= self.most:
            return f"more than {self.most} graphs"
        if self.bytes + needed > self.most_bytes:
            return f"the buffers of all graphs would hold more than {self.most_bytes / 1e6:,.0f} MB"
        return ""


class Replayed:
    """One kernel as a recording with its buffers.

    Invariant: no input is read but from a buffer, no output is given but as a copy. Cost of a call: as many bytes
    copied as inputs and outputs have, one replay.
    """

    def __init__(self, recorder: Recorder, run: Compiled, inputs: Sequence[Tensor]) -> None:
        self.recorder = recorder
        self.buffers = [tensor.clone() for tensor in inputs]
        recorder.warm(lambda: run(*self.buffers))
        self.recording = recorder.recording()
        self.outputs = self.recording.record(lambda: run(*self.buffers))
        self.kinds_in, self.kinds_out = _by_type(self.buffers), _by_type(self.outputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for these inputs, as tensors of their own."""
        self.recorder.follow()
        _copy(self.buffers, inputs, self.kinds_in)
        self.recording.replay()
        found = [torch.empty_like(output) for output in self.outputs]
        _copy(found, self.outputs, self.kinds_out)
        return found


def _by_type(tensors: Sequence[Tensor]) -> list[list[int]]:
    """The places of tensors of one dtype each, which a device copies together."""
    places: dict[torch.dtype, list[int]] = {}
    for place, tensor in enumerate(tensors):
        places.setdefault(tensor.dtype, []).append(place)
    return list(places.values())


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor], groups: list[list[int]]) -> None:
    for group in groups:
        torch._foreach_copy_([targets[place] for place in group], [sources[place] for place in group])


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


# ---- what cannot be recorded ---------------------------------------------------------------------------------


def unrecordable(module: fx.GraphModule, inputs: Sequence[Tensor], device: torch.device) -> str:
    """Why a graph cannot be recorded, empty where nothing is known against it.

    A recording holds what was asked of the device: not what the processor does meanwhile, and no number that it looks at.
    """
    if any(tensor.device.type != device.type for tensor in inputs):
        return f"an input is not on {device.type}"
    for node in module.graph.nodes:
        reason = _against(node, module, device) if node.op in ("call_function", "get_attr") else ""
        if reason:
            return reason
    return ""


def _against(node: fx.Node, module: fx.GraphModule, device: torch.device) -> str:
    """Why an operator, or a constant, cannot be part of a recording."""
    if node.op == "get_attr":
        held = getattr(module, str(node.target))
        return "" if held.device.type == device.type else f"a constant is not on {device.type}"
    value, name = tensor_of(node), getattr(node.target, "_opname", str(node.target))
    tags = getattr(node.target, "tags", ())
    if value is not None and value.device.type != device.type:
        return f"{name} computes on {value.device.type}"
    if torch.Tag.nondeterministic_seeded in tags:
        return f"{name} draws random numbers"
    if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags or _masks(node):
        return f"{name} waits for numbers of the device"
    return ""


def _masks(node: fx.Node) -> bool:
    """Whether an operator writes where a mask says: how many places that are is found out first."""
    if node.target not in (aten.index_put.default, aten._unsafe_index_put.default, aten.index.Tensor):
        return False
    indices = node.args[1] if len(node.args) > 1 else ()
    found = [tensor_of(index) for index in indices] if isinstance(indices, list | tuple) else []
    return any(value is not None and value.dtype == torch.bool for value in found)


def _outputs(module: fx.GraphModule) -> list[Tensor]:
    """Fake tensors like the results of a graph."""
    output = next(node for node in module.graph.nodes if node.op == "output")
    found = [tensor_of(node) for node in output.args[0]]
    return [value for value in found if value is not None]
