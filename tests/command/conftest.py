"""A folder with a tiny recipe and a user's module, as the working directory of every test here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.command.tools import LINE, POINTS, TINY, Command


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tiny.bl").write_text(TINY, "utf-8")
    (tmp_path / "line.bl").write_text(LINE, "utf-8")
    (tmp_path / "points_module.py").write_text(POINTS, "utf-8")
    known, threads = set(sys.modules), torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    for name in set(sys.modules) - known:
        if not name.startswith(("torch", "bilevel", "matplotlib", "rich", "numpy", "sympy", "PIL", "mpl")):
            sys.modules.pop(name)


@pytest.fixture
def bilevel(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)
