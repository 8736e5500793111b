"""Recipes that the zoo has no closed form for, but that both backends must agree on: one for each construct."""

from __future__ import annotations

from tests.backends import recipes_of_levels, recipes_of_parts, recipes_of_solvers
from tests.backends.collected import RECIPES
from tests.backends.recipes_of_parts import BROKEN, OVER_TWO_LISTS

__all__ = ["BROKEN", "OVER_TWO_LISTS", "RECIPES", "recipes_of_levels", "recipes_of_parts", "recipes_of_solvers"]
