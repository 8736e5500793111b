"""`bilevel resume DIR`: go on with a run from its last checkpoint, to the bits that it would have had."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.commands.console import Console
from bilevel.commands.run import announce, build, use_threads
from bilevel.errors import fail
from bilevel.files import held
from bilevel.recipe import Recipe, parse

if TYPE_CHECKING:
    from bilevel.run import Callback, Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `resume`."""
    parser.add_argument("folder", metavar="DIR", help="folder of a run")
    parser.add_argument("settings", metavar="path=value", nargs="*", help="settings that change from here on")
    parser.add_argument("--json", action="store_true", help="the result as one JSON document on stdout")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Compile what the folder holds, restore its state, and run to the end."""
    from bilevel.run import read_about

    folder = Path(arguments.folder)
    read_about(folder)  # a folder of anything else is told as that
    with held(folder):
        return _resumed(arguments, folder, console)


def _resumed(arguments: argparse.Namespace, folder: Path, console: Console) -> int:
    from bilevel.commands.watch import watched
    from bilevel.run import advance, note_resumed, read_about, restore

    about = read_about(folder)
    changes = [text for texts in [*about["resumed"], arguments.settings] for text in texts]
    program = build(
        _recipe(folder, about, changes),
        about["with"],
        about["device"],
        about["dtype"],
        decided=about["decided"],
        kernels=about.get("kernels", "none"),
    )
    use_threads(about["threads"])
    restored = restore(program, folder, about["seed"], about["with"])
    if arguments.settings:
        note_resumed(restored, folder, arguments.settings)
    announce(program, folder, about["seed"], console)
    console.say(f"goes on after {_where(restored)}")

    def work(callbacks: list[Callback]) -> Run:
        return advance(restored, callbacks)

    return watched(work, folder, console, shlex.join(["cat", str(folder / "step.py")]))


def _recipe(folder: Path, about: dict[str, Any], changes: list[str]) -> Recipe:
    """The flattened recipe of the run, which needs no other file."""
    try:
        text = (folder / "recipe.bl").read_text(encoding="utf-8")
    except OSError as error:
        raise fail("B710", f"`{folder}` has no recipe.bl", why=error.strerror or "") from error
    return replace(parse(text, f"{about['recipe']}.bl"), folder=folder, schedule=about["schedule"]).changed(changes)


def _where(run: Run) -> str:
    if not run.states:
        return "nothing: there is no checkpoint yet, so it begins again"
    return ", ".join(f"{state.step:,} steps of {name}" for name, state in run.states.items())
