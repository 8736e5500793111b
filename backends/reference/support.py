"""What the oracle can carry out, and why not where it cannot: a table that the tests hold it to.

`yes`: agrees with the product on every problem that has it. `notimpl`: it could, nobody has written it. `notyet`: the
product cannot either, or something else must come first. `never`: it would not be an oracle any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bilevel import ir
from bilevel.plan import Plan

Answer = Literal["yes", "notimpl", "notyet", "never"]


class Unsupported(Exception):
    """A program has something that the oracle has no code for; the text names it as `SUPPORTED` does."""


@dataclass(frozen=True, slots=True)
class Support:
    """Whether a construct is carried out, and why not."""

    answer: Answer
    reason: str = ""


YES = Support("yes")
ELSEWHERE = Support("notimpl", "nobody has written it again; the product's own tests hold it against closed forms")


def _all(names: str, support: Support) -> dict[str, Support]:
    return dict.fromkeys(names.split(), support)


SOLVERS: dict[str, Support] = {
    **_all("sgd adam adamw rmsprop closed_form next", YES),
    **_all("mirror pgd exponentiated frank_wolfe lbfgs", ELSEWHERE),
    **_all(
        "cmaes pbt random", Support("never", "nothing is differentiated: values are compared with the solver's own")
    ),
}
MODES: dict[str, Support] = {
    **_all("auto rmd fmd ift closed_form none", YES),
    **_all("vmap loop", Support("yes", "an order of computation, which changes no number")),
    **_all("leap", Support("notimpl", "the value of the level is another one; its tests compare closed forms")),
    **_all("evolve es", Support("never", "values only, or an estimate: no derivative that could agree")),
}
OPTIONS: dict[str, Support] = {
    **_all("rmd.order rmd.window rmd.checkpoint rmd.store ift.linear", YES),
    **_all("rmd.update", ELSEWHERE),
    **_all("ift.batch ift.through ift.sign", ELSEWHERE),
    **_all("ift.linear.terms", Support("never", "a series cut short is no exact solve: its tests have a closed form")),
}
DOMAINS: dict[str, Support] = {
    **_all("positive nonnegative unit between", YES),
    **_all("simplex psd orthogonal", ELSEWHERE),
}
REDUCERS: dict[str, Support] = {**_all("mean sum max min worst", YES), **_all("pcgrad", ELSEWHERE)}
FUNCTIONS: dict[str, Support] = {
    **_all("mean sum max min exp log sqrt abs tanh cos relu softplus sigmoid softmax logsoftmax sign clip stop", YES),
    **_all("logsumexp ce bce mse l1 kl cw accuracy onehot dot outer quad inv trace det eye arange concat", YES),
    **_all("transpose sqdist outer_sum reshape sqnorm norm1 eig init normal uniform warm", YES),
    **_all("min_eig max_eig identity_gap without pair identity", ELSEWHERE),
}
CONSTRUCTS: dict[str, Support] = {
    "then": ELSEWHERE,
    "with": ELSEWHERE,
    "learned solvers": ELSEWHERE,
    "indices over lists": ELSEWHERE,
    "dropout": ELSEWHERE,
    "until plateau": YES,
    "until below": YES,
    "until stationary": YES,
}
SUPPORTED: dict[str, dict[str, Support]] = {
    "constructs": CONSTRUCTS,
    "solvers": SOLVERS,
    "modes": MODES,
    "options": OPTIONS,
    "domains": DOMAINS,
    "reducers": REDUCERS,
    "functions": FUNCTIONS,
}


def reasons(plan: Plan) -> list[str]:
    """Why the oracle cannot carry out a plan, one line for each construct; nothing where it can."""
    found = [line for level in plan.program.walk_levels() for line in _of_level(level)]
    for entry in plan.program.schedule:
        found += _unless(MODES, entry.mode)
        found += [line for option in entry.options for line in _unless(OPTIONS, f"{entry.mode}.{option.name}")]
    return list(dict.fromkeys(found))


def _of_level(level: ir.Level) -> list[str]:
    found = [line for v in level.variables if v.domain is not None for line in _unless(DOMAINS, v.domain)]
    found += [line for p in level.phases for s in p.solvers if s.learned is None for line in _unless(SOLVERS, s.name)]
    found += [line for name in _constructs(level) for line in _unless(CONSTRUCTS, name)]
    for expr in _expressions(level):
        for part in ir.walk(expr):
            if isinstance(part, ir.Builtin):
                found += _unless(FUNCTIONS, part.function)
            if isinstance(part, ir.Reduced):
                found += _unless(REDUCERS, part.kind)
    return found


def _constructs(level: ir.Level) -> list[str]:
    """What a level has besides expressions."""
    found = ["then"] * (len(level.phases) > 1) + ["indices over lists"] * any(not i.drawn for i in level.indices)
    found += ["dropout"] * any(d.name == ir.NOISE for d in level.draws)
    for phase in level.phases:
        found += ["with"] * (phase.estimator is not None)
        found += ["learned solvers"] * any(s.learned is not None for s in phase.solvers)
        found += [f"until {phase.duration.test}"] if isinstance(phase.duration, ir.Until) else []
    return found


def _expressions(level: ir.Level) -> list[ir.Expr]:
    found = [v.start for v in level.variables if v.start is not None]
    found += [level.objective.value] if level.objective is not None else []
    return found + [a for p in level.phases for s in p.solvers for a in s.arguments.values()]


def _unless(table: dict[str, Support], name: str) -> list[str]:
    """The reason why a construct is not carried out; constructs that the table lacks are unknown."""
    support = table.get(name, Support("notimpl", "unknown to the oracle"))
    return [] if support.answer == "yes" else [f"{name}: {support.answer}, {support.reason}"]
