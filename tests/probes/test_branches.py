"""The critical batch by branching: its plan and cost, its runs, and a task with a known answer."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from analysis.test_critical import Quadratic
from expect import error_line
from legw import SGD, AdamW, Muon, Recipe
from legw.analysis import critical
from legw.analysis.noise_batch import Window, noise_batch
from legw.errors import LegwError, RunError
from legw.probes import measure_critical, plan_branches
from legw.probes.branch_plan import estimated_seconds, made_examples, streams
from legw.probes.branches import branch_recipe
from legw.probes.replay import REPLAY, replay
from legw.runs import records
from legw.train import Metric, Settings, fit
from legw.train.branch import KEPT
from train.tasks import Lines, Streams

SETTINGS = Settings(micro_batch_size=64, device="cpu")
BASE = Recipe(name="lines", batch_size=2, lr=0.01, epochs=8, optimizer=SGD(momentum=0.9))
"""800 updates of the 200 lines."""


class Point(nn.Module):
    """A point, the weights of a quadratic."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())

    def forward(self, z: Tensor, h: Tensor) -> Tensor:
        return len(z) * (1 + (h * self.x**2).sum() / 2) + (z @ self.x).sum()


class KnownTask:
    """The quadratic of a known critical batch, as a task."""

    name = "quadratic"
    metric = Metric("nothing", higher_is_better=False)

    def __init__(self, known: Quadratic, z: Any) -> None:
        self.z, self.h = torch.as_tensor(z), torch.as_tensor(known.h)

    def num_examples(self, batch_size: int) -> int:
        return len(self.z)

    def model(self) -> nn.Module:
        return Point(torch.full((6,), 2.0, dtype=torch.float64))

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        return torch.arange(len(self.z))

    def batch(self, ids: Tensor, device: torch.device) -> Any:
        return self.z[ids]

    def loss(self, model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any, Any]:
        return model(batch, self.h), len(batch), None

    def evaluate(self, model: nn.Module) -> float:
        return 0.0


@pytest.mark.parametrize("cooldown", [pytest.param(0.0, marks=pytest.mark.ci), 0.5])
def test_the_runs_of_a_task_are_those_of_the_known_quadratic(
    cooldown: float, tmp_path: Path
) -> None:
    """Each branch of `fit` has the losses of SGD written out, over the same examples."""
    known = Quadratic(window=256)
    z = numpy.random.default_rng(3).normal(size=(2560, 6)) * math.sqrt(known.c)
    base = Recipe(name="quadratic", batch_size=4, lr=0.03, epochs=1, optimizer=SGD(momentum=0.0))
    task = KnownTask(known, z)
    found = measure_critical(
        task, base, out=tmp_path, points=(0.4,), window=0.4, tolerance=0.5, budget=3,
        cooldown=cooldown, settings=SETTINGS,
    )  # fmt: skip
    (point,) = found["points"]
    assert (point["update"], found["plan"]["window"]) == (256, 256)
    x, whole = numpy.full(6, 2.0), []
    for update in range(576):
        mean = z[4 * update : 4 * update + 4].mean(0)
        whole.append(1 + (known.h * x * x).sum() / 2 + x @ mean)
        x -= 0.03 * (known.h * x + mean)
        if update == 255:
            from_here = x.copy()
    assert [one["k"] for one in point["branches"]] == [2, 4, 8]

    def branch(k: int) -> list[float]:
        x, losses, count = from_here.copy(), [], 256 // k
        for update in range(count):
            mean = z[1024 + 4 * k * update : 1024 + 4 * k * (update + 1)].mean(0)
            losses.append(1 + (known.h * x * x).sum() / 2 + x @ mean)
            share = min((update + 1) / 10, 1) if k > 1 else 1
            share *= min((count - update) / (cooldown * count), 1) if cooldown else 1
            x -= 0.03 * math.sqrt(k) * share * (known.h * x + mean)
        return losses

    compared = branch(1) if cooldown else whole[256:512]
    line = whole[320:576] if cooldown else []  # its middle is where a cooldown's second half begins
    ladder = [(k, branch(k)) for k in (2, 4, 8)]
    noise = noise_batch([Window(compared, ladder, cooldown, line)], 4, 10)
    found_low, found_value = (point["noise_batch"][name] for name in ("low", "value"))
    assert (found_low, found_value) == pytest.approx((noise.low, noise.value), rel=1e-6)
    level = numpy.mean(compared[128:])
    if cooldown:
        level = numpy.polynomial.Polynomial.fit(numpy.arange(64, 0, -1), compared[-64:], 1)(0)
    assert point["base_loss"] == pytest.approx(level, abs=1e-9)
    for one in point["branches"]:
        k = one["k"]
        wanted = critical.rung(k, 4 * k, [(compared, branch(k))], cooldown=cooldown)
        assert one["excess"] == pytest.approx(wanted.excess, abs=1e-9)
        assert one["half_width"] == pytest.approx(wanted.half_width, rel=1e-6)


@pytest.mark.ci
@pytest.mark.parametrize(
    "optimizer",
    [SGD(momentum=0.9), *(pytest.param(one, marks=pytest.mark.ci) for one in (AdamW(), Muon()))],
    ids=lambda o: o.kind,
)
def test_it_is_measured_with_every_kind_of_optimizer(optimizer: Any, tmp_path: Path) -> None:
    base = replace(BASE, optimizer=optimizer, ema_decay=0.99)
    found = measure_critical(
        Lines(),
        base,
        out=tmp_path,
        points=(0.2, 0.5),
        tolerance=0.9,
        settings=SETTINGS,
        seeds=(0, 3),
    )
    assert [point["update"] for point in found["points"]] == [160, 400]
    for point in found["points"]:
        assert [one["k"] for one in point["branches"]] == found["plan"]["ks"] == [2]
        assert all(math.isfinite(one["excess"]) for one in point["branches"])
        assert point["noise_scale"]["n"] == 2 * found["plan"]["window"]
        assert point["branches"][0]["seeds"] == 2


@pytest.mark.ci
def test_the_same_call_makes_nothing_again_and_a_stopped_one_goes_on(tmp_path: Path) -> None:
    def measured(out: Path, watch: Any = None) -> dict[str, Any]:
        more = {} if watch is None else {"watch": watch}
        return measure_critical(
            Lines(), BASE, out=out, points=(0.3,), tolerance=0.9, settings=SETTINGS, **more
        )

    def raising(folder: Path, updates: int | None) -> list[Any]:
        if folder.name.startswith("at"):
            raise KeyboardInterrupt
        return []

    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "a", raising)
    whole = measured(tmp_path / "b")
    assert measured(tmp_path / "a") == whole
    files = sorted((tmp_path / "a").rglob("metrics.jsonl"))
    times = [file.stat().st_mtime_ns for file in files]
    assert measured(tmp_path / "a") == whole
    assert [file.stat().st_mtime_ns for file in files] == times
    assert (tmp_path / "a" / "base-s0" / KEPT.format(240)).exists()


@pytest.mark.ci
def test_a_ladder_ends_where_the_tolerance_is_surely_passed(tmp_path: Path) -> None:
    found = measure_critical(
        Lines(), replace(BASE, lr=1e-4), out=tmp_path, points=(0.1,), window=0.5, tolerance=1e-4,
        settings=SETTINGS,
    )  # fmt: skip
    (point,) = found["points"]
    assert found["plan"]["ks"] == [2, 4, 8] and len(point["branches"]) < 3
    assert point["branches"][-1]["excess"] > 1e-4
    assert found["critical_batch"]["high"] is not None


@pytest.mark.ci
def test_streams_branch_at_the_ends_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every batch size reads the whole text in an epoch, each with its own number of updates."""
    task = Streams()
    base = Recipe(name="streams", batch_size=4, lr=0.01, epochs=10, optimizer=AdamW())
    assert streams(task, 4) and not streams(Lines(), 2)
    plan = plan_branches(task, base, points=(0.3,))
    each = task.num_examples(4) // 4
    assert plan.streams and plan.points == (3 * each,) and plan.window == each
    assert plan.ks == (2, 4)
    fitted: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "legw.probes.branches.noise_batch", lambda *a: fitted.append(a) or noise_batch(*a)
    )
    found = measure_critical(
        task, base, out=tmp_path, points=(0.3,), tolerance=0.9, settings=SETTINGS
    )
    for one in found["points"][0]["branches"]:
        wide = task.num_examples(one["batch_size"]) // one["batch_size"]
        rows = records.load(tmp_path / f"at{3 * each}-b{one['batch_size']}-s0").updates
        assert [row.update for row in rows] == list(range(3 * wide, 4 * wide))
        assert rows[-1].epoch == pytest.approx(4)
    ends = [mean_loss(task, tmp_path / f"at{3 * each}-b{size}-s0", 16) for size in (4, 8, 16)]
    assert found["points"][0]["base_loss"] == pytest.approx(ends[0], rel=1e-9)
    for one, end in zip(found["points"][0]["branches"], ends[1:], strict=True):
        assert one["excess"] == pytest.approx(end / ends[0] - 1, rel=1e-6)
    assert fitted == [([from_files(tmp_path)], 4, 10)]


def from_files(folder: Path) -> Window:
    """Return the window of a point of streams, as its runs and what was read lie in a folder."""
    base = [row.loss for row in records.load(folder / "base-s0").updates]
    point = 3 * (len(base) // 5)
    runs = [folder / f"at{point}-b{size}-s0" for size in (4, 8, 16)]
    one, *larger = [[row.loss for row in records.load(run).updates] for run in runs]
    ends = [json.loads((run / REPLAY).read_text())["losses"] for run in runs]
    return Window(one, list(zip((2, 4), larger, strict=True)), 0.5, base[point:], ends)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(Lines(), id="examples"),
        pytest.param(Streams(tokens=1200), marks=pytest.mark.ci, id="streams"),
    ],
)
def test_a_branch_of_the_bases_own_batch_that_diverges_is_one_line(
    task: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All others would be compared with nothing."""
    monkeypatch.chdir(tmp_path)
    true_loss, broken = task.loss, []

    def loss(model: nn.Module, batch: Any, state: Any) -> tuple[Tensor, Any, Any]:
        total, weight, after = true_loss(model, batch, state)
        return (total * math.inf if broken else total), weight, after

    def watch(folder: Path, updates: int | None) -> list[Any]:
        broken[:] = ["branch"] if folder.name.startswith("at") else []
        return []

    monkeypatch.setattr(task, "loss", loss)
    base = Recipe(name=task.name, batch_size=4, lr=0.01, epochs=6, optimizer=SGD(momentum=0.0))
    line = error_line(
        measure_critical, task, base, out="runs", points=(0.4,), window=0.35, budget=100.0,
        settings=SETTINGS, watch=watch, kind=LegwError,
    )  # fmt: skip
    assert line.endswith("s0: the branch of the base's own batch diverged; a branch needs a base "
                         "that trains")  # fmt: skip


def mean_loss(task: Streams, folder: Path, streams: int) -> float:
    """Return the loss of a run's last weights over the text, read in one pass of each stream."""
    model = task.model()
    newest = max(folder.glob("checkpoint-*.pt"))
    model.load_state_dict(torch.load(newest, weights_only=True)["model"])
    length = len(task.tokens) // streams
    windows = (length - 1) // task.window
    rows = task.tokens[: streams * length].view(streams, length)[:, : windows * task.window + 1]
    with torch.no_grad():
        logits, _ = model.eval()(rows[:, :-1], None)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    return float(loss) * task.window


def test_what_was_read_once_more_is_kept_with_its_number_of_streams(tmp_path: Path) -> None:
    task = Streams()
    base = Recipe(name="streams", batch_size=4, lr=0.1, epochs=1, optimizer=SGD(momentum=0.0))
    fit(task, base, out=tmp_path, seed=0, settings=SETTINGS)
    ask = partial(replay, task, base, tmp_path, updates=187, epoch=0, seed=0)
    settings = replace(SETTINGS, micro_batch_size=3)
    found = ask(batch_size=8, settings=settings)
    assert len(found) == task.num_examples(8) // 8
    assert statistics.fmean(found) == pytest.approx(mean_loss(task, tmp_path, 8), rel=1e-12)
    kept = tmp_path / REPLAY
    for content, read_again in ((kept.read_text(), False), ("{", True), ('{"losses": []}', True)):
        kept.write_text(content)
        before = kept.stat().st_mtime_ns
        assert ask(batch_size=8, settings=settings) == found
        assert (kept.stat().st_mtime_ns != before) == read_again
    assert len(ask(batch_size=4, settings=settings)) == task.num_examples(4) // 4
    newest = max(tmp_path.glob("checkpoint-*.pt"))  # the one before has other weights
    newest.write_bytes(newest.read_bytes()[:1000])
    line = error_line(ask, batch_size=8, settings=settings, kind=RunError)
    assert line.startswith(f"{newest}: is damaged (")
    newest.unlink()
    line = error_line(ask, batch_size=8, settings=settings, kind=RunError)
    assert line.startswith(f"{tmp_path}: has no checkpoint of update 187 any more")


class Forgetful(Streams):
    """Streams whose order goes by the batch size that was asked for last, with much dropout."""

    def model(self) -> nn.Module:
        made = super().model()
        made.embed = nn.Sequential(made.embed, nn.Dropout(0.5))
        return made

    def order(self, seed: int, epoch: int, batch_size: int) -> Tensor:
        count = (len(self.tokens) // self.batch_size - 1) // self.window * self.batch_size
        return torch.arange(count)


def test_what_was_read_once_more_has_no_dropout_and_the_streams_that_were_asked_for(
    tmp_path: Path,
) -> None:
    task = Forgetful()
    base = Recipe(name="streams", batch_size=4, lr=0.1, epochs=1, optimizer=SGD(momentum=0.0))
    fit(task, base, out=tmp_path, seed=0, settings=SETTINGS)
    task.num_examples(5)
    found = replay(task, base, tmp_path, updates=187, batch_size=8, epoch=0, seed=0,
                   settings=SETTINGS)  # fmt: skip
    expected = mean_loss(task, tmp_path, 8)
    assert statistics.fmean(found) == pytest.approx(expected, rel=1e-12)


# The plan ---------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [10.0, 12.0, 18.0, 20.0, 40.0])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_budget_is_never_exceeded(budget: float, seeds: tuple[int, ...]) -> None:
    if len(seeds) * 9.5 > budget:
        return
    plan = plan_branches(Lines(), BASE, window=0.3, budget=budget, seeds=seeds)
    assert plan.most_epochs <= budget
    assert plan.points[-1] + plan.window <= plan.updates
    for k in plan.ks:
        assert plan.window % k == 0 and all(point % k == 0 for point in plan.points)
        assert plan.window // k >= 30
    assert f"{plan.most_examples} examples" in plan.said()


def test_a_larger_budget_looks_further() -> None:
    small, large = (
        plan_branches(Lines(), BASE, window=0.4, budget=budget) for budget in (9.5, 40.0)
    )
    assert small.ks == (2,) and large.ks == (2, 4, 8) and small.window < large.window


def test_a_budget_below_the_ladder_of_streams_shortens_it() -> None:
    """Their window is an epoch at least; so the largest branches are left out."""
    base = Recipe(name="streams", batch_size=4, lr=0.1, epochs=10)
    points = (0.1, 0.3)
    for cooldown in (0.0, 0.5):  # a branch of the base's batch is made with either
        short = plan_branches(Streams(), base, points=points, budget=10.5, cooldown=cooldown)
        # 5 of the base, 2 points of 2 branches, each of which is read once more
        assert short.ks == (2,) and short.most_epochs == pytest.approx(5 + 4 * 4 / 3)
        whole = plan_branches(Streams(), base, points=points, budget=13.1, cooldown=cooldown)
        assert whole.ks == (2, 4) and whole.most_epochs == pytest.approx(5 + 6 * 4 / 3)


def test_streams_need_three_epochs_and_no_longer_window_moves_a_point() -> None:
    base = Recipe(name="streams", batch_size=4, lr=0.1, epochs=10)
    each = Streams().num_examples(4) // 4
    plan = plan_branches(
        Streams(), base, points=(0.1, 0.6, 0.8), window=0.5, budget=1000.0, cooldown=0.0
    )
    assert (plan.points, plan.window) == ((each, 6 * each, 8 * each), each)
    short = replace(base, epochs=2)
    line = error_line(plan_branches, Streams(), short, points=(0.5,), window=0.5, kind=LegwError)
    assert line.startswith("epochs=2: must be at least 3 for streams")


def test_what_can_be_no_plan() -> None:
    def refused(**more: Any) -> None:
        error_line(plan_branches, Lines(), BASE, kind=LegwError, **more)

    refused(points=())
    refused(points=(0.1, 1.0))
    refused(window=0.0)
    refused(budget=0.0)
    refused(budget=1.0)
    refused(window=0.01)
    refused(branch_warmup=-1)
    refused(cooldown=0.95)
    error_line(measure_critical, Lines(), BASE, out="none", rule="adascale", kind=LegwError)
    error_line(measure_critical, Lines(), BASE, out="none", tolerance=2.0, kind=LegwError)


def test_a_base_that_diverges_has_no_branches(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    wild = replace(BASE, lr=1e6)
    error_line(measure_critical, Lines(), wild, out="runs", settings=SETTINGS, kind=LegwError)


@pytest.mark.ci
def test_a_folder_with_a_longer_base_has_lost_other_points(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    measure_critical(Lines(), BASE, out="runs", points=(0.6,), settings=SETTINGS)
    error_line(
        measure_critical, Lines(), BASE, out="runs", points=(0.2,), settings=SETTINGS,
        kind=LegwError,
    )  # fmt: skip


def test_the_recipe_of_a_branch_keeps_the_bases_position() -> None:
    base = replace(BASE, warmup_epochs=0.5, optimizer=AdamW(), ema_decay=0.99)
    from legw import rules

    found = branch_recipe(base, 32, rules.find("legw"), 200)
    assert (found.lr, found.warmup_epochs, found.epochs) == (0.04, 0.5, 8)
    assert found.ema_decay is None and found.decay == base.decay


def test_the_time_is_that_of_all_examples() -> None:
    plan = plan_branches(Lines(), BASE)
    seconds = estimated_seconds(plan, Lines(), SETTINGS)
    assert 0 < seconds < 3600


def test_what_is_made_already_takes_no_time(tmp_path: Path, monkeypatch) -> None:
    """Other runs beside it are not its own, and a longer base run has no more of the plan."""
    monkeypatch.chdir(tmp_path)
    out, plan = Path("runs"), plan_branches(Lines(), BASE, points=(0.2,))
    assert made_examples(plan, out) == 0
    measure_critical(Lines(), BASE, out=out, points=(0.2,), settings=SETTINGS, tolerance=0.9)
    assert made_examples(plan, out) == plan.most_examples
    assert estimated_seconds(plan, Lines(), SETTINGS, made=plan.most_examples) == 0
    shutil.copytree(out / "base-s0", out / "other")
    assert made_examples(plan, out) == plan.most_examples
    early = plan_branches(Lines(), BASE, points=(0.1,))
    assert made_examples(early, out) == early.base_updates * BASE.batch_size
