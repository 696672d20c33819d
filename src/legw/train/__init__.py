"""Training: the loop, the optimizers, the task protocol, the schedulers. Needs torch."""

from __future__ import annotations

from legw.train.branch import Branch
from legw.train.dropout import SeededDropout
from legw.train.loop import fit
from legw.train.muon import Muon
from legw.train.muon_groups import muon_choices, muon_groups
from legw.train.optim import LAMB, LARS, parameter_groups
from legw.train.probe import Moment, Probe
from legw.train.recipe_batches import RecipeBatches
from legw.train.scheduler import RecipeLR
from legw.train.settings import Settings
from legw.train.task import Metric, Observer, State, Task

__all__ = [
    "Branch", "LAMB", "LARS", "Metric", "Moment", "Muon", "Observer", "Probe", "RecipeBatches",
    "RecipeLR", "SeededDropout", "Settings", "State", "Task", "fit", "muon_choices", "muon_groups",
    "parameter_groups",
]  # fmt: skip
