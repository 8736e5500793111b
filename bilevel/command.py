"""The command `bilevel`: finds the verb, runs it, and turns what can go wrong into messages and exit codes.

0 fine, 1 the run failed, 2 wrong usage, 3 the recipe has errors, 4 no plan within the limits, 5 gradient check
failed, 130 interrupted. A verb's own work is in `bilevel/commands/`, one module each, imported when it is asked for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bilevel.commands.arguments import Help, Usage, read_arguments
from bilevel.commands.console import Console
from bilevel.errors import RecipeError, pass_on

FINE, FAILED, USAGE, ERRORS, NO_PLAN, INTERRUPTED = 0, 1, 2, 3, 4, 130


def main(argv: list[str] | None = None) -> int:
    """Run one command line and give its exit code."""
    words = sys.argv[1:] if argv is None else argv
    console = Console(json="--json" in words, plain="--plain" in words)
    try:
        code = _run(words, console)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away: `bilevel list | head`
        return _hushed()
    except KeyboardInterrupt:
        console.say("interrupted")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - our own fault, whatever it is: one line, the rest on request
        return _failed(error, console, "--debug" in words)
    return code


def _failed(error: Exception, console: Console, debug: bool) -> int:
    """The end of a command by an error that is no message: our own fault, or what came of Ctrl-C."""
    try:
        pass_on(error)
    except KeyboardInterrupt:
        console.say("interrupted")
        return INTERRUPTED
    if debug:
        raise error  # the rest, on request
    return _bug(error, console)


def _run(words: Sequence[str], console: Console) -> int:
    try:
        run, arguments = read_arguments(words)
        return run(arguments, console)
    except Help as wanted:
        console.result(wanted.text)
        return FINE
    except Usage as error:
        console.misused(str(error))
        return USAGE
    except RecipeError as error:
        console.failed(error.diagnostics)
        return exit_code(error)


def exit_code(error: RecipeError) -> int:
    """Messages of a run (B7) mean that it failed, B510 that no plan fits, all others that the recipe has errors."""
    codes = {diagnostic.code for diagnostic in error.diagnostics}
    if codes == {"B510"}:
        return NO_PLAN
    return FAILED if all(code.startswith("B7") for code in codes) else ERRORS


def _bug(error: Exception, console: Console) -> int:
    place = _last_place(error)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    console.misused(
        f"internal error at {place}: {reason}\n"
        "this is a mistake in bilevel: please report it, with what the same command prints with --debug"
    )
    return FAILED


def _last_place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _hushed() -> int:
    """Point stdout at nothing, so that the interpreter does not complain when it closes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
