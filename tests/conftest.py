"""Each of several test processes takes its share of the cores, before torch counts them.

Small nets on more threads than cores wait for each other: some tests then take ten times as
long as on one thread.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

from legw.recipe import Decay, Optimizer, kinds
from messages import (  # noqa: F401 # hooks, found here by their names
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_call,
    pytest_sessionfinish,
)

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // WORKERS, 1)))

# Without deadlines: on a shared machine a slow example of hypothesis is not a bug.
settings.register_profile("shared machine", deadline=None, max_examples=40)
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def threads_come_back() -> Iterator[None]:
    """Give torch as many threads after a test as before: one test's number costs all others."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def kinds_come_back() -> Iterator[None]:
    """Forget the decays and optimizers that a test defines: another test lists all there are."""
    before = known_kinds()
    yield
    if known_kinds() != before:
        gc.collect()
        assert known_kinds() == before, "a kind that this test defined is still registered"


def known_kinds() -> set[str]:
    """Return the names of the decays and optimizers that are registered now."""
    return {*kinds(Decay), *kinds(Optimizer)}


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores: a fourth of the time is spent waiting."""
    return (os.cpu_count() or 1) + 1
