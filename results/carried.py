"""Bases that were carried to a large batch, with what was measured at their own.

The digits' bases come from `results/predictors/digits.json` (`predictor_runs.py` trains and
collects them), all others from the studies beside this file.
"""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from names import OLDER_GPT

from legw import rules, schedule
from legw.analysis import carrying, evidence, probed
from legw.analysis.check import FAST
from legw.analysis.noise import noise_scale
from legw.recipe import Recipe, from_dict
from legw.runs import measurements
from legw.runs.measurements import Noise

HERE = Path(__file__).parent
NOISE = HERE / "theory" / "noise"
DIGITS = HERE / "predictors" / "digits.json"

STORED_NOISE = {
    "mnist-lstm": "mnist-lstm",
    "ptb-small": "ptb-small",
    "translation": "gnmt-small",
}
"""Folder below `NOISE` with a whole run of a stored study's base in which noise was sampled."""

STORED = (
    ("MNIST-LSTM", "mnist-lstm", 8192),
    ("MNIST-LSTM", "mnist-lstm/polynomial", 8192),
    ("MNIST-LSTM", "mnist-lstm/cosine", 8192),
    ("MNIST-LSTM", "mnist-lstm/step", 8192),
    ("MNIST-LSTM", "mnist-lstm-muon", 8192),
    ("MNIST-LSTM", "mnist-lstm-muon/stacked", 8192),
    ("MNIST-LSTM", "mnist-lstm-muon/unshifted", 8192),
    ("PTB-small", "ptb-small", 640),
    ("PTB-small", "ptb-small-nesterov", 640),
    ("PTB-small", "ptb-small-muon", 640),
    ("CIFAR-10 (small net)", "cifar10", 2048),
    ("CIFAR-10 (small net)", "cifar10-momentum", 2048),
    ("CIFAR-10 (small net)", "cifar10-small-muon", 2048),
    ("translation (gnmt-small)", "translation", 1024),
    ("transformer (gpt-small)", "gpt-small-muon", 256),
    ("transformer (gpt-small)", OLDER_GPT, 256),
    ("transformer (gpt-small)", "gpt-small", 256),
    ("digits, shifted", "digits-lstm-muon", 512),
)
"""Application, study and large batch of each stored base. The digits' other stored bases are
among those of `DIGITS`."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """One base, with what was measured at its batch and what became of it at the large one."""

    name: str
    application: str
    optimizer: str
    """Kind of the optimizer: the family within which bases are compared."""
    batch_size: int
    large_batch_size: int
    base_metric: float
    """Mean over `base_n` seeds."""
    base_n: int
    large_metric: float
    """Mean over `large_n` seeds under LEGW; of a run that diverged, the worst there is."""
    large_n: int
    higher_is_better: bool
    predictors: dict[str, float | None]
    """None: was not measured, or is not defined for this optimizer. A noise scale may be endless,
    which the list of bases shows as null too."""
    halves: tuple[float, float] | None = None
    """The loss by two halves of the seeds; None with too few."""
    deviation: float | None = None
    """Standard deviation of the base's metric over seeds; None for one."""

    @property
    def loss(self) -> float:
        """Loss of quality at the large batch, as a share of the base's metric."""
        return _loss(self.base_metric, self.large_metric, self.higher_is_better)


def _loss(base: float, large: float, higher_is_better: bool) -> float:
    return (base - large if higher_is_better else large - base) / base


@cache
def bases() -> tuple[Base, ...]:
    """Return all bases of which both batches are known."""
    return (*_digits(), *(_stored(*each) for each in STORED))


# Digits ---------------------------------------------------------------------------


def _digits() -> list[Base]:
    data = json.loads(DIGITS.read_text("utf-8"))
    return [_of_digits(one, data) for one in data["bases"]]


def _of_digits(one: dict[str, Any], data: dict[str, Any]) -> Base:
    recipe = from_dict(one["recipe"])
    own, large = ([_accuracy(run) for run in one[which]] for which in ("base", "large"))
    train, held_out = (
        statistics.fmean(run[which] for run in one["base"])
        for which in ("final_loss", carrying.HELD_OUT_LOSS)
    )
    half = len(large) // 2
    return Base(
        name=one["name"],
        application="digits",
        optimizer=recipe.optimizer.kind,
        batch_size=recipe.batch_size,
        large_batch_size=data["large_batch_size"],
        base_metric=statistics.fmean(own),
        base_n=len(own),
        large_metric=statistics.fmean(large),
        large_n=len(large),
        higher_is_better=True,
        predictors=_known_before(recipe, data["large_batch_size"], statistics.fmean(own))
        | {
            "clipped_share": _mean(one["clipped_share"]),
            "headroom": max((row["times"] for row in _falling(one["short"])), default=0.0),
            **_short(one["short"]),
            "early_loss": _mean(one["early_loss"]),
            "early_noise_scale": _or_lost(one["early_noise_scale"]["value"]),
            "noise_scale": _or_lost(one["noise_scale"]["value"]),
            "train_loss": train,
            "gap": held_out - train,
        },
        halves=(
            _loss(statistics.fmean(own[0::2]), statistics.fmean(large[:half]), True),
            _loss(statistics.fmean(own[1::2]), statistics.fmean(large[half:]), True),
        ) if len(own) > 1 else None,
        deviation=statistics.stdev(own) if len(own) > 1 else None,
    )  # fmt: skip


def _accuracy(run: dict[str, Any]) -> float:
    return 0.0 if run["metric"] is None else float(run["metric"])


def _falling(short: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """Return the short runs up to the first whose loss rises, without it."""
    return itertools.takewhile(lambda row: not row["rises"], short)


def _short(short: list[dict[str, Any]]) -> dict[str, float]:
    """Return the loss at the end of a short run at `FAST` times the rate, and over that at it."""
    ends = {row["times"]: math.inf if row["end"] is None else row["end"] for row in short}
    return {"fast_loss": ends[FAST], "slower": ends[FAST] / ends[1.0]}


def _or_lost(scale: float | None) -> float:
    """Return a measured noise scale; endless where the gradient is lost in its noise."""
    return math.inf if scale is None else scale


def _known_before(recipe: Recipe, large: int, metric: float) -> dict[str, float | None]:
    """Return what is known of a base without a measurement of its own."""
    scaled = rules.apply(recipe, large, rules.LEGW)
    steps = range(schedule.updates(scaled))
    return {
        "lr": recipe.lr,
        "mean_lr": statistics.fmean(schedule.lr_at(scaled, step) for step in steps),
        "base_metric": metric,
        "warmup_share": scaled.warmup / scaled.length,
    }


# Stored studies -------------------------------------------------------------------


def _stored(application: str, folder: str, large: int) -> Base:
    """Return the base of a study beside this file."""
    found = evidence.read(HERE / folder)[0]
    table = found.table
    own, ours = table.base_of(""), table.find("", "legw", large)
    if own is None or ours is None or not (own.metrics and ours.metrics):
        raise ValueError(f"{folder}: holds no finished runs of the base, or under legw at {large}")
    runs = [run for row, run in found.runs if row.rule == "base" and row.status == "finished"]
    recipe = runs[0].manifest.base
    # Each run by itself: a study's runs may name different sources for the same recipe.
    measured = [carrying.of_runs([run], tokens=recipe.window_tokens or 1) for run in runs]
    mean = statistics.fmean(own.metrics)
    return Base(
        name=folder,
        application=application,
        optimizer=recipe.optimizer.kind,
        batch_size=recipe.batch_size,
        large_batch_size=large,
        base_metric=mean,
        base_n=len(own.metrics),
        large_metric=statistics.fmean(ours.metrics),
        large_n=len(ours.metrics),
        higher_is_better=table.higher_is_better,
        predictors=_known_before(recipe, large, mean)
        | {
            "clipped_share": _mean([each.clipped_share for each in measured]),
            "train_loss": _mean([_of_token(each.train_loss, recipe) for each in measured]),
            "gap": _mean([_of_token(each.gap, recipe) for each in measured]),
            "early_loss": _mean([_of_token(carrying.early_loss(run), recipe) for run in runs]),
            "noise_scale": _stored_noise(folder, recipe),
        },
        deviation=statistics.stdev(own.metrics) if len(own.metrics) > 1 else None,
    )


def _stored_noise(study: str, recipe: Recipe) -> float | None:
    """Return the noise scale of a whole run of a base; None where none was sampled."""
    if study not in STORED_NOISE:
        return None
    runs = probed.read(NOISE / STORED_NOISE[study])
    if any(run.recipe.batch_size != recipe.batch_size for run in runs):
        raise ValueError(f"{study}: its noise was sampled at another batch")
    rows = [row for run in runs for row in measurements.read(run.folder, Noise)]
    return _or_lost(noise_scale(rows).value)


def _of_token(loss: float | None, recipe: Recipe) -> float | None:
    """Return a loss per token where that of an example is a sum over a window."""
    return None if loss is None else loss / (recipe.window_tokens or 1)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
