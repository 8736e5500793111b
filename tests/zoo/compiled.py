"""A recipe compiled for a test: its plan, the text of its module, and the module's levels in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from bilevel import pipeline
from bilevel.binding import bind
from bilevel.dsl.parse import parse
from bilevel.plan import Plan
from bilevel.recipes import zoo
from bilevel.registry import collect
from tests.zoo import sources

Edit = Callable[[str], str]
REGISTRY = collect([zoo, sources])


@dataclass(frozen=True)
class Compiled:
    """`phases` are the outermost levels; `parts` are what they were built from."""

    plan: Plan
    text: str
    module: ModuleType
    parts: Mapping[str, Any]
    phases: tuple[Any, ...]

    @property
    def phase(self) -> Any:
        """The only outermost level."""
        (phase,) = self.phases
        return phase

    def key(self, seed: int = 0) -> Tensor:
        return self.module.make_key(seed)  # type: ignore[no-any-return]


def plan_text(text: str, changes: Sequence[str] = (), folder: Path | None = None) -> Plan:
    """The plan of a recipe given as text, with `path=value` changes."""
    name = f"{text.split()[1]}.bl"
    options = pipeline.Options(tuple(map(pipeline.change, changes)), manifests=(collect([sources]).manifest,))
    return pipeline.plan(pipeline.check(parse(text, name), options, folder))


def packaged(name: str, changes: Sequence[str] = ()) -> Plan:
    """The plan of a recipe of the package."""
    options = pipeline.Options(tuple(map(pipeline.change, changes)))
    return pipeline.plan(pipeline.check(pipeline.read(name), options))


def build(
    plan: Plan, given: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float64, edit: Edit = str
) -> Compiled:
    """The module of a plan, its text edited, with its parts."""
    text = edit(pipeline.emit(plan))
    module = ModuleType("emitted")
    exec(compile(text, f"{plan.program.name}.py", "exec"), module.__dict__)
    parts = bind(plan.program, REGISTRY, given or {}, torch.device("cpu"), dtype).objects
    return Compiled(plan, text, module, parts, module.build(*parts.values(), dtype=dtype))


def compile_text(text: str, given: Mapping[str, Any] | None = None, edit: Edit = str) -> Compiled:
    """A recipe given as text, in float64."""
    return build(plan_text(text), given, edit=edit)


def hypergradient(compiled: Compiled, seed: int = 0) -> tuple[float, dict[str, Any]]:
    """Objective and hypergradient of the last outermost level at its start, earlier levels run to their end."""
    key, known = compiled.key(seed), {}
    *earlier, last = compiled.phases
    for phase in earlier:
        known |= phase.values(run(phase, key, known))
    given = [known[name] for name in last.reads]
    gradient, value = last.hypergradient(last.begin(key, *given), key, *given)
    return value.item(), dict(zip(last.variables, (gradient,) if len(last.variables) == 1 else gradient, strict=True))


def run(phase: Any, key: Tensor, known: Mapping[str, Any] | None = None, steps: int | None = None) -> Any:
    """The state of an outermost level after some steps, or all."""
    given = [(known or {})[name] for name in phase.reads]
    state = phase.begin(key, *given)
    for _ in range(phase.steps if steps is None else steps):
        state, _ = phase.step(state, key, *given)
    return state
