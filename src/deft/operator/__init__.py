"""Operators: the noiseless part of a measurement."""

from deft.core.operator import LinearOperator, Operator, Spectrum
from deft.operator.basic import Identity, Linear, Matrix
from deft.operator.blur import EdgedConvolution
from deft.operator.blurspace import BlurSpace
from deft.operator.camera import Camera
from deft.operator.coils import CoilFourier, smooth_coils
from deft.operator.composed import Composed, ComposedLinear, compose
from deft.operator.compressed import Compressed
from deft.operator.external import from_deepinv, from_odl, from_scipy
from deft.operator.fourier import Convolution, MaskedFourier, motion_kernels
from deft.operator.image import BlockAverage, Mask
from deft.operator.jpeg import JPEG, ColourJPEG
from deft.operator.phase import PhaseRetrieval
from deft.operator.pointwise import HDR
from deft.operator.radon import Radon, RayRadon
from deft.operator.recast import KSpace, Magnitudes, recast
from deft.operator.separable import Separable, bicubic, every, gaussian_blur, grey
from deft.operator.stacked import Stacked, StackedLinear, stack

__all__ = [
    "HDR",
    "JPEG",
    "BlockAverage",
    "BlurSpace",
    "Camera",
    "CoilFourier",
    "ColourJPEG",
    "Composed",
    "ComposedLinear",
    "Compressed",
    "Convolution",
    "EdgedConvolution",
    "Identity",
    "KSpace",
    "Linear",
    "LinearOperator",
    "Magnitudes",
    "Mask",
    "MaskedFourier",
    "Matrix",
    "Operator",
    "PhaseRetrieval",
    "Radon",
    "RayRadon",
    "Separable",
    "Spectrum",
    "Stacked",
    "StackedLinear",
    "bicubic",
    "compose",
    "every",
    "from_deepinv",
    "from_odl",
    "from_scipy",
    "gaussian_blur",
    "grey",
    "motion_kernels",
    "recast",
    "smooth_coils",
    "stack",
]
