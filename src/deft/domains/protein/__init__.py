"""Protein backbones: C-alpha traces [L, 3]."""

from deft.domains.protein.domain import ProteinDomain

DOMAIN = ProteinDomain()

__all__ = ["DOMAIN"]
