"""Ways to differentiate a level, one a file; the tuple is the order in which a plan lists them."""

from bilevel.modes.base import Adjoint, Class, Mode, Verdict
from bilevel.modes.forward import Forward
from bilevel.modes.rmd import Reverse

MODES: tuple[Mode, ...] = (Forward(), Reverse(), Reverse(order=1))

__all__ = ["MODES", "Adjoint", "Class", "Forward", "Mode", "Reverse", "Verdict"]
