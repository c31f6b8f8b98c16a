"""Small networks. They depend on torch alone, and their last layer starts at zero."""

from deft.nn.mlp import MLP
from deft.nn.unet import HalfUNet, UNet

__all__ = ["MLP", "HalfUNet", "UNet"]
