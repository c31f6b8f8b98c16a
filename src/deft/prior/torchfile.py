"""Files that torch.save wrote, read without running anything in them, and one line for whatever is wrong."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from deft.errors import CheckpointError


def read_torch_file(path: Path, otherwise: str, *, trust_pickle: bool = False) -> Any:
    """What is in the file, on the CPU; tensors and plain values alone, unless trusted.

    otherwise: what to do about a file that holds more, for the message.

    Raises:
        CheckpointError: the file is cut off, no PyTorch file, or holds more.
    """
    cut = f"{path} is truncated or not a PyTorch file"
    try:
        archive = zipfile.is_zipfile(path)
        with path.open("rb") as f:
            if not archive and f.read(1) != b"\x80":  # neither a zip nor a pickle; a zip that was cut off starts with PK
                raise CheckpointError(f"{cut}; fetch it again")
        return torch.load(str(path), map_location="cpu", weights_only=not trust_pickle, mmap=archive)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if trust_pickle or "truncated" in str(error) or "invalid load key" in str(error):
            raise CheckpointError(f"{cut}; fetch it again") from error
        raise CheckpointError(f"{path} holds more than tensors, and loading the rest would run code from the file; {otherwise}") from error
    except Exception as error:  # what a broken pickle raises is anything
        raise CheckpointError(f"{cut} ({type(error).__name__}: {' '.join(str(error).split())[:200]}); fetch it again") from error
