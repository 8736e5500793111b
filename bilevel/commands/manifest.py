"""`bilevel manifest MODULE`: import a module once and describe it in a file, which `check` reads in its place."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

from bilevel.commands.console import Console
from bilevel.commands.modules import import_modules
from bilevel.commands.recipes import recipes_here
from bilevel.files import write_whole
from bilevel.manifest import write_manifest
from bilevel.registry import collect


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `manifest`."""
    parser.add_argument("module", metavar="MODULE", help="name or path of a module that registers parts")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Write MODULE.bilevel.json beside the module."""
    (module,) = import_modules([arguments.module])
    assert module.__file__ is not None
    path = Path(module.__file__).with_suffix(".bilevel.json")
    text = write_manifest(module)
    write_whole(path, text, "make it, and its folder, writable")
    console.result(os.path.relpath(path))
    console.say(f"{len(collect([module]).entries)} names: {', '.join(collect([module]).entries)}")
    if recipes_here():
        console.next(f"bilevel check *.bl --with {shlex.quote(arguments.module)}", "reads it and imports nothing")
    return 0
