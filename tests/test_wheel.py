"""The wheel holds the package and nothing else, and works where there is no checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]

pytestmark = pytest.mark.xdist_group("wheel")  # one worker, so that the wheel is built once


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """The output of a command that has to succeed; on failure, what it said."""
    ran = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a folder `build` left in a checkout would put files into the wheel that are gone."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "source"
    for name in FOLDERS.values():
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, folder=copy)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder that holds the unpacked wheel alone."""
    target = wheel.parent / "installed"
    run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-index", "--no-deps", "--no-compile", "--target", target, wheel),
        folder=wheel.parent,
    )
    return target


@pytest.fixture
def outside(installed: Path, tmp_path: Path) -> Callable[..., str]:
    """Runs Python in an empty folder, with the installed wheel before anything else that is called bilevel."""
    return lambda *arguments: run(sys.executable, *arguments, folder=tmp_path, PYTHONPATH=str(installed))


def files_on_disk() -> set[str]:
    """All files of the four folders, under the names they have in a wheel."""
    return {
        f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).iterdir()
        if not path.is_symlink()
        for file in [path, *path.rglob("*")]
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".")
    }


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"bilevel", f"bilevel-{PROJECT['project']['version']}.dist-info"}
    assert {name for name in names if name.startswith("bilevel/")} == files_on_disk()


def test_wheel_holds_grammar_recipes_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.startswith("bilevel/dsl/") and name.endswith(".lark")]
    assert "bilevel/recipes/maml_sine.bl" in names
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]


IMPORT = """
import importlib.util, bilevel
print(bilevel.__file__)
print([name for name in ("dsl", "backends", "recipes", "tests") if importlib.util.find_spec(name)])
"""


def test_only_bilevel_is_importable_outside_the_checkout(outside: Callable[..., str], installed: Path) -> None:
    assert outside("-c", IMPORT).splitlines() == [str(installed / "bilevel" / "__init__.py"), "[]"]


PARSE = """
from importlib.resources import files
from bilevel.dsl import parse
print(parse.__file__)
recipe = files("bilevel.recipes") / "maml_sine.bl"
print(parse.parse(recipe.read_text(encoding="utf-8"), recipe.name).name)
"""


def test_packaged_recipe_is_parsed_outside_the_checkout(outside: Callable[..., str], installed: Path) -> None:
    assert outside("-c", PARSE).splitlines() == [str(installed / "bilevel" / "dsl" / "parse.py"), "maml_sine"]


def test_command_checks_a_packaged_recipe_outside_the_checkout(outside: Callable[..., str]) -> None:
    outside("-m", "bilevel.command", "check", "maml_sine")


def test_a_packaged_recipe_runs_outside_the_checkout(outside: Callable[..., str]) -> None:
    outside("-m", "bilevel", "run", "maml_sine", "meta.steps=2", "--out", "two_steps", "--plain")
