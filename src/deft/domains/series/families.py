"""Families of checkpoints of series that others trained: how a file is recognised, and who loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deft.core.denoiser import Denoiser
from deft.kinds.records import Family


def families() -> dict[str, Family]:
    """Name -> family, for `Domain.families`."""
    from deft.prior.options import CONVENTION_KINDS, COUNT, OWN_KINDS, Kind, above, text

    options = (
        CONVENTION_KINDS
        | OWN_KINDS
        | {
            "clamp": Kind("a number above 0, in deviations", above),
            "heads": COUNT,
            "weights": Kind("the place of a network in the file (ema, model)", text),
        }
    )
    return {"csdi": Family("a state dict of CSDI (series)", _is_csdi, _load_csdi, options)}


def _is_csdi(name: str) -> bool:
    path = Path(name)
    if not path.is_file():
        return False
    from deft.domains.series.csdi import recognise

    return recognise(path)


def _load_csdi(name: str, device: Any = "cpu", **options: Any) -> Denoiser:
    from deft.domains.series.csdi import load_csdi

    return load_csdi(name, device=device, **options)
