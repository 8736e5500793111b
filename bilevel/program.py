"""A compiled recipe: its plan, its emitted module loaded, its parts built.

What runs is the emitted module and nothing else: `Program` holds its functions and gives them names.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bilevel import ir, pipeline
from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.plainly import Plain
from bilevel.backends.torch_func.trace.compilers import Kind, why_not
from bilevel.backends.torch_func.trace.kernels import Kernels
from bilevel.binding import Parts, bind
from bilevel.compiling import CANDIDATES, SHORT, Asked, Whole, kernel_lines, kernels_for, paying, prepare, whole
from bilevel.costs import Calibration, current, reference
from bilevel.derivatives import found_derivatives
from bilevel.elements import check_counts, check_sizes
from bilevel.errors import fail
from bilevel.explain import plan_text
from bilevel.facts import Facts
from bilevel.garbage import uncollected
from bilevel.limits import Limit, free_memory, read_limits
from bilevel.modes import Class
from bilevel.plan import Plan
from bilevel.planner import plan_program
from bilevel.recipe import Recipe, load
from bilevel.registry import Registry, collect
from bilevel.run import Callback, Run, execute
from bilevel.samples import check_samples
from bilevel.trees import check_trees

if TYPE_CHECKING:
    from bilevel.gradcheck import Gradcheck


@dataclass(frozen=True)
class Program:
    """A recipe ready to run on one device; `phases` are the outermost levels, in order."""

    recipe: Recipe
    plan: Plan
    parts: Parts
    source: str
    phases: tuple[Any, ...]
    kernels: Kernels

    def emit(self) -> str:
        """The source text of the module that runs."""
        return self.source

    def explain(self) -> str:
        """The plan as text, with sizes and the costs of every mode."""
        return plan_text(self.explained, self.parts)

    def explain_kernels(self, seed: int = 0) -> str:
        """What runs as a kernel and what does not, and why; makes them, which takes as long as the first step."""
        prepare(self, seed)
        return "\n".join(kernel_lines(self)) + "\n"

    @cached_property
    def explained(self) -> Plan:
        """The plan with the costs of modes that were not open to choice as well."""
        numbers = self.plan.numbers
        if numbers is None:
            return self.plan
        known = found_derivatives(self.plan, self.parts, every=True)
        plan = replace(self.plan, facts=replace(self.plan.facts, derivatives=known))
        made = (numbers.limit, numbers.allow, numbers.calibration, numbers.kernels)
        return costed(plan, self.parts, *made, every=True)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from bilevel.display import plan_bundle

        return plan_bundle(self.plan, self.parts)

    @property
    def step(self) -> Any:
        """The step of the last outermost level, a pure function: (state, key) -> (state, value)."""
        return self.phases[-1].step

    def hypergradient(self, seed: int = 0, phase: str | None = None) -> dict[str, Any]:
        """The gradient of the objective before the first step, by variable, in free coordinates; no step is taken.

        It is that of the objective as the recipe writes it: `minimize` follows it down, `maximize` up.

        Phases before `phase` (the last by default) are not run: their solutions are their starts.
        """
        key = make_key(seed, self.parts.device)
        known: dict[str, Any] = {}
        for one in self.phases:
            state = one.begin(key, *(known[n] for n in one.reads))
            if one.name == phase or (phase is None and one is self.phases[-1]):
                gradient, _ = one.hypergradient(state, key, *(known[n] for n in one.reads))
                return dict(zip(one.variables, gradient if len(one.variables) > 1 else (gradient,), strict=True))
            known |= one.values(state)
        raise fail("B204", f"`{phase}` is no outermost level of {self.recipe.name}")

    def gradcheck(
        self, directions: int = 3, seed: int = 0, level: str | None = None, against: str | None = None
    ) -> Gradcheck:
        """Hypergradients against difference quotients and every other exact mode, in float64 on a small copy.

        `level`: vary only this level's mode. `against`: `fd`, or the mode to compare with. See `bilevel.gradcheck`.
        """
        from bilevel.gradcheck import gradcheck

        return gradcheck(self, directions, seed, level, against)

    def run(self, out: str | Path | None = None, seed: int = 0, callbacks: Sequence[Callback] = ()) -> Run:
        """Run all phases to their end; files go to `out` where it is given. See `Run`."""
        return execute(self, None if out is None else Path(out), seed, tuple(callbacks))


@uncollected()
def compile(
    recipe: Recipe | str | Path,
    *,
    registry: Sequence[object] = (),
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    limit: str | Limit | None = None,
    allow: Class = "exact",
    calibration: Calibration | None = None,
    decided: Mapping[str, str] | None = None,
    compile: Asked = "auto",
    **parts: Any,
) -> Program:
    """Check, plan and emit a recipe and build its parts; raises RecipeError with every problem of the stage it is in.

    `registry`: modules or decorated objects whose names the recipe may use besides the built-in ones. `parts`: objects
    for `use` lines by name, in place of what the recipe says. `limit`: `"memory=2GB"`, by default what is free on the
    device; `allow`: the worst class that the planner may choose by itself; `calibration`: by default this machine's,
    or the reference; `decided`: modes by level that an earlier plan of the recipe took, in place of a choice by cost.
    `compile`: what the emitted functions become: `none` (they run as they are), `fx` (traced), `inductor` (compiled),
    `fx+graphs` and `inductor+graphs` (recorded as CUDA graphs besides), or what pays back in the steps of a run
    (`auto`: in runs alone; a single hypergradient is computed as it is).
    """
    recipe = recipe if isinstance(recipe, Recipe) else load(recipe)
    known = _registry(registry)
    own = collect(registry).manifest if registry else None
    recipe = recipe if own is None else recipe.knowing(own)
    plan = pipeline.plan(recipe.program, allow, decided)
    bound = bind(plan.program, known, parts, _device(device), dtype)
    check_trees(plan.program, bound)
    check_sizes(plan.program, bound)
    check_counts(plan.program, bound)
    check_samples(plan.program, bound)
    derivatives = found_derivatives(plan, bound)
    if derivatives:
        plan = pipeline.plan(recipe.program, allow, decided, derivatives)
    kernels = kernels_for(plan, compile, bound.device, dtype)
    if decided is None:
        speed, most = calibration or current(bound.device.type), read_limit(limit, bound.device)
        if compile == "auto" and bound.device.type == "cpu":
            plan, paid = _paying(plan, bound, most, allow, speed, kernels.kind)
            kernels = kernels_for(plan, compile, bound.device, dtype, paid)
        else:
            plan = costed(plan, bound, most, allow, speed, kernels.kind, every=False)
    source = pipeline.emit(plan)
    return Program(recipe, plan, bound, source, load_phases(source, bound, kernels), kernels)


def _paying(
    plan: Plan, parts: Parts, limit: Limit | None, allow: Class, calibration: Calibration, otherwise: Kind
) -> tuple[Plan, tuple[Kind, str] | None]:
    """The plan with numbers, and the kind of kernels with which a run is over first; `otherwise` where none is predicted.

    The kind is chosen at the speed of the reference: the same recipe has the same kernels on every machine.
    """
    traced: dict[int, Any] = {}
    found: list[Whole] = []
    for kind in CANDIDATES:
        if why_not(kind, parts.device) is not None:
            continue
        made = whole(costed(plan, parts, limit, allow, reference(), kind, False, traced), kind)
        if made is None:
            return costed(plan, parts, limit, allow, calibration, otherwise, False, traced), None
        found.append(made)
        if found[0].seconds <= SHORT:
            break
    paid = paying(found, plan, parts.device)
    return costed(plan, parts, limit, allow, calibration, paid[0], False, traced), paid


def costed(
    plan: Plan,
    parts: Parts,
    limit: Limit | None,
    allow: Class,
    calibration: Calibration,
    kernels: Kind,
    every: bool,
    traced: dict[int, Any] | None = None,
) -> Plan:
    """The plan of the same program with numbers: traced costs decide, with kernels of a kind. Raises B502 and B510.

    `traced`: what was traced before for another kind, and is now.
    """
    from bilevel.estimates import Estimator

    known = {} if traced is None else traced

    def estimates(program: ir.Program, facts: Facts) -> Estimator:
        return Estimator(program, facts, parts, calibration, kernels, known)

    return plan_program(
        plan.program, estimates, limit, allow, every, plan.decided if every else {}, plan.facts.derivatives
    )


def read_limit(limit: str | Limit | None, device: torch.device) -> Limit | None:
    """The limit that was asked for, or what is free on the device."""
    if isinstance(limit, Limit):
        return limit
    return free_memory(str(device)) if limit is None else read_limits([limit])


def _registry(extra: Sequence[object]) -> Registry:
    from bilevel.recipes import zoo

    return collect([zoo, *extra])


def _device(name: str | torch.device) -> torch.device:
    """The device, if this machine has it and numbers can be kept on it (B610)."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise fail("B610", f"there is no device `{name}` here", why=reason, fix="--device cpu") from error
    if device.type == "cpu" and device.index:
        raise fail(
            "B610", f"there is no device `{name}` here", why="all processors together are `cpu`", fix="--device cpu"
        )
    return device


def load_phases(source: str, parts: Parts, kernels: Kernels | Plain | None = None) -> tuple[Any, ...]:
    """The outermost levels of an emitted module, built with the parts."""
    module = types.ModuleType("bilevel_emitted")
    exec(compile_source(source), module.__dict__)  # noqa: S102 - our own text, the very file that `emit` writes
    module.__dict__["fail"] = fail  # with the compiler's printer in place of the file's own
    build: Callable[..., tuple[Any, ...]] = module.__dict__["build"]
    return build(**argument_names(parts.objects), device=parts.device, dtype=parts.dtype, kernels=kernels or Plain())


def compile_source(source: str) -> types.CodeType:
    """Python's own compile, under a name that tracebacks can show."""
    import builtins

    code: types.CodeType = builtins.compile(source, "<emitted module>", "exec")
    return code


def argument_names(objects: Mapping[str, Any]) -> dict[str, Any]:
    """Parts under the names that `build` has for them."""
    from bilevel.backends.torch_func.inline import definitions
    from bilevel.backends.torch_func.naming import python_name

    return {python_name(name, definitions()): part for name, part in objects.items()}


def values_of(program: Program, states: Mapping[str, Any]) -> dict[str, Tensor | dict[str, Tensor]]:
    """The variables of all phases that have begun, by name."""
    return {n: v for p in program.phases if p.name in states for n, v in p.values(states[p.name]).items()}
