"""`bilevel fmt FILES`: recipes in the one layout, in place; comments are kept. Imports no torch."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from bilevel.commands.console import Console
from bilevel.dsl.format import format_text
from bilevel.errors import fail
from bilevel.files import write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `fmt`."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="paths of recipes; - reads stdin and writes stdout")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 where a file has another layout")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Format each file; with --check, name those that would change."""
    changed = [file for file in arguments.files if _format(file, arguments.check, console)]
    if arguments.check and changed:
        console.next(shlex.join(["bilevel", "fmt", *changed]), "to change them")
        return 1
    if "-" not in arguments.files:
        console.next(shlex.join(["bilevel", "check", *arguments.files]), "to read what they say")
    return 0


def _format(file: str, only_check: bool, console: Console) -> bool:
    """Whether a file was, or would be, changed."""
    text = _read(file)
    made = format_text(text, "<stdin>" if file == "-" else file)
    if file == "-" and not only_check:
        console.result(made)
    elif made != text:
        console.result(f"{file}: {'would be changed' if only_check else 'changed'}")
        if not only_check:
            write_whole(Path(file), made, "make it, and its folder, writable")
    else:
        console.result(f"{file}: as it should be")
    return made != text and (file != "-" or only_check)


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    path = Path(file)
    if not path.is_file():
        hint = "" if path.suffix else f"{file}.bl" if Path(f"{file}.bl").is_file() else ""
        raise fail("B110", f"there is no file `{file}`", fix=hint or "the path of a recipe file (ends in .bl)")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise fail("B110", f"`{file}` cannot be read", why=str(error)) from error
