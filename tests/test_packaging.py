"""The shape of the project: packages against folders, the guards, names of files, and the layout the README tells."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
SOURCES = {name: ROOT / folder for name, folder in SETUPTOOLS["package-dir"].items()}
LINKED = {"dsl", "backends", "recipes"}


def own_files(folder: Path) -> list[Path]:
    """Python files below a folder, without those behind a link."""
    links = [path for path in folder.iterdir() if path.is_symlink()]
    return [path for path in folder.rglob("*.py") if not any(path.is_relative_to(link) for link in links)]


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def packages_on_disk() -> set[str]:
    """Each folder that holds a Python file, by the name it is imported under."""
    return {
        ".".join([package, *file.parent.relative_to(folder).parts])
        for package, folder in SOURCES.items()
        for file in own_files(folder)
    }


def test_packages_are_the_folders_on_disk() -> None:
    assert set(SETUPTOOLS["packages"]) == packages_on_disk()
    assert len(SETUPTOOLS["packages"]) == len(set(SETUPTOOLS["packages"]))


def test_every_package_has_an_init_file() -> None:
    for folder in {file.parent for source in SOURCES.values() for file in own_files(source)}:
        assert (folder / "__init__.py").is_file(), f"{folder.relative_to(ROOT)} is a package without __init__.py"


def test_mapping_and_links_name_the_same_folders() -> None:
    expected = {"bilevel": ROOT / "bilevel"} | {f"bilevel.{name}": ROOT / name for name in LINKED}
    assert expected == SOURCES
    links = {path.name: path.readlink().as_posix() for path in (ROOT / "bilevel").iterdir() if path.is_symlink()}
    assert links == {name: f"../{name}" for name in LINKED}


@pytest.mark.parametrize("name", sorted(LINKED))
def test_import_from_the_root_names_the_right_import(name: str) -> None:
    ran = run_python("-c", f"import {name}")
    assert ran.returncode == 1
    expected = f"ImportError: import bilevel.{name} instead of {name}: this folder is part of the package bilevel"
    assert ran.stderr.splitlines()[-1] == expected


@pytest.mark.parametrize("name", sorted(LINKED))
def test_import_under_its_own_name_works_uninstalled(name: str) -> None:
    program = f"import bilevel.{name} as part; print(part.__name__)"
    ran = run_python("-S", "-c", program)  # -S: no site-packages, so no installed copy either
    assert (ran.stdout, ran.stderr) == (f"bilevel.{name}\n", "")


def test_no_file_is_named_like_a_standard_module() -> None:
    files = [file for source in SOURCES.values() for file in own_files(source)]
    taken = [str(file.relative_to(ROOT)) for file in files if file.stem in sys.stdlib_module_names]
    assert taken == []


def paths_in_layout(readme: str) -> list[str]:
    """The first word of each line of the code block under the heading `Layout`, without indented continuations."""
    section = re.search(r"^#+ [^\n]*layout[^\n]*$(.*?)(?=^#+ |\Z)", readme, re.MULTILINE | re.DOTALL | re.IGNORECASE)
    block = section and re.search(r"^```\w*\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return [line.split()[0] for line in block[1].splitlines() if line and not line[0].isspace()] if block else []


def test_every_path_of_the_layout_in_the_readme_exists() -> None:
    paths = paths_in_layout((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(paths) >= 6, "the README has a section `Layout` with a code block, one path at the start of each line"
    assert [path for path in paths if not (ROOT / path).exists()] == []
