"""From the words of a command line to a verb and its arguments, with a suggestion for every misspelt word.

Each verb is a module here with `add_arguments(parser)` and `run(arguments, console) -> int`, imported when it is
asked for, so that a quick verb does not wait for what another one needs.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NoReturn, TypeAlias

from bilevel.commands.console import Console
from bilevel.dsl.nearest import nearest

VERBS = {
    "check": "read recipes and report every mistake",
    "fmt": "write recipes in the one layout",
    "show": "a recipe with all that it inherits; its settings; its equations",
    "plan": "what will be computed, and how each level is differentiated",
    "analyze": "run some steps on copies: estimates beside measurements",
    "run": "plan, then run; reports, curves and state go to a folder",
    "resume": "go on with an interrupted run",
    "gradcheck": "hypergradients against difference quotients and all other exact modes",
    "emit": "the recipe as one readable PyTorch file",
    "list": "recipes, models, data, solvers, functions, modes, domains",
    "explain": "a page about the code of a message",
    "new": "a child of a recipe, to be changed",
    "manifest": "describe a Python module, so that recipes can be checked without it",
}
COMMON = ("--debug", "--plain")
CARRIED = ("modules", "schedule", "limits", "allow", "symbolic", "device", "dtype", "seed", "compile")
"""what decides what is computed: a command that follows another one is given it again, where its verb takes it"""
Run: TypeAlias = Callable[[argparse.Namespace, Console], int]


class Usage(Exception):
    """A command line that cannot be understood; the text says why."""


class Help(Exception):
    """The user asked for help."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of leaving the program."""

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        needed = message.replace(", path=value", "")  # argparse counts what may be left out among what it misses
        raise Usage(f"{needed}\n{self.format_usage().strip()}")


def read_arguments(words: Sequence[str]) -> tuple[Run, argparse.Namespace]:
    """The verb's function and its arguments; raises `Usage`, or `Help` where that was asked for."""
    verb = next((word for word in words if not word.startswith("-")), "")
    before = list(words[: words.index(verb)] if verb else words)
    if "--version" in before or verb == "version":
        from bilevel.version import VERSION

        raise Help(f"bilevel {VERSION}\n")
    if not verb or verb == "help" or {"-h", "--help"} & set(before):
        raise Help(overview())
    if verb not in VERBS:
        raise Usage(_unknown("verb", verb, VERBS) + "\nbilevel --help lists all verbs")
    module = import_module(f"bilevel.commands.{verb}")
    parser = _parser(verb)
    rest = [*before, *words[len(before) + 1 :]]
    if {"-h", "--help"} & set(rest):
        raise Help(parser.format_help())
    return module.run, _parsed(parser, rest)


def overview() -> str:
    """All verbs in one line each."""
    lines = [f"  {name:<10} {summary}" for name, summary in VERBS.items()]
    return "\n".join(
        [
            "bilevel: a compiler for recipes of nested optimisation",
            "",
            "usage: bilevel VERB ...        FILE is the path of a recipe (.bl) or the name of a packaged one",
            "",
            *lines,
            "",
            "A first job:        bilevel run maml_sine",
            "More about a verb:  bilevel VERB --help",
            "",
        ]
    )


def _parser(verb: str) -> Parser:
    parser = Parser(f"bilevel {verb}", description=VERBS[verb], allow_abbrev=False)
    parser.add_argument("--plain", action="store_true", help="no colours and no progress bar")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an internal error")
    import_module(f"bilevel.commands.{verb}").add_arguments(parser)
    return parser


def follow(verb: str, given: argparse.Namespace, file: str, *more: str) -> str:
    """A command for the same recipe, as it can be typed: with the settings and the options that its verb has too."""
    known = {action.dest: action for action in _parser(verb)._actions}
    words = ["bilevel", verb, file, *(getattr(given, "settings", ()) if "settings" in known else ()), *more]
    for name in CARRIED:
        value, action = getattr(given, name, None), known.get(name)
        if action is not None and value is not None and value != action.default:
            values = value if isinstance(value, list) else [value]
            words += [w for v in values for w in (action.option_strings[0], *([] if v is True else [str(v)]))]
    return shlex.join(words)


def _parsed(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    arguments, unknown = parser.parse_known_intermixed_args(words)
    if unknown:
        options = [option for action in parser._actions for option in action.option_strings]
        what = "option" if unknown[0].startswith("-") else "argument"
        known = options if what == "option" else []
        parser.error(_unknown(what, unknown[0].partition("=")[0] if what == "option" else unknown[0], known))
    return arguments


def _unknown(what: str, word: str, known: Sequence[str] | dict[str, str]) -> str:
    guess = nearest(word, list(known))
    return f"there is no {what} `{word}`" + (f"; did you mean `{guess}`?" if guess else "")
