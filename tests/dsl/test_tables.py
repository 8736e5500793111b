"""The parser whose tables were kept by an earlier process is the parser that the grammar gives."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bilevel.costs import current, reference
from bilevel.dsl import mistakes, parse, tables, unexpected
from bilevel.errors import RecipeError
from bilevel.kept import cache_folder, keep, recall

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.bl"))[::8]
BROKEN = sorted((ROOT / "tests" / "corpus" / "bad").glob("B10*.bl"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_folder()


def said(text: str) -> object:
    """What the parser makes of a text: its tree, or its messages."""
    try:
        return parse.parse(text)
    except RecipeError as error:
        return [str(one) for one in error.diagnostics]


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a fresh parser from the cache folder, or make it, for whoever parses."""
    made = tables.grammar.__wrapped__()
    for module in (parse, mistakes, unexpected):
        monkeypatch.setattr(module, "grammar", lambda: made)


def only_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on no parser can be made from the grammar."""
    monkeypatch.setattr(tables, "Lark", type("Lark", (), {"load": tables.Lark.load}))


def test_kept_tables_read_recipes_and_mistakes_alike(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [path.read_text("utf-8") for path in (*RECIPES, *BROKEN)]
    assert len(RECIPES) > 5 and len(BROKEN) > 5
    use(monkeypatch)
    fresh = [said(text) for text in texts]
    assert (folder / tables.KEPT).is_file()
    only_kept(monkeypatch)
    use(monkeypatch)
    assert [said(text) for text in texts] == fresh


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other grammar", "folder"])
def test_damaged_tables_are_made_again(folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.grammar.__wrapped__()
    file = folder / tables.KEPT
    whole = file.read_bytes()
    half = len(whole) // 2
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "other grammar":
        keep(tables.KEPT, "another grammar", whole[32:])
    else:
        file.write_bytes({"cut": whole[:half], "empty": b""}.get(damage, whole[:half] + b"!" + whole[half + 1 :]))
    use(monkeypatch)
    assert not isinstance(said(RECIPES[0].read_text("utf-8")), list)
    if damage != "folder":
        only_kept(monkeypatch)
        use(monkeypatch)
    assert [path.name for path in folder.iterdir()] == [tables.KEPT]


def test_tables_need_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    use(monkeypatch)
    assert not isinstance(said(RECIPES[0].read_text("utf-8")), list)


def test_tables_that_name_a_function_are_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match="system"):
        tables._read(b"cos\nsystem\n(S'true'\ntR.")


def test_kept_content_is_whole_whoever_writes(folder: Path) -> None:
    contents = [bytes([number]) * 200_000 for number in range(8)]

    def work(content: bytes) -> list[bytes | None]:
        found = []
        for _ in range(20):
            keep("shared", "one text", content)
            found.append(recall("shared", "one text"))
        return found

    with ThreadPoolExecutor(8) as threads:
        seen = {content for found in threads.map(work, contents) for content in found}
    assert seen <= set(contents)
    assert [path.name for path in folder.iterdir()] == ["shared"]
    assert recall("shared", "another text") is None


def test_what_another_user_kept_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep("shared", "one text", b"mine")
    assert recall("shared", "one text") == b"mine"
    monkeypatch.setattr("os.getuid", lambda: (folder / "shared").stat().st_uid + 1)
    assert recall("shared", "one text") is None


def test_without_a_home_folder_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    keep("shared", "one text", b"mine")
    assert recall("shared", "one text") is None
    assert current() == reference()
