"""Training: the loop, the optimizers, the task protocol, the schedulers. Needs torch."""

from __future__ import annotations

from legw.train.loop import fit
from legw.train.optim import LAMB, LARS, parameter_groups
from legw.train.probe import Moment, Probe
from legw.train.scheduler import RecipeLR
from legw.train.settings import Settings
from legw.train.task import Metric, Observer, State, Task

__all__ = [
    "LAMB", "LARS", "Metric", "Moment", "Observer", "Probe", "RecipeLR", "Settings", "State",
    "Task", "fit", "parameter_groups",
]  # fmt: skip
