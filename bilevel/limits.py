"""Limits of a plan: they belong to the machine and never to a recipe. `memory=8GB` as on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bilevel.errors import Source, Span, fail

UNITS = {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
WRITTEN = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKMGT]?B)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes that one step may have alive beside data and parameters; `asked`: by the user, not by the device."""

    memory: float
    asked: bool = True


def read_limits(texts: Iterable[str]) -> Limit | None:
    """The limit that `memory=2GB` asks for, None where there is none; reports B127."""
    found = None
    for text in texts:
        name, _, value = text.partition("=")
        match = WRITTEN.fullmatch(value)
        if name.strip() != "memory" or match is None:
            span = Span(Source("<command line>", text), 0, len(text))
            why = "a limit is a number of bytes with its unit: B, kB, MB, GB, TB"
            raise fail("B127", f"`{text}` is not a limit", span, why=why, fix="--limit memory=8GB")
        found = Limit(float(match[1].replace("_", "")) * UNITS[match[2]])
    return found


def limit_text(count: float) -> str:
    """A limit that so many bytes fit, as the command line takes it: rounded up to two digits."""
    for unit in ("TB", "GB", "MB", "kB"):
        if count >= UNITS[unit]:
            tenths = -int(-10 * count // UNITS[unit])
            return f"{tenths / 10:g}{unit}"
    return f"{-int(-count // 1)}B"


def free_memory(device: str) -> Limit | None:
    """What is free on a device now, rounded down to one digit so that two plans in a row agree; None if unknown."""
    import torch

    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(torch.device(device))
        return Limit(_one_digit(float(free)), asked=False)
    return None if device != "cpu" else _free_here()


def _free_here() -> Limit | None:
    """What the machine has free, or less where this process is in a control group that may take less."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no file of ours
            found = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return Limit(_one_digit(min(found * 1024.0, *group_free())), asked=False)


def group_free(process: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> Iterator[float]:
    """Bytes that each memory-limiting control group around this process may still take; nothing outside of any.

    Containers limit memory by such groups, of which MemAvailable knows nothing. Versions 1 and 2 are read; a
    process's group and all groups around it count. Cached files that were not read lately do not count as taken.
    """
    yield float("inf")
    for line in _lines(process):
        _, kinds, path = line.split(":", 2)
        if not kinds:
            yield from _frees(mount, path, Names("memory.max", "memory.current", "inactive_file"))
        elif "memory" in kinds.split(","):
            names = Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield from _frees(mount / "memory", path, names)


@dataclass(frozen=True, slots=True)
class Names:
    """What one version of control groups calls its files, and the line of `memory.stat` for cached files."""

    most: str
    taken: str
    cached: str


def _frees(mount: Path, path: str, names: Names) -> Iterator[float]:
    """The group at `path` and those around it. In a container the mount may begin at the group itself."""
    folder = mount / path.strip("/")
    for group in (folder, *folder.parents):
        most, taken = _count(group / names.most), _count(group / names.taken)
        if most is not None and taken is not None:
            cached = (line.split() for line in _lines(group / "memory.stat"))
            again = next((float(words[1]) for words in cached if words[0] == names.cached), 0.0)
            yield max(0.0, most - max(0.0, taken - again))
        if group == mount:
            return


def _count(path: Path) -> float | None:
    """The number in a file; None where there is none, as for `max`."""
    text = "".join(_lines(path)).strip()
    return float(text) if text.isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _one_digit(count: float) -> float:
    scale = 10.0 ** (len(str(max(1, int(count)))) - 1)
    return float(int(count / scale) * scale)
