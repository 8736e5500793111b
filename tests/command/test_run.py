from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from bilevel.commands import run as run_verb
from tests.command.tools import Command, equal, saved, start, stop, wait_for_lines

LONG = ("meta.steps=90", "val.every=10")


def test_run_ends_with_plan_table_and_pictures(bilevel: Command, here: Path) -> None:
    said = bilevel("run", "tiny.bl", "adapt.steps=4")
    assert said.code == 0
    lines = said.out.splitlines()
    assert lines[0].startswith("tiny: adapt: rmd(store = residuals); hypergradients exact; plan ")
    assert "6 steps in" in lines[0]
    assert "meta-learned start" in said.out
    assert [line.split()[0] for line in lines if "±" in line and "x" in line] == ["0", "1", "5", "10"]
    assert lines[-2:] == ["one wave: runs/tiny-1/sine.png", "curves: runs/tiny-1/curves.png"]
    assert all((here / line.split(": ")[1]).stat().st_size > 10_000 for line in lines[-2:])
    following = said.err.splitlines()[-1].removeprefix("next: bilevel ").split("  ")[0].split()
    assert following == ["emit", "tiny.bl", "adapt.steps=4", "-o", "tiny.py"]
    assert bilevel(*following).code == 0 and "def build(" in (here / "tiny.py").read_text("utf-8")
    assert "meta  0/6  val " in said.err


def test_what_is_shown_at_the_end_makes_no_kernels(here: Path) -> None:
    """The waves of the picture are of another size than those of the run: a kernel for them would not pay back."""
    import bilevel as bl
    from bilevel.outcome import outcome

    program = bl.compile(bl.load(here / "tiny.bl"), compile="fx")
    run = program.run(out=here / "run")
    made = list(program.kernels.made)
    assert made and outcome(run, 1.0).pictures
    assert program.kernels.made == made


@pytest.mark.parametrize("mode", ["rmd(checkpoint = 2)", "rmd(window = 1, update = each)"])
def test_the_picture_does_not_depend_on_the_iterates_that_a_mode_keeps(bilevel: Command, here: Path, mode: str) -> None:
    text = (here / "tiny.bl").read_text("utf-8")
    (here / "tiny.bl").write_text(f"{text}\nschedule {{ adapt : {mode} }}\n", "utf-8")
    assert bilevel("run", "tiny.bl").code == 0
    assert (here / "runs/tiny-1/sine.png").stat().st_size > 10_000


def test_options_without_an_effect_are_named_before_the_run(bilevel: Command, here: Path) -> None:
    text = (here / "tiny.bl").read_text("utf-8")
    (here / "tiny.bl").write_text(f"{text}\nschedule {{ adapt : rmd(window = 4) }}\n", "utf-8")
    assert "B804" not in bilevel("check", "tiny.bl").err
    said = bilevel("run", "tiny.bl", "adapt.steps=4")
    assert said.code == 0
    assert said.err.index("warning[B804]: `window = 4` has no effect") < said.err.index("files: ")


def test_table_is_the_reports_of_the_recipe(bilevel: Command) -> None:
    content = json.loads(bilevel("run", "tiny.bl", "--json").out)
    table = content["tables"][0]["rows"]
    for steps, learned, random, _ in table:
        (first, last) = content["reports"][f"after{steps}"]
        assert (first[0], last[0]) == (0, 6)
        assert float(learned.split()[0]) == pytest.approx(last[1], abs=6e-4)
        assert float(random.split()[0]) == pytest.approx(first[1], abs=6e-4)


def test_standard_error_is_that_of_the_tasks() -> None:
    """Against the losses of the single waves, drawn and fitted by hand."""
    import torch

    import bilevel as bl
    from bilevel.backends.torch_func.keyed import fold, make_key
    from bilevel.spread import Estimator

    program = bl.compile(bl.load("tiny.bl"))
    phase, key, net = program.phases[0], make_key(0), program.parts.objects["net"]
    with torch.no_grad():
        state = phase.begin(key)
        found = Estimator(program).estimate("meta", "after0", state, key)
        losses = []
        for place in range(4):
            wave = fold(fold(fold(fold(key, "meta"), "report"), "task"), place)
            query = program.parts.objects["tasks"].test.sample(wave).query
            guess = torch.func.functional_call(net, phase.values(state)["theta"], (query.x,))
            losses.append(float((guess - query.y).square().mean()))
    single = torch.tensor(losses, dtype=torch.float64)
    assert found.count == 4
    assert found.mean == pytest.approx(float(single.mean()), rel=1e-4)
    assert found.error == pytest.approx(float(single.std() / 2), rel=1e-3)


def test_other_recipes_show_their_reports(bilevel: Command, here: Path) -> None:
    said = bilevel("run", "line.bl", "--with", "points_module", "--out", "fit", "--plain")
    assert said.code == 0
    (row,) = [line for line in said.out.splitlines() if "loss" in line]
    first, last = (float(word) for word in row.split() if word[0].isdigit())
    assert last < first
    assert "mean(mse(net[w](d.val.x), d.val.y))" in row
    assert (here / "fit" / "curves.png").exists()
    assert json.loads((here / "fit" / "run.json").read_text("utf-8"))["with"] == ["points_module"]


def test_seed_and_dtype_change_the_numbers(bilevel: Command) -> None:
    runs = [bilevel("run", "tiny.bl", "--json", *more) for more in ((), (), ("--seed", "1"), ("--dtype", "float64"))]
    reports = [json.loads(said.out)["reports"] for said in runs]
    assert reports[0] == reports[1]
    assert reports[2] != reports[0]
    assert reports[3] != reports[0]
    assert reports[3]["val"][0][1] == pytest.approx(reports[0]["val"][0][1], rel=1e-4)


def test_quick_runs_the_small_child(bilevel: Command, here: Path) -> None:
    (here / "tiny_quick.bl").write_text("recipe tiny_quick extends tiny\nmeta.steps = 2\n", "utf-8")
    content = json.loads(bilevel("run", "tiny.bl", "--quick", "--json").out)
    assert (content["recipe"], content["steps"]) == ("tiny_quick", {"meta": 2})
    said = bilevel("run", "line.bl", "--quick")
    assert said.code == 3
    assert "error[B123]: `line` has no quick child" in said.err
    assert "bilevel new line_quick --from line" in said.err


def test_every_packaged_quick_recipe_is_a_child(bilevel: Command) -> None:
    from bilevel.catalogue import names
    from bilevel.pipeline import read

    for name in names("quick"):
        assert read(name).parent == name.removesuffix("_quick")
        assert bilevel("check", name).code == 0
    assert {f"{name}_quick" for name in names()} >= set(names("quick"))


# ---- folders -------------------------------------------------------------------------------------------------


def test_default_folders_are_counted(bilevel: Command, here: Path) -> None:
    for _ in range(2):
        assert bilevel("run", "line.bl", "--with", "points_module").code == 0
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["line-1", "line-2"]


def test_nothing_is_overwritten(bilevel: Command, here: Path) -> None:
    (here / "full").mkdir()
    (here / "full" / "thesis.txt").write_text("mine", "utf-8")
    said = bilevel("run", "tiny.bl", "--out", "full")
    assert said.code == 1
    assert "error[B708]: `full` exists already; nothing was overwritten" in said.err
    assert [path.name for path in (here / "full").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("out", ["tiny.bl/deep", "/proc/nothing/here"])
def test_a_folder_that_cannot_be_made(bilevel: Command, out: str) -> None:
    said = bilevel("run", "tiny.bl", "--out", out)
    assert said.code == 1
    assert f"error[B709]: cannot write to `{out}`" in said.err


def test_resume_needs_a_run(bilevel: Command) -> None:
    said = bilevel("resume", "nowhere")
    assert said.code == 1
    assert "error[B710]: `nowhere` is not the folder of a run" in said.err


# ---- what users bring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "why"),
    [
        (None, "B611", "neither broken.py"),
        ("import torch\n1 / 0\n", "B612", "broken.py:2: 1 / 0"),
        ("import no_such_package\n", "B612", "No module named 'no_such_package'"),
        ("raise SystemExit(3)\n", "B612", "raise SystemExit(3)"),
        ("x = 1\n", "B613", "@bilevel.model()"),
    ],
)
@pytest.mark.parametrize("name", ["broken", "broken.py"])
def test_modules_that_cannot_be_used(
    bilevel: Command, here: Path, name: str, text: str | None, code: str, why: str
) -> None:
    if text is not None:
        (here / "broken.py").write_text(text, "utf-8")
    said = bilevel("run", "line.bl", "--with", name)
    assert said.code == 3
    assert f"error[{code}]" in said.err
    assert why in said.err
    assert not (here / "runs").exists()


def test_nan_in_the_data_is_found_before_the_run(bilevel: Command) -> None:
    said = bilevel("run", "line.bl", "--with", "points_module.py", "d.bad=2")
    assert said.code == 3
    assert "error[B609]: `d` holds 2 numbers that are not finite" in said.err


def test_a_part_that_raises_is_a_message(bilevel: Command) -> None:
    said = bilevel("run", "line.bl", "--with", "points_module", "d.bad=-1")
    assert said.code == 3
    assert "error[B608]: `points` raised ValueError" in said.err
    assert "bad must not be negative" in said.err


def test_an_unknown_device_is_a_message(bilevel: Command) -> None:
    said = bilevel("run", "tiny.bl", "--device", "tpu9")
    assert said.code == 3
    assert "error[B610]" in said.err


def test_a_diverging_run_keeps_the_state_before(bilevel: Command, here: Path) -> None:
    said = bilevel("run", "tiny.bl", "adapt.by.lr=1e9", "--out", "lost")
    assert said.code == 1
    assert "error[B707]" in said.err
    assert "maml.bl:" in said.err
    assert "bilevel resume lost" in said.err
    assert saved(here / "lost")["states"]["meta"]["step"] == 0
    said = bilevel("resume", "lost", "adapt.by.lr=0.01")
    assert said.code == 0
    assert json.loads((here / "lost" / "run.json").read_text("utf-8"))["resumed"] == [["adapt.by.lr=0.01"]]


# ---- interrupts ----------------------------------------------------------------------------------------------


def same_run(bilevel: Command, here: Path, *options: str) -> str:
    """`part`, once resumed, is what a run without interruption is; what the resume said on its way."""
    assert bilevel("run", "tiny.bl", *LONG, *options, "--out", "whole").code == 0
    said = bilevel("resume", "part")
    assert said.code == 0
    assert (here / "part" / "metrics.jsonl").read_text("utf-8") == (here / "whole" / "metrics.jsonl").read_text("utf-8")
    assert equal(saved(here / "part"), saved(here / "whole"))
    assert bilevel("resume", "part").code == 0  # nothing is left to do, and nothing changes
    assert (here / "part" / "metrics.jsonl").read_text("utf-8") == (here / "whole" / "metrics.jsonl").read_text("utf-8")
    return said.err


def test_interrupt_saves_and_resume_goes_on_to_the_same_bits(bilevel: Command, here: Path) -> None:
    process = start("run", "tiny.bl", *LONG, "--out", "part")
    wait_for_lines(here / "part" / "metrics.jsonl", 15)
    said = stop(process, signal.SIGINT)
    assert (said.code, said.out) == (130, "")
    assert "state saved" in said.err
    assert said.err.splitlines()[-1].startswith("next: bilevel resume part")
    assert "Traceback" not in said.err
    assert 15 <= saved(here / "part")["states"]["meta"]["step"] < 90
    same_run(bilevel, here)


def test_a_killed_run_resumes_from_its_checkpoint(bilevel: Command, here: Path) -> None:
    often = "import bilevel.run; bilevel.run.CHECKPOINT_SECONDS = 0.15"
    process = start("run", "tiny.bl", *LONG, "--out", "part", python=often)
    wait_for_lines(here / "part" / "metrics.jsonl", 40)
    stop(process, signal.SIGKILL)
    step = saved(here / "part")["states"]["meta"]["step"]
    logged = (here / "part" / "metrics.jsonl").read_text("utf-8").count("\n")
    assert 0 < step <= logged < 90
    with (here / "part" / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "meta", "step": 9')  # a line that was being written
    same_run(bilevel, here)


def test_a_run_killed_before_its_first_checkpoint_begins_again(bilevel: Command, here: Path) -> None:
    process = start("run", "tiny.bl", *LONG, "--out", "part")
    wait_for_lines(here / "part" / "metrics.jsonl", 5)
    stop(process, signal.SIGKILL)
    assert not (here / "part" / "state.pt").exists()
    same_run(bilevel, here)


def test_a_killed_run_with_kernels_resumes_with_the_same_kernels(bilevel: Command, here: Path) -> None:
    # Steps of kernels are so short that the run would be over before it is killed.
    slow = "import time, bilevel.run as r; one = r._one_step; r._one_step = lambda *a: (time.sleep(0.03), one(*a))[1]"
    often = "r.CHECKPOINT_SECONDS = 0.15"
    process = start("run", "tiny.bl", *LONG, "--compile", "fx", "--out", "part", python=f"{slow}; {often}")
    wait_for_lines(here / "part" / "metrics.jsonl", 40)
    stop(process, signal.SIGKILL)
    assert 0 < saved(here / "part")["states"]["meta"]["step"] < 90
    assert json.loads((here / "part" / "run.json").read_text("utf-8"))["kernels"] == "fx"
    assert "kernels    fx" in same_run(bilevel, here, "--compile", "fx")


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_sleep_soon_unless_the_user_says_when(given: dict[str, str]) -> None:
    environment = dict(given)
    run_verb.spin_little(environment)
    assert environment == (given or {"GOMP_SPINCOUNT": run_verb.SPINS})


def test_small_networks_use_one_thread() -> None:
    import bilevel as bl

    assert run_verb.threads_for(bl.compile(bl.load("tiny.bl"))) == 1
