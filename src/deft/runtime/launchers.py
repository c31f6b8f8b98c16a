"""Whether a launcher (`accelerate launch`, `torchrun`, `mpirun`) started this process, read from the environment; needs
no PyTorch."""

from __future__ import annotations

import os

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Where launchers say how many processes there are; the first is torch's, the others are those of MPIs."""


def launched() -> bool:
    """Whether a launcher says that there are other processes."""
    return any(int(os.environ.get(name) or 1) > 1 for name in SIZES)
