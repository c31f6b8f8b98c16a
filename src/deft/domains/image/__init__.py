"""Images: [C, H, W] in [-1, 1]."""

from deft.domains.image.domain import ImageDomain

DOMAIN = ImageDomain()

__all__ = ["DOMAIN"]
