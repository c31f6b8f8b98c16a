"""What the commands do, as functions for everybody."""

from deft.workflow.recipe import Fitted, Recipe, fit_h, weigh_levels

__all__ = ["Fitted", "Recipe", "fit_h", "weigh_levels"]
