"""What a recipe may name: registered constructors and functions, and the manifest that describes them.

A registration is an attribute set on the decorated Python object; there is no global table. A registry is made
by the caller from modules (or single objects) and looks names up exactly, in a dictionary of objects, so a recipe
can reach nothing that was not handed to it. Imports no torch: describing a registry must be cheap.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal, TypeVar

from bilevel.dsl.datatypes import Size, Type, Unknown, from_json, to_json
from bilevel.dsl.solvers import ESTIMATORS, SOLVERS
from bilevel.errors import fail

Kind = Literal["model", "data", "tasks", "solver", "func", "estimator"]
Built = TypeVar("Built", bound=Callable[..., object])
MARK = "__bilevel__"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One argument of a constructor; `default` is its Python text, None where it must be given."""

    name: str
    annotation: str
    default: str | None
    variadic: bool = False
    keyword: bool = False
    """given by name only"""


@dataclass(frozen=True, slots=True)
class Description:
    """All that `check` and an editor know about one name, as plain data.

    `yields` is the type of what a data registration returns. `input`, `output` are the shapes of one sample of a
    model, `outputs` those of its further outputs by name, `parts` its named groups of parameters (name -> pattern on
    parameter names). `smooth` says whether a
    function has a derivative. `noisy`: whether a model has dropout, or the name of the argument that is 0 where it has
    none. Sizes may name arguments of the constructor; `-1` after an argument's name takes
    the last of a variadic one (`"widths:-1"`).
    """

    name: str
    kind: Kind
    summary: str
    parameters: tuple[Parameter, ...] = ()
    yields: Type = Unknown()
    input: tuple[Size, ...] | None = None
    output: tuple[Size, ...] | None = None
    parts: tuple[tuple[str, str], ...] = ()
    smooth: bool = True
    noisy: bool | str = False
    outputs: tuple[tuple[str, tuple[Size, ...]], ...] = ()
    like: str = ""
    """the argument that is a network whose shapes, named outputs and dropout this one has"""

    @property
    def by_place(self) -> tuple[Parameter, ...]:
        """The parameters that may be given without their name, except a variadic one."""
        return tuple(p for p in self.parameters if not p.variadic and not p.keyword)

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "kind": self.kind,
            "summary": self.summary,
            "parameters": [[p.name, p.annotation, p.default, p.variadic, *[True] * p.keyword] for p in self.parameters],
            "yields": to_json(self.yields),
            "input": None if self.input is None else list(self.input),
            "output": None if self.output is None else list(self.output),
            "parts": dict(self.parts),
            "smooth": self.smooth,
            **({"noisy": self.noisy} if self.noisy else {}),
            **({"outputs": {name: list(shape) for name, shape in self.outputs}} if self.outputs else {}),
            **({"like": self.like} if self.like else {}),
        }

    @staticmethod
    def from_json(data: Mapping[str, object]) -> Description:
        return _description_from_json(data)


def _description_from_json(data: Mapping[str, object]) -> Description:
    def shape(value: object) -> tuple[Size, ...] | None:
        return tuple(value) if isinstance(value, list) else None

    match data:
        case {"name": str(name), "kind": kind, "summary": str(summary), "parameters": list(parameters)}:
            return Description(
                name,
                kind,  # type: ignore[arg-type]
                summary,
                tuple(Parameter(*p) for p in parameters),
                from_json(data["yields"]),  # type: ignore[arg-type]
                shape(data["input"]),
                shape(data["output"]),
                tuple(data["parts"].items()),  # type: ignore[attr-defined]
                bool(data["smooth"]),
                data.get("noisy", False),  # type: ignore[arg-type]
                tuple((n, tuple(s)) for n, s in data.get("outputs", {}).items()),  # type: ignore[attr-defined]
                str(data.get("like", "")),
            )
    raise ValueError(f"not a registration: {data!r}")


@dataclass(frozen=True, slots=True)
class Registration:
    """A description together with the Python object that it describes."""

    description: Description
    build: Any
    """a constructor, a function, or a `GradientSolver`"""


# ---- decorators ----------------------------------------------------------------------------------------------


def model(
    *,
    parts: Mapping[str, str] | None = None,
    input: Sequence[Size] | None = None,
    output: Sequence[Size] | None = None,
    outputs: Mapping[str, Sequence[Size]] | None = None,
    noisy: bool | str = False,
    like: str = "",
) -> Callable[[Built], Built]:
    """Register a constructor of a `torch.nn.Module`.

    `parts` names groups of parameters by a glob on their names; `input` and `output` are the shapes of one sample,
    in sizes or names of the constructor's arguments. `outputs`: shapes, for one sample, of what the methods or
    submodules of these names make of the inputs; a recipe writes `net.features[w](x)`. `noisy`: it has dropout (nn.Dropout, 1d, 2d, 3d), whose noise is
    then a function of seed, step and copy in objectives, and off in reports; the name of an argument where it has
    dropout only if that is given and not 0. `like`: the name of an argument that is a network; shapes, named outputs and
    dropout are then those of the network that is given.
    """

    def mark(build: Built) -> Built:
        shapes = (None if input is None else tuple(input), None if output is None else tuple(output))
        groups = tuple((parts or {}).items())
        named = tuple((name, tuple(shape)) for name, shape in (outputs or {}).items())
        return _mark(
            build, "model", input=shapes[0], output=shapes[1], parts=groups, noisy=noisy, outputs=named, like=like
        )

    return mark


def data(*, yields: Type) -> Callable[[Built], Built]:
    """Register a constructor of a data set; `yields` is the record of its splits."""
    return lambda build: _mark(build, "data", yields=yields)


def tasks(*, yields: Type) -> Callable[[Built], Built]:
    """Register a constructor of a source of tasks; `yields` is the record of its splits."""
    return lambda build: _mark(build, "tasks", yields=yields)


def func(*, smooth: bool, result: Type = Unknown()) -> Callable[[Built], Built]:
    """Register a function (or a constructor of one) of arrays and trees; `result` is the type of its value."""
    return lambda build: _mark(build, "func", yields=result, smooth=smooth)


@dataclass(frozen=True, slots=True)
class GradientSolver:
    """A registered solver as recipes use it.

    `update(x, state, gradient, count, ...)` gives the next x and state; `begin(x)` the state before the first step, ()
    where there is none. `whole`: both take the tree of all variables together, else one tensor at a time.
    """

    name: str
    update: Callable[..., object]
    begin: Callable[..., object] | None = None
    whole: bool = False


def solver(*, begin: Callable[..., object] | None = None, whole: bool = False) -> Callable[[Built], Built]:
    """Register a gradient solver: the decorated function takes one step.

    `update(x, state, gradient, count, option, other = 0.9)` gives (next x, next state), for one copy of a level, with
    `count` the number of steps before this one. Options are numbers, real[] or shaped like x. It is called for every
    tensor of the variables by itself, or with `whole` once for all of them as one tree. `begin(x)` is the state before
    the first step: a tensor or a tuple of tensors. Both are pure functions in torch, differentiable where hypergradients
    are wanted: nothing is changed in place. Fails with B615 where the arguments are others.
    """

    def mark(update: Built) -> Built:
        options = _options(update, 4, "update(x, state, gradient, count, ...)")
        registered = GradientSolver(update.__name__, update, begin, whole)
        return _mark(update, "solver", parameters=options, registered=registered)

    return mark


def estimator(estimate: Built) -> Built:
    """Register an estimator of gradients, for `with NAME(...)`.

    `estimate(losses, x, key, option, ...)` gives (estimate shaped like x, losses(x)). `losses` maps x to one number for
    each copy, real[*copies]; `key` is int64[*copies]; leaves of x have the copies as their first axes. Fails with B615.
    """
    return _mark(estimate, "estimator", parameters=_options(estimate, 3, "estimate(losses, x, key, ...)"))


def _options(function: Callable[..., object], given: int, form: str) -> tuple[Parameter, ...]:
    """The arguments of a registered solver or estimator that a recipe sets: numbers, after those that it is given."""
    found = _parameters(function)
    shown = f"{function.__name__}({', '.join(p.name for p in found)})"
    if len(found) < given or any(p.variadic for p in found) or any(p.keyword for p in found[:given]):
        raise fail(
            "B615", f"`{shown}` is not of the form {form}", fix=f"def {function.__name__}{form[form.index('(') :]}"
        )
    for option in found[given:]:
        if option.default is not None and not _is_number(option.default):
            why = "options are set in recipes, where they are numbers"
            raise fail("B615", f"the option `{option.name}` of `{function.__name__}` is no number", why=why)
    if function.__name__ in (*SOLVERS, *ESTIMATORS):
        raise fail("B615", f"`{function.__name__}` is a solver of the language", fix="another name for the function")
    return found[given:]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mark(
    given: Built,
    kind: Kind,
    *,
    yields: Type = Unknown(),
    input: tuple[Size, ...] | None = None,
    output: tuple[Size, ...] | None = None,
    parts: tuple[tuple[str, str], ...] = (),
    smooth: bool = True,
    noisy: bool | str = False,
    outputs: tuple[tuple[str, tuple[Size, ...]], ...] = (),
    like: str = "",
    parameters: tuple[Parameter, ...] | None = None,
    registered: object = None,
) -> Built:
    """Attach the registration to the object itself; `registered` is what recipes get, by default that object."""
    summary = (inspect.getdoc(given) or "").partition("\n")[0]
    arguments = _parameters(given) if parameters is None else parameters
    name = given.__name__
    described = Description(name, kind, summary, arguments, yields, input, output, parts, smooth, noisy, outputs, like)
    setattr(given, MARK, Registration(described, given if registered is None else registered))
    return given


def _parameters(build: Callable[..., object]) -> tuple[Parameter, ...]:
    signature = inspect.signature(build)
    return tuple(
        Parameter(
            p.name,
            "" if p.annotation is p.empty else _text(p.annotation),
            None if p.default is p.empty else repr(p.default),
            p.kind is p.VAR_POSITIONAL,
            p.kind is p.KEYWORD_ONLY,
        )
        for p in signature.parameters.values()
    )


def _text(annotation: object) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


# ---- registries ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Manifest:
    """Descriptions by name, without the objects: what `check` reads."""

    name: str
    entries: Mapping[str, Description] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Registry:
    """Registrations by name, merged from what the caller gave, in order."""

    sources: tuple[str, ...]
    entries: Mapping[str, Registration]

    @property
    def manifest(self) -> Manifest:
        return Manifest(", ".join(self.sources), {n: r.description for n, r in self.entries.items()})


def collect(sources: Iterable[object]) -> Registry:
    """The registry of some modules and decorated objects; a name registered twice is B602.

    A module counts only what it lists in `__all__`, or all its decorated attributes where it has none.
    """
    entries: dict[str, Registration] = {}
    names: list[str] = []
    for source in sources:
        names.append(getattr(source, "__name__", str(source)))
        for found in _registrations(source):
            known = entries.setdefault(found.description.name, found)
            if known.build is not found.build:
                both = f"by `{known.build.__module__}` and by `{found.build.__module__}`"
                name = found.description.name
                raise fail("B602", f"`{name}` is registered twice, {both}", fix="rename one of the two")
    return Registry(tuple(names), dict(sorted(entries.items())))


def _registrations(source: object) -> list[Registration]:
    if not isinstance(source, ModuleType):
        marked = getattr(source, MARK, None)
        return [marked] if isinstance(marked, Registration) else []
    public = getattr(source, "__all__", None) or sorted(vars(source))
    marks = [getattr(vars(source).get(name), MARK, None) for name in public]
    return [m for m in marks if isinstance(m, Registration)]
