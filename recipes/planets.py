"""States of gravitating bodies now and one step later, from trajectories that are searched once and kept."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from bilevel.backends.torch_func.keyed import fold, make_key
from bilevel.dsl.datatypes import real, record, records
from bilevel.recipes import planet_motion
from bilevel.recipes.planet_motion import KEPT_STEPS, stable_starts, trajectories
from bilevel.recipes.records import Samples, bad_argument, require_positive
from bilevel.recipes.store import Advance, Kept, kept
from bilevel.registry import data

TRAIN, VAL = 0.7, 0.15  # shares of the trajectories


class Planets(NamedTuple):
    """Three splits of standardised states, and what undoes it: state = deviation * x + mean, real[bodies * 5]."""

    train: Samples
    val: Samples
    test: Samples
    mean: Tensor
    deviation: Tensor


def planet_trajectories(bodies: int, systems: int, rounds: int) -> Tensor:
    """All stable trajectories, real[n, 101, bodies, 5], float64, from the cache folder or searched and kept there."""
    depends = f"{bodies} {systems} {rounds}"
    sources = (planet_motion.__file__,)
    entry = Kept("planets", "trajectories", "searching", depends, sources, ("states",), rounds, f"rounds of {systems}")

    def search(advance: Advance) -> tuple[Tensor]:
        keys = fold(make_key(0), "planets", torch.arange(systems))
        return (trajectories(stable_starts(keys, bodies, rounds, advance)),)

    (states,) = kept(entry, search)
    return states


STATES = records("?", x=real("bodies*5"), y=real("bodies*5"))


@data(yields=record(train=STATES, val=STATES, test=STATES, mean=real("bodies*5"), deviation=real("bodies*5")))
def planets(bodies: int = 5, systems: int = 1_000, rounds: int = 120) -> Planets:
    """States of gravitating bodies, x now and y one step later, real[n, bodies * 5], standardised.

    A state is x, y, vx, vy, m of each body in turn; `mean` and `deviation` are those of the training inputs. Every
    stable trajectory gives 100 pairs; whole trajectories go to train (70 %), val and test (15 % each), in the order
    of their systems. Source: papers/000, appendix E, with gravity softened (`planet_motion`). Cost: the search is
    done once, two to four minutes on one core, and kept in the user's cache folder; fewer `systems` are the first ones of more.
    """
    require_positive("planets", {"systems": systems, "rounds": rounds})
    if bodies < 2:
        raise bad_argument("planets", "bodies", "2 or more", bodies)
    states = planet_trajectories(bodies, systems, rounds).flatten(-2)
    train, val = round(TRAIN * len(states)), round((TRAIN + VAL) * len(states))
    if not 0 < train < val < len(states):
        expected = f"more: of {systems} systems {len(states)} are stable, too few for three splits"
        raise bad_argument("planets", "systems", expected, systems)
    inputs = states[:train, :KEPT_STEPS].flatten(0, 1)
    mean, deviation = inputs.mean(0), inputs.std(0, correction=0)
    first, second, third = (_pairs((s - mean) / deviation) for s in states.tensor_split([train, val]))
    return Planets(first, second, third, _default(mean), _default(deviation))


def _pairs(states: Tensor) -> Samples:
    """x and y of every step of trajectories real[n, 101, bodies * 5]: real[n * 100, bodies * 5]."""
    rows = _default(states)
    return Samples(rows[:, :KEPT_STEPS].flatten(0, 1), rows[:, 1 : KEPT_STEPS + 1].flatten(0, 1))


def _default(numbers: Tensor) -> Tensor:
    return numbers.to(torch.get_default_dtype())
