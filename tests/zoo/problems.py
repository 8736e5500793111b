"""All problems whose hypergradient is known without the compiler, one tuple."""

from __future__ import annotations

from tests.zoo.problem import Problem
from tests.zoo.quadratics import QUADRATICS
from tests.zoo.recursions import RECURSIONS
from tests.zoo.structures import STRUCTURES

PROBLEMS: tuple[Problem, ...] = (*QUADRATICS, *STRUCTURES, *RECURSIONS)
