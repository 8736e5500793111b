from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.commands.arguments import VERBS
from bilevel.program import compile as compiled
from tests.command.tools import ROOT, Command

QUICK_VERBS = [
    ("check", "tiny.bl", "maml"),
    ("fmt", "line.bl"),
    ("show", "maml_sine", "--flat"),
    ("show", "maml_sine", "--latex"),
    ("plan", "maml_sine", "--symbolic"),
    ("plan", "maml_sine", "--symbolic", "--json"),
    ("plan", "maml_sine", "--symbolic", "--stage", "scheduled"),
    ("explain", "B401"),
    ("list",),
]


@pytest.mark.parametrize("words", QUICK_VERBS, ids=" ".join)
def test_quick_verbs_import_nothing_slow_and_answer_at_once(words: tuple[str, ...]) -> None:
    program = (
        "import sys, time\n"
        "from bilevel.command import main\n"
        "code = main(sys.argv[1:])\n"
        "slow = {'torch', 'numpy', 'sympy', 'rich', 'matplotlib', 'networkx'} & sys.modules.keys()\n"
        "print(code, ','.join(slow) or '-', time.process_time(), file=sys.stderr)"
    )
    fastest = 9.0  # of the processor: on a busy machine the clock on the wall says nothing
    for _ in range(3):
        ran = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT)},
            check=True,
        )
        code, slow, seconds = ran.stderr.splitlines()[-1].split()
        assert slow == "-"
        assert code == "0"
        fastest = min(fastest, float(seconds))
        if fastest < 0.5:
            break
    assert fastest < 0.5


# ---- usage ---------------------------------------------------------------------------------------------------


def test_help_lists_every_verb(bilevel: Command) -> None:
    said = bilevel()
    assert said.code == 0
    assert all(f"  {verb} " in said.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(bilevel: Command, verb: str) -> None:
    said = bilevel(verb, "--help")
    assert said.code == 0
    assert said.out.startswith(f"usage: bilevel {verb}")


def test_version(bilevel: Command) -> None:
    assert bilevel("--version").out.startswith("bilevel 0.")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("chek", "maml"), "did you mean `check`?"),
        (("check", "maml", "--strct"), "did you mean `--strict`?"),
        (("run",), "required: FILE\n"),
        (("run", "maml", "--threads", "0"), "`0` is no whole number from 1"),
        (("gradcheck", "maml", "--directions", "x"), "`x` is no whole number from 1"),
        (("run", "maml", "--sed=3"), "did you mean `--seed`?"),
        (("run", "maml", "--seed", "three"), "no whole number"),
        (("plan", "maml", "--stage", "type"), "invalid choice"),
        (("list", "model"), "did you mean `models`?"),
        (("new", "3x", "--from", "maml"), "cannot be the name"),
    ],
)
def test_wrong_usage_is_2_with_a_hint(bilevel: Command, words: tuple[str, ...], hint: str) -> None:
    said = bilevel(*words)
    assert (said.code, said.out) == (2, "")
    assert hint in said.err


def test_settings_may_stand_between_options(bilevel: Command) -> None:
    said = bilevel("plan", "maml", "--symbolic", "adapt.steps=3", "--plain", "adapt.by.lr=0.4")
    assert said.code == 0
    assert "3 steps of sgd" in said.out
    assert said.err.startswith("next: bilevel run maml adapt.steps=3 adapt.by.lr=0.4")


def test_our_own_mistake_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from bilevel import command

    monkeypatch.setattr(command, "read_arguments", lambda words: 1 / 0)
    assert command.main(["check"]) == 1
    said = capsys.readouterr()
    assert "ZeroDivisionError" in said.err
    assert "report it" in said.err
    assert "Traceback" not in said.err
    with pytest.raises(ZeroDivisionError):
        command.main(["check", "--debug"])


def test_a_closed_pipe_is_quiet() -> None:
    listing = f"{sys.executable} -m bilevel list | head -1"
    ran = subprocess.run(
        ["bash", "-c", listing], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, check=True
    )
    assert ran.stdout == "recipes\n"
    assert "rror" not in ran.stderr


# ---- check, fmt ----------------------------------------------------------------------------------------------


def test_check_says_fine_on_stdout(bilevel: Command) -> None:
    said = bilevel("check", "tiny.bl")
    assert (said.code, said.out) == (0, "tiny.bl: no errors\n")
    assert said.err == "next: bilevel plan tiny.bl                      what it will compute\n"


def test_check_reports_all_files(bilevel: Command, here: Path) -> None:
    (here / "bad.bl").write_text("recipe bad extends tiny\nadapt.stepz = 3\n", "utf-8")
    said = bilevel("check", "bad.bl", "tiny.bl")
    assert said.code == 3
    assert said.out == "bad.bl: 1 error\ntiny.bl: no errors\n"
    assert said.err.startswith("error[B204]: `adapt.stepz`")
    assert "bilevel explain B204" in said.err


def test_check_as_json(bilevel: Command, here: Path) -> None:
    (here / "bad.bl").write_text("recipe bad extends tiny\nadapt.stepz = 3\n", "utf-8")
    said = bilevel("check", "bad.bl", "tiny.bl", "--json")
    content = json.loads(said.out)
    assert (said.code, content["ok"]) == (3, False)
    assert [len(file["diagnostics"]) for file in content["files"]] == [1, 0]
    assert content["files"][0]["diagnostics"][0]["place"]["line"] == 2


def test_strict_turns_warnings_into_errors(bilevel: Command, here: Path) -> None:
    (here / "lint.bl").write_text("recipe lint extends tiny\nparam unused_number = 3\n", "utf-8")
    said = bilevel("check", "lint.bl")
    assert (said.code, said.out) == (0, "lint.bl: 1 warning\n")
    assert bilevel("check", "lint.bl", "--strict").code == 3


def test_a_missing_recipe_is_named(bilevel: Command) -> None:
    said = bilevel("check", "mamll")
    assert said.code == 3
    assert "did you mean `maml`?" in said.err


def test_check_reads_a_manifest_and_imports_nothing(bilevel: Command, here: Path) -> None:
    said = bilevel("check", "line.bl", "--with", "points_module")
    assert said.code == 3
    assert "error[B607]: there is no manifest of `points_module`" in said.err
    said = bilevel("manifest", "points_module")
    assert (said.code, said.out) == (0, "points_module.bilevel.json\n")
    (here / "points_module.py").write_text("raise RuntimeError('imported')", "utf-8")
    assert bilevel("check", "line.bl", "--with", "points_module").code == 0
    assert bilevel("check", "line.bl").code == 3


def test_fmt_changes_files_once(bilevel: Command, here: Path) -> None:
    (here / "line.bl").write_text((here / "line.bl").read_text("utf-8").replace("    w", "  w"), "utf-8")
    said = bilevel("fmt", "--check", "line.bl", "tiny.bl")
    assert said.code == 1
    assert "line.bl: would be changed" in said.out
    assert bilevel("fmt", "line.bl", "tiny.bl").code == 0
    assert bilevel("fmt", "--check", "line.bl", "tiny.bl").code == 0
    assert "# fit a line" in (here / "line.bl").read_text("utf-8")


def test_fmt_needs_a_file(bilevel: Command) -> None:
    assert "error[B110]" in bilevel("fmt", "maml").err


# ---- show, plan, emit, list, explain, new --------------------------------------------------------------------


def test_show_forms(bilevel: Command) -> None:
    assert bilevel("show", "maml").out.startswith("recipe maml      ")
    assert "# 32 fresh tasks per outer step" in bilevel("show", "maml").out
    flat = bilevel("show", "maml_sine", "--flat").out
    assert "level adapt {" in flat
    assert "extends" not in flat
    paths = bilevel("show", "maml_sine", "--paths").out
    assert "adapt.steps          =  5" in paths
    assert str(ROOT) not in paths
    assert bilevel("show", "maml", "--latex").out.startswith(r"\begin{aligned}")
    content = json.loads(bilevel("show", "maml", "--json").out)
    assert content["settings"]["adapt.steps"] == "5"
    assert content["levels"][1]["per"] == ["task"]


def test_show_applies_settings(bilevel: Command) -> None:
    assert "for 7 steps" in bilevel("show", "maml", "adapt.steps=7").out


def test_flat_recipe_is_a_recipe(bilevel: Command, here: Path) -> None:
    (here / "maml_sine.bl").write_text(bilevel("show", "maml_sine", "--flat").out, "utf-8")
    assert bilevel("check", "maml_sine.bl").code == 0


def test_plan_forms(bilevel: Command) -> None:
    assert "rmd" in bilevel("plan", "tiny.bl").out
    content = json.loads(bilevel("plan", "tiny.bl", "--symbolic", "--json").out)
    assert (content["bilevel_plan"], content["class"]) == (1, "exact")
    assert content["hypergradients"][0]["chosen"] == "rmd"
    assert {"id", "op", "at"} <= content["graph"]["nodes"][0].keys()
    sized = json.loads(bilevel("plan", "tiny.bl", "--json").out)
    assert sized["sizes"] == {"theta": 25, "phi": 25}
    assert sized["hypergradients"][0]["chosen"] == "rmd(store = residuals)"
    assert "sizes may favour another" in bilevel("plan", "tiny.bl", "--symbolic").out


@pytest.mark.parametrize(
    ("stage", "word"),
    [("parsed", "extends maml_sine"), ("typed", "params(net)"), ("lowered", "x 5"), ("scheduled", "the planner")],
)
def test_plan_stages(bilevel: Command, stage: str, word: str) -> None:
    said = bilevel("plan", "tiny.bl", "--stage", stage)
    assert said.code == 0
    assert word in said.out


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--symbolic --limit memory=1GB", "--symbolic builds no part, so there are no sizes for --limit"),
        ("--symbolic --calibration reference", "no sizes for --calibration"),
        ("--symbolic --compile fx", "no sizes for --compile"),
        ("--stage lowered --diff memory=1GB", "--stage lowered builds no part"),
        ("--stage typed --pin", "there is nothing to pin"),
        ("--why adapt rmd --diff maml_sine", "--why and --diff ask for two answers"),
        ("--why adapt rmd --format html", "--why and --format html ask for two answers"),
    ],
)
def test_options_of_plan_that_would_be_ignored_are_refused(bilevel: Command, options: str, why: str) -> None:
    said = bilevel("plan", "tiny.bl", *options.split())
    assert said.code == 2
    assert why in said.err


def test_plan_errors_as_json(bilevel: Command) -> None:
    said = bilevel("plan", "tiny.bl", "nothing.here=3", "--json")
    content = json.loads(said.out)
    assert (said.code, content["ok"], content["diagnostics"][0]["code"]) == (3, False, "B204")


def test_emit_to_stdout_and_to_a_file(bilevel: Command, here: Path) -> None:
    said = bilevel("emit", "tiny.bl")
    assert "def meta_step(state, key):" in said.out
    assert bilevel("emit", "tiny.bl", "-o", "step.py").out == "step.py\n"
    assert (here / "step.py").read_text("utf-8") == said.out
    assert bilevel("emit", "tiny.bl", "-o", "no/such/step.py").code == 1


def test_emit_writes_what_runs_and_symbolic_what_kinds_decide(bilevel: Command, here: Path) -> None:
    said = bilevel("emit", "tiny.bl")
    assert said.out == compiled("tiny.bl").source
    assert "rmd(store = residuals)" in said.out  # the fastest by cost, where kinds alone would say rmd
    symbolic = bilevel("emit", "tiny.bl", "--symbolic").out
    assert "rmd(store = residuals)" not in symbolic
    assert "rmd, exact" in symbolic


def test_list_kinds(bilevel: Command) -> None:
    assert "conv4(ways, filters = 64" in bilevel("list", "models").out
    names = json.loads(bilevel("list", "recipes", "--json").out)["recipes"]
    assert names.keys() >= {"maml", "maml_sine", "reptile", "hpo"}


def test_explain(bilevel: Command) -> None:
    assert "B401" in bilevel("explain", "b401").out
    assert bilevel("explain", "B999").code != 0


def test_new_writes_a_child_and_never_overwrites(bilevel: Command, here: Path) -> None:
    said = bilevel("new", "mine", "--from", "maml")
    assert (said.code, said.out) == (0, "mine.bl\n")
    text = (here / "mine.bl").read_text("utf-8")
    assert text.startswith("recipe mine extends maml\n")
    assert "# adapt.steps = 5" in text
    assert bilevel("check", "mine.bl").code == 0
    (here / "mine.bl").write_text(text.replace("# adapt.steps = 5", "adapt.steps = 6"), "utf-8")
    said = bilevel("new", "mine", "--from", "maml")
    assert said.code == 1
    assert "error[B708]" in said.err
    assert "adapt.steps = 6" in (here / "mine.bl").read_text("utf-8")


@pytest.mark.parametrize(("seconds", "told"), [(0.0, True), (60.0, False)])
def test_a_plan_that_takes_longer_says_what_it_does(
    bilevel: Command, monkeypatch: pytest.MonkeyPatch, seconds: float, told: bool
) -> None:
    monkeypatch.setattr("bilevel.commands.console.PATIENCE", seconds)
    said = bilevel("plan", "maml_sine_quick")
    line = "maml_sine_quick: building its parts, and counting what every mode costs on tensors without numbers\n"
    assert said.code == 0 and (line in said.err) == told and "building" not in said.out
    assert "building" not in bilevel("plan", "maml_sine_quick", "--symbolic").err


@pytest.mark.parametrize("verb", ["run", "gradcheck", "analyze"])
@pytest.mark.parametrize("seed", ["x", "1.5", str(2**63)])
def test_a_seed_is_a_whole_number_of_64_bits(bilevel: Command, verb: str, seed: str) -> None:
    said = bilevel(verb, "tiny.bl", "--seed", seed)
    assert said.code == 2 and f"error: argument --seed: `{seed}` is " in said.err


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind it with Ctrl-C ignored

class Finder:
    def find_spec(self, name, *more):
        if name == "bilevel.command":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Finder())
from bilevel.__main__ import main
sys.exit(main())
"""


def test_interrupted_while_it_is_loaded_is_no_traceback() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, "list"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (130, "interrupted\n")
