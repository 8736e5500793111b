"""What a computation costs: counted operations and bytes, formulas for people, and seconds by a calibration.

Nothing here imports torch or sympy; `Formula` hands its expressions to sympy when it is asked for them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from operator import add, attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.files import write_whole, writing
from bilevel.kept import cache_folder

if TYPE_CHECKING:
    import sympy

REFERENCE = Path(__file__).parent / "reference.calibration.json"
"""the committed calibration, measured once on an ordinary server"""


@dataclass(frozen=True, slots=True)
class Work:
    """What was counted of a computation; every count is additive over its parts but `peak`.

    `products`, `convolutions`: floating point operations of matrix products and of convolutions; `packed`: bytes that
    both read and wrote; `matrices`: matrices of batched products; `setups`: results of convolutions. `moved`: bytes
    that all other operators read and wrote. `fresh`: bytes that the system had to give: what the bytes alive rose by
    beyond their highest, and every result too large to be kept for reuse. `operators`: operators that compute;
    `views`: those that only look at numbers in another way; `layers`: transforms (vmap, grad, jvp, vjp) around each of
    either, in sum; `transforms`: how many were entered. `peak`: the most bytes alive at once, of all that was made inside;
    `first`: with kernels, the same in the first step, which calls functions as they are and compares.
    `kernels`: calls of functions that become kernels; `nodes`: operators of the graphs of these, each once; `in_runs`: those
    more that they have where steps go in runs; `kernel_...`: what of the counts above graphs have.
    """

    products: float = 0.0
    convolutions: float = 0.0
    packed: float = 0.0
    matrices: float = 0.0
    setups: float = 0.0
    moved: float = 0.0
    fresh: float = 0.0
    operators: float = 0.0
    views: float = 0.0
    layers: float = 0.0
    transforms: float = 0.0
    peak: float = 0.0
    first: float = 0.0
    kernels: float = 0.0
    nodes: float = 0.0
    in_runs: float = 0.0
    kernel_operators: float = 0.0
    kernel_views: float = 0.0
    kernel_matrices: float = 0.0
    kernel_setups: float = 0.0
    kernel_products: float = 0.0
    kernel_convolutions: float = 0.0
    kernel_moved: float = 0.0
    kernel_packed: float = 0.0

    @property
    def flop(self) -> float:
        """Floating point operations of products and convolutions together."""
        return self.products + self.convolutions

    @property
    def in_kernels(self) -> Work:
        """What graphs have of it; carried on to more steps, it may seem to be more than all."""
        inside = {name: min(getattr(self, name), max(0.0, getattr(self, f"kernel_{name}"))) for name in IN_KERNELS}
        return Work(**inside)

    def __add__(self, other: Work) -> Work:
        return Work(*map(add, values(self), values(other)))

    def __sub__(self, other: Work) -> Work:
        return self + -1.0 * other

    def __rmul__(self, factor: float) -> Work:
        return Work(*(factor * value for value in values(self)))


values: Callable[[Work], tuple[float, ...]] = attrgetter(*(f.name for f in fields(Work)))
"""the numbers of a `Work`, in the order of its fields"""


IN_KERNELS = ("operators", "views", "matrices", "setups", "products", "convolutions", "moved", "packed")
"""what is counted of kernels by itself"""
EACH = {
    "operator": "operators",
    "view": "views",
    "layer": "layers",
    "transform": "transforms",
    "matrix": "matrices",
    "setup": "setups",
}
"""numbers of a calibration that are seconds each, and what they count"""
SPEEDS = ("products", "convolutions", "packed", "moved", "fresh")
"""numbers of a calibration that are counts a second"""


@dataclass(frozen=True, slots=True)
class InKernel:
    """What a kernel takes where functions as they are take operators, views and transforms, which it has none of.

    `call`: of one kernel, `operator` and `view`: of each that is left in its graph, in times of an operator outside of kernels;
    all others: of the time of the same outside, as a share.
    """

    call: float
    operator: float
    view: float
    matrices: float
    setups: float
    products: float
    convolutions: float
    moved: float
    packed: float


KERNELS = {
    "fx": InKernel(1.0, 0.7, 0.4, 0.67, 1.5, 0.66, 0.64, 0.18, 0.74),
    "inductor": InKernel(1.8, 0.035, 0.01, 0.4, 1.3, 0.66, 0.92, 0.08, 0.06),
}
"""by kind; with graphs, as without: no GPU has been measured.

Fitted to the time with kernels over the time without (Inductor: over the time with fx), both sides in turns, minima on a
busy machine, one thread, by iterates and by residuals. fx: seventeen problems of `benchmarks/planner_cells.py`, met to a
factor of 1.12 in the median, of 1.7 at worst. Inductor: six of these (Adam, networks of 8, 40 and 300, convolutions of 16
filters, a learned solver of 10,000 numbers), to 1.15 in the median, 1.45 at worst; its large products are taken to be fx's.
"""
MAKING: dict[str, tuple[float, float]] = {"fx": (0.3, 0.0025), "inductor": (2.0, 0.022)}
"""Seconds until the kernels of a program are made: once, and for each operator of their graphs.

Fitted to seconds of one core on the same problems: 0.002 to 0.005 for each operator with fx, 0.017 to 0.065 with Inductor.
"""


def making(work: Work, kernels: str) -> float:
    """Predicted seconds until the kernels of a kind are made, nothing being kept of an earlier run."""
    once, each = MAKING.get(kernels.partition("+")[0], (0.0, 0.0))
    together = work.in_runs if kernels.startswith("inductor") else 0.0
    return once + each * max(0.0, work.nodes + together)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How fast a device is.

    Seconds: of one `operator` and one `view` outside all transforms, of each `layer` of transforms around one of them,
    of entering a `transform`, of one small `matrix` within a batched product, of the `setup` of a convolution for each result. A second:
    floating point operations of `products` and `convolutions`; bytes that these read and write (`packed`), that other
    operators do (`moved`), and that are had from the system (`fresh`).
    """

    name: str
    operator: float
    view: float
    layer: float
    transform: float
    matrix: float
    setup: float
    products: float
    convolutions: float
    packed: float
    moved: float
    fresh: float

    def seconds(self, work: Work, kernels: str = "none") -> float:
        """Predicted seconds: overheads, arithmetic and memory, one after the other, with kernels of a kind."""
        whole, one = self.shares(work), KERNELS.get(kernels.partition("+")[0])
        if one is None:
            return sum(whole.values())
        graphs = work.in_kernels
        inside = self.shares(graphs)
        calls = one.call * max(0.0, work.kernels) + one.operator * graphs.operators + one.view * graphs.views
        rest = one.matrices * inside["matrix"] + one.setups * inside["setup"]
        rest += one.products * inside["products"] + one.convolutions * inside["convolutions"]
        rest += one.moved * inside["moved"] + one.packed * inside["packed"]
        return sum(whole.values()) - sum(inside.values()) + self.operator * calls + rest

    def shares(self, work: Work) -> dict[str, float]:
        """Predicted seconds by the number that they come from."""
        overheads: dict[str, float] = {name: getattr(self, name) * getattr(work, what) for name, what in EACH.items()}
        return overheads | {name: getattr(work, name) / getattr(self, name) for name in SPEEDS}

    @property
    def identity(self) -> str:
        """Six hexadecimal digits that change when a number changes."""
        return hashlib.blake2b(json.dumps(asdict(self)).encode(), digest_size=3).hexdigest()

    def to_json(self) -> dict[str, object]:
        return {"bilevel_calibration": 2, **asdict(self)}


def read_calibration(path: Path) -> Calibration:
    """The calibration in a file; raises OSError, ValueError, KeyError or TypeError where it holds none."""
    content = json.loads(path.read_text("utf-8"))
    if content.pop("bilevel_calibration") != 2:
        raise ValueError(f"{path} is no calibration of this version")
    return Calibration(**content)


@cache
def reference() -> Calibration:
    """The committed calibration, which golden plans use."""
    return read_calibration(REFERENCE)


def stored(device: str = "cpu") -> Path:
    """Where the calibration of this machine's kind of device is kept; only `bilevel analyze` writes it."""
    return cache_folder() / ("calibration.json" if device == "cpu" else f"calibration.{device}.json")


def current(device: str = "cpu") -> Calibration:
    """The calibration of this machine where there is one, else the reference."""
    try:
        return read_calibration(stored(device))
    except (OSError, ValueError, KeyError, TypeError):
        return reference()


def store(calibration: Calibration, device: str = "cpu") -> Path:
    """Keep the calibration of this machine for later plans; raises RecipeError (B709)."""
    fix = "XDG_CACHE_HOME=DIR"
    with writing(Path("~/.cache"), fix):
        path = stored(device)
    with writing(path, fix):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(calibration.to_json(), indent=1) + "\n", fix)
    return path


@dataclass(frozen=True, slots=True)
class Formula:
    """Work (floating point operations) and peak memory (bytes) of one step of the level around, in symbols.

    P copies, T steps; of one copy: g work of one inner step, b of the way back through it, d of one tangent, r of a
    step both ways with its graph kept, v of one product with the linear system, G of all that is not steps; s bytes
    of a state, h of a state with the graph of its step, A of all else at the peak. n, m: outer and inner numbers;
    K: products of the linear solver; k: its rank; R: steps that binomial checkpoints compute again. `Max` of two is
    the larger one.
    """

    work: str
    memory: str

    def expressions(self) -> tuple[sympy.Expr, sympy.Expr]:
        """Both as sympy expressions in positive symbols."""
        import sympy

        names = {n for text in (self.work, self.memory) for n in re.findall(r"[A-Za-z]+", text) if len(n) == 1}
        symbols = {n: sympy.Symbol(n, positive=True) for n in names}
        work, memory = (sympy.sympify(text, locals=symbols) for text in (self.work, self.memory))
        return work, memory

    def at(self, values: Mapping[str, float]) -> tuple[float, float]:
        """Both with numbers in place of the symbols."""
        work, memory = (float(e.subs({s: values[str(s)] for s in e.free_symbols})) for e in self._plain())
        return work, memory

    def _plain(self) -> tuple[Any, Any]:
        work, memory = self.expressions()
        return work, memory


def pretty(text: str) -> str:
    """A formula as people write it: `P*(T*g + G)` as `P(Tg + G)`."""
    return re.sub(r"(?<=[A-Za-z0-9)])\*(?=[A-Za-z0-9(])", "", text)


@dataclass(frozen=True, slots=True)
class Cost:
    """One mode's cost: the formula, and where it was traced the counted work of a step of the level around."""

    formula: Formula
    work: Work | None = None
    seconds: float | None = None
    untraced: str = ""
    """why there are no numbers"""
    growth: float | None = None
    """bytes that the peak grows by with one more step"""

    @property
    def peak(self) -> float | None:
        return None if self.work is None else self.work.peak

    @property
    def needs(self) -> float | None:
        """Bytes that every step fits into, the first one too."""
        return None if self.work is None else max(self.work.peak, self.work.first)


# ---- numbers for people --------------------------------------------------------------------------------------


def size_text(count: float) -> str:
    """Bytes: `1.78 GB`, decimal."""
    return _scaled(count, "B")


def flop_text(count: float) -> str:
    """Floating point operations: `278 GFLOP`."""
    return _scaled(count, "FLOP")


def time_text(seconds: float) -> str:
    """`31 ms`, `4.2 s`, `31 min`, `2.5 h`."""
    for limit, unit, divisor in ((1e-3, "us", 1e-6), (1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0)):
        if seconds < limit:
            return f"{_three(seconds / divisor)} {unit}"
    return f"{_three(seconds / 3600)} h"


def _scaled(count: float, unit: str) -> str:
    for prefix in ("", "k", "M", "G", "T", "P"):
        if count < 999.5:
            return f"{_three(count)} {prefix}{unit}"
        count /= 1000
    return f"{count:.3g} E{unit}"


def _three(value: float) -> str:
    """Three digits, no exponent."""
    if value == 0 or value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
