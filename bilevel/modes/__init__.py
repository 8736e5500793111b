"""Ways to differentiate a level, one a file; the tuple is the order in which a plan lists them."""

from bilevel.modes.base import Adjoint, Class, Mode, Tangents, Unroll, Verdict
from bilevel.modes.fmd import ForwardMode
from bilevel.modes.forward import Forward
from bilevel.modes.rmd import Reverse

MODES: tuple[Mode, ...] = (
    Forward(),
    Reverse(),
    Reverse(checkpoint="sqrt"),
    Reverse(checkpoint="binomial"),
    Reverse(store="residuals"),
    ForwardMode(),
    Reverse(order=1),
)

__all__ = [
    "MODES",
    "Adjoint",
    "Class",
    "Forward",
    "ForwardMode",
    "Mode",
    "Reverse",
    "Tangents",
    "Unroll",
    "Verdict",
]
