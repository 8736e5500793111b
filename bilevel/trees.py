"""Parameter trees against the networks they belong to: asked once these are built, since a recipe cannot know them.

Takes a checked program and its parts. Reports B304 (parameters of a network that are given twice or not at all),
B305 (a start with other names or shapes than the variable) and B206 (a named output that the module does not have);
for networks of lists and pairs where one element does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from bilevel import ir
from bilevel.backends.torch_func.sampling import matching, zeros_like_kind
from bilevel.binding import Parts
from bilevel.dsl import nodes
from bilevel.dsl.datatypes import ListType, Stream, Tree, Type, Union
from bilevel.dsl.walk import walk
from bilevel.elements import views
from bilevel.errors import Diagnostic, RecipeError, Related, Span

Tensors = Mapping[str, torch.Tensor]


def check_trees(program: ir.Program, parts: Parts) -> None:
    """Raises RecipeError with every `net[...]` that does not give each parameter once, and every unfit start."""
    problems: dict[Span, Diagnostic] = {}
    for view in views(program, parts):
        for problem in _problems(program, view):
            problems.setdefault(_place(problem), problem)
    if problems:
        raise RecipeError(sorted(problems.values(), key=lambda d: (_place(d).source.name, _place(d).start)))


def _problems(program: ir.Program, parts: Parts) -> Iterator[Diagnostic]:
    """What is wrong with one element of each list."""
    for level in program.walk_levels():
        for expr in _expressions(level):
            yield from _without_output(parts, expr)
            yield from _incomplete(program, parts, expr, None)
        for variable in level.variables:
            yield from _unfit_start(program, parts, variable)


def _without_output(parts: Parts, expr: ir.Expr) -> Iterator[Diagnostic]:
    """B206 where the module that was given has no method or submodule of a named output."""
    for applied in ir.walk(expr):
        if not isinstance(applied, ir.Apply) or applied.output is None or not isinstance(applied.network, ir.Read):
            continue
        module, name = parts.objects.get(applied.network.name), applied.network.name
        if isinstance(module, nn.Module) and not callable(getattr(module, applied.output, None)):
            message = f"`{name}` has no output `{applied.output}`"
            why = f"an output is a method or a submodule of the module; {type(module).__name__} has none of this name"
            yield Diagnostic("B206", message, applied.span, why=why, fix=f"def {applied.output}(self, x): ...")


def selected(type_: Tree, parts: Parts) -> Tensors:
    """The parameters of a network that a tree has, by name; nothing where the network is not known by name."""
    network = parts.objects.get(type_.net)
    if not isinstance(network, nn.Module):
        return {}
    found = _chosen(type_, parts, network)
    return found if type_.kind == "params" else zeros_like_kind(network, found, type_.kind)


def _chosen(type_: Tree, parts: Parts, network: nn.Module) -> Tensors:
    """All parameters of a network, one part of it, or all but one part."""
    own = {name: p.detach() for name, p in network.named_parameters()}
    pattern = type_.part.only if type_.part.only is not None else type_.part.except_
    if pattern is None:
        return own
    chosen = matching(own, parts.patterns.get(type_.net, {}).get(pattern, pattern))
    return {name: p for name, p in own.items() if (name in chosen) == (type_.part.only is not None)}


def _place(problem: Diagnostic) -> Span:
    assert problem.span is not None
    return problem.span


def _expressions(level: ir.Level) -> Iterator[ir.Expr]:
    if level.objective is not None:
        yield level.objective.value
    yield from (v.start for v in level.variables if v.start is not None)
    yield from (d.source for d in level.draws)
    yield from (a for p in level.phases for s in p.solvers for a in s.arguments.values())
    yield from (r.value for r in level.reports)
    yield from (_applied(s.learned) for p in level.phases for s in p.solvers if isinstance(s.learned, ir.Item))


def _applied(learned: ir.Item) -> ir.Expr:
    """`opt[psi]` as if it were called: a learned solver needs its parameters as any network does."""
    read = learned.base
    return ir.Apply(
        span=learned.span, type=learned.type, network=read, parameters=learned.items, input=read, single=False
    )


# ---- B304 ----------------------------------------------------------------------------------------------------


def _incomplete(program: ir.Program, parts: Parts, expr: ir.Expr, call: ir.CallLet | None) -> Iterator[Diagnostic]:
    """The networks in an expression whose parameters are not given once each; `call` is the let around it."""
    if isinstance(expr, ir.Apply) and expr.parameters:
        problem = _check_groups(program, parts, expr, _path(expr.network))
        if problem is not None:
            yield problem if call is None else _called(problem, call)
    inner = call or (expr if isinstance(expr, ir.CallLet) else None)
    for child in ir.children(expr):
        yield from _incomplete(program, parts, child, inner)


def _path(network: ir.Expr) -> str:
    """`net`, or `p.net`."""
    if isinstance(network, ir.Field):
        return f"{_path(network.base)}.{network.name}"
    return network.name if isinstance(network, ir.Read) else ""


def _check_groups(program: ir.Program, parts: Parts, expr: ir.Apply, name: str) -> Diagnostic | None:
    trees = [t for group in expr.parameters for t in _trees(group.type)]
    own = selected(Tree(name), parts)
    if not own or any(t.net not in parts.objects or t.count for t in trees):
        return None
    groups = [selected(t, parts) for t in trees]
    for group, tensors in zip(expr.parameters, groups, strict=False):
        if any(n not in own or own[n].shape != p.shape for n, p in tensors.items()):
            return _foreign(expr, group, name)
    given = [n for tensors in groups for n in tensors]
    missing = [n for n in own if n not in given]
    twice = sorted({n for n in given if given.count(n) > 1})
    if missing:
        return _missing(program, parts, expr, trees, missing, len(own))
    return _given_twice(expr, name, twice, len(own)) if twice else None


def _trees(type_: Type) -> tuple[Tree, ...]:
    return (type_,) if isinstance(type_, Tree) else type_.members if isinstance(type_, Union) else ()


def _brackets(expr: ir.Apply) -> Span:
    """`net[z]` of `net[z](s.x)`."""
    source, last = expr.span.source, expr.parameters[-1].span.end
    return Span(source, expr.network.span.start, source.text.find("]", last) + 1)


WHY = "every parameter must be given once, by exactly one of the names in [ ]"


def _missing(
    program: ir.Program, parts: Parts, expr: ir.Apply, trees: list[Tree], missing: list[str], count: int
) -> Diagnostic:
    name, brackets = expr.network.span.text, _brackets(expr)
    found = Diagnostic("B304", f"`{name}` is missing {len(missing)} of its {count} parameter tensors", brackets)
    found = replace(found, label=f"gives only {' and '.join(map(_named_part, trees))}", why=WHY)
    rest = _holder(program, parts, trees[0].net, set(missing))
    if rest is None:
        return replace(found, note=f"missing: {', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}")
    names = ", ".join([rest.name, *(g.span.text for g in expr.parameters)])
    fix = f"{name}[{names}]{expr.span.source.text[brackets.end : expr.span.end]}"
    return replace(found, related=(Related(rest.span, "the rest is here"),), fix=fix)


def _named_part(tree: Tree) -> str:
    if tree.part.only is not None:
        return f'the part "{tree.part.only}"'
    return f'what is not in "{tree.part.except_}"' if tree.part.except_ is not None else f"params({tree.net})"


def _holder(program: ir.Program, parts: Parts, net: str, missing: set[str]) -> ir.Variable | None:
    """The variable that has exactly the missing parameters."""
    variables = [v for level in program.walk_levels() for v in level.variables]
    return next(
        (
            v
            for v in variables
            if isinstance(v.type, Tree) and v.type.net == net and set(selected(v.type, parts)) == missing
        ),
        None,
    )


def _given_twice(expr: ir.Apply, name: str, twice: list[str], count: int) -> Diagnostic:
    return Diagnostic(
        "B304",
        f"`{name}` is given {len(twice)} of its {count} parameter tensors twice",
        _brackets(expr),
        why=WHY,
        note=f"twice: {', '.join(twice[:6])}{', ...' if len(twice) > 6 else ''}",
    )


def _foreign(expr: ir.Apply, group: ir.Expr, name: str) -> Diagnostic:
    return Diagnostic(
        "B304",
        f"`{group.span.text}` does not have the parameters of `{name}`",
        group.span,
        str(group.type),
        why="names and shapes of the parameters must be those of the network",
        fix=f"a variable of type params({name})",
    )


def _called(problem: Diagnostic, call: ir.CallLet) -> Diagnostic:
    """A message about the body of a let, with the call that caused it; what to write depends on the call."""
    place = Related(call.span, f"`{call.name}` is called here")
    return replace(problem, related=(*problem.related, place), fix="")


# ---- B305 ----------------------------------------------------------------------------------------------------


def _unfit_start(program: ir.Program, parts: Parts, variable: ir.Variable) -> Iterator[Diagnostic]:
    """B305 where a start has other tensors than its variable."""
    start, type_ = variable.start, variable.type
    if start is None or not isinstance(type_, Tree) or type_.kind != "params" or type_.count:
        return
    given = _given(start.type, type_)
    if not given or any(t.net not in parts.objects for t in (type_, *given)):
        return
    wanted = selected(type_, parts)
    found = {n: p for tree in given for n, p in selected(tree, parts).items()}
    if wanted and found and _shapes(wanted) != _shapes(found):
        yield _other_parameters(
            program, variable, start, f"{type_}: {_size(wanted)}", f"{_joined(given)}: {_size(found)}"
        )


def _given(start: Type, variable: Tree) -> tuple[Tree, ...]:
    """The trees of a start; `init(net)` and `identity(net)` give the part that the variable has."""
    if isinstance(start, Stream):
        return tuple(replace(tree, part=variable.part) for tree in _trees(start.item))
    return _trees(start)


def _joined(trees: tuple[Tree, ...]) -> str:
    return " and ".join(map(str, trees))


def _shapes(tensors: Tensors) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _size(tensors: Tensors) -> str:
    count = len(tensors)
    return f"{count} tensor{'s' * (count != 1)}, {sum(t.numel() for t in tensors.values()):,} numbers"


def _other_parameters(
    program: ir.Program, variable: ir.Variable, start: ir.Expr, wanted: str, found: str
) -> Diagnostic:
    assert isinstance(variable.type, Tree)
    declared = next(n for n in walk(program.recipe) if isinstance(n, nodes.Variable) and n.span == variable.span)
    index = _index_of(program, variable.type)
    if index is not None:
        return _no_start_for_all(index, variable, start, found, Related(declared.type.span, wanted))
    return Diagnostic(
        "B305",
        f"`{variable.name}` cannot start from `{start.span.text}`: different parameters",
        start.span,
        found,
        (Related(declared.type.span, wanted),),
        why="a start value needs the same names and shapes as the variable",
        fix=f"from init({variable.type.net})",
    )


def _index_of(program: ir.Program, type_: Tree) -> ir.Index | None:
    """The index over a list that gives a variable its network."""
    name = type_.net.partition(".")[0]
    found = (i for level in program.walk_levels() for i in level.indices if i.name == name)
    return next((i for i in found if isinstance(i.source.type, ListType)), None)


def _no_start_for_all(
    index: ir.Index, variable: ir.Variable, start: ir.Expr, found: str, declared: Related
) -> Diagnostic:
    """MAML over networks that share no parameters."""
    assert isinstance(variable.type, Tree)
    return Diagnostic(
        "B305",
        f"`{variable.name}` cannot start from `{start.span.text}` for every `{index.name}`: different parameters",
        start.span,
        found,
        (declared, Related(index.span, f"`{index.name}` is one after the other of these")),
        why="incongruous tasks: networks with other parameters have no start in common",
        fix="learn the solver in place of the start, as the recipe lft does:  psi : params(opt), by opt[psi]\n"
        f"and from init({variable.type.net})",
    )
