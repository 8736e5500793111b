"""Names of the emitted module: the recipe's own where Python and the runtime leave them free, else with `_` behind."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Iterable

OWN = frozenset(
    """build torch vmap grad vjp jvp grad_and_value functional_call key keys step steps state states solver count
    gradient value begin keep cotangent pull curvature Tensor NamedTuple Any nn math device dtype self seed report
    program Phase Program Report index moved more number np namedtuple variables level_key free moved""".split()
)
"""words the emitted code uses itself"""


def python_name(name: str, taken: Iterable[str] = ()) -> str:
    """A Python name for a recipe's name; two recipe names never get the same one.

    Names that collide get one `_` more than they end with, so `key` becomes `key_` and `key_` becomes `key__`.
    """
    base = name.rstrip("_")
    clash = keyword.iskeyword(base) or hasattr(builtins, base) or base in OWN or base in set(taken) or base.startswith("d_")
    clash = clash or base.endswith(("_at", "_free", "_states", "_back", "_end"))
    return f"{name}_" if clash or not base else name
