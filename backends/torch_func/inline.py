"""The runtime functions that an emitted module uses, copied into it, so that the file needs nothing but torch.

Takes the text of the emitted functions; finds by name what they use of the runtime modules, and what that uses in
turn. Names are unique across those modules (tested), so a name says where its definition is.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
MODULES = (
    "keyed",
    "tree",
    "functions",
    "domains",
    "initial",
    "attention",
    "norms",
    "sampling",
    "portions",
    "outputs",
    "neutral",
    "dropout",
    "solvers",
    "rates",
    "keepers",
    "learned",
    "mirror",
    "plainly",
    "checkpoints",
    "tangents",
    "linear",
    "lbfgs",
    "zeroth",
    "registered",
    "leaps",
    "estimates",
    "evolution",
    "searches",
)
"""the runtime, each module after those it uses"""

FAIL = '''def fail(code, message, why="", fix=""):
    """An error in the compiler's words, without its printer."""
    return ValueError("\\n".join(part for part in (f"[{code}] {message}", why, fix) if part))'''
"""stands for `bilevel.errors.fail` in a file that needs torch alone"""


@cache
def definitions() -> dict[str, tuple[str, frozenset[str]]]:
    """Source text of every top-level definition of the runtime, with the names that it uses."""
    found: dict[str, tuple[str, frozenset[str]]] = {"fail": (FAIL, frozenset())}
    for module in MODULES:
        text = (FOLDER / f"{module}.py").read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            for name in _defined(node):
                found[name] = (_source(text, node), _used(node))
    return found


def _defined(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=[ast.Name(id=name)]):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _source(text: str, node: ast.stmt) -> str:
    lines = text.split("\n")
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return "\n".join(lines[first - 1 : node.end_lineno])


def _used(node: ast.stmt) -> frozenset[str]:
    return frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))


def needed(text: str) -> list[str]:
    """The definitions that a text uses, directly or not, in the order of the runtime."""
    known = definitions()
    waiting = [w for w in set(re.findall(r"[^\W\d]\w*", text)) if w in known]
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [u for u in known[name][1] if u in known]
    return [name for name in known if name in found]


def runtime_text(text: str) -> str:
    """The source of all that a text needs of the runtime."""
    return "\n\n\n".join(definitions()[name][0] for name in needed(text))
