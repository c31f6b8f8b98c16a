"""Operators: the noiseless part of a measurement."""

from deft.operator.base import Identity, Linear, LinearOperator, Matrix, Operator, Spectrum
from deft.operator.foreign import from_deepinv, from_odl, from_scipy
from deft.operator.image import BlockAverage, Mask

__all__ = [
    "BlockAverage",
    "Identity",
    "Linear",
    "LinearOperator",
    "Mask",
    "Matrix",
    "Operator",
    "Spectrum",
    "from_deepinv",
    "from_odl",
    "from_scipy",
]
