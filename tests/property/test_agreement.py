"""Random small recipes: every exact mode, and the reference backend, give the same hypergradient to 1e-9.

The recipes have one to three levels, copies over normal draws, draws inside levels, stateful, mirrored, learned,
projected and registered solvers, estimated gradients, domains, starts from constants, from outer variables and at random, reads of
iterates. Steps contract, so that no number grows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bilevel.backends.reference.trees import flat
from bilevel.plan import Plan
from tests.backends.agreement import by_name, compared, relative
from tests.zoo.compiled import Compiled, build, compile_text, plan_text

MODES = (
    "fmd",
    "rmd(checkpoint = 2)",
    "rmd(checkpoint = binomial)",
    "rmd(store = residuals)",
    "rmd(checkpoint = sqrt, store = residuals)",
)
TOLERANCE = 1e-9
NAMES = ("x", "y", "z")


LEARNED = {
    "mirror(g": "g : real[2] in positive from [0.9, 1.4]",
    "mirror(G": "G : real[2, 2] in psd from 0.8 * eye(2)",
    "opt[psi]": "psi : params(opt)",
}
"""variables that a solver needs"""


@dataclass(frozen=True)
class Inner:
    """The choices for one inner level."""

    solver: str
    start: str
    domain: str
    term: str
    steps: int
    copied: bool
    drawn: bool
    path: bool
    counted: bool


inner_levels = st.builds(
    Inner,
    solver=st.sampled_from(
        (
            "sgd(lr = 0.2)",
            "sgd(lr = r)",
            "sgd(lr = r, momentum = 0.5)",
            "sgd(lr = 0.1, momentum = m)",
            "adam(lr = r)",
            "adam(lr = 0.05, beta1 = m)",
            "rmsprop(lr = 0.02)",
            "heavy(lr = r, momentum = m, power = 1.2)",
            "mirror(g, lr = r)",
            "mirror(G, lr = 0.1, clip = 2)",
            "opt[psi]",
            "pgd(lr = r)",
            "pgd(lr = 0.02, sign = 1)",
            "frank_wolfe()",
            "sgd(lr = linear(r)) with zeroth(samples = 2, radius = 0.01)",
        )
    ),
    start=st.sampled_from(("0.4", "OUTER", "0.5 * OUTER + x", "normal(0, 0.3)")),
    domain=st.sampled_from(("", "", "", "between(-3, 4)")),
    term=st.sampled_from(
        ("0.1 * sum(cos(SELF))", "0.05 * sum(SELF * SELF * tanh(OUTER))", "0.02 * sum(SELF^4)", "0.1 * m * sum(SELF)")
    ),
    steps=st.integers(1, 5),
    copied=st.booleans(),
    drawn=st.booleans(),
    path=st.booleans(),
    counted=st.booleans(),
)


def recipe(levels: list[Inner], senses: bool) -> str:
    """The text of a recipe: level k + 1 inside level k, each pulled to what the one around it holds."""
    variables = "x : real[2] from [0.7, -0.4]\n  r : real in positive from 0.08\n  m : real in unit from 0.3"
    used = " ".join(solver_of(levels, depth) for depth in range(1, len(levels) + 1))
    variables += "".join(f"\n  {line}" for word, line in LEARNED.items() if word in used)
    parts = "use opt = coordinate_lstm(hidden = 2)\n" if "psi" in used else ""
    inside = level_text(levels, 1)
    aim = objective(levels, 0)
    goal = f"maximize -({aim})" if senses else f"minimize {aim}"
    return f"recipe found\n{parts}level top {{\n  {variables}\n{opened(levels, 0)}{inside}  {goal}\n  by sgd(lr = 0.05) for 2 steps\n}}"


def solver_of(levels: list[Inner], depth: int) -> str:
    """The solver of a level; gradients are estimated only where no level is inside."""
    solver = levels[depth - 1].solver
    return solver if depth == len(levels) else solver.partition(" with")[0]


def domain_of(one: Inner) -> str:
    """The domain of a level's variable; those that a solver keeps are small, so that edges are met."""
    if "frank_wolfe" in one.solver or (one.domain and "pgd" in one.solver):
        return "between(-0.5, 0.6)"
    return "" if "mirror" in one.solver else one.domain


def opened(levels: list[Inner], depth: int) -> str:
    """The index over which the level inside is copied."""
    return f"  each s{depth} ~ normal(0, 1)[2]\n" if depth < len(levels) and levels[depth].copied else ""


def objective(levels: list[Inner], depth: int) -> str:
    """What level `depth` says about itself and the solution of the level inside."""
    own = "0.3 * sqnorm(x - 1.3) + 0.2 * (r - 0.3)^2 + 0.1 * m" if depth == 0 else ""
    if depth == len(levels):
        return own
    name = NAMES[depth + 1]
    read = f"0.5 * sqnorm({name} - 0.9)"
    if levels[depth].path:
        read = (
            f"0.2 * (sum[k{depth} in 0..{levels[depth].steps}] (k{depth} + 1) * sqnorm({name}@k{depth} - 0.9)) + {read}"
        )
    read = f"(mean[s{depth}] ({read}))" if levels[depth].copied else f"({read})"
    return f"{own} + {read}" if own else read


def level_text(levels: list[Inner], depth: int) -> str:
    if depth > len(levels):
        return ""
    one, name, around = levels[depth - 1], NAMES[depth], NAMES[depth - 1]
    pull = f"0.4 * sqnorm({name} - 0.8 * {around} - 0.37"
    pull += f" - 0.3 * s{depth - 1})" if one.copied else ")"
    drawn = f"  e{depth} ~ normal(0, 1)[2]\n" if one.drawn else ""
    terms = [pull, one.term.replace("SELF", name).replace("OUTER", around)]
    terms += [f"0.1 * dot(e{depth}, {name})"] * one.drawn
    terms += [f"0.01 * c{depth} * sqnorm({name})"] * one.counted
    terms += [f"0.3 * {objective(levels, depth)}"] * (depth < len(levels))
    domain = f" in {domain_of(one)}" if domain_of(one) else ""
    counter = f"c{depth} in 1..{one.steps}" if one.counted else str(one.steps)
    start = one.start.replace("OUTER", around)
    return (
        f"level level{depth} {{\n  {name} : real[2]{domain} from {start}\n{drawn}{opened(levels, depth)}"
        f"{level_text(levels, depth + 1)}  minimize {' + '.join(terms)}\n  by {solver_of(levels, depth)} for {counter} steps\n}}\n"
    )


def scheduled(text: str, plan: Plan, mode: str) -> str | None:
    """The recipe with every inner level differentiated by a mode that accepts it; None where none accepts `mode`."""
    lines = []
    for name, choice in plan.choices.items():
        accepted = {c.title: c.verdict.ok for c in choice.candidates}
        if accepted.get(mode.replace("checkpoint = 2", "checkpoint = binomial"), False):
            lines.append(f"  {name} : {mode}")
    return f"{text}\nschedule {{\n" + "\n".join(lines) + "\n}" if lines else None


def hypergradient(compiled: Compiled) -> dict[str, torch.Tensor]:
    phase, key = compiled.phase, compiled.key(1)
    gradient, _ = phase.hypergradient(phase.begin(key), key)
    return by_name(phase.variables, gradient)


@settings(
    max_examples=9,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(levels=st.lists(inner_levels, min_size=1, max_size=2), senses=st.booleans())
def test_all_exact_modes_and_the_reference_agree(levels: list[Inner], senses: bool) -> None:
    text = recipe(levels, senses)
    compiled = compile_text(text)
    known = "heavy" not in text  # the reference knows the solvers of the language alone
    for both in compared(compiled, steps=2, seed=1) if known else ():
        assert both.error < TOLERANCE, (text, both)
    expected = hypergradient(compiled)
    for mode in MODES:
        other = scheduled(text, compiled.plan, mode)
        if other is not None:
            found = hypergradient(build(plan_text(other)))
            assert max(relative(flat(found[n]), flat(expected[n])) for n in expected) < TOLERANCE, (
                other,
                found,
                expected,
            )
