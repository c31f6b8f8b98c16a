"""What makes a host wait for its GPU, found without a GPU: the meta device stands for it."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

ASKS = ("_local_scalar_dense", "is_nonzero", "equal", "item", "nonzero", "masked_select", "unique_dim", "_unique2")
"""Operations whose result the host, or the shape of what comes out, depends on."""


class Waits(RuntimeError):
    """An operation that makes the host wait."""


class NoWaiting(TorchDispatchMode):
    """Inside, every operation that would make the host wait for the device of `away` raises `Waits`: a value that is
    asked for, a copy from the host (from memory that is not pinned it waits for all work before it) or to it."""

    def __init__(self, away: str = "meta"):
        super().__init__()
        self.away = away

    def _places(self, values: Any) -> set[str]:
        return {v.device.type for v in tree_iter(values) if isinstance(v, torch.Tensor)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket.__name__
        given = self._places((args, kwargs))
        if name in ASKS and self.away in given:
            raise Waits(f"{name} asks the device for a value")
        if name == "copy_":
            places = [v.device.type for v in args[:2]]
            if len(set(places)) > 1 and self.away in places:
                raise Waits("a copy between host and device")
        out = func(*args, **(kwargs or {}))
        made = self._places(out)
        if name in ("_to_copy", "lift_fresh", "to") and given and given != made and self.away in given | made:
            raise Waits("a copy between host and device")
        return out


class Away:
    """Standard normal noise that is made where it is needed, as `deft.Noise` of a GPU is; the numbers are none."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def normal(self, shape: Any, *, device: Any = "cpu") -> torch.Tensor:
        return torch.empty((self.n, *shape), device=device)
