"""What protein backbones bring (see `deft.kinds.domain`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from deft.core.denoiser import Denoiser
from deft.errors import InputError
from deft.kinds.domain import Cases, Column, Data, Domain, Family, Metric

WEIGHTS = Path(__file__).with_name("weights")


class ProteinDomain(Domain):
    """C-alpha traces [L, 3]; chains of several lengths share a batch."""

    name: ClassVar[str] = "protein"
    title: ClassVar[str] = "chains"
    unknown_degradations: ClassVar[bool] = False

    def owns(self, event_shape: tuple[int, ...]) -> bool:
        return len(event_shape) == 2 and event_shape[1] == 3

    def tasks(self) -> Mapping[str, type[Any]]:
        from deft.domains.protein.motif import MotifTask

        return {MotifTask.name: MotifTask}

    def network(self, event_shape: tuple[int, ...], inputs: int, outputs: int, width: int) -> nn.Module:
        raise InputError(
            "an h of chains must turn as they do, which DEFT's own networks do not: take chain-deft"
            " (deft.domains.protein.htransform.ChainDEFT)"
        )

    def own_priors(self) -> Mapping[str, type[Any]]:
        from deft.domains.protein.prior import BackbonePrior

        return {"ChainNet": BackbonePrior}

    def bundled_priors(self) -> Mapping[str, Path]:
        return {"backbone": WEIGHTS / "backbone.safetensors"}

    def families(self) -> Mapping[str, Family]:
        from deft.prior.options import Kind, text

        settings = Kind("a file", lambda v: text(v) if isinstance(v, (str, bool, int, float)) else v)
        return {
            "genie": Family(
                "a Lightning checkpoint of Genie v1 (protein backbones)", _is_genie, _load_genie, {"config": settings}
            )
        }

    def learned(self) -> Mapping[str, type[Any]]:
        from deft.domains.protein.baselines import ChainAmortised
        from deft.domains.protein.htransform import ChainDEFT

        return {"chain-deft": ChainDEFT, "chain-amortised": ChainAmortised}

    def bundled_h(self, prior: str = "") -> Mapping[str, Path]:
        return {"motif": WEIGHTS / "motif-9.safetensors"}

    # data in and out

    def datasets(self) -> Sequence[str]:
        return ("chains",)

    def read(self, source: str, event_shape: tuple[int, ...] | None = None, **options: Any) -> Data:
        from deft.domains.protein.loading import read

        return read(source, event_shape, **options)

    def write(self, folder: Path, name: str, x: Tensor) -> list[Path]:
        from deft.domains.protein.loading import write

        return write(folder, name, x)

    # how good

    note: ClassVar[str] = (
        "proxy success is a check of C-alpha geometry and CA-MPNN likelihood; no folding network was run"
    )
    success: ClassVar[str] = "proxy_success"

    def metrics(self) -> Mapping[str, Metric]:
        from deft.domains.protein.metrics import METRICS

        return METRICS

    # comparisons

    def problem_sets(self) -> Mapping[str, str]:
        from deft.domains.protein.measure import SETS

        return SETS

    def cases(self, name: str, **options: Any) -> Cases:
        """options: `count`, `placement` and `pdb` of `named_set`; `each`, `seed`, `max_length` and `sigma_y` of
        `MotifCases`."""
        from deft.domains.protein.measure import MotifCases, named_set

        chosen = {k: options.pop(k) for k in ("count", "placement", "pdb") if k in options}
        return MotifCases(named_set(name, **chosen), **options)

    def columns(self) -> Sequence[Column]:
        from deft.domains.protein.measure import COLUMNS

        return COLUMNS

    def references(self, count: int) -> Mapping[str, dict[str, np.ndarray]]:
        from deft.domains.protein.measure import natives

        return {"natives": natives(count)}

    def variety(self, samples: Sequence[Any], known: bool = False) -> Mapping[str, float]:
        from deft.domains.protein.measure import variety

        return variety(samples, known)


def _is_genie(name: str) -> bool:
    path = Path(name)
    if not path.is_file() or path.suffix not in (".pt", ".pth", ".ckpt"):
        return False
    from deft.domains.protein.genie import recognise

    return recognise(path)


def _load_genie(name: str, device: Any = "cpu", **options: Any) -> Denoiser:
    from deft.domains.protein.genie import load_genie

    return load_genie(name, device=device, **options)
