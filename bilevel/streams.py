"""Streams of the caller's: checked and placed on the device when parts are bound. Reports B617."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bilevel import ir
from bilevel.dsl.datatypes import ListType, Record, Stream, Type
from bilevel.errors import RecipeError, fail

NEEDED = {"sample": "sample(self, keys)", "to": "to(self, device, dtype)"}
FORM = (
    "def sample(self, keys): ...        # one item for each key, a tuple of tensors\n"
    "def to(self, device, dtype): ...   # the same stream there, or self"
)


def check_streams(part: Any, use: ir.Use) -> None:
    """Raises RecipeError (B617) where a part that its registration calls a stream is none."""
    for name, stream in _streams(part, use.type, use.name):
        for method, form in NEEDED.items():
            if not callable(getattr(stream, method, None)):
                why = "items are drawn by `sample` and made where the run computes, with its numbers, by `to`"
                raise _refused(f"the stream `{name}` has no `{form}`", stream, use, why)


def _streams(part: Any, type_: Type, name: str) -> Iterator[tuple[str, Any]]:
    """The streams in a part, each with what a recipe calls it."""
    match type_:
        case Stream():
            yield name, part
        case Record(fields):
            for field, inside in fields:
                if hasattr(part, field):
                    yield from _streams(getattr(part, field), inside, f"{name}.{field}")
        case ListType(items) if isinstance(part, list):
            for place, item in enumerate(part):  # a registered list has one item, which stands for all
                yield from _streams(item, items[min(place, len(items) - 1)], f"{name}[{place}]")


def placed_stream(part: Any, use: ir.Use, device: torch.device, dtype: torch.dtype) -> Any:
    """What the `to` of a part makes of it; anything without one as it is. Raises RecipeError (B617) where it fails."""
    if not callable(getattr(part, "to", None)):
        return part
    try:
        placed = part.to(device, dtype)
    except RecipeError:
        raise
    except Exception as error:  # whatever a user's method raises becomes a message with its place
        why = f"{type(error).__name__}: {error}"
        raise _refused(f"`{use.name}` cannot be placed on the device `{device}`", part, use, why) from error
    if hasattr(part, "sample") and not callable(getattr(placed, "sample", None)):
        why = f"its `to` gave {type(placed).__name__ if placed is not None else 'nothing'}, which is no stream"
        raise _refused(f"`{use.name}` cannot be placed on the device `{device}`", part, use, why)
    return placed


def _refused(message: str, part: Any, use: ir.Use, why: str) -> RecipeError:
    span = use.value.span if use.value is not None else use.span
    return fail("B617", message, span, label=f"a {type(part).__name__}", why=why, fix=FORM)
