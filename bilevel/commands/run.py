"""`bilevel run FILE`: plan, run, and show what came of it. Progress goes to stderr, the result to stdout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, MutableMapping
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from bilevel.commands.arguments import follow
from bilevel.commands.console import PLANNING, Console, waiting
from bilevel.commands.recipes import (
    add_device,
    add_kernels,
    add_limits,
    add_modules,
    add_recipe,
    add_schedule,
    open_recipe,
    quick,
    read_positive,
    read_seed,
)
from bilevel.errors import fail
from bilevel.limits import Limit, read_limits
from bilevel.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from bilevel.compiling import Asked
    from bilevel.modes import Class
    from bilevel.program import Program
    from bilevel.run import Callback, Run

RUNS = Path("runs")
SPINS = "2000"
"""how often a thread looks for work before it sleeps"""
SMALL = 50_000
"""Numbers in all networks together below which one thread is used."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `run`."""
    add_recipe(parser)
    add_modules(parser, "import MODULE and let the recipe name what it registers; may be given again")
    add_schedule(parser)
    add_limits(parser)
    parser.add_argument("--quick", action="store_true", help="run the small child of the recipe, NAME_quick")
    parser.add_argument("--out", metavar="DIR", help="folder of the run (runs/NAME-1, -2, ...); never overwritten")
    parser.add_argument("--seed", metavar="N", type=read_seed, default=0, help="decides every draw and start (0)")
    add_device(parser)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of real numbers (float32)")
    parser.add_argument(
        "--threads", metavar="N", type=read_positive, help="of one operation on a CPU; 1 for small networks"
    )
    add_kernels(
        parser, "what the steps become: traced (fx), compiled (inductor); auto: what pays back in this run (auto)"
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON document on stdout")


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run to the end, or until interrupted."""
    file = quick(arguments.file) if arguments.quick else arguments.file
    recipe = open_recipe(file, arguments.settings, arguments.schedule)
    program = build(
        recipe,
        arguments.modules,
        arguments.device,
        arguments.dtype,
        read_limits(arguments.limits),
        arguments.allow,
        kernels=arguments.compile,
    )
    use_threads(arguments.threads or threads_for(program))
    folder = free_folder(recipe.name) if arguments.out is None else Path(arguments.out)
    announce(program, folder, arguments.seed, console)
    from bilevel.commands.watch import watched
    from bilevel.run import execute

    def work(callbacks: list[Callback]) -> Run:
        return execute(program, folder, arguments.seed, callbacks, arguments.modules)

    return watched(work, folder, console, follow("emit", arguments, file, "-o", f"{recipe.name}.py"))


def build(
    recipe: Recipe,
    modules: list[str],
    device: str,
    dtype: str,
    limit: Limit | None = None,
    allow: Class = "exact",
    decided: Mapping[str, str] | None = None,
    kernels: Asked = "auto",
) -> Program:
    """The compiled program with its parts."""
    spin_little(os.environ)
    from bilevel import compile as compiled
    from bilevel.commands.modules import import_modules

    with waiting(PLANNING.format(recipe.name)):
        return compiled(
            recipe,
            registry=import_modules(modules),
            device=device,
            dtype=real_type(dtype),
            limit=limit,
            allow=allow,
            decided=decided,
            compile=kernels,
        )


def spin_little(environment: MutableMapping[str, str]) -> None:
    """Let threads of GNU's OpenMP, torch's on Linux, look for work a little while and then sleep; before torch is imported.

    By default they look for milliseconds: with two other programs on two cores a step took 966 ms in place of 6. Where
    they sleep at once a step took 11 ms with nothing beside it, and W5 two and a half times its time; so 6.6 and 15 ms.
    """
    if not environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = SPINS


def real_type(name: str) -> torch.dtype:
    """`float32` or `float64` as torch has it."""
    import torch

    return torch.float64 if name == "float64" else torch.float32


def threads_for(program: Program) -> int:
    """One thread where the networks are small: handing out the work costs more than the work.

    By size and not by a measurement, since sums in another order have other bits.
    """
    import torch

    modules = [part for part in program.parts.objects.values() if isinstance(part, torch.nn.Module)]
    numbers = sum(parameter.numel() for module in modules for parameter in module.parameters())
    return 1 if numbers < SMALL else torch.get_num_threads()


def use_threads(number: int) -> None:
    """Set the number of threads of one operation."""
    import torch

    torch.set_num_threads(number)


def announce(program: Program, folder: Path, seed: int, console: Console) -> None:
    """What is about to run, by which kernels, and where its files go; options that have no effect in it."""
    from bilevel.dsl.unused import idle_options
    from bilevel.explain import summary

    console.diagnostics(list(idle_options(program.plan.program)))
    console.say(summary(program.plan))
    if program.kernels.kind != "none" or program.kernels.idle:
        console.say(program.explain_kernels(seed).rstrip())
    console.say(f"files: {folder}")


def free_folder(name: str) -> Path:
    """`runs/NAME-N` with the first N that is free; made at once, so that two runs never share one."""
    for number in count(1):
        folder = RUNS / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError as error:
            if RUNS.is_dir():
                continue
            raise fail("B709", f"cannot write to `{RUNS}`: it is a file", fix="--out DIR") from error
        except OSError as error:
            raise fail("B709", f"cannot write to `{folder}`: {error.strerror}", fix="--out DIR") from error
        return folder
    raise AssertionError("count() does not end")
