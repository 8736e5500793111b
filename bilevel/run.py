"""Running a program: the loop around its pure step, with reports, checkpoints, progress and a run folder.

A run folder holds the flattened recipe, what was asked for, the plan, the emitted module, metrics as JSON lines and
the state as tensors without pickle. A killed run goes on from its last checkpoint to the same bits.
"""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import torch

from bilevel.backends.torch_func.keyed import make_key
from bilevel.backends.torch_func.tree import leaves
from bilevel.edges import edge_warnings
from bilevel.errors import Diagnostic, RecipeError, fail
from bilevel.files import held, write_whole, writing
from bilevel.residuals import Residuals, failure

if TYPE_CHECKING:
    from bilevel.program import Program

CHECKPOINT_SECONDS = 30.0
STATE, METRICS, ABOUT = "state.pt", "metrics.jsonl", "run.json"


@dataclass(frozen=True, slots=True)
class Event:
    """What callbacks see: after every step, and with `reports` where some are due (then before the step)."""

    phase: str
    step: int
    steps: int
    value: float
    reports: dict[str, float]
    seconds: float

    @property
    def reported(self) -> int:
        """The step that the reports belong to."""
        return self.step if math.isnan(self.value) else self.step - 1


Callback: TypeAlias = Callable[[Event], None]


@dataclass
class Run:
    """A run and what it has found: `reports` by name as (step, value), `state` the variables by name.

    `modules` are the names that were given with `--with`, for a later resume.
    """

    program: Program
    seed: int
    folder: Path | None
    modules: tuple[str, ...] = ()
    states: dict[str, Any] = field(default_factory=dict)
    reports: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    residuals: Residuals = field(init=False)
    edges: dict[str, Diagnostic] = field(default_factory=dict)
    """variables that were met on the edge of their domain"""

    def __post_init__(self) -> None:
        self.residuals = Residuals(self.program.plan)

    @property
    def state(self) -> dict[str, Any]:
        """The variables of all phases that have begun, by name, as tensors or dictionaries of tensors."""
        return {
            n: v for p in self.program.phases if p.name in self.states for n, v in p.values(self.states[p.name]).items()
        }

    @property
    def warnings(self) -> list[Diagnostic]:
        """What the run has to say beside its numbers: B702, B703, B704."""
        return [*self.residuals.warnings(), *self.edges.values()]

    def solve(self, level: str, *, steps: int | None = None, seed: int = 0, copies: bool = False, **given: Any) -> Any:
        """Solve a level on new data at the variables of this run: adapt, predict, tailor.

        `given` are the indices and draws that the level reads, by name: one item each (`task = my_task`), or with
        `copies` many along the first axis of every tensor. `steps` replaces the number of steps. The value is the
        variable of the level (several: a dictionary), without a derivative. Fails with B614 for what is not there.
        """
        from bilevel.solving import solve

        return solve(self, level, steps, seed, copies, given)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        from bilevel.display import run_bundle

        return run_bundle(self)

    @property
    def exactness(self) -> str:
        """The class of the hypergradients that this run followed."""
        return self.residuals.exactness


def execute(
    program: Program, folder: Path | None, seed: int, callbacks: Sequence[Callback], modules: Sequence[str] = ()
) -> Run:
    """Run all phases from the start; a folder that holds a run already is refused."""
    run = Run(program, seed, folder, tuple(modules))
    if folder is None:
        return advance(run, callbacks)
    _make_folder(folder)
    with held(folder):
        _open_folder(run, folder)
        return advance(run, callbacks)


def advance(run: Run, callbacks: Sequence[Callback]) -> Run:
    """Take a run from where it is to the end.

    An interrupt, a divergence or a full disk leaves the last good state in the run folder.
    """
    key = make_key(run.seed, run.program.parts.device)
    clock = _Clock()
    with run.program.kernels.running(), torch.no_grad():
        for phase in run.program.phases:
            given = [run.state[name] for name in phase.reads]
            if phase.name not in run.states:
                run.states[phase.name] = phase.begin(key, *given)
                _look_for_edges(run, phase)
            try:
                for event in _steps(run, phase, key, given, clock):
                    for callback in callbacks:
                        callback(event)
            finally:
                _save(run)
    return run


@dataclass
class _Clock:
    """When the run began and when its state was last saved."""

    began: float = field(default_factory=time.monotonic)
    saved: float = field(default_factory=time.monotonic)


def _steps(run: Run, phase: Any, key: torch.Tensor, given: list[Any], clock: _Clock) -> Iterator[Event]:
    """The steps of one phase; reports are due before a step, and once more at the end."""
    while True:
        state = run.states[phase.name]
        found = _report(run, phase, state, key, given)
        done = state.step >= phase.steps
        if done:
            _look_for_edges(run, phase)
            yield Event(phase.name, state.step, phase.steps, math.nan, found, time.monotonic() - clock.began)
            return
        moved, value = _one_step(run, phase, state, key, given)
        number = float(value)
        _check_finite(run, phase, state, moved, number)
        # Logged first: a line too many is dropped when the run is resumed, a line too few would be lost.
        notes = {name: float(note) for name, note in moved.notes.items()}
        _log(run, {"phase": phase.name, "step": state.step, "loss": number, **notes}, found)
        run.states[phase.name] = moved
        run.losses.append(number)
        run.residuals.observe(notes)
        if time.monotonic() - clock.saved > CHECKPOINT_SECONDS:
            _save(run)
            clock.saved = time.monotonic()
        yield Event(phase.name, moved.step, phase.steps, number, found, time.monotonic() - clock.began)


def _look_for_edges(run: Run, phase: Any) -> None:
    """B703 for variables that cannot move where they are."""
    level = run.program.plan.program.level(phase.name)
    run.edges |= edge_warnings(level, phase.values(run.states[phase.name]))


def _one_step(run: Run, phase: Any, state: Any, key: torch.Tensor, given: list[Any]) -> tuple[Any, torch.Tensor]:
    """One step; what a linear solver cannot do becomes a message with its place."""
    try:
        moved: tuple[Any, torch.Tensor] = phase.step(state, key, *given)
    except ArithmeticError as error:
        found = failure(run.program.plan, error, phase.name, state.step)
        if found is None:
            raise
        raise RecipeError([found]) from error
    return moved


def _report(run: Run, phase: Any, state: Any, key: torch.Tensor, given: list[Any]) -> dict[str, float]:
    """The reports that are due at a state; a phase that has ended does not repeat its last ones."""
    found: dict[str, float] = {}
    for name, (every, function) in phase.reports.items():
        due = state.step % every == 0 or state.step >= phase.steps
        known = run.reports.setdefault(name, [])
        if due and not (known and known[-1][0] == state.step):
            with run.program.kernels.resting():
                found[name] = float(function(state, key, *given))
            known.append((state.step, found[name]))
    if found and state.step >= phase.steps:
        _log(run, {"phase": phase.name, "step": state.step}, found)
    return found


def _check_finite(run: Run, phase: Any, before: Any, after: Any, value: float) -> None:
    """B707: a loss or a variable that is no number ends the run; the state before the step is kept."""
    if math.isfinite(value) and all(bool(torch.isfinite(leaf).all()) for leaf in leaves(after.x)):
        return
    level = run.program.plan.program.level(phase.name)
    what = "the objective" if not math.isfinite(value) else "a variable"
    inner = ", ".join(f"{i.name}.by.lr" for i in level.levels)
    place = level.objective.span if level.objective is not None else level.span
    smaller = f"{phase.name}.by.lr=..."
    saved = f"the state before this step is kept:  {resuming(run.folder)} {smaller}" if run.folder else ""
    raise RecipeError(
        [
            Diagnostic(
                "B707",
                f"{what} of `{phase.name}` became {value if not math.isfinite(value) else 'nan or inf'} "
                f"at step {before.step}",
                place,
                "not a number any more",
                why="a step size is too large for this problem, or the data or the model give infinite numbers",
                fix=f"a smaller {f'{inner} or ' if inner else ''}{phase.name}.by.lr, or `clip = 10` in the solver",
                note=saved,
            )
        ]
    )


# ---- the folder ----------------------------------------------------------------------------------------------


def _make_folder(folder: Path) -> None:
    """Make the folder; refuse one that has something in it."""
    with writing(folder):
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken:
        fix = f"{resuming(folder)}     or another --out" if (folder / ABOUT).exists() else "another --out"
        raise fail("B708", f"`{folder}` exists already; nothing was overwritten", fix=fix)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def resuming(folder: Path) -> str:
    """What to type to go on with a run."""
    return f"bilevel resume {shlex.quote(str(folder))}"


def _open_folder(run: Run, folder: Path) -> None:
    """Write what does not change; refuse a folder that another run has begun in meanwhile."""
    _make_folder(folder)
    program = run.program
    write_whole(folder / "recipe.bl", str(program.recipe))
    _write_plan(program, folder)
    write_whole(folder / ABOUT, json.dumps(_about(run), indent=1) + "\n")


def _write_plan(program: Program, folder: Path) -> None:
    """What runs from here on: the plan, and the module."""
    write_whole(folder / "plan.txt", program.explain())
    write_whole(folder / "step.py", program.source)


def _about(run: Run) -> dict[str, object]:
    from bilevel.version import VERSION

    program = run.program
    return {
        "bilevel_run": 1,
        "recipe": program.recipe.name,
        "class": run.exactness,
        "plan": program.plan.identity,
        "seed": run.seed,
        "device": str(program.parts.device),
        "dtype": str(program.parts.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "kernels": program.kernels.kind,
        "schedule": program.recipe.schedule,
        "decided": program.plan.decided,
        "with": list(run.modules),
        "changes": [f"{c.path}={c.value.span.text}" for c in program.recipe.changes],
        "resumed": [],
        "versions": {"bilevel": VERSION, "torch": torch.__version__},
    }


def _log(run: Run, row: dict[str, object], found: Mapping[str, float]) -> None:
    """One line of metrics; opened for every line, so that nothing is lost when the run is killed."""
    if run.folder is not None:
        plain = {name: value if math.isfinite(value) else None for name, value in found.items()}
        with writing(run.folder), (run.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({**row, **plain}) + "\n")


@runtime_checkable
class Replayed(Protocol):
    """A solver's state that is no tensor: it is saved as what it was told, and told it again."""

    def plain(self) -> list[torch.Tensor]:
        """What it was told."""

    def replay(self, told: list[torch.Tensor]) -> Replayed:
        """The state after it was told all that."""


def _plain(solver: Any) -> Any:
    return solver.plain() if isinstance(solver, Replayed) else solver


def _save(run: Run) -> None:
    """The state of all phases, as plain containers of tensors, written as a whole or not at all."""
    if run.folder is None:
        return
    content = {
        "states": {n: {**state._asdict(), "solver": _plain(state.solver)} for n, state in run.states.items()},
        "reports": run.reports,
        "losses": run.losses,
        "residuals": run.residuals.plain(),
    }
    saved = BytesIO()  # torch says of a full disk that a stream is broken
    torch.save(content, saved)
    write_whole(run.folder / STATE, saved.getvalue())


def restore(program: Program, folder: Path, seed: int, modules: Sequence[str] = ()) -> Run:
    """A run as its folder has it, at its last checkpoint; B710 where the folder holds none.

    Reports and metrics of the steps that will be taken again are dropped, so that nothing is logged twice.
    """
    run = Run(program, seed, folder, tuple(modules))
    content = _load_state(folder / STATE, program)
    begun = {phase.name: phase for phase in program.phases}
    key = make_key(seed, program.parts.device)
    for name, saved in content["states"].items():
        given = [run.state[n] for n in begun[name].reads]
        fresh = begun[name].begin(key, *given)
        if isinstance(fresh.solver, Replayed):
            saved["solver"] = fresh.solver.replay(saved["solver"])
        run.states[name] = fresh._replace(**saved)
    run.reports = {name: [(step, value) for step, value in rows] for name, rows in content["reports"].items()}
    run.losses = list(content["losses"])
    run.residuals.restore(content["residuals"])
    _rewind(run, folder)
    return run


def _load_state(path: Path, program: Program) -> dict[str, Any]:
    """What was saved last; nothing where the run was killed before its first checkpoint."""
    try:
        content: dict[str, Any] = torch.load(path, map_location=program.parts.device, weights_only=True)
    except FileNotFoundError:
        return {"states": {}, "reports": {}, "losses": [], "residuals": [0, {}, {}, 0, {}]}
    except Exception as error:  # torch raises many kinds for a damaged file
        raise fail("B710", f"`{path}` cannot be read", why=str(error).partition("\n")[0]) from error
    return content


def _rewind(run: Run, folder: Path) -> None:
    """Forget what the phase in progress reported and logged at steps that are taken, or reported, again."""
    current = list(run.states)[-1] if run.states else None
    step = run.states[current].step if current is not None else 0
    if current is not None:
        phase = next(phase for phase in run.program.phases if phase.name == current)
        for name in phase.reports:
            run.reports[name] = [row for row in run.reports.get(name, []) if row[0] < step]
    earlier = {name for name in run.states if name != current}
    path = folder / METRICS
    if not path.exists():
        return
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [row for row in rows if row["phase"] in earlier or (row["phase"] == current and row["step"] < step)]
    write_whole(path, "".join(json.dumps(row) + "\n" for row in kept))


def read_about(folder: Path) -> dict[str, Any]:
    """What `run.json` of a run folder says; B710 where there is none."""
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        known = sorted(str(path.parent) for path in Path("runs").glob(f"*/{ABOUT}"))
        fix = resuming(Path(known[-1])) if known else "the folder of a run, which has a file run.json"
        raise fail("B710", f"`{folder}` is not the folder of a run", why=_reason(error), fix=fix) from error
    return about


def _reason(error: Exception) -> str:
    return "it has no run.json" if isinstance(error, OSError) else f"its run.json is damaged: {error}"


def note_resumed(run: Run, folder: Path, changes: Sequence[str]) -> None:
    """Record the settings that a resumed run goes on with, and the plan and the module that they give."""
    about = read_about(folder)
    _write_plan(run.program, folder)
    about["resumed"] = [*about.get("resumed", []), list(changes)]
    write_whole(folder / ABOUT, json.dumps(about, indent=1) + "\n")
