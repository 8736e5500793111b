"""From a flattened recipe to a checked program: levels, variables, draws, objectives, solvers, reports, schedule.

Takes syntax and a manifest; gives `ir.Program` or raises one RecipeError with every problem found. Runs no Python
that a recipe names. Reports B301, B302, B306 and, through the modules it calls, all of B2, B3 and B401-B403, B602.
"""

from __future__ import annotations

from bilevel import ir
from bilevel.dsl import nodes, shapes
from bilevel.dsl.dependence import check_dependence
from bilevel.dsl.context import Checker, Place, size_of
from bilevel.dsl.expressions import check_expr
from bilevel.dsl.functions import DOMAINS
from bilevel.dsl.iterates import check_iterates
from bilevel.dsl.moves import check_phase
from bilevel.dsl.parts import check_params, check_uses, constant
from bilevel.dsl.scope import build_scope
from bilevel.dsl.solvers import MODES
from bilevel.dsl.types import Array, Part, Record, Records, Stream, Tree, Type, Unknown
from bilevel.dsl.unused import unused
from bilevel.errors import Diagnostic, RecipeError, Related, Span
from bilevel.registry import Manifest
from bilevel.dsl.nearest import nearest


def check_program(recipe: nodes.Recipe, manifest: Manifest, schedule: str | None = None) -> ir.Program:
    """The checked program of a flattened recipe; `schedule` picks a named schedule block.

    Raises RecipeError with every error of the recipe. Warnings are left to `lint`.
    """
    program, problems = examine(recipe, manifest, schedule)
    errors = [d for d in problems if d.severity == "error"]
    if errors or program is None:
        raise RecipeError(_sorted(errors))
    return program


def lint(recipe: nodes.Recipe, manifest: Manifest, schedule: str | None = None) -> list[Diagnostic]:
    """Errors and warnings of a flattened recipe, in the order of the text."""
    return _sorted(examine(recipe, manifest, schedule)[1])


def _sorted(problems: list[Diagnostic]) -> list[Diagnostic]:
    return sorted(problems, key=lambda d: (d.span.source.name, d.span.start) if d.span else ("", 0))


def examine(
    recipe: nodes.Recipe, manifest: Manifest, schedule: str | None
) -> tuple[ir.Program | None, list[Diagnostic]]:
    """The program, and every problem found on the way to it; dependence is asked only of well-typed programs."""
    scope, problems = build_scope(recipe)
    checker = Checker(scope, problems=problems)
    params = check_params(checker)
    uses = check_uses(checker, manifest)
    for block in scope.blocks.values():
        if block.node is not None:
            _declare_types(checker, block.node)
    levels = tuple(_level(checker, item, None) for item in recipe.items if isinstance(item, nodes.Level))
    entries = _schedule(checker, recipe, schedule)
    if not levels:
        checker.report(Diagnostic("B213", f"`{recipe.name}` has no level, so there is nothing to solve", recipe.span))
    program = ir.Program(recipe.name, recipe, uses, params, levels, entries)
    if not any(d.severity == "error" for d in checker.problems):
        for problem in check_dependence(program):
            checker.report(problem)
        for warning in unused(checker, program):
            checker.report(warning)
    return program, checker.problems


# ---- declarations --------------------------------------------------------------------------------------------


def _declare_types(checker: Checker, level: nodes.Level) -> None:
    """The types of all variables, indices and draws of a level, in the order of the text."""
    place = Place(level.name)
    for statement in level.body:
        match statement:
            case nodes.Variable(names, type_):
                for name in names:
                    checker.types[(level.name, name)] = _variable_type(checker, level.name, type_)
            case nodes.Each(index):
                checker.types[(level.name, index.name)] = _index_type(checker, place, index)
            case nodes.Draw(name, source):
                checker.types[(level.name, name)] = _draw_type(checker, place, source)
            case nodes.By(phases):
                for phase in phases:
                    if isinstance(phase.duration, nodes.ForEach):
                        checker.types[(level.name, phase.duration.name)] = Array((), "integer")


def _variable_type(checker: Checker, level: str, type_: nodes.Type) -> Type:
    if isinstance(type_, nodes.RealType):
        if any(isinstance(s, nodes.Attribute) for s in type_.sizes):
            for size in type_.sizes:
                check_expr(checker, Place(level), size)
            return Array((), ranked=False)
        return Array(tuple(_declared_size(checker, level, s) for s in type_.sizes))
    net = next((a.value for a in type_.arguments if a.name is None), None)
    if type_.kind not in ("params", "layers", "factors", "kron") or net is None:
        known = "params(net), layers(net), factors(net), kron(net), real, real[n]"
        checker.report(Diagnostic("B310", f"`{type_.span.text}` is not a type", type_.span, note=f"types: {known}"))
        return Unknown("error")
    check_expr(checker, Place(level), net)
    parts = {a.name: a.value.value for a in type_.arguments if isinstance(a.value, nodes.String)}
    part = Part(parts.get("only"), parts.get("except"))
    return Tree(net.span.text, part, type_.kind, tuple(size_of(checker, c) for c in type_.count))


def _declared_size(checker: Checker, level: str, node: nodes.Expr) -> int | str:
    check_expr(checker, Place(level), node)
    return size_of(checker, node)


def _index_type(checker: Checker, place: Place, index: nodes.Index) -> Type:
    source = _source(checker, place, index)
    item = shapes.one_of(source.type)
    if item is None:
        checker.report(_no_source(index, source))
        return Unknown("error")
    return item


def _source(checker: Checker, place: Place, index: nodes.Index) -> ir.Expr:
    """What an index runs over; `S[N]` draws N of S, one at a time."""
    node = index.source
    if index.drawn and isinstance(node, nodes.Subscript):
        base = check_expr(checker, place, node.base)
        if isinstance(base.type, Stream | Records | Unknown):
            count = check_expr(checker, place, node.items[0]) if len(node.items) == 1 else None
            return ir.Sample(
                span=node.span, type=base.type, source=base, count=count, axes=base.axes, reads=base.reads
            )
        return base
    return check_expr(checker, place, node)


def _no_source(index: nodes.Index, source: ir.Expr) -> Diagnostic:
    return Diagnostic(
        "B311",
        f"`{source.span.text}` is {source.type}, which an index cannot run over",
        index.source.span,
        fix="each i ~ source[n] draws n items; each i in list takes every element",
    )


def _draw_type(checker: Checker, place: Place, source: nodes.Expr) -> Type:
    drawn = check_expr(checker, place, source)
    if isinstance(drawn, ir.Sample | ir.Read) and not isinstance(drawn.type, Stream):
        return drawn.type
    if isinstance(drawn.type, Stream):
        return drawn.type.item
    if isinstance(drawn.type, Unknown | Records | Record):
        return drawn.type
    message = f"`{source.span.text}` is {drawn.type}, and cannot be drawn from"
    checker.report(Diagnostic("B311", message, source.span, fix="a source with a number of draws, as data.train[128]"))
    return Unknown("error")


# ---- levels --------------------------------------------------------------------------------------------------


def _level(checker: Checker, node: nodes.Level, parent: str | None) -> ir.Level:
    place = Place(node.name)
    objectives = [s for s in node.body if isinstance(s, nodes.Objective)]
    bys = [s for s in node.body if isinstance(s, nodes.By)]
    _check_once(checker, node, objectives, bys)
    variables = tuple(v for s in node.body if isinstance(s, nodes.Variable) for v in _variables(checker, place, s))
    phases = tuple(check_phase(checker, place, p, node) for by in bys[:1] for p in by.phases)
    level = ir.Level(
        name=node.name,
        parent=parent,
        copies=checker.scope.copies.get(node.name, ()),
        variables=variables,
        indices=tuple(_index(checker, place, s.index) for s in node.body if isinstance(s, nodes.Each)),
        draws=tuple(_draw(checker, place, s) for s in node.body if isinstance(s, nodes.Draw)),
        levels=tuple(_level(checker, s, node.name) for s in node.body if isinstance(s, nodes.Level)),
        objective=_objective(checker, place, objectives[0]) if objectives else None,
        phases=phases,
        reports=tuple(_report(checker, place, s) for s in node.body if isinstance(s, nodes.Report)),
        span=node.span,
    )
    _check_lets(checker, place, node)
    check_iterates(checker, level)
    return level


def _check_once(
    checker: Checker, node: nodes.Level, objectives: list[nodes.Objective], bys: list[nodes.By]
) -> None:
    """A level has a variable, one `by`, and one objective unless `next` says how it moves."""
    for several, word in ((objectives, "objective"), (bys, "`by`")):
        if len(several) > 1:
            first = Related(several[0].span, "first one")
            checker.report(Diagnostic("B214", f"level `{node.name}` has two: {word}", several[1].span, related=(first,)))
    head = _head(node)
    if not bys:
        why = "nothing says how this level is solved, or for how long"
        checker.report(Diagnostic("B215", f"level `{node.name}` has no `by`", head, why=why, fix="by sgd(lr = 0.01) for 5 steps"))
    moved = any(isinstance(m.solver, nodes.Call) and m.solver.function == nodes.Name("next") for b in bys for p in b.phases for m in p.moves)
    if not objectives and not moved:
        checker.report(Diagnostic("B215", f"level `{node.name}` has no objective", head, fix="minimize ..."))
    if not any(isinstance(s, nodes.Variable) for s in node.body):
        checker.report(Diagnostic("B215", f"level `{node.name}` has no variable", head, fix="w : params(net)"))


def _head(node: nodes.Level) -> Span:
    """`level NAME`, without the block."""
    text = node.span.text
    return Span(node.span.source, node.span.start, node.span.start + len(text[: text.find("{")].rstrip()))


def _variables(checker: Checker, place: Place, node: nodes.Variable) -> list[ir.Variable]:
    domain, arguments = None, ()
    if node.domain is not None:
        domain, arguments = _domain(checker, node.domain)
    start = None if node.start is None else check_expr(checker, place, node.start)
    found: list[ir.Variable] = []
    for name in node.names:
        type_ = checker.types[(place.level, name)]
        if start is not None:
            _check_start(checker, node, type_, start)
        elif isinstance(type_, Array):
            checker.report(_no_start(node, name))
        found.append(ir.Variable(name, type_, domain, arguments, start, node.span))
    return found


def _domain(checker: Checker, node: nodes.Domain) -> tuple[str | None, tuple[float, ...]]:
    if node.name not in DOMAINS:
        guess = nearest(node.name, DOMAINS)
        label = f"did you mean `{guess}`?" if guess else ""
        note = f"domains: {', '.join(DOMAINS)}"
        checker.report(Diagnostic("B310", f"`{node.name}` is not a domain", node.span, label, note=note))
        return None, ()
    values = tuple(constant(a, checker.constants) for a in node.arguments)
    if len(values) != DOMAINS[node.name] or None in values:
        checker.report(Diagnostic("B309", f"`{node.name}` takes {DOMAINS[node.name]} numbers", node.span))
        return None, ()
    return node.name, tuple(float(v) for v in values if v is not None)


def _no_start(node: nodes.Variable, name: str) -> Diagnostic:
    return Diagnostic("B216", f"`{name}` has no start", node.span, "parameters start from init(net); numbers do not", fix=f"{node.span.text} from 0")


def _check_start(checker: Checker, node: nodes.Variable, type_: Type, start: ir.Expr) -> None:
    given = start.type.item if isinstance(start.type, Stream) else start.type
    if isinstance(given, Tree) and isinstance(type_, Tree) and given.net == type_.net:
        return  # init(net) and identity(net) give the part the variable has
    if shapes.is_number(given) or isinstance(type_, Tree):
        return  # one number for every entry; trees of different networks are compared once they are built (B305)
    try:
        shapes.combine(type_, given, checker.sizes)
    except shapes.Mismatch:
        message = f"`{', '.join(node.names)}` is {type_} and cannot start from {given}"
        checker.report(Diagnostic("B303", message, start.span, str(given), (Related(node.type.span, str(type_)),)))


def _index(checker: Checker, place: Place, node: nodes.Index) -> ir.Index:
    source = _source(checker, place, node)
    return ir.Index(node.name, source, node.drawn, checker.types[(place.level, node.name)], node.span)


def _draw(checker: Checker, place: Place, node: nodes.Draw) -> ir.Draw:
    source = check_expr(checker, place, node.source)
    return ir.Draw(node.name, source, checker.types[(place.level, node.name)], node.span)


def _objective(checker: Checker, place: Place, node: nodes.Objective) -> ir.Objective:
    value = check_expr(checker, place, node.value)
    _check_number(checker, place, value, f"the objective of `{place.level}`")
    return ir.Objective(node.sense, value, node.span)


def _check_number(checker: Checker, place: Place, value: ir.Expr, what: str) -> None:
    """B301: no open index is left; B302: one number."""
    assert place.level is not None
    left = [a for a in value.axes if a not in checker.scope.copies.get(place.level, ())]
    if left:
        checker.report(_open_index(checker, place.level, value, what, left[0]))
    elif not (isinstance(value.type, Unknown) or shapes.is_number(value.type)):
        if not (isinstance(value.type, Array) and not value.type.ranked):
            checker.report(_not_one_number(checker, value, what))


def _open_index(checker: Checker, level: str, value: ir.Expr, what: str, axis: str) -> Diagnostic:
    symbol = checker.scope.in_sight(level)[axis]
    count = ""
    if isinstance(symbol.node, nodes.Each) and isinstance(symbol.node.index.source, nodes.Subscript):
        count = f" {symbol.node.index.source.items[0].span.text}"
    return Diagnostic(
        "B301",
        f"{what} is one number per `{axis}`, not one number",
        value.span,
        f"still indexed by {axis}",
        (Related(symbol.span, f"opens{count} copies here"),),
        why=f"a level minimises a single number; nothing says how the{count} values are combined",
        fix=f"minimize mean[{axis}] {value.span.text}          (or sum, max, worst, pcgrad)",
    )


def _not_one_number(checker: Checker, value: ir.Expr, what: str) -> Diagnostic:
    from bilevel.dsl.expressions import with_values

    assert isinstance(value.type, Array) or True
    related: tuple[Related, ...] = ()
    why = ""
    if isinstance(value, ir.CallLet):
        related = (Related(value.body.span, "one number per example"),)
        first = value.body.span.text.partition("(")[0]
        why = f"`{first}` returns one value per example so that they can be weighted"
    spelled = with_values(value.type, checker.sizes).replace(" (", ", ").rstrip(")")
    shape = str(value.type).removeprefix("real")
    return Diagnostic(
        "B302",
        f"{what} has shape {shape}, not a single number",
        value.span,
        spelled,
        related,
        why=why,
        fix=f"minimize mean({value.span.text})",
    )


def _report(checker: Checker, place: Place, node: nodes.Report) -> ir.Report:
    replaced: dict[str, Type] = {}
    indices: list[ir.Index] = []
    for change in node.changes:
        if isinstance(change, nodes.Index):
            replaced[change.name] = _index_type(checker, place, change)
            source = _source(checker, place, change)
            indices.append(ir.Index(change.name, source, change.drawn, replaced[change.name], change.span))
            _check_replaced(checker, place, change)
    value = check_expr(checker, Place(place.level, replaced=replaced), node.value)
    _check_number(checker, place, value, f"the report `{node.name}`")
    every = 1 if node.every is None else constant(node.every.count, checker.constants)
    if not isinstance(every, int) or every < 1:
        checker.report(Diagnostic("B309", "`every` needs a whole number of steps", node.span))
        every = 1
    settings = tuple(c for c in node.changes if isinstance(c, nodes.Override))
    return ir.Report(node.name, value, tuple(indices), settings, every, node.span)


def _check_replaced(checker: Checker, place: Place, change: nodes.Index) -> None:
    symbol = checker.scope.look(place.level, change.name)
    if symbol is None or symbol.kind != "index":
        known = [n for n, s in checker.scope.in_sight(place.level).items() if s.kind == "index"]
        guess = nearest(change.name, known)
        label = f"did you mean `{guess}`?" if guess else ""
        checker.report(Diagnostic("B208", f"`{change.name}` is not an index of `{place.level}`", change.span, label))


def _check_lets(checker: Checker, place: Place, node: nodes.Level) -> None:
    """A let without parameters is checked where it stands, so that an unused one cannot hide an error."""
    for statement in node.body:
        if isinstance(statement, nodes.Let) and statement.parameters is None:
            check_expr(checker, place, statement.body)


# ---- schedule ------------------------------------------------------------------------------------------------


def _schedule(checker: Checker, recipe: nodes.Recipe, chosen: str | None) -> tuple[ir.Entry, ...]:
    blocks = [item for item in recipe.items if isinstance(item, nodes.Schedule)]
    names = [b.name for b in blocks if b.name]
    if chosen is not None and chosen not in names:
        listed = ", ".join(names) or "none"
        problem = Diagnostic("B501", f"there is no schedule called `{chosen}`", recipe.span, note=f"schedules: {listed}")
        checker.report(problem)
    entries = [_entry(checker, e) for b in blocks if b.name == chosen for e in b.entries]
    plain = [_entry(checker, e) for b in blocks if b.name is None for e in b.entries]
    named = {e.target for e in entries}
    return tuple(entries + [e for e in plain if e.target not in named])


def _entry(checker: Checker, node: nodes.Entry) -> ir.Entry:
    levels = [n for n in checker.scope.blocks if n is not None]
    indices = [s.name for b in checker.scope.blocks.values() for s in b.symbols.values() if s.kind == "index"]
    place = Span(node.span.source, node.span.start, node.span.start + len(node.name))
    if node.name not in (*levels, *indices):
        checker.report(_no_level(node, place, levels, indices))
    mode = node.mode.identifier if isinstance(node.mode, nodes.Name) else node.mode.function.span.text
    arguments = () if isinstance(node.mode, nodes.Name) else node.mode.arguments
    if mode not in MODES:
        guess = nearest(mode, MODES)
        label = f"did you mean `{guess}`?" if guess else ""
        checker.report(Diagnostic("B506", f"`{mode}` is not a mode", node.mode.span, label, note=f"modes: {', '.join(MODES)}"))
    else:
        _check_options(checker, mode, arguments)
    return ir.Entry(node.name, mode, arguments, node.span)


def _no_level(node: nodes.Entry, place: Span, levels: list[str], indices: list[str]) -> Diagnostic:
    guess = nearest(node.name, [*levels, *indices])
    return Diagnostic(
        "B501",
        f"the schedule names `{node.name}`, but there is no such level",
        place,
        f"did you mean `{guess}`?" if guess else "",
        fix=f"{guess} : {node.mode.span.text}" if guess else "remove the line",
        note=f"levels of this recipe: {', '.join(levels)}",
    )


def _check_options(checker: Checker, mode: str, arguments: tuple[nodes.Argument, ...]) -> None:
    for argument in arguments:
        if argument.name not in MODES[mode]:
            spelled = argument.name or argument.value.span.text
            guess = nearest(spelled, MODES[mode])
            label = f"did you mean `{guess}`?" if guess else ""
            note = f"its options: {', '.join(MODES[mode]) or 'none'}"
            message = f"`{mode}` has no option `{spelled}`"
            checker.report(Diagnostic("B506", message, argument.span, label, note=note))
