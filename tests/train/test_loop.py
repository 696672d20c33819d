"""What `fit` does beside splitting and resuming: endings, records, precision, refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from legw import RunError, in_steps
from legw.apps import Options, find
from legw.presets import DIGITS_LSTM
from legw.runs import records
from legw.train import Observer, Settings, State, fit
from legw.train.batches import Batches
from legw.train.divergence import Divergence
from train.runs import recipe, train, weights
from train.tasks import Lines, Streams


class Poisoned(Lines):
    """A loss that is not a number from the 6th update on."""

    calls = 0

    def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
        total, weight, after = super().loss(model, batch, state)
        self.calls += 1
        return total * (math.nan if self.calls > 5 else 1.0), weight, after


# Endings -------------------------------------------------------------------------


def test_a_loss_that_is_no_number_is_a_result(tmp_path: Path) -> None:
    summary = fit(Poisoned(), recipe(epochs=5), out=tmp_path, settings=_plain())
    assert summary.status == "diverged"
    assert summary.reason == "the loss is not finite"
    assert summary.updates == 6
    assert summary.metric == {"name": "error", "value": None}
    run = records.load(tmp_path)
    assert [row.loss is None for row in run.updates] == [False] * 5 + [True]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_loss_far_above_its_lowest_is_lost() -> None:
    watch = Divergence()
    told = [watch.add(loss) for loss in [2.0] + [0.5] * 99 + [2.5] * 37]
    assert not any(told)
    assert watch.add(2.5) == (
        "the mean loss over 50 updates rose to 2.02, over 4 times its lowest (0.5)"
    )


def test_a_loss_that_is_merely_stuck_is_finished() -> None:
    watch = Divergence()
    assert not any(watch.add(2.3) for _ in range(500))


def test_a_loss_below_the_first_is_not_lost() -> None:
    """Four times a very low loss is still a good one."""
    watch = Divergence()
    assert not any(watch.add(loss) for loss in [2.0] + [0.01] * 100 + [1.9] * 100)


@pytest.mark.parametrize(
    "losses",
    [
        [-1.0, -1.1] * 50 + [-0.9] * 200,  # stuck, a little worse than at first
        [0.05] + [-0.1] * 60 + [0.1] * 200,  # about 0
        [5.0] + [-40.0] * 60 + [-10.0] * 200,  # good, and then less good
        [5.0] + [-40.0] * 60 + [30.0] * 200,
    ],
)
def test_losses_below_zero_are_not_lost_for_that(losses: list[float]) -> None:
    watch = Divergence()
    assert not any(watch.add(loss) for loss in losses)


def test_a_loss_that_rises_far_from_below_zero_is_lost() -> None:
    watch = Divergence()
    assert not any(watch.add(loss) for loss in [2.0] + [-1.0] * 60)
    told = [watch.add(20.0) for _ in range(50)]
    assert "the mean loss over 50 updates rose to 5.3, far above its lowest (-1) and the first" in (
        told
    )


# Records ---------------------------------------------------------------------------


def test_rates_are_the_schedule(tmp_path: Path) -> None:
    train("lines", tmp_path)
    manifest = records.read_manifest(tmp_path)
    lr = in_steps(manifest.recipe, manifest.num_examples)
    assert [row.lr for row in records.load(tmp_path).updates] == [lr(s) for s in range(20)]


def test_every_epoch_is_evaluated_and_the_end(tmp_path: Path) -> None:
    """200 examples at batch 64: epochs end within updates 3, 6, 9, 12, 15, 18; the run at 20."""
    train("lines", tmp_path)
    found = [row.update for row in records.load(tmp_path).evaluations]
    assert found == [4, 7, 10, 13, 16, 19, 20]


def test_final_loss_is_the_mean_of_the_last_epoch(tmp_path: Path) -> None:
    summary = train("lines", tmp_path)
    run = records.load(tmp_path)
    starts = [row.update * 64 for row in run.updates]
    last = [
        row.loss
        for row, start in zip(run.updates, starts, strict=True)
        if row.loss is not None and start >= 20 * 64 - 200
    ]
    assert summary.final_loss == pytest.approx(sum(last) / len(last), rel=1e-12)


def test_a_run_that_ends_early_has_the_loss_of_what_it_made_since(tmp_path: Path) -> None:
    """Stopped in the second epoch, and at its end: it is made of updates 4, 5 and 6."""
    for stop, made in ((6, slice(4, 6)), (7, slice(4, 7))):
        out = tmp_path / str(stop)
        summary = train("lines", out, updates=12, stop_after=stop)
        losses = [row.loss for row in records.load(out).updates]
        assert summary.status == "interrupted" and len(losses) == stop
        ends = [row.update for row in records.load(out).evaluations]
        assert ends[0] == 4
        assert summary.final_loss == pytest.approx(sum(losses[made]) / len(losses[made]))


def test_the_summary_says_what_scripts_rely_on(tmp_path: Path) -> None:
    train("lines", tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["updates"] == 20
    assert summary["metric"]["name"] == "error"
    assert isinstance(summary["metric"]["value"], float)
    assert summary["seconds"] > 0 and summary["final_loss"] > 0
    assert set(summary["costs"]) >= {"data", "compute", "communication", "peak_memory_bytes"}


def test_observers_see_everything_and_change_nothing(tmp_path: Path) -> None:
    class Nosy(Observer):
        def __init__(self) -> None:
            self.seen: list[str] = []

        def on_start(self, manifest: records.Manifest, updates_done: int) -> None:
            self.seen.append("start")

        def on_update(self, row: records.Update) -> None:
            self.seen.append("update")
            torch.rand(3)

        def on_evaluation(self, row: records.Evaluation) -> None:
            self.seen.append("evaluation")

        def on_end(self, summary: records.Summary) -> None:
            self.seen.append("end")

    nosy = Nosy()
    fit(Lines(), recipe(epochs=6.4), out=tmp_path / "a", observers=[nosy], settings=_plain())
    fit(Lines(), recipe(epochs=6.4), out=tmp_path / "b", settings=_plain())
    assert nosy.seen.count("update") == 20
    assert nosy.seen[0] == "start" and nosy.seen[-1] == "end"
    for name, tensor in weights(tmp_path / "a").items():
        assert torch.equal(tensor, weights(tmp_path / "b")[name])


def _plain() -> Settings:
    return Settings(device="cpu", micro_batch_size=64)


def test_every_example_of_an_epoch_is_used() -> None:
    task = Lines()
    batches = Batches(lambda epoch: task.order(0, epoch, 64), 200, 64)
    seen = torch.cat([batches.ids(update) for update in range(25)])
    assert torch.equal(seen.view(8, 200).sort().values, torch.arange(200).expand(8, 200))


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    task = Lines()
    batches = Batches(lambda epoch: task.order(0, epoch, 500), 200, 500)
    counts = torch.bincount(batches.ids(0), minlength=200)
    assert counts.sum() == 500 and counts.min() == 2 and counts.max() == 3
    assert batches.epochs(0).bincount().tolist() == [200, 200, 100]


def test_the_carried_state_begins_anew_each_epoch(tmp_path: Path) -> None:
    """The first window of every epoch comes without a state, all others with one."""
    given: list[bool] = []

    class Watched(Streams):
        def loss(self, model: nn.Module, batch: Any, state: State) -> tuple[Tensor, Any, State]:
            given.append(state is not None)
            return super().loss(model, batch, state)

    task = Watched()
    windows = task.num_examples(100) // 100
    fit(task, recipe(batch_size=100, epochs=2), out=tmp_path,
        settings=Settings(device="cpu", micro_batch_size=100))  # fmt: skip
    assert given == ([False] + [True] * (windows - 1)) * 2


# Precision -----------------------------------------------------------------------------


@pytest.mark.ci
def test_bf16_trains_to_the_same_quality(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    task = find("digits-lstm", Options())
    base = replace(DIGITS_LSTM, lr=0.05, epochs=8)
    reached = {}
    for precision in ("fp32", "bf16"):
        settings = Settings(device="cpu", micro_batch_size=16, precision=precision)  # type: ignore[arg-type]
        summary = fit(task, base, out=tmp_path / precision, settings=settings)
        reached[precision] = summary.metric["value"]
        assert all(w.dtype is torch.float32 for w in weights(tmp_path / precision).values())
    assert reached["bf16"] == pytest.approx(reached["fp32"], abs=0.04)
    assert reached["fp32"] > 0.9


# Refusals ------------------------------------------------------------------------------


def test_checkpoints_may_be_infinitely_far_apart() -> None:
    settings = Settings(checkpoint_epochs=math.inf, patience_seconds=math.inf)
    assert settings.checkpoint_epochs == settings.patience_seconds == math.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"micro_batch_size": 0}, "micro_batch_size=0: must be 'auto' or a number, at least 1"),
        ({"micro_batch_size": 1.5}, "micro_batch_size=1.5: must be 'auto' or a number"),
        ({"precision": "fp8"}, "precision='fp8': must be fp32 or bf16"),
        ({"checkpoint_epochs": 0}, "checkpoint_epochs=0: must be a number, above 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        Settings(**settings)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"device='gpu7': is not available here; try cpu"):
        train("lines", tmp_path, device="gpu7")


def test_a_micro_batch_that_cuts_a_group(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="micro_batch_size=4: is smaller than a batch-norm group"):
        train("normalised", tmp_path, micro_batch_size=4)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written: .*; choose another `out`"):
        train("lines", tmp_path / "file" / "run")


def test_an_order_of_the_wrong_length(tmp_path: Path) -> None:
    class Short(Lines):
        def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
            return torch.arange(10)

    with pytest.raises(RunError, match=r"order: epoch=0: returned shape \(10,\); num"):
        fit(Short(), recipe(), out=tmp_path, settings=_plain())


# What a task may have beside the protocol ------------------------------------------------


def test_a_task_may_leave_files_and_measure_at_the_end(tmp_path: Path) -> None:
    class Generous(Lines):
        def artifacts(self) -> dict[str, bytes]:
            return {"words.txt": b"a\nb\n"}

        def final_metrics(self, model: nn.Module) -> dict[str, float]:
            assert not model.training
            return {"bias": 3.5}

    summary = fit(Generous(), recipe(), out=tmp_path, settings=_plain())
    assert (tmp_path / "words.txt").read_bytes() == b"a\nb\n"
    assert summary.metrics == {"bias": 3.5}
    assert records.load(tmp_path).summary == summary
