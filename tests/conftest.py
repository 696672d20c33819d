"""Each of several test processes takes its share of the cores, before torch counts them.

Small nets on more threads than cores wait for each other: some tests then take ten times as
long as on one thread.
"""

from __future__ import annotations

import gc
import os
import re
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling, Scheduling

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
settings.register_profile("shared machine", deadline=None, max_examples=30)
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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Put the documents first: their pages take longest, and would else be all that is left."""
    session.items.sort(key=lambda item: item.path.name != "test_documents.py")


class ByFile(LoadFileScheduling):
    """A file's tests run in one process, as they share fixtures; of the documents, a page's.

    The pages share none, and all of them in one process would take longer than all other tests.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        page = re.search(r"\[([\w/-]+\.md)", test) if file.endswith("test_documents.py") else None
        return f"{file}::{page[1]}" if page else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Return how tests are shared out with `--dist loadfile`; nothing for the other ways."""
    return ByFile(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_xdist_auto_num_workers() -> int:
    """Return one process more than there are cores: a fourth of the time is spent waiting."""
    return (os.cpu_count() or 1) + 1
