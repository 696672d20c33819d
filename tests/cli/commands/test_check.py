"""`legw check` from the command line: evidence, verdicts, folders, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from folders import BASE, write_run
from legw import preset, scale
from legw.analysis import check, probed
from legw.analysis.probed import Probed
from legw.apps import find
from legw.errors import LegwError
from legw.probes import check_assumptions
from legw.recipe import to_dict
from legw.runs import measurements, records
from legw.runs.measurements import Curvature
from legw.train import Settings

QUICK = "--updates 30 --examples 32 --micro-batch-size 64 --device cpu"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.ci
def test_a_ladder_with_its_evidence(legw: Callable) -> None:
    words = f"check digits-lstm --batch-sizes 16,32 {QUICK} --fixed --json"
    found = legw(f"{words} --plot check.svg").json
    assert [one["assumption"] for one in found["assumptions"]] == [
        "rates", "curvature", "noise", "clipping",
    ]  # fmt: skip
    assert found["assumptions"][1]["answer"] == "cannot tell"  # two peaks alone
    assert found["verdict"] in ("cannot tell", "does not hold")
    assert {row["batch_size"] for row in found["rates"]} == {16, 32}
    assert all(row["measurements"] >= 30 for row in found["runs"])
    assert found["noise_scale"]["n"] > 5
    assert found["clipped_shares"] == {"16": 0.0, "32": 0.0}
    assert Path("check.svg").read_bytes().startswith(b"<svg")
    run = Path("runs/digits-lstm-check/legw-b32-s0")
    assert (run / "noise.jsonl").exists() and (run / "curvature.jsonl").exists()
    assert run.with_name("legw-b32-s0-x2").exists()
    before = (run / "metrics.jsonl").stat().st_mtime_ns
    answer = legw(words.replace(" --json", ""))  # finished runs are kept
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before
    assert answer.out.splitlines()[-1] == f"digits-lstm, legw: {found['verdict']}"
    assert "2 x rate" in answer.out
    assert "warmup: 0.83% at batch 16, 1.67% at batch 32 of the run" in answer.out
    assert "updates more)" in answer.out  # what is missing
    called = check_assumptions(  # the same, as a call, which finds the same runs
        find("digits-lstm"), preset("digits-lstm"), out="runs/digits-lstm-check",
        batch_sizes=(16, 32), updates=30, examples=32, fixed=True,
        settings=Settings(micro_batch_size=64, device="cpu"),
    )  # fmt: skip
    called = json.loads(json.dumps(called))
    for one in (*called["assumptions"], *found["assumptions"]):
        del one["why"]  # which names an option of the command, and an argument of the call
    assert called == found
    assert (run / "metrics.jsonl").stat().st_mtime_ns == before


@pytest.mark.ci
def test_a_clip_norm_below_every_gradient(legw: Callable) -> None:
    Path("clipped.toml").write_text(
        'batch_size = 16\nlr = 0.1\nepochs = 1\nclip_norm = 1e-6\noptimizer = "sgd"\n',
        encoding="utf-8",
    )
    words = f"check digits-lstm --recipe clipped.toml --batch-sizes 16,32 {QUICK} --json"
    found = legw(words).json
    assert found["clipped_shares"] == {"16": 1.0, "32": 1.0}
    assert found["assumptions"][-1]["answer"] == "holds"


def test_a_rate_that_is_far_too_high_does_not_hold(legw: Callable) -> None:
    Path("hot.toml").write_text(
        'batch_size = 16\nlr = 300\nepochs = 2\noptimizer = "sgd"\n', encoding="utf-8"
    )
    found = legw(f"check digits-lstm --recipe hot.toml --batch-sizes 16 {QUICK} --json").json
    assert found["verdict"] == "does not hold"
    assert found["rates"] == [{"batch_size": 16, "times": 1.0, "loss_rises": True}]


def made_up(curve: Callable[[int], float]) -> list[Probed]:
    """Return runs at three batch sizes whose curvature is a function of the update."""
    runs = []
    for size in (16, 32, 64):
        recipe = scale(BASE, batch_size=size)
        folder = write_run(Path(f"b{size}"), recipe=recipe)
        measurements.append(folder, [
            Curvature(update=i, epoch=i * size / 400, curvature=curve(i), negative=False, lr=0.1)
            for i in range(20)
        ])  # fmt: skip
        summary = records.read_summary(folder)
        assert summary is not None
        runs.append(Probed(recipe, 0, 400, folder, summary))
    return runs


@pytest.mark.parametrize(
    ("curve", "answer"),
    [(lambda i: 10.0 - (i - 9) ** 2 / 100, "holds"), (lambda i: 10.0 - i / 3, "cannot tell")],
    ids=["peak", "falls"],
)
def test_curvature_that_only_falls_cannot_tell(curve: Callable[[int], float], answer: str) -> None:
    """In both its highest value is at the same update for every batch."""
    runs = made_up(curve)
    risen = {run.recipe.batch_size: {1.0: False, 2.0: False} for run in runs}
    found = check.judged(BASE, runs, risen)
    assert found["peak_epoch_against_batch_size"]["exponent"] == pytest.approx(1.0)
    assert found["assumptions"][1]["answer"] == answer
    lines = probed.curvature_lines({"base": to_dict(BASE)} | found)
    early = "the curvature is highest in the first updates for batch 16 (seed 0), 32 (seed 0)"
    assert any(line.startswith(early) for line in lines) == (answer == "cannot tell")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("digits-lstm --updates 9", "legw: --updates=9: must be a whole number, at least 10"),
        (
            "digits-lstm --examples 0",
            "legw: curvature: examples=0: must be a whole number, at least 1",
        ),
        ("mine:task", "legw: mine:task: --recipe is missing; your own task needs a base recipe"),
    ],
)
def test_what_cannot_be(legw: Callable, words: str, says: str) -> None:
    answer = legw(f"check {words}")
    assert (answer.code, answer.err.strip()) == (2, says)


def test_a_call_refuses_what_the_command_does(monkeypatch: pytest.MonkeyPatch) -> None:
    task, base = find("digits-lstm"), preset("digits-lstm")
    with pytest.raises(LegwError, match=r"^check: updates=9: must be a whole number, at least 10$"):
        check_assumptions(task, base, out="runs", updates=9)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LegwError, match=r"^check: runs in one process; start it without"):
        check_assumptions(task, base, out="runs")
    assert not Path("runs").exists()


def test_several_processes_are_refused(legw: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert legw("check digits-lstm").code == 2


@pytest.mark.ci
def test_a_ladder_that_cannot_tell_is_extended(legw: Callable) -> None:
    """Runs are made longer and seeds are added, within five times the examples of the first."""
    Path("short.toml").write_text(
        "batch_size = 16\nlr = 0.1\nepochs = 1\nwarmup_epochs = 0.05\nnum_examples = 1438\n"
    )
    words = f"check digits-lstm --recipe short.toml --batch-sizes 16,32 {QUICK} --json"
    first = legw(f"{words} --fixed").json
    found = legw(words).json
    assert first["verdict"] == "cannot tell"
    assert all(one["missing"]["updates"] or one["missing"]["seeds"]
               for one in first["assumptions"] if one["answer"] == "cannot tell")  # fmt: skip
    cost = [sum(row["updates"] * row["batch_size"] for row in each["runs"])
            for each in (first, found)]  # fmt: skip
    assert cost[0] < cost[1] <= 5 * cost[0]
    assert len({row["seed"] for row in found["runs"]}) > 1
    seconds = {path.name for path in Path("runs/digits-lstm-check").glob("*-s1*")}
    assert not any("-x" in name for name in seconds)  # rates are tried with the first seeds
