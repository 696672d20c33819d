"""Tuning of a base as a call: its plan, its runs, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from legw import AdamW, LegwWarning, Recipe, scale
from legw.analysis.check import end_loss
from legw.apps import Options, find
from legw.errors import DivergedError, LegwError
from legw.probes import plan_tuning, tune_base
from legw.probes.tuning import TunedBase, at_the_edge
from legw.runs import records
from legw.runs.records import Update
from legw.train import Metric, Observer, Settings, Task
from messages import said

SETTINGS = Settings(micro_batch_size=64, device="cpu")
SMALL = Recipe(name="small", batch_size=64, lr=0.1, epochs=3, warmup_epochs=0.05)
GRID = {"lr": (0.1, 0.2)}


@pytest.fixture(scope="module")
def digits() -> Task:
    return find("digits-lstm", Options(holdout="validation"))


@pytest.fixture(scope="module")
def tuned(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> TunedBase:
    """Return a small tuning of two rates that seeds cannot tell apart."""
    return tune(digits, tmp_path_factory.mktemp("tuned") / "out")


def tune(task: Task, out: Path, **more: Any) -> TunedBase:
    given: dict[str, Any] = {"seeds": (0, 1), "epochs": 2, "updates": 12, "settings": SETTINGS}
    given |= more
    base, grid = given.pop("base", SMALL), given.pop("grid", GRID)
    return tune_base(task, base, grid, out=out, **given)


def test_a_base_is_chosen_and_carried(tuned: TunedBase) -> None:
    assert tuned.table.metric == "accuracy"
    assert [cell.variant for cell in tuned.table.cells] == ["lr=0.1", "lr=0.2"]
    assert all(len(cell.metrics) == 2 for cell in tuned.table.cells)
    for name in tuned.ranking.order:
        known = tuned.predictors[name]
        assert known.headroom is not None and known.noise_scale is not None, name
        assert known.gap is not None and known.clipped_share is None
    assert f"lr={tuned.recipe.lr:g}" == tuned.name
    assert tuned.recipe.epochs == 3, "its own length, not the shorter one of the grid's runs"
    assert tuned.said().startswith(f"recommended base: {tuned.name}; ")
    assert scale(tuned.recipe, batch_size=1024).batch_size == 1024


def end_of(folder: Path) -> float:
    """Return the loss at the end of a probe's run, read from its folder."""
    loss = end_loss([row.loss for row in records.load(folder).updates])
    assert loss is not None
    return loss


def test_the_runs_of_the_probes_rank_the_bases(tuned: TunedBase) -> None:
    beside = tuned.folder.with_name("out-probes")
    ratios = {}
    for name in ("lr=0.1", "lr=0.2"):
        runs = beside / f"{name}_base-b64-s0"
        rates = [records.load(runs / run).manifest.recipe.lr for run in ("b64-s0", "b64-s0-x4")]
        assert rates[1] == pytest.approx(4 * rates[0]) and f"lr={rates[0]:g}" == name
        ratios[name] = end_of(runs / "b64-s0-x4") / end_of(runs / "b64-s0")
        assert tuned.predictors[name].fast_loss_ratio == ratios[name]
    assert len(set(ratios.values())) == 2
    assert tuned.ranking.order == tuple(sorted(ratios, key=lambda name: -ratios[name]))
    assert "loss at 4 times the rate" in tuned.ranking.why


def test_the_runs_are_those_of_a_study_with_probes_beside_it(tuned: TunedBase) -> None:
    runs = records.find_runs(tuned.folder)
    assert len(runs) == 4
    assert {records.read_manifest(run).recipe.batch_size for run in runs} == {64}
    assert all(records.read_summary(run).epochs < 3 for run in runs)  # type: ignore[union-attr]
    asked = json.loads((tuned.folder / "study.json").read_text(encoding="utf-8"))
    assert (asked["holdout"], asked["batch_sizes"]) == ("validation", [64])
    beside = tuned.folder.with_name("out-probes")
    assert {run.parent.name for run in records.find_runs(beside)} == {
        "lr=0.1_base-b64-s0", "lr=0.2_base-b64-s0",
    }  # fmt: skip


def test_a_second_call_trains_nothing(tuned: TunedBase, digits: Task) -> None:
    files = [*tuned.folder.parent.rglob("metrics.jsonl"), *tuned.folder.parent.rglob("*.pt")]
    before = {path: path.stat().st_mtime_ns for path in files}
    again = tune(digits, tuned.folder)
    assert again.to_dict() == tuned.to_dict()
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert json.loads(json.dumps(tuned.to_dict())) == tuned.to_dict()  # plain values


def test_a_ratio_that_is_infinite_is_none_in_json(tuned: TunedBase) -> None:
    hot = {name: replace(p, fast_loss_ratio=math.inf) for name, p in tuned.predictors.items()}
    points = replace(tuned, predictors=hot).to_dict()["points"]
    assert {point["predictors"]["fast_loss_ratio"] for point in points} == {None}


def test_where_no_predictor_is_known_the_larger_rate_comes_first(
    tuned: TunedBase, digits: Task
) -> None:
    found = tune(digits, tuned.folder, probes=False)
    for known in found.predictors.values():
        assert (known.headroom, known.fast_loss_ratio) == (None, None)
        assert known.early_loss is None, "a tenth of these runs is too few updates"
    assert found.ranking.order == ("lr=0.2", "lr=0.1")
    assert "4 times" in found.notes[0] and "first tenth" in found.notes[0]


@pytest.mark.parametrize(
    ("grid", "best", "size"),
    [
        ({"lr": (0.1, 0.2)}, "lr=0.2", "largest lr of the grid, 0.2: a larger"),
        ({"lr": (0.1, 0.2)}, "lr=0.1", "smallest lr of the grid, 0.1: a smaller"),
        ({"lr": (0.1, 0.2, 0.4)}, "lr=0.2", ""),
        ({"lr": (0.1,), "clip_norm": (None, 1.0)}, "lr=0.1 clip_norm=1", ""),
        ({"optimizer.weight_decay": (0, 0.1)}, "optimizer.weight_decay=0", ""),
    ],
)
def test_a_best_point_at_the_edge_of_the_grid_is_told(
    grid: dict[str, tuple[Any, ...]], best: str, size: str
) -> None:
    lines = at_the_edge(grid, best)
    assert len(lines) == bool(size)
    assert all(size in said(line) for line in lines)


def test_a_tuned_base_notes_the_edge_of_its_grid(tuned: TunedBase) -> None:
    assert any("est lr of the grid" in line for line in tuned.notes)


def test_a_base_that_forgets_rare_words_is_told(digits: Task, tmp_path: Path) -> None:
    base = replace(SMALL, tokens_per_example=5, lr=0.001, optimizer=AdamW(beta2=0.9))
    found = tune(digits, tmp_path / "out", base=base, epochs=1, seeds=(0,), probes=False)
    assert any(line.startswith("beta2=0.9 averages over 10 updates") for line in found.notes)


def test_one_seed_is_compared_by_the_tolerance(tuned: TunedBase, digits: Task) -> None:
    found = tune(digits, tuned.folder, seeds=(0,), tolerance="0.9", probes=False)
    assert set(found.ranking.order) == {"lr=0.1", "lr=0.2"}
    assert "single seed" in said(found.within)


def test_the_plan_counts_all_runs_before_any(digits: Task) -> None:
    found = plan_tuning(digits, SMALL, GRID, seeds=(0, 1, 2), epochs=2, updates=12)
    assert len(found.plan.runs) == 6
    assert (found.most_probe_runs, found.most_probe_updates) == (8, 2 * 4 * 12)
    assert said(found.said_of_probes())
    assert said(plan_tuning(digits, SMALL, GRID, probes=False).said_of_probes())
    assert found.full["lr=0.2"].epochs == 3 and found.study.base.epochs == 2
    assert found.full["lr=0.2"].source and not found.full["lr=0.1"].source  # which is the base


class Points:
    """A task of a user's own: which of two clouds a point belongs to."""

    name = "points"
    metric = Metric("loss", higher_is_better=False)

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(96, 2, generator=generator)
        self.y = (self.x.sum(1) > 0).long()

    def num_examples(self, batch_size: int) -> int:
        return 64

    def model(self) -> nn.Module:
        return nn.Linear(2, 2)

    def order(self, seed: int, epoch: int, batch_size: int) -> torch.Tensor:
        return torch.randperm(64, generator=torch.Generator().manual_seed(100 * seed + epoch))

    def batch(self, ids: torch.Tensor, device: torch.device) -> Any:
        return self.x[ids].to(device), self.y[ids].to(device)

    def loss(self, model: nn.Module, batch: Any, state: Any) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(model(x), y, reduction="sum"), len(y), None

    def evaluate(self, model: nn.Module) -> float:
        return float(nn.functional.cross_entropy(model(self.x[64:]), self.y[64:]))


class Line(Points):
    """Squared errors, which grow without end at a rate that is too high."""

    holdout = "validation"

    def loss(self, model: nn.Module, batch: Any, state: Any) -> Any:
        x, y = batch
        return ((model(x)[:, 0] - y) ** 2).sum(), len(y), None


STEEP = Recipe(batch_size=8, lr=0.1, epochs=2)


def test_a_point_that_diverges_is_no_contender(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = tune(Line(), out, base=STEEP, grid={"lr": (0.1, 1e10)}, epochs=None)
    assert found.ranking.order == ("lr=0.1",)
    assert [cell.diverged for cell in found.table.cells] == [0, 2]
    assert found.to_dict()["points"][1]["predictors"] is None
    said(found.said())
    assert not out.with_name("out-probes").exists()  # one contender has nothing to be ranked by


def test_all_points_diverge(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(DivergedError) as error:
        tune(Line(), out, base=STEEP, grid={"lr": (1e10, 1e11)}, epochs=None)
    said(str(error.value))
    assert len(records.find_runs(out)) == 4  # which are kept


def test_a_task_of_ones_own_whose_metric_is_a_loss(tmp_path: Path) -> None:
    base = Recipe(batch_size=8, lr=0.01, epochs=2, warmup_epochs=0.5)
    with pytest.warns(LegwWarning, match="does not say on which data") as seen:
        found = tune(Points(), tmp_path / "out", base=base, grid={"lr": (0.01, 0.5)}, epochs=None)
    said(str(seen[0].message))
    assert found.table.metric == "loss" and not found.table.higher_is_better
    assert found.predictors["lr=0.5"].gap is not None
    assert found.name == "lr=0.5"  # at the lower rate the loss has hardly begun to fall

    own = Points()
    own.holdout = "validation"  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("error", LegwWarning)
        assert tune(own, tmp_path / "out", base=base, grid={"lr": (0.01, 0.5)}, epochs=None)


def test_test_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LegwError) as error:
        tune(find("digits-lstm"), tmp_path / "out")
    said(str(error.value))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "given",
    [{"updates": 9}, {"tolerance": "0"}, {"grid": {}}, {"epochs": -1}],
    ids=["updates", "tolerance", "no-grid", "epochs"],
)
def test_what_cannot_be(digits: Task, tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(LegwError) as error:
        tune(digits, tmp_path / "out", **given)
    said(str(error.value))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_base_is_refused(tuned: TunedBase, digits: Task) -> None:
    with pytest.raises(LegwError) as error:
        tune(digits, tuned.folder, base=replace(SMALL, clip_norm=1.0))
    said(str(error.value))


def test_several_processes_are_refused(
    digits: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LegwError) as error:
        tune(digits, tmp_path / "out")
    said(str(error.value))


class Stopped(Observer):
    """Presses Ctrl-C in the third update of a run."""

    def on_update(self, row: Update) -> None:
        if row.update == 2:
            signal.raise_signal(signal.SIGINT)


def test_a_stopped_probe_goes_on(tuned: TunedBase, digits: Task, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(tuned.folder, out)
    with pytest.raises(KeyboardInterrupt, match="stopped after update"):
        tune(digits, out, watch=lambda folder, updates: [Stopped()])
    again = tune(digits, out)
    assert again.to_dict() | {"folder": ""} == tuned.to_dict() | {"folder": ""}


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    class Broken(Points):
        holdout = "validation"

        def batch(self, ids: torch.Tensor, device: torch.device) -> Any:
            raise LegwError("points: the data are gone; put them back")

    base = Recipe(batch_size=8, lr=0.01, epochs=2)
    with pytest.raises(LegwError) as error:
        tune(Broken(), tmp_path / "out", base=base, epochs=None)
    said(str(error.value))
