"""Names of the emitted module: the recipe's own where Python and the runtime leave them free, else with `_` behind."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

OWN = frozenset(
    """build torch vmap grad vjp jvp grad_and_value functional_call key keys step steps state states solver count
    gradient value begin keep carry cotangent pull curvature Tensor NamedTuple Any nn math device dtype self seed report
    program Phase Program Report index moved more number np namedtuple variables level_key inner_key carried first last dropped free moved ends notes
    kept back directions tangents slope active residual solved product fixed gamma points weight found place
    solve estimate values noise taken waited places members scores parents kernels run drawn passed given
    step_key""".split()
)
"""words the emitted code uses itself"""

PREFIXES = ("d_", "more_", "curvature_", "moved_", "solver_", "given_")
SUFFIXES = ("_at", "_free", "_states", "_back", "_begin", "_end", "_residual", "_number")
"""what the emitted code puts around the recipe's names to make its own"""


def python_name(name: str, taken: Iterable[str] = ()) -> str:
    """A Python name for a recipe's name; two recipe names never get the same one.

    Names that collide get one `_` more than they end with, so `key` becomes `key_` and `key_` becomes `key__`.
    Those that begin like names of the emitted code get `my_` in front, so `d_phi` becomes `my_d_phi`.
    """
    base = name.rstrip("_")
    taken = set(taken)
    clash = keyword.iskeyword(base) or hasattr(builtins, base) or base in OWN or base in taken or f"d_{base}" in taken
    clash = clash or base.endswith(SUFFIXES)
    name = f"my_{name}" if re.match(rf"(my_)*({'|'.join(PREFIXES)})", name) else name
    return f"{name}_" if clash or not base else name
