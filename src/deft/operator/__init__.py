"""Operators: the noiseless part of a measurement."""

from deft.operator.base import Identity, Linear, LinearOperator, Matrix, Operator
from deft.operator.image import BlockAverage, Mask

__all__ = ["BlockAverage", "Identity", "Linear", "LinearOperator", "Mask", "Matrix", "Operator"]
