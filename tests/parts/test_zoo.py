"""The committed manifest of the zoo, and manifests in general."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.errors import RecipeError
from bilevel.manifest import read_manifest, write_manifest
from bilevel.recipes import zoo
from bilevel.recipes.published import READERS
from bilevel.registry import MARK, collect

PUBLISHED = {*READERS, "omniglot", "mini_imagenet"}


def test_committed_manifest_equals_the_code() -> None:
    assert zoo.MANIFEST.read_text(encoding="utf-8") == write_manifest(zoo, zoo.NAME), (
        "write it again: python -m bilevel.recipes.zoo"
    )


def test_reading_gives_back_what_was_written() -> None:
    manifest = read_manifest(zoo.MANIFEST)
    assert manifest.name == "bilevel.zoo"
    assert manifest.entries == collect([zoo]).manifest.entries


def test_everything_listed_is_registered_and_documented() -> None:
    assert zoo.__all__ == sorted(zoo.__all__)
    for name in zoo.__all__:
        registration = getattr(getattr(zoo, name), MARK)
        assert registration.description.name == name
        assert registration.description.summary.endswith(".")


def test_reading_imports_no_torch() -> None:
    program = (
        "import sys; from pathlib import Path; from bilevel.manifest import read_manifest; "
        f"read_manifest(Path({str(zoo.MANIFEST)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_packages_start_without_torch() -> None:
    program = (
        "import sys, bilevel.recipes, bilevel.backends, bilevel.backends.torch_func; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"bilevel_manifest": 2, "name": "n", "entries": []}',
        '{"bilevel_manifest": 1, "name": "n", "entries": [{"name": "x"}]}',
        '{"bilevel_manifest": 1, "name": "n", "entries": [3]}',
        "\udcff",
    ],
)
def test_damaged_manifests_are_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.bilevel.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecipeError) as caught:
        read_manifest(path)
    assert caught.value.diagnostics[0].code == "B607"


def test_a_missing_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        read_manifest(tmp_path / "none.bilevel.json")
    assert caught.value.diagnostics[0].code == "B607"


def test_every_data_set_has_a_section_and_a_picture() -> None:
    folder = zoo.MANIFEST.parent
    page = (folder / "DATA.md").read_text(encoding="utf-8")
    for entry in read_manifest(zoo.MANIFEST).entries.values():
        if entry.name in PUBLISHED:  # one section for all: there is nothing to see before a user has the files
            assert f"`{entry.name}`" in page.partition("\n## Published files\n")[2]
        elif entry.kind in {"data", "tasks"}:
            assert f"\n## {entry.name}\n" in page
            assert f"(pictures/{entry.name}.png)" in page
            assert (folder / "pictures" / f"{entry.name}.png").stat().st_size < 500_000


def test_the_registry_imports_nothing_slow_that_only_some_part_needs() -> None:
    program = (
        "import sys, torch; before = {*sys.modules}; import bilevel.recipes.zoo; slow = {*sys.modules} - before;"
        "print({'scipy', 'PIL', 'matplotlib', 'sklearn', 'pandas', 'cma', 'rich', 'gymnasium'} & slow)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"
