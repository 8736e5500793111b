"""Gradient checks: the hypergradients of a program against difference quotients and against every other exact mode.

The program is compiled again in float64 on the CPU, on a small copy of the problem (`shrink.py`), at a point near its
start. Hypergradients of class `exact` pass or fail; of those of other classes the bias is reported: the angle to the
exact hypergradient and the ratio of the norms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bilevel import ir, pipeline
from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.backends.torch_func.tree import Tree, leaves, tree_map
from bilevel.binding import Parts, bind
from bilevel.differences import DIFFERENCES, NUMBERS, Slope, by_name, noise, norm
from bilevel.errors import Diagnostic, RecipeError, fail, pass_on
from bilevel.kinds import is_searched
from bilevel.plan import Plan
from bilevel.registry import Registry
from bilevel.shrink import Small, schedule_path, sharp_mode, shrink

if TYPE_CHECKING:
    from bilevel.program import Program

MODES = 1e-8
"""Largest relative error between two exact modes: both are exact, so only rounding may differ."""


@dataclass(frozen=True, slots=True)
class Bias:
    """How a hypergradient that is not exact lies to the exact one: degrees between them, ratio of the norms."""

    against: str
    angle: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Row:
    """One variable of one outermost level.

    `differences`: the relative error against difference quotients along the worst direction that counts, None where
    they were not asked for. `modes`: relative errors against exact modes, by `LEVEL: MODE`. `bias`: in place of a
    verdict where the class is not exact; then `ok` is None. `again`: directions replaced because of a kink.
    """

    phase: str
    variable: str
    mode: str
    exactness: str
    differences: float | None = None
    modes: Mapping[str, float] = field(default_factory=dict)
    bias: Bias | None = None
    again: int = 0
    ok: bool | None = None


@dataclass(frozen=True, slots=True)
class Gradcheck:
    """All rows, what was made smaller, and what could not be compared."""

    recipe: str
    rows: tuple[Row, ...]
    changes: tuple[str, ...]
    skipped: tuple[str, ...]
    directions: int
    seed: int

    @property
    def ok(self) -> bool:
        """Whether no hypergradient that claims to be exact failed."""
        return all(row.ok is not False for row in self.rows)

    def __str__(self) -> str:
        return format_gradcheck(self)

    def to_json(self) -> dict[str, object]:
        """Plain data, versioned."""
        rows = [
            {n: getattr(r, n) for n in ("phase", "variable", "mode", "differences", "again", "ok")} for r in self.rows
        ]
        for data, row in zip(rows, self.rows, strict=True):
            bias = row.bias
            data |= {"class": row.exactness, "modes": dict(row.modes)}
            data["bias"] = None if bias is None else {"against": bias.against, "angle": bias.angle, "ratio": bias.ratio}
        head = {
            "bilevel_gradcheck": 1,
            "recipe": self.recipe,
            "ok": self.ok,
            "directions": self.directions,
            "seed": self.seed,
        }
        return {**head, "rows": rows, "changes": list(self.changes), "skipped": list(self.skipped)}


def gradcheck(
    program: Program, directions: int = 3, seed: int = 0, level: str | None = None, against: str | None = None
) -> Gradcheck:
    """Check the hypergradients of every outermost level, or of the one that holds `level`.

    `level`: vary only this level's mode. `against`: `fd` for difference quotients alone, or the beginning of a mode
    (`rmd`, `rmd(checkpoint`) to compare with only those. Cost: two hypergradients for each direction and step size,
    one for each mode, on the small problem. Reports B204, B506.
    """
    _check_level(program.plan, level)
    small, rebuilt = _small(program, seed)
    check = _Check(small, rebuilt, program.parts, directions, seed, level, against)
    searched = {lv.name for lv in small.plan.program.levels if is_searched(lv)}
    asked = [phase for phase in rebuilt if _holds(small.plan, phase.name, level)]
    followed = [phase for phase in asked if phase.name not in searched] or asked
    rows = [row for phase in followed for row in check.phase(phase)]
    if against not in (None, "fd") and not any(r.modes or r.bias for r in rows):
        why = "; ".join(check.skipped) or "no level has another exact mode of that name"
        raise fail("B506", f"nothing can be compared with `{against}`", why=why, fix="--against fd")
    return Gradcheck(program.recipe.name, tuple(rows), small.changes, tuple(check.skipped), directions, seed)


def _check_level(plan: Plan, level: str | None) -> None:
    names = [lv.name for lv in plan.program.walk_levels()]
    if level is not None and level not in names:
        raise fail("B204", f"`{level}` is no level of {plan.program.name}", note=f"its levels: {', '.join(names)}")


def _holds(plan: Plan, phase: str, level: str | None) -> bool:
    """Whether an outermost level is `level`, or has it inside."""
    return level is None or level in {lv.name for lv in _inside(plan.program.level(phase))}


def _inside(level: ir.Level) -> Iterator[ir.Level]:
    yield level
    for inner in level.levels:
        yield from _inside(inner)


# ---- compiling again -----------------------------------------------------------------------------------------


def _small(program: Program, seed: int) -> tuple[Small, tuple[Any, ...]]:
    """The small problem in float64; where a smaller draw does not fit the data after all, only steps are fewer."""
    problems: Exception | None = None
    for draws in (True, False):
        small = shrink(program.recipe, program.plan, draws)
        try:
            phases = build(small.plan, program.parts)
            _point(small.plan, phases, seed)
        except (RuntimeError, ValueError, IndexError) as error:
            pass_on(error)
            problems = error
            continue
        return small, phases
    assert problems is not None
    raise problems


def build(plan: Plan, parts: Parts) -> tuple[Any, ...]:
    """The outermost levels of a plan in float64 on the CPU, from copies of parts that are bound already."""
    from bilevel.program import load_phases

    own = {n: deepcopy(p).cpu() if isinstance(p, nn.Module) else p for n, p in parts.objects.items()}
    bound = bind(plan.program, Registry((), {}), own, torch.device("cpu"), torch.float64)
    return load_phases(pipeline.emit(plan), bound)


def _point(plan: Plan, phases: tuple[Any, ...], seed: int) -> dict[str, tuple[Any, list[Any]]]:
    """For every outermost level a state to check at and the solutions it reads: near the start, and not on it.

    A start is often a special point (all entries equal, a kink at zero), where one sees less. A search before a
    level that follows a gradient has none: it hands on its start.
    """
    searched = {level.name for level in plan.program.levels if is_searched(level)}
    alone = len(searched) == len(phases)
    key, known, found = make_key(seed), dict[str, Any](), dict[str, tuple[Any, list[Any]]]()
    for phase in phases:
        given = [known[n] for n in phase.reads]
        state = phase.begin(key, *given)
        if alone or phase.name not in searched:
            state = _moved(phase, state, key, given, seed)
        found[phase.name] = state, given
        known |= phase.values(state)
    return found


def _moved(phase: Any, state: Any, key: Tensor, given: list[Any], seed: int) -> Any:
    aside = fold(make_key(seed), "gradcheck", phase.name)
    count = iter(range(len(leaves(state.x))))
    near = tree_map(lambda x: x + 1e-2 * (x.abs() + 0.1) * noise(fold(aside, next(count)), x), state.x)
    moved = state._replace(x=near)
    value = phase.hypergradient(moved, key, *given)[1]
    return moved if math.isfinite(float(value)) else state


# ---- one outermost level -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Check:
    """What is compared and how; `skipped` collects what could not be."""

    small: Small
    phases: tuple[Any, ...]
    parts: Parts
    directions: int
    seed: int
    level: str | None
    against: str | None
    skipped: list[str] = field(default_factory=list)

    def phase(self, phase: Any) -> Iterator[Row]:
        """The rows of one outermost level."""
        state, given = _point(self.small.plan, self.phases, self.seed)[phase.name]
        key = make_key(self.seed)
        gradient = by_name(phase, phase.hypergradient(state, key, *given)[0])
        plan, exactness = self.small.plan, _exactness(self.small.plan, phase.name)
        mode = ", ".join(f"{n}: {c.mode}" for n, c in _choices(plan, phase.name) if c.exactness != "-") or "gradient"
        slope = Slope(phase, state, key, given)
        judged = exactness == "exact" and not _projects(plan.program.level(phase.name))
        exact = self._bias(phase.name) if not judged else None
        others = dict(self._others(phase.name)) if judged and self.against != "fd" else {}
        differences = self.against in (None, "fd") and not self._stops(phase.name)
        for name in phase.variables:
            row = Row(phase.name, name, mode, exactness)
            if differences:
                error, again = slope.along(name, gradient[name], self.directions, fold(key, "direction", name))
                row = replace(row, differences=error, again=again)
            row = replace(row, modes={title: _error(gradient[name], other[name]) for title, other in others.items()})
            yield self._judged(row) if judged else replace(row, bias=_bias(gradient[name], slope, name, exact))

    def _stops(self, phase: str) -> bool:
        """Whether a derivative is cut by the recipe: the objective itself is not, so differences say another thing."""
        stopped = _stopped(self.small.plan.program, phase)
        if stopped is not None:
            self.skipped.append(f"differences: they see through `{stopped.span.text}`, which has no derivative")
        return stopped is not None

    def _judged(self, row: Row) -> Row:
        """Not a number fails; without any comparison there is no verdict."""
        if row.differences is None and not row.modes:
            return row
        fine = row.differences is None or row.differences <= DIFFERENCES
        return replace(row, ok=fine and all(error <= MODES for error in row.modes.values()))

    def _others(self, phase: str) -> Iterator[tuple[str, dict[str, Tree]]]:
        """The whole hypergradient with one level differentiated by another exact mode, for each of them."""
        for name, choice in _choices(self.small.plan, phase):
            if choice.adjoint is None or self.level not in (None, name, phase):
                continue
            for candidate in choice.candidates:
                wanted = candidate.exactness == "exact" and candidate.verdict.ok and not candidate.chosen
                if wanted and candidate.title.startswith(self.against or ""):
                    title = self._sharp(name, candidate.title)
                    found = self._other(phase, {name: title}) if title != choice.mode else None
                    if found is not None:
                        yield f"{name}: {title}", found

    def _sharp(self, level: str, title: str) -> str:
        """A mode whose linear system is met as sharply as that of the mode it is compared with."""
        if not title.startswith("ift"):
            return title
        try:
            choice = _replanned(self.small, {level: title}).choices[level]
        except RecipeError:
            return title  # `_other` says why it cannot be had
        return sharp_mode(choice) or title

    def _other(self, phase: str, modes: Mapping[str, str]) -> dict[str, Tree] | None:
        """The hypergradient under other modes; None, with a reason, where it cannot be had."""
        spelled = ", ".join(f"{name}: {mode}" for name, mode in modes.items())
        if reason := _too_much(self.small.plan, self.phases, modes):
            self.skipped.append(f"{spelled}: {reason}")
            return None
        try:
            plan = _replanned(self.small, modes)
            phases = build(plan, self.parts)
        except RecipeError as error:
            self.skipped.append(f"{spelled}: {error.diagnostics[0].message}")
            return None
        state, given = _point(self.small.plan, self.phases, self.seed)[phase]
        other = next(p for p in phases if p.name == phase)
        try:
            return by_name(other, other.hypergradient(state, make_key(self.seed), *given)[0])
        except ArithmeticError as error:
            self.skipped.append(f"{spelled}: {error}")
            return None

    def _bias(self, phase: str) -> tuple[str, dict[str, Tree]] | None:
        """The exact hypergradient of a level whose own is not: every inexact level by its first exact mode."""
        modes = {}
        for name, choice in _choices(self.small.plan, phase):
            if choice.exactness in ("exact", "-"):
                continue
            exact = [c.title for c in choice.candidates if c.exactness == "exact" and c.verdict.ok]
            if not exact:
                self.skipped.append(f"{name}: no exact mode accepts it, so its bias is measured by differences")
                return None
            modes[name] = exact[0]
        found = self._other(phase, modes) if modes else None
        return None if found is None else (", ".join(f"{n}: {m}" for n, m in modes.items()), found)


def _replanned(small: Small, modes: Mapping[str, str]) -> Plan:
    """The plan with other modes for some levels; refused where a schedule of the recipe's own says otherwise."""
    recipe, settings = small.recipe, small.recipe.settings
    paths = {schedule_path(settings, name, recipe.schedule): mode for name, mode in modes.items()}
    made = pipeline.plan(recipe.with_(paths).program, decided=small.decided, derivatives=small.plan.facts.derivatives)
    for name, mode in modes.items():
        if made.choices[name].mode != mode:
            span = made.choices[name].at
            raise RecipeError([Diagnostic("B506", f"the schedule keeps `{name}` at `{made.choices[name].mode}`", span)])
    return made


def _too_much(plan: Plan, phases: tuple[Any, ...], modes: Mapping[str, str]) -> str:
    """Why a mode is not tried although it could be: forward mode with a tangent for each of very many numbers."""
    if "fmd" not in modes.values():
        return ""
    point = _point(plan, phases, 0)
    sizes = {n: sum(x.numel() for x in leaves(v)) for p in phases for n, v in by_name(p, point[p.name][0].x).items()}
    most = max((sum(sizes.get(t, 1) for t in plan.facts[name].targets) for name in modes), default=0)
    return f"[work] {most:,} tangents" if most > NUMBERS else ""


def _choices(plan: Plan, phase: str) -> list[tuple[str, Any]]:
    """The decisions for the levels inside an outermost one."""
    inside = [lv.name for lv in _inside(plan.program.level(phase))]
    return [(name, plan.choices[name]) for name in inside if name in plan.choices]


def _exactness(plan: Plan, phase: str) -> str:
    """The worst class of the levels inside; what nobody differentiates leaves the derivative exact."""
    order = ("exact", "biased", "surrogate", "values")
    found = [c.exactness for _, c in _choices(plan, phase) if c.exactness != "-"]
    return max(found, key=order.index, default="exact")


def _projects(level: ir.Level) -> bool:
    """Whether the direction is by definition no gradient of the value: projected gradients."""
    value = level.objective.value if level.objective is not None else None
    return value is not None and any(isinstance(e, ir.Reduced) and e.kind == "pcgrad" for e in ir.walk(value))


def _stopped(program: ir.Program, phase: str) -> ir.Expr | None:
    """An expression under `stop` or `warm` that varies with some variable."""
    inside = list(_inside(program.level(phase)))
    fixed = {u.name for u in program.uses} | {p.name for p in program.params}
    fixed |= {index.name for level in inside for index in level.indices}
    fixed |= {draw.name for level in inside for draw in level.draws}
    for expr in (e for level in inside for e in _expressions(level)):
        for part in ir.walk(expr):
            if isinstance(part, ir.Builtin) and part.function in ("stop", "warm") and part.arguments[0].reads - fixed:
                return part
    return None


def _expressions(level: ir.Level) -> Iterator[ir.Expr]:
    """Starts, objective and solver arguments of a level."""
    yield from (v.start for v in level.variables if v.start is not None)
    if level.objective is not None:
        yield level.objective.value
    yield from (a for p in level.phases for s in p.solvers for a in s.arguments.values())


# ---- errors -------------------------------------------------------------------------------------------------


def _error(a: Tree, b: Tree) -> float:
    """The norm of the difference, relative to the larger norm."""
    difference = norm(tree_map(lambda x, y: x - y, a, b))
    return difference / max(norm(a), norm(b)) if difference else 0.0


def _bias(found: Tree, slope: Slope, name: str, exact: tuple[str, dict[str, Tree]] | None) -> Bias | None:
    """Angle and ratio to the exact hypergradient, or to difference quotients where there is none."""
    against, other = ("differences", slope.gradient(name)) if exact is None else (exact[0], exact[1][name])
    if other is None:
        return None
    one, two = norm(found), norm(other)
    product = sum(float((a * b).sum()) for a, b in zip(leaves(found), leaves(other), strict=True))
    if not one or not two:
        return Bias(against, 0.0 if one == two else 90.0, 1.0 if one == two else math.inf if one else 0.0)
    return Bias(against, math.degrees(math.acos(max(-1.0, min(1.0, product / (one * two))))), one / two)


# ---- text ----------------------------------------------------------------------------------------------------


def format_gradcheck(result: Gradcheck) -> str:
    """The result as a table, what was changed for the check, and one line with the verdict."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="", show_edge=False)
    for column in ("variable", "mode", "class", "against differences", "against exact modes", "bias", ""):
        table.add_column(column, overflow="fold")
    for row in result.rows:
        table.add_row(row.variable, row.mode, row.exactness, *_cells(row))
    written = StringIO()
    Console(file=written, width=160, color_system=None, highlight=False, markup=False).print(table)
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    return "\n".join([*lines, "", *_notes(result)])


def _cells(row: Row) -> tuple[str, ...]:
    """The numbers of a row as text."""
    differences = "" if row.differences is None else f"{row.differences:.1e}"
    modes = f"{max(row.modes.values()):.1e} (worst of {len(row.modes)})" if row.modes else ""
    unjudged = "not exact" if row.exactness != "exact" else "not compared"
    return differences, modes, _spelled(row.bias), {True: "ok", False: "WRONG", None: unjudged}[row.ok]


def _spelled(bias: Bias | None) -> str:
    return "" if bias is None else f"{bias.angle:.2f} degrees, {bias.ratio:.4g} times the norm of {bias.against}"


def _notes(result: Gradcheck) -> list[str]:
    """What was compared with what, under which changes."""
    worst: dict[str, float] = {}
    for title, error in ((t, e) for row in result.rows for t, e in row.modes.items()):
        worst[title] = max(worst.get(title, 0.0), error)
    lines = [f"compared with  {title}  {error:.1e}{'  WRONG' * (not error <= MODES)}" for title, error in worst.items()]
    lines += [f"not compared   {reason}" for reason in dict.fromkeys(result.skipped)]
    lines += [f"changed        {change}" for change in result.changes]
    again = sum(row.again for row in result.rows)
    lines += [f"directions taken again where the objective has a kink or is rough: {again}"] if again else []
    limits = f"float64, {result.directions} directions, seed {result.seed}; limits {DIFFERENCES:g} and {MODES:g}"
    return [*lines, f"{'passed' if result.ok else 'FAILED'} ({limits})"]
