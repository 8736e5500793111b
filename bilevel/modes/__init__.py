"""Ways to differentiate a level, one a file; the tuple is the order in which a plan lists them."""

from bilevel.modes.base import Adjoint, Class, Implicit, Leaping, Mode, Perturb, Substitute, Tangents, Unroll, Verdict
from bilevel.modes.closed_form import ClosedForm
from bilevel.modes.es import Strategies
from bilevel.modes.evolve import Evolve
from bilevel.modes.fmd import ForwardMode
from bilevel.modes.forward import Forward
from bilevel.modes.ift import ImplicitMode, Linear
from bilevel.modes.leap import Leap
from bilevel.modes.rmd import Reverse

MODES: tuple[Mode, ...] = (
    Forward(),
    Reverse(),
    Reverse(checkpoint="sqrt"),
    Reverse(checkpoint="binomial"),
    Reverse(store="residuals"),
    Reverse(checkpoint="sqrt", store="residuals"),
    ForwardMode(),
    ImplicitMode(),
    ClosedForm(),
    Evolve(),
    Reverse(order=1),
)

__all__ = [
    "MODES",
    "Adjoint",
    "Class",
    "ClosedForm",
    "Evolve",
    "Forward",
    "ForwardMode",
    "Implicit",
    "ImplicitMode",
    "Leap",
    "Leaping",
    "Linear",
    "Mode",
    "Perturb",
    "Reverse",
    "Strategies",
    "Substitute",
    "Tangents",
    "Unroll",
    "Verdict",
]
