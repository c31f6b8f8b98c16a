"""Sounds: [1, L], one channel of long windows, each of a recording of power 1."""

from deft.domains.sound.domain import SoundDomain

DOMAIN = SoundDomain()

__all__ = ["DOMAIN"]
