"""`bilevel explain CODE`: the page about a message. Imports no torch."""

from __future__ import annotations

import argparse

from bilevel.commands.console import Console
from bilevel.commands.recipes import recipes_here


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `explain`."""
    parser.add_argument("code", metavar="CODE", help="the code of a message, such as B401")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the page."""
    from bilevel.explain_code import page

    console.result(page(arguments.code.strip().upper()))
    if recipes_here():
        console.next("bilevel check *.bl", "the messages of the recipes here")
    return 0
