"""What is known while the functions of a plan are written, and the names and counts of a level in emitted text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from bilevel import ir
from bilevel.backends.source import Assign, Function, Statement, words
from bilevel.backends.torch_func import draws
from bilevel.backends.torch_func.expressions import Writer, first_name, parameters_of, write
from bilevel.dsl.paths import Setting, settings
from bilevel.errors import Span
from bilevel.modes import Unroll
from bilevel.plan import Plan


@dataclass
class Coder:
    """What is known while the functions of a plan are written; `known` holds the parameters of those written."""

    plan: Plan
    writer: Writer
    known: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def call(self, name: str, **replaced: str) -> str:
        """A call of an emitted function: every parameter is given the value of the same name, or a replacement."""
        return f"{name}({', '.join(replaced.get(p, p) for p in self.known[name])})"

    def function(
        self,
        name: str,
        parameters: list[str],
        doc: str,
        body: list[Statement],
        span: Span | None,
        fixed: int = 0,
        kernel: bool = False,
    ) -> Function:
        """Make a function and remember its parameters, so that callers can be written.

        Parameters that the body does not use are dropped, except the first `fixed`. `kernel`: the function takes
        tensors to tensors without control flow, and may be traced and compiled.
        """
        body = _without_unused_keys(body)
        used = words(tuple(body))
        parameters = [p for i, p in enumerate(dict.fromkeys(parameters)) if i < fixed or p in used]
        given = {s.target for s in body if isinstance(s, Assign)} | set(parameters)
        parameters += [f for f in self.firsts if f in used and f not in given]
        self.known[name] = tuple(parameters)
        at = "" if span is None else f"{span.source.name.rpartition('/')[2]}:{span.line}"
        return Function(name, tuple(parameters), doc, tuple(body), at, kernel)

    def needs(self, *names: str, without: tuple[str, ...] | list[str] = ()) -> list[str]:
        """The parameters of emitted functions together, in order, `key` last, some left out."""
        found = dict.fromkeys(p for n in names if n in self.known for p in self.known[n] if p not in without)
        return sorted(found, key=lambda p: p in ("key", "device"))

    @property
    def firsts(self) -> list[str]:
        """The numbers of the first copies computed at a time: every function that needs one has it as a parameter."""
        return [first_name(self.writer, index) for index in sorted(self.writer.chunked)]

    @cached_property
    def written(self) -> dict[str, Setting]:
        """Every literal of the recipe that can be replaced, by its name in the emitted module."""
        return {path.replace(".", "_"): setting for path, setting in settings(self.program.recipe).items()}

    @property
    def program(self) -> ir.Program:
        return self.plan.program


def _without_unused_keys(body: list[Statement]) -> list[Statement]:
    """The statements without keys that none of those after them reads; a key is many operations on one number."""
    kept: list[Statement] = []
    for statement in reversed(body):
        target = statement.target if isinstance(statement, Assign) else ""
        if target not in ("key", "level_key") or target in words(tuple(kept)):
            kept.insert(0, statement)
    return kept


# ---- names of a level ----------------------------------------------------------------------------------------


def own(coder: Coder, level: ir.Level) -> list[str]:
    """The variables in the coordinates that the solver steps in."""
    return [coder.writer.name(v.name) + ("_free" if v.domain else "") for v in level.variables]


def pack(names: list[str]) -> str:
    """One name, or a tuple of several."""
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def drawn(coder: Coder, level: ir.Level) -> list[str]:
    """The indices and draws of a level."""
    indices = [n for i in level.indices for n in (i.name, ir.place_of(i.name))[: 2 if i.numbered else 1]]
    return [coder.writer.name(n) for n in (*indices, *(d.name for d in level.draws))]


def solutions(coder: Coder, level: ir.Level) -> list[str]:
    """The variables of a level, as values."""
    return [coder.writer.name(n) for n in level.names]


def used_levels(coder: Coder, level: ir.Level) -> list[ir.Level]:
    """The levels inside that something other than a report reads."""
    return [i for i in level.levels if not coder.plan.facts[i.name].unread]


def active_levels(coder: Coder, level: ir.Level) -> list[ir.Level]:
    """The levels inside that are differentiated."""
    return [i for i in used_levels(coder, level) if is_pulled(coder, i)]


def is_pulled(coder: Coder, inner: ir.Level) -> bool:
    """Whether a level has a pullback: inside `next` it is differentiated together with the step around it."""
    return f"{inner.name}.pullback" in coder.plan.flow.nodes


def is_windowed(plan: Plan, inner: ir.Level) -> bool:
    """Whether a level inside is differentiated window by window, each followed by a step of the level around it."""
    adjoint = plan.choices[inner.name].adjoint
    return isinstance(adjoint, Unroll) and adjoint.update


def counter(coder: Coder, level: ir.Level) -> str | None:
    """The name of the step counter, None where the recipe has none."""
    duration = level.phases[0].duration
    return coder.writer.name(duration.counter) if isinstance(duration, ir.Steps) and duration.counter else None


def is_warm(level: ir.Level) -> bool:
    """Whether a level goes on from the end of its previous solve."""
    return any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)


def carried(coder: Coder, level: ir.Level) -> list[ir.Level]:
    """The warm levels inside an inner level: it carries where they ended from step to step, beside its solver's state."""
    return [] if level.parent is None else [i for i in used_levels(coder, level) if is_warm(i)]


def slot(coder: Coder, level: ir.Level) -> str:
    """The solver's state in a state of a level, with where warm levels inside ended; all without a derivative."""
    begins = "".join(f"{i.name}_begin, " for i in carried(coder, level)).rstrip()
    return f"(solver, ({begins}))" if begins else "solver"


def counts_each(coder: Coder, level: ir.Level) -> bool:
    """Whether copies of a warm level may have taken different numbers of steps."""
    around = level.parent is not None and coder.program.level(level.parent).parent is not None
    return is_warm(level) and (around or isinstance(level.phases[0].duration, ir.Until))


def to_values(coder: Coder, level: ir.Level, source: str) -> list[Statement]:
    """Statements that give the variables' values, from their free coordinates packed in `source`."""
    names = own(coder, level)
    lines: list[Statement] = []
    if source != pack(names):
        lines.append(Assign(pack(names).strip("()"), source))
    for variable, name in zip(level.variables, names, strict=True):
        if variable.domain is not None:
            lines.append(Assign(coder.writer.name(variable.name), domain_call(variable, name)))
    return lines


def domain_call(variable: ir.Variable, argument: str, suffix: str = "") -> str:
    """A variable's map from free coordinates, or with `_free` its inverse."""
    values = "".join(f", {a!r}" for a in variable.domain_arguments)
    return f"{variable.domain}{suffix}({argument}{values})"


def steps_text(coder: Coder, level: ir.Level) -> str:
    """How many steps a level takes, or the most that a test allows, as text."""
    duration = level.phases[0].duration
    if isinstance(duration, ir.Until):
        return write(coder.writer, duration.cap)
    assert isinstance(duration, ir.Steps)
    count = _counted(coder, duration)
    if duration.unit != "epochs":
        return count
    return f"{count if count.isalnum() else f'({count})'} * ({batches(coder, level)})"


def _counted(coder: Coder, duration: ir.Steps) -> str:
    """The number of steps or epochs."""
    if duration.first is None:
        return write(coder.writer, duration.count)
    replaced = replaced_count(coder, duration)
    return replaced or f"{write(coder.writer, duration.count)} - {write(coder.writer, duration.first)} + 1"


def replaced_count(coder: Coder, duration: ir.Steps) -> str | None:
    """The name of the number of steps where a report replaces that of `for k in a..b`."""
    if duration.first is None:
        return None
    return coder.plan.settings.get(duration.first.span.to(duration.count.span))


def batches(coder: Coder, level: ir.Level) -> str:
    """Steps in an epoch; data of less than one batch would give none, and is B312 where the number is computed."""
    draw = next(d for d in level.draws if draws.finite_source(d) is not None)
    source = draws.finite_source(draw)
    assert source is not None and isinstance(draw.source, ir.Sample) and draw.source.count is not None
    count = write(coder.writer, draw.source.count, 9)
    return f"enough({write(coder.writer, source)}, {count}) // {count}"


def per(level: ir.Level) -> str:
    """The copies of a level in words."""
    return f", one per {' and '.join(level.batched)}" if level.batched else ""


def step_settings(coder: Coder, level: ir.Level) -> list[str]:
    """Names in the number of steps that are no constants of the module."""
    duration = level.phases[0].duration
    if isinstance(duration, ir.Until):
        return parameters_of(coder.writer, duration.cap, *duration.arguments.values())
    if duration is None:
        return []
    exprs = [duration.count] + ([duration.first] if duration.first is not None else [])
    momentum = [a for s in level.phases[0].solvers for n, a in s.arguments.items() if n == "momentum"]
    replaced = replaced_count(coder, duration)
    return [*parameters_of(coder.writer, *exprs, *momentum), *([replaced] if replaced else [])]
