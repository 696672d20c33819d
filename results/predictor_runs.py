"""Train the digits' bases of docs/bases.md's table of predictors, and collect what is measured.

    python results/predictor_runs.py --train runs/predictors
    python results/predictor_runs.py --collect runs/predictors results/predictors/digits.json

For each base of three optimizer families: runs at its own batch with samples of the gradient's
noise, runs at the large batch under LEGW, and short runs at multiples of the base's rate.
What has ended is not trained again. `--collect` writes one line of figures for each base, with
its recipe, over the seeds that have ended; a base that lacks a kind of run is left out and named.
"""

import statistics
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from legw import presets, rules
from legw.analysis import check, clipping
from legw.analysis.carrying import early_loss
from legw.analysis.noise import noise_scale
from legw.apps import find
from legw.decays import Constant, Cosine, Polynomial
from legw.errors import RunError
from legw.optimizers import AdamW, Muon
from legw.probes.headroom import folder_of, measure_headroom
from legw.probes.noise import NoiseProbe
from legw.recipe import Recipe, to_dict
from legw.runs import files, measurements, records
from legw.runs.measurements import Noise
from legw.train import Settings, fit

LARGE = 512
"""Batch to which every base is carried: 32 times its own."""

BASE_SEEDS, LARGE_SEEDS = 2, 4
"""Runs of each base at its own batch, and at the large one, where a run takes a tenth."""

SHORT_UPDATES = 200
"""Length of the runs at multiples of the rate: that of `legw check`."""

SAMPLE_EVERY = 20
"""Updates between two samples of the noise."""

SETTINGS = Settings(micro_batch_size=512, lanes=1)

SGD_BASE = presets.DIGITS_LSTM
ADAMW_BASE = replace(
    SGD_BASE,
    lr=0.008,
    optimizer=AdamW(weight_decay=0.5, beta2=0.99),
    decay=Cosine(end=0.01),
)
MUON_BASE = replace(
    SGD_BASE,
    lr=0.01,
    warmup_epochs=0.0625,
    optimizer=presets.DIGITS_LSTM_MUON.optimizer,
    decay=Polynomial(power=1.0, after_warmup=True),
)
LINEAR = Polynomial(power=1.0, after_warmup=True)


def adamw(**changes: Any) -> AdamW:
    return AdamW(**{"weight_decay": 0.5, "beta2": 0.99, **changes})


def muon(**changes: Any) -> Muon:
    return Muon(**{"momentum": 0.9, "adamw_lr_ratio": 0.5, **changes})


FAMILIES: dict[str, tuple[Recipe, dict[str, dict[str, Any]]]] = {
    "sgd": (
        SGD_BASE,
        {
            "as-shipped": {},
            "lr-half": {"lr": 0.05},
            "lr-more": {"lr": 0.15},
            "linear": {"decay": LINEAR},
            "linear-lr-twice": {"decay": LINEAR, "lr": 0.2},
            "clip-low": {"clip_norm": 0.25},
            "clip-low-lr-twice": {"clip_norm": 0.25, "lr": 0.2},
            "unclipped": {"clip_norm": None},
            "warmup-short": {"warmup_epochs": 0.0625},
            "warmup-long": {"warmup_epochs": 0.5},
        },
    ),
    "adamw": (
        ADAMW_BASE,
        {
            "as-shipped": {},
            "lr-half": {"lr": 0.004},
            "lr-twice": {"lr": 0.016},
            "linear": {"decay": LINEAR},
            "constant": {"decay": Constant()},
            "weight-decay-low": {"optimizer": adamw(weight_decay=0.05)},
            "beta2-high": {"optimizer": adamw(beta2=0.999)},
            "warmup-short": {"warmup_epochs": 0.0625},
            "warmup-long": {"warmup_epochs": 0.5},
            "lr-4-times": {"lr": 0.032},
        },
    ),
    "muon": (
        MUON_BASE,
        {
            "as-shipped": {},
            "lr-half": {"lr": 0.005},
            "lr-twice": {"lr": 0.02},
            "constant": {"decay": Constant()},
            "warmup-middle": {"warmup_epochs": 0.25},
            "warmup-long": {"warmup_epochs": 0.5},
            "momentum-high": {"optimizer": muon(momentum=0.95)},
            "adamw-part-faster": {"optimizer": muon(adamw_lr_ratio=1.0)},
            "stacked": {"optimizer": muon(split_gates=False)},
            "lr-4-times": {"lr": 0.04},
        },
    ),
}
"""For each optimizer's family its base, and the changes that make the others from it."""


class Measured:
    """A task that also measures the loss on training and on held-out data after the run."""

    def __init__(self, task: Any) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def final_metrics(self, model: nn.Module) -> dict[str, float]:
        """Return the mean losses of all training and of all held-out examples."""
        return {
            "training_loss": self._mean_loss(model, self._task.train),
            "held_out_loss": self._mean_loss(model, self._task.test),
        }

    def _mean_loss(self, model: nn.Module, examples: tuple[torch.Tensor, torch.Tensor]) -> float:
        images, labels = examples
        pixels = images.to(torch.get_default_dtype()) / self._task.scale
        with torch.no_grad():
            total, weight, _ = self._task.loss(model, (pixels, labels), None)
        return float(total) / weight


def bases() -> dict[str, Recipe]:
    """Return every base under FAMILY/NAME, the first of each family before the second ones."""
    longest = max(len(changes) for _, changes in FAMILIES.values())
    listed = {family: list(changes) for family, (_, changes) in FAMILIES.items()}
    return {
        f"{family}/{names[at]}": replace(
            FAMILIES[family][0],
            name=f"{family}-{names[at]}",
            source="",
            **FAMILIES[family][1][names[at]],
        )
        for at in range(longest)
        for family, names in listed.items()
        if at < len(names)
    }


# Train ----------------------------------------------------------------------------


def train(root: Path) -> None:
    """Make all runs that are not made yet: each base's first before the further seeds."""
    task = Measured(find("digits-lstm"))
    recipes = bases()
    for name, base in recipes.items():
        _carried(task, base, root / name, [0], range(LARGE_SEEDS))
        for times in check.LR_MULTIPLES:
            _short(task, base, root / name / "short", times)
        print(name, flush=True)
    for seed in range(1, BASE_SEEDS):
        for name, base in recipes.items():
            _carried(task, base, root / name, [seed], ())
        print(f"seed {seed} of the bases", flush=True)


def _carried(
    task: Any, base: Recipe, folder: Path, own: Iterable[int], large: Iterable[int]
) -> None:
    """Train a base at its own batch and under LEGW at the large one, by these seeds."""
    for seed in own:
        place = folder / f"base-s{seed}"
        _run(task, base, base, place, seed)
    for seed in large:
        _run(task, rules.apply(base, LARGE, rules.LEGW), base, folder / f"legw-s{seed}", seed)


def _run(task: Any, recipe: Recipe, base: Recipe, folder: Path, seed: int) -> None:
    """Make a run unless it has ended; one at the base's own batch samples the noise."""
    observers = [NoiseProbe(folder, every=SAMPLE_EVERY)] if recipe == base else []
    summary = records.read_summary(folder) if folder.exists() else None
    if summary is None or summary.status == "interrupted":
        settings = replace(SETTINGS, resume=True)
        fit(task, recipe, out=folder, seed=seed, base=base, settings=settings, observers=observers)


def _short(task: Any, base: Recipe, folder: Path, times: float) -> None:
    """Make one of the runs of `measure_headroom`, also past the first at which the loss rises."""
    measure_headroom(
        task, base, out=folder, updates=SHORT_UPDATES, multiples=[times], settings=SETTINGS
    )


# Collect --------------------------------------------------------------------------


def collect(root: Path, file: Path) -> int:
    """Write the figures of all bases that have a run of each kind; return 2 if there is none."""
    found, made = [], None
    for name, base in bases().items():
        try:
            found.append(figures(name, base, root / name))
        except RunError as error:
            print(f"{name}: has not ended; left out ({error})")
            continue
        made = records.read_manifest(root / name / "base-s0")
    if made is None:
        return 2
    files.write_json(
        file,
        {
            "app": made.task,
            "large_batch_size": LARGE,
            "device": made.device,
            "environment": made.environment,
            "bases": found,
        },
    )
    return 0


def figures(name: str, base: Recipe, folder: Path) -> dict[str, Any]:
    """Return the figures of one base, all predictors from runs at its own batch alone."""
    own, large = _ended_runs(folder, "base"), _ended_runs(folder, "legw")
    places = {times: folder_of(folder / "short", base.batch_size, 0, times)
              for times in check.LR_MULTIPLES}  # fmt: skip
    short = {times: records.load(place) for times, place in places.items()}
    early = measurements.read(places[1.0], Noise)
    samples = [measurements.read(each.folder, Noise) for each in own]
    return {
        "name": name,
        "recipe": to_dict(base),
        "base": [_ended(run) for run in own],
        "large": [_ended(run) for run in large],
        "short": [_losses(times, run) for times, run in short.items()],
        "early_loss": [early_loss(run) for run in own],
        "clipped_share": [clipping.clipped_share(base, run.updates) for run in own],
        "early_noise_scale": asdict(noise_scale(early)),
        "noise_scale": asdict(noise_scale([row for rows in samples for row in rows])),
        "late_noise_scale": asdict(
            noise_scale([row for rows in samples for row in rows[len(rows) // 2 :]])
        ),
    }


def _ended_runs(folder: Path, kind: str) -> list[records.Run]:
    """Return the runs of all seeds that have ended, at least one."""
    runs = [records.load(place) for place in records.find_runs(folder) if kind in place.name]
    ended = [run for run in runs if run.status in {"finished", "diverged"}]
    if not ended:
        raise RunError(f"{folder}: no run of {kind} has ended")
    return sorted(ended, key=lambda run: run.manifest.seed)


def _ended(run: records.Run) -> dict[str, Any]:
    """Return how a run ended: metric, mean loss of the last epoch, losses of both parts."""
    summary = run.summary
    assert summary is not None, "it has ended"
    return {
        "seed": run.manifest.seed,
        "status": summary.status,
        "metric": None if summary.status == "diverged" else summary.metric["value"],
        "final_loss": summary.final_loss,
        **summary.metrics,
        "updates": summary.updates,
        "seconds": summary.seconds,
    }


def _losses(times: float, run: records.Run) -> dict[str, Any]:
    """Return whether a short run's loss rose, and its median at the end, None if it diverged."""
    losses = [row.loss for row in run.updates]
    count = max(round(len(losses) * check.END_SHARE), 1)
    last = [loss for loss in losses[-count:] if loss is not None]
    return {
        "times": times,
        "rises": check.rises(losses),
        "end": statistics.median(last) if len(last) == count else None,
    }


def main(words: list[str]) -> int:
    """Train or collect, as the first word says."""
    if words[:1] == ["--train"] and len(words) == 2:
        train(Path(words[1]))
    elif words[:1] == ["--collect"] and len(words) == 3:
        return collect(Path(words[1]), Path(words[2]))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
