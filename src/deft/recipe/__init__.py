"""The one recipe: an h-transform fitted to a frozen prior and a task, and what is done with it."""

from deft.recipe.fit import fit_h
from deft.recipe.fitted import FittedH, load
from deft.recipe.settings import Recipe

__all__ = ["FittedH", "Recipe", "fit_h", "load"]
