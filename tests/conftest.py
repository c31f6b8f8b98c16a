"""Shared by all tests: one thread (so that timings and rounding do not depend on the machine, and tests run side by
side) and a fixed seed."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is there; processes that tests start have it from here

from pathlib import Path

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
    """float64 by default, for tests against a formula; a file asks for it with
    `pytestmark = pytest.mark.usefixtures("double")`."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(default)


LONGEST = (
    "priors",
    "distributed",
    "remote",
    "comparison",
    "recipe",
    "measurement_check",
    "resume",
    "pages",
    "cli_control",
    "docs",
    "alternatives",
    "cli",
    "killed",
    "importance",
)
"""Files that take longest, the longest first: begun last, one of them would keep one process busy while the others have
nothing left to do."""


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files that have most tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(Path(item.path).stem, len(place)))  # stable: the order within a file is kept
