"""The problems on which the planner is judged: small recipes, by kind and by the three numbers that costs rest on.

n numbers are wanted, m numbers are solved for, T steps are taken: n 1 to 1e5, m 2 to 1e6, T 1 to 500.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

CONVEX = """recipe cell
level outer {{
  r : real{shape} {start}
  level fit {{
    w : real[{m}] from 0
    minimize 0.5 * sqnorm(w - 1) + 0.5 * {penalty}
    by {solver} {duration}
  }}
  minimize 0.5 * sqnorm(w - 0.7)
  by sgd(lr = 0.1) for 1 step
}}
"""
NETWORK = """recipe cell
use net = mlp(1, {width}, {width}, 1)
use tasks = sine(shots = 10, queries = 10)
level outer {{
  {outer}
  each task ~ tasks.train[{copies}]
  level fit {{
    w : params(net) from {start}
    minimize mean(mse(net[w](task.support.x), task.support.y)){penalty}
    by sgd(lr = {rate}{momentum}) for {steps} steps
  }}
  minimize mean[task] mean(mse(net[w](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 1 step
}}
"""
PICTURES = """recipe cell
use net = conv4(ways = 5, filters = {filters})
use tasks = glyphs(ways = 5, shots = 1, queries = 5, writers = 6)
level outer {{
  theta : params(net)
  each task ~ tasks.train[{copies}]
  level fit {{
    w : params(net) from theta
    minimize mean(ce(net[w](task.support.x), task.support.y))
    by sgd(lr = 0.1) for {steps} steps
  }}
  minimize mean[task] mean(ce(net[w](task.query.x), task.query.y))
  by sgd(lr = 0.01) for 1 step
}}
"""
LEARNED = """recipe cell
use opt = coordinate_lstm(hidden = {hidden})
level outer {{
  psi : params(opt)
  level fit {{
    w : real[{m}] from 0.5
    minimize 0.5 * sqnorm(w - 1) + 0.1 * sum(w^4)
    by opt[psi] for {steps} steps
  }}
  minimize sqnorm(w - 1)
  by adam(lr = 0.01) for 1 step
}}
"""


@dataclass(frozen=True, slots=True)
class Cell:
    """One problem: `kind`, a name that says its numbers, and the text of its recipe."""

    kind: str
    name: str
    text: str


def cells(quick: bool) -> list[Cell]:
    """All problems, or a few that take seconds."""
    found = [*_convex(), *_until(), *_networks(), *_pictures(), *_learned()]
    if not quick:
        return found
    small = ("n=1 m=100 T=10", "n=100 m=100 T=10", "n=m m=10", "mlp 8", "lstm 4 m=10 T=5")
    return [next(cell for cell in found if cell.name.startswith(name)) for name in small]


def _convex() -> Iterator[Cell]:
    one = [(2, 1), (2, 500), (100, 10), (100, 100), (10_000, 10), (10_000, 100), (1_000_000, 5), (1_000_000, 50)]
    each = [(2, 10), (10, 1), (10, 500), (100, 10), (1000, 100), (10_000, 10), (100_000, 5), (100_000, 100)]
    for m, steps in one:
        text = _quadratic("", m, "r * sqnorm(w)", "sgd(lr = 0.1)", f"for {steps} steps")
        yield Cell("convex", f"n=1 m={m} T={steps}", text)
    for m, steps in each:
        text = _quadratic(f"[{m}]", m, "sum(r * w^2)", "sgd(lr = 0.1)", f"for {steps} steps")
        yield Cell("convex", f"n={m} m={m} T={steps}", text)
    for m, steps in ((10, 50), (1000, 50)):
        text = _quadratic("", m, "r * sqnorm(w)", "adam(lr = 0.05)", f"for {steps} steps")
        yield Cell("convex", f"n=1 m={m} T={steps} adam", text)


def _until() -> Iterator[Cell]:
    """A penalty for each number, drawn: conjugate gradients would solve a multiple of the identity in one step."""
    for m in (2, 10, 100, 1000):
        duration = "until stationary(1e-6) within 500 steps"
        text = _quadratic(f"[{m}]", m, "sum(exp(r) * w^2)", "sgd(lr = 0.2)", duration, start="from normal(0, 0.5)")
        yield Cell("until", f"n=m m={m}", text)


def _quadratic(
    shape: str, m: int, penalty: str, solver: str, duration: str, start: str = "in positive from 0.1"
) -> str:
    return CONVEX.format(shape=shape, start=start, m=m, penalty=penalty, solver=solver, duration=duration)


def _networks() -> Iterator[Cell]:
    """A learned start (n = m), one learned rate (n = 1), and a decay for every weight (n = m)."""
    for width, copies, steps in ((8, 1, 1), (8, 4, 20), (40, 25, 5), (40, 4, 100), (200, 1, 50), (300, 4, 10)):
        text = _network("theta : params(net)", width, copies, steps, start="theta")
        yield Cell("network", f"mlp {width} start P={copies} T={steps}", text)
    for width, copies, steps in ((8, 1, 100), (40, 4, 20), (40, 1, 500), (200, 4, 20), (300, 1, 5)):
        text = _network("r : real in positive from 0.01", width, copies, steps, rate="r")
        yield Cell("network", f"mlp {width} rate P={copies} T={steps}", text)
    for width, copies, steps in ((8, 1, 50), (100, 1, 20), (200, 2, 100)):
        outer, penalty = "decay : params(net) in positive from 1e-4", " + 0.5 * sum(decay * w^2)"
        text = _network(outer, width, copies, steps, penalty=penalty, momentum=", momentum = 0.9")
        yield Cell("network", f"mlp {width} decay P={copies} T={steps}", text)


def _network(
    outer: str,
    width: int,
    copies: int,
    steps: int,
    start: str = "init(net)",
    rate: str = "0.01",
    penalty: str = "",
    momentum: str = "",
) -> str:
    return NETWORK.format(
        outer=outer,
        width=width,
        copies=copies,
        steps=steps,
        start=start,
        rate=rate,
        penalty=penalty,
        momentum=momentum,
    )


def _pictures() -> Iterator[Cell]:
    for filters, copies, steps in ((8, 1, 1), (8, 2, 20), (16, 4, 5), (32, 2, 5)):
        text = PICTURES.format(filters=filters, copies=copies, steps=steps)
        yield Cell("pictures", f"conv4 {filters} P={copies} T={steps}", text)


def _learned() -> Iterator[Cell]:
    for hidden, m, steps in ((4, 10, 5), (4, 1000, 20), (4, 10, 200), (8, 10_000, 20), (8, 100, 100), (2, 100_000, 5)):
        text = LEARNED.format(hidden=hidden, m=m, steps=steps)
        yield Cell("learned solver", f"lstm {hidden} m={m} T={steps}", text)
