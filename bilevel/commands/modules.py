"""The modules that a user names with `--with`: imported here, and nowhere else."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, util
from pathlib import Path
from types import ModuleType

from bilevel.errors import RecipeError, fail
from bilevel.registry import collect


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """The modules, found from the working directory first; B611 where there is none, B612 where one raises."""
    return [_import(name) for name in names]


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        module = _from_file(Path(name))
    else:
        module = _by_name(name)
    if not collect([module]).entries:
        raise fail(
            "B613",
            f"`{name}` registers nothing",
            why="a module registers what stands below @bilevel.model(), .data(), .tasks() or .func()"
            + (", and is in its __all__" if hasattr(module, "__all__") else ""),
            fix="@bilevel.model()  above the function that builds the network",
        )
    return module


def _by_name(name: str) -> ModuleType:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise _missing(name) from error
        raise _raised(name, error) from error
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's module does on import becomes a message
        raise _raised(name, error) from error


def _from_file(path: Path) -> ModuleType:
    """A module by the path of its file, under the name that it has there."""
    if not path.is_file():
        raise _missing(str(path))
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:  # as above
        raise _raised(str(path), error) from error
    return module


def _missing(name: str) -> RecipeError:
    file = Path(*name.split(".")).with_suffix(".py") if not name.endswith(".py") else Path(name)
    return fail(
        "B611",
        f"there is no module `{name}`",
        why=f"neither {file} in the working directory nor an installed module",
        fix="--with the name or the path of a module that registers parts",
    )


def _raised(name: str, error: BaseException) -> RecipeError:
    frames = traceback.extract_tb(error.__traceback__)
    place = next((f"{f.filename}:{f.lineno}: {f.line}" for f in reversed(frames) if _is_users(f.filename)), "")
    return fail(
        "B612",
        f"`{name}` raised {type(error).__name__} while it was imported",
        why="\n".join(part for part in (str(error) or "it gave no reason", place) if part),
        fix=f"python -c 'import {name.removesuffix('.py')}'     shows the whole traceback",
    )


def _is_users(filename: str) -> bool:
    """Whether a frame is in code that is not Python's own machinery of imports."""
    return not filename.startswith("<frozen") and Path(filename) != Path(__file__)
