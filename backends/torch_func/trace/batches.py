"""The C++ of one graph compiled as few files, in place of one file for every group of loops between two products.

Inductor makes about thirty such groups of a small hypergradient. Each is compiled by itself, and two thirds of a
compiler's time go to headers and linking: together they take a quarter of it. What is compiled is the same text with
the same options, each function in a namespace of its own; functions are loaded as the modules that Inductor makes of
them. What is not of the one form that its generator for loops writes is left to Inductor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CodeCacheFuture, CppPythonBindingsCodeCache

LOOPS = re.compile(
    r'\s*(#include [^\n]*cpp_prefix\.h[^\n]*)\n\s*extern "C"(\s+void\s+kernel\()(?!.*(?:^#include|extern "C"))',
    re.DOTALL | re.MULTILINE,
)
"""the text of a group of loops: the one header, then one function"""
FEWEST = 4
"""functions that are worth a file more, where there is a thread for it"""
BINDINGS = "#define PY_SSIZE_T_CLEAN\n#include <Python.h>\n#include <sstream>\n#include <cstdlib>\n#include <cerrno>\n"
"""headers of Inductor's text around a function, read before the namespaces are opened"""
KNOWN = ("2.11.", "2.12.", "2.13.")
"""the versions of torch whose Inductor writes C++ in that form, through these functions that are no part of its interface"""
OWN_BINDING, OWN_WAIT = AsyncCompile.cpp_pybinding, AsyncCompile.wait


@dataclass(frozen=True, slots=True)
class Loops:
    """One function of C++: the types of its arguments, the header, and the text after `extern "C"`."""

    types: Sequence[str]
    header: str
    text: str


class Waiting(CodeCacheFuture):
    """A function that is compiled with others; there is one after `wait`."""

    function: Callable[..., Any] | None = None

    def result(self, timeout: float | None = None) -> Callable[..., Any]:
        """The function."""
        assert self.function is not None
        return self.function


@dataclass
class Batch:
    """The functions of one module that Inductor wrote."""

    loops: list[Loops] = field(default_factory=list)
    waiting: list[Waiting] = field(default_factory=list)

    def add(self, loops: Loops) -> Waiting:
        """A function to be compiled with the others."""
        self.loops.append(loops)
        self.waiting.append(Waiting())
        return self.waiting[-1]

    def compile(self, submit: Callable[..., Any]) -> None:
        """Give every function that waits; all files are compiled at the same time."""
        threads, reader = get_compile_threads(), _reader()
        files = _shared(self.loops, max(1, min(threads, len(self.loops) // FEWEST)))
        libraries = [
            reader.load_async(_text([self.loops[i] for i in file]), "cpu", submit_fn=submit if threads > 1 else None)
            for file in files
        ]
        for file, library in zip(files, libraries, strict=True):
            loaded = library()
            for number, place in enumerate(file):
                self.waiting[place].function = _function(loaded, number)
        self.loops, self.waiting = [], []


def _reader() -> Any:
    """Inductor's compiler of C++ for libraries of several functions, which are loaded one by one later.

    It remembers nothing, since what Inductor remembers in a process it also knows to forget.
    """

    def library(path: str, key: str) -> SimpleNamespace:
        return SimpleNamespace(path=path, key=key)

    return type("_File", (CppPythonBindingsCodeCache,), {"cache": {}, "_load_library_inner": staticmethod(library)})


def _function(library: Any, number: int) -> Callable[..., Any]:
    """One function of a library, loaded as Inductor loads a library of one."""
    entry = f"kernel_{number}"
    own: Any = type("_Entry", (CppPythonBindingsCodeCache,), {"entry_function": entry})
    found: Callable[..., Any] = getattr(own._load_library_inner(library.path, library.key), entry)
    return found


def _shared(loops: Sequence[Loops], files: int) -> list[list[int]]:
    """The places of the functions of each file: the longest first, each to the file with the least text."""
    made, sizes = [list[int]() for _ in range(files)], [0] * files
    for place in sorted(range(len(loops)), key=lambda i: -len(loops[i].text)):
        least = sizes.index(min(sizes))
        made[least].append(place)
        sizes[least] += len(loops[place].text)
    return [sorted(places) for places in made]


def _text(loops: Sequence[Loops]) -> str:
    """The C++ of some functions, each with its binding to Python."""
    parts = [*dict.fromkeys(one.header for one in loops), BINDINGS]
    for number, one in enumerate(loops):
        values = ", ".join(f"parse_arg<{t.replace('const ', '')}>(args, {i})" for i, t in enumerate(one.types))
        binding = CppPythonBindingsCodeCache.suffix_template.format(
            arg_len=len(one.types),
            call_entry_func=CppPythonBindingsCodeCache.call_entry_function.format(values),
            entry_func=f"kernel_{number}",
            extra_parse_arg="",
        )
        parts.append(f"namespace group_{number} {{\nstatic{one.text}\n{binding}\n}}")
    return "\n".join(parts)


# ---- in place of what Inductor does --------------------------------------------------------------------------


@contextmanager
def together() -> Iterator[None]:
    """While it lasts, functions that a module of Inductor's has are compiled together when it waits for them.

    With a torch whose Inductor this was not written for, nothing is changed: it takes longer and gives the same.
    """
    if not torch.__version__.startswith(KNOWN):
        yield
        return

    def binding(self: AsyncCompile, types: list[str], source: str) -> Any:
        found = LOOPS.match(source)
        if found is None:
            return OWN_BINDING(self, types, source)
        batch: Batch = self.__dict__.setdefault("batch", Batch())
        return batch.add(Loops(types, found[1], source[found.start(2) :]))

    def wait(self: AsyncCompile, scope: dict[str, Any]) -> None:
        batch: Batch = self.__dict__.pop("batch", Batch())
        if batch.loops:
            batch.compile(self.submit)
        for name, value in list(scope.items()):
            if isinstance(value, Waiting):
                scope[name] = value.result()
        OWN_WAIT(self, scope)

    compiler: Any = AsyncCompile
    before = compiler.cpp_pybinding, compiler.wait
    compiler.cpp_pybinding, compiler.wait = binding, wait
    try:
        yield
    finally:
        compiler.cpp_pybinding, compiler.wait = before
