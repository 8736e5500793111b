"""What the oracle can carry out, and why not where it cannot: a table that the tests hold it to.

`yes`: agrees with the product on every problem that has it. `notimpl`: it could, nobody has written it. `notyet`: the
product cannot either, or something else must come first. `never`: it would not be an oracle any more.
"""

from __future__ import annotations

import re
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
SEARCH = Support("never", "nothing is differentiated: values are compared with the solver's own")
CUT_SHORT = Support(
    "never", "a system that is not solved has no definition beside its algorithm: tested by that formula"
)


def _all(names: str, support: Support) -> dict[str, Support]:
    return dict.fromkeys(names.split(), support)


SOLVERS: dict[str, Support] = {
    **_all("sgd adam adamw rmsprop closed_form next mirror pgd exponentiated frank_wolfe lbfgs", YES),
    **_all("cmaes pbt random", SEARCH),
}
MODES: dict[str, Support] = {
    **_all("auto rmd fmd ift leap es closed_form none", YES),
    **_all("vmap loop", Support("yes", "an order of computation, which changes no number")),
    **_all("evolve", SEARCH),
}
OPTIONS: dict[str, Support] = {
    **_all("rmd.order rmd.window rmd.update rmd.checkpoint rmd.store ift.linear ift.batch ift.through ift.sign", YES),
    **_all("leap.teacher leap.keep leap.hull leap.gamma leap.choose es.samples es.sigma auto.allow auto.leap", YES),
    **_all("vmap.chunk", YES),
    **_all("ift.linear.terms ift.linear.rank", CUT_SHORT),
    "ift.linear.damping": Support("notimpl", "nobody has written it again; its tests compare the damped dense inverse"),
}
DOMAINS: dict[str, Support] = _all("positive nonnegative unit between simplex psd orthogonal", YES)
REDUCERS: dict[str, Support] = _all("mean sum max min worst pcgrad", YES)
FUNCTIONS: dict[str, Support] = {
    **_all("mean sum max min exp log sqrt abs tanh cos relu softplus sigmoid softmax logsoftmax sign clip stop", YES),
    **_all("logsumexp ce bce mse l1 kl cw accuracy onehot dot outer quad inv trace det eye arange concat", YES),
    **_all(
        "transpose sqdist outer_sum reshape sqnorm norm1 eig init normal uniform warm min_eig max_eig identity_gap without",
        YES,
    ),
    **_all("pair identity", ELSEWHERE),
}
RATES: dict[str, Support] = _all("linear cosine steps", YES)
CONSTRUCTS: dict[str, Support] = {
    "then": Support("yes", "levels in sequence, written out before the plan is made"),
    "with": YES,
    "learned solvers": YES,
    "indices over lists": YES,
    "dropout": YES,
    "until plateau": YES,
    "until below": YES,
    "until stationary": YES,
    "warm in copies or deeper": ELSEWHERE,
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
    outermost = {level.name for level in plan.program.levels}
    for level in filter(_is_warm, plan.program.walk_levels()):
        found += (
            _unless(CONSTRUCTS, "warm in copies or deeper") if level.copies or level.parent not in outermost else []
        )
    for entry in plan.program.schedule:
        found += _unless(MODES, entry.mode)
        found += [line for option in entry.options for line in _unless(OPTIONS, f"{entry.mode}.{option.name}")]
    for choice in plan.choices.values():
        found += _unless(OPTIONS, "ift.linear.rank") * ("nystrom" in choice.mode)
        found += _unless(OPTIONS, "ift.linear.damping") * ("damping" in choice.mode and "nystrom" not in choice.mode)
        found += _unless(OPTIONS, "ift.linear.terms") * is_cut_short(choice.mode)
    return list(dict.fromkeys(found))


def is_cut_short(mode: str) -> bool:
    """Whether a mode solves its linear system by so many steps or terms, whatever is left of the residual."""
    linear = re.search(r"\blinear *= *(\w+\([^)]*\))", mode)
    return linear is not None and bool(re.search(r"\b(terms|steps)\b", linear[1])) and "tol" not in linear[1]


def _is_warm(level: ir.Level) -> bool:
    return any(isinstance(v.start, ir.Builtin) and v.start.function == "warm" for v in level.variables)


def _of_level(level: ir.Level) -> list[str]:
    found = [line for v in level.variables if v.domain is not None for line in _unless(DOMAINS, v.domain)]
    found += [line for p in level.phases for s in p.solvers if s.learned is None for line in _unless(SOLVERS, s.name)]
    found += [line for name in _constructs(level) for line in _unless(CONSTRUCTS, name)]
    for expr in _expressions(level):
        for part in ir.walk(expr):
            if isinstance(part, ir.Builtin):
                found += _unless(RATES if part.function in RATES else FUNCTIONS, part.function)
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
