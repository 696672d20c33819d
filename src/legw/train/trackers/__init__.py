"""Trackers: W&B, MLflow, TensorBoard or one of the user's own, beside the run folder.

A tracker is handed what the run folder has, by a thread of its own. It changes nothing of the run,
and one that fails never ends it. Accelerate's trackers are not used: they would join the processes
by themselves (`PartialState`), let the run wait for each row, and know neither a run to go on with
nor how it ended.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from legw.errors import RunError, given, shown, unknown_name
from legw.train.task import Observer

TRACKERS = {
    "tensorboard": "",  # an observer that writes into the run folder, which cannot go away
    "wandb": "legw.train.trackers.wandb:WandB",
    "mlflow": "legw.train.trackers.mlflow:MLflow",
}
"""The trackers that ship, each with the class that hands a run over to it."""


def check_names(names: Sequence[str]) -> None:
    """Refuse names that are no tracker's, before anything is imported for them.

    Args:
        names: of trackers that ship, or ``module:name`` of the user's own.

    Raises:
        RunError: one is unknown, or given twice; or `names` is no sequence of names.

    >>> check_names(["wandb", "mlflow"])
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise RunError(
            f"{given('log_to', shown(names))}: must be names of trackers, as in ('wandb',)"
        )
    for name in names:
        if ":" not in name and name not in TRACKERS:
            raise RunError(unknown_name("tracker", name, TRACKERS) + "; your own is module:name")
        if list(names).count(name) > 1:
            raise RunError(f"{given('log_to', name)}: is given twice; leave one out")


def check(names: Sequence[str]) -> None:
    """Refuse what cannot work here: a package or an account that is missing.

    Args:
        names: as `check_names` takes them; a user's own is not looked at before the run.

    Raises:
        RunError: see `check_names`; or a tracker that ships cannot be set up.
    """
    check_names(names)
    find([name for name in names if name in TRACKERS], Path())


def find(names: Sequence[str], folder: Path) -> list[Observer]:
    """Return the observers that hand a run over to trackers.

    Args:
        names: as `check_names` takes them.
        folder: the run folder.

    Raises:
        RunError: a package is not installed, an account or a server is not set up, or
            ``module:name`` is no tracker.
    """
    from legw.train.tensorboard import TensorBoard
    from legw.train.trackers.tracking import Tracking

    check_names(names)
    return [
        TensorBoard(folder)
        if name == "tensorboard"
        else Tracking(name, _made(TRACKERS.get(name, name)), folder)
        for name in names
    ]


def _made(place: str) -> Any:
    """Return a tracker, of the class or function at ``module:name``."""
    module, _, name = place.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise RunError(f"tracker {place!r}: there is no module {module!r} here") from None
    except AttributeError:
        raise RunError(f"tracker {place!r}: {module} has no {name!r}") from None
    finally:
        sys.path.remove(str(Path.cwd()))
    tracker = found() if callable(found) else found
    missing = [each for each in ("start", "log", "finish") if not hasattr(tracker, each)]
    if missing:
        raise RunError(f"tracker {place!r}: is no legw Tracker: {', '.join(missing)} missing")
    return tracker
