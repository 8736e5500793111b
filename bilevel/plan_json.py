"""A plan as plain data: what `bilevel plan --json` prints and other programs read. Versioned; imports no torch."""

from __future__ import annotations

from dataclasses import asdict

from bilevel import ir
from bilevel.chunks import chunk_of, is_ragged
from bilevel.costs import Cost
from bilevel.equations import duration, equation, solver
from bilevel.facts import Fact
from bilevel.plan import Choice, Numbers, Plan
from bilevel.structure import properties
from bilevel.table import MEANINGS, is_capped

VERSION = 1


def plan_json(plan: Plan) -> dict[str, object]:
    """The plan with its levels, decisions and graph; lists are in the order of the plan's text."""
    made = {
        "bilevel_plan": VERSION,
        "recipe": plan.program.name,
        "plan": plan.identity,
        "class": plan.exactness,
        "chunks": dict(plan.chunks),
        "levels": [_level(level) for level in plan.program.walk_levels()],
        "properties": {level.name: _properties(plan, level) for level in plan.program.walk_levels()},
        "copies": [_copies(plan, index) for level in plan.program.walk_levels() for index in level.indices],
        "hypergradients": [_choice(plan, choice) for choice in plan.choices.values()],
        "graph": {"nodes": _nodes(plan), "edges": _edges(plan)},
        "sources": _sources(plan),
    }
    return made if plan.numbers is None else made | _numbers(plan, plan.numbers)


def _numbers(plan: Plan, numbers: Numbers) -> dict[str, object]:
    """What a plan with built parts rests on: facts, limits, speed, and one step of every outermost level.

    `times_of`: the kind of kernels that seconds are predicted for; `at_most`: whether a level inside stops by itself.
    """
    limit = numbers.limit
    return {
        "allow": numbers.allow,
        "limits": {"memory": None if limit is None else limit.memory, "asked": limit is not None and limit.asked},
        "calibration": {**numbers.calibration.to_json(), "hash": numbers.calibration.identity},
        "times_of": numbers.kernels,
        "facts": {name: [_fact(fact) for fact in facts] for name, facts in numbers.facts.items()},
        "steps": {name: _counted(cost) | {"at_most": is_capped(plan, name)} for name, cost in numbers.steps.items()},
    }


def _fact(fact: Fact) -> dict[str, object]:
    return {
        "symbol": fact.symbol,
        "value": fact.value,
        "unit": fact.unit,
        "meaning": MEANINGS[fact.symbol],
        "origin": fact.origin,
        "of": list(fact.names),
        "at": str(fact.span),
    }


def _properties(plan: Plan, level: ir.Level) -> list[dict[str, str]]:
    """Facts in words, each with its origin and its place."""
    found = properties(plan.program, plan.facts, level)
    return [{"what": p.what, "text": p.text, "origin": p.origin, "at": str(p.span)} for p in found]


def _cost(cost: Cost) -> dict[str, object]:
    """Formulas, and what was counted for one step of the level around."""
    return {
        "flop": {"expr": cost.formula.work, "value": None if cost.work is None else cost.work.flop},
        "bytes": {"expr": cost.formula.memory, "value": cost.peak},
        **_counted(cost),
    }


def _counted(cost: Cost) -> dict[str, object]:
    if cost.work is None:
        return {"seconds": None, "untraced": cost.untraced} if cost.untraced else {}
    return {"seconds": cost.seconds, "counted": asdict(cost.work)}


def _sources(plan: Plan) -> dict[str, str]:
    """The texts of the recipe files that the plan points at, the recipe's own first."""
    found = {source.name: source.text for source in (plan.program.recipe.span.source,)}
    spans = [level.span for level in plan.program.walk_levels()] + [step.span for step in plan.steps]
    return found | {span.source.name: span.source.text for span in spans if span.source.name not in found}


def _copies(plan: Plan, index: ir.Index) -> dict[str, object]:
    """How the copies of an index are computed: all at once by vmap, so many at a time, or one after the other."""
    size = chunk_of(plan.program, index.name)
    found: dict[str, object] = {"index": index.name, "how": "loop" if is_ragged(index) else "vmap", "chunk": size}
    return found | {"reasons": ["ragged"] if is_ragged(index) else ["memory"] if index.name in plan.chunks else []}


def _level(level: ir.Level) -> dict[str, object]:
    left, right = equation(level)
    return {
        "name": level.name,
        "inside": level.parent,
        "variables": {variable.name: str(variable.type) for variable in level.variables},
        "per": list(level.per),
        "indices": [index.name for index in level.indices],
        "draws": [draw.name for draw in level.draws],
        "solver": solver(level),
        "duration": duration(level),
        "equation": f"{left} = {right}",
        "reports": [report.name for report in level.reports],
        "at": str(level.span),
    }


def _choice(plan: Plan, choice: Choice) -> dict[str, object]:
    candidates = [
        {"mode": one.title, "class": one.exactness, "ok": one.verdict.ok, "chosen": one.chosen}
        | {"reasons": list(one.reasons), "why": one.note}
        | ({} if one.cost is None else _cost(one.cost))
        for one in choice.candidates
    ]
    return {
        "level": choice.level,
        "wrt": list(plan.facts[choice.level].targets),
        "chosen": choice.mode,
        "class": choice.exactness,
        "pinned": choice.pinned,
        "candidates": candidates,
        "would_change": list(choice.changes),
    }


def _nodes(plan: Plan) -> list[dict[str, object]]:
    return [
        {
            "id": step.name,
            "op": step.operation,
            "level": step.level,
            "repeats": step.repeats,
            "per": list(step.copies),
            "at": str(step.span),
        }
        for step in plan.steps
    ]


def _edges(plan: Plan) -> list[list[str]]:
    return sorted([before, after, kind] for (before, after), kind in plan.flow.edges.items())
