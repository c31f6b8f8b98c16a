"""Shared by all tests: one thread (so that timings and rounding do not depend on the machine, and tests run side by side) and a fixed seed."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there; processes that tests start have it from here

import pytest
import torch

collect_ignore = ["data"]
"""Files as earlier versions wrote them, and the scripts for these versions."""

torch.set_num_threads(1)  # now: fixtures of a module are made before `_reproducible` is asked


@pytest.fixture(autouse=True)
def _reproducible():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def double():
    """float64 by default, for tests against a formula; a file asks for it with `pytestmark = pytest.mark.usefixtures("double")`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)
