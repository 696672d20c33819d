"""A run goes on with another number of processes, and a failure of one is told once by all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import distributed

from legw import LegwWarning
from legw.cli import main
from legw.recipe import to_toml
from legw.runs import records
from legw.train import checkpoint, dist
from train.launch import Rank, complete, free_port, start
from train.runs import assert_same_run, recipe, train

UPDATES = 60


def until(true: Callable[[], bool], ranks: list[Rank]) -> None:
    """Wait until something is true, as long as all processes live."""
    deadline = time.monotonic() + 100
    while not true():
        gone = [rank.text for rank in ranks if not rank.process.is_alive()]
        assert not gone and time.monotonic() < deadline, gone
        time.sleep(0.01)


def kill(ranks: list[Rank]) -> None:
    for rank in ranks:
        rank.process.kill()
    for rank in ranks:
        rank.process.join()


# Another number of processes -----------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs that nothing happens to, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("lines", "streams"):
        train(name, folder / name, updates=UPDATES)
    return folder


@pytest.mark.ci
@pytest.mark.parametrize(("before", "after"), [(2, 1), pytest.param(1, 2, marks=pytest.mark.ci)])
@pytest.mark.parametrize("name", ["lines", pytest.param("streams", marks=pytest.mark.ci)])
def test_a_killed_run_goes_on_with_another_number_of_processes(
    whole: Path, tmp_path: Path, name: str, before: int, after: int
) -> None:
    out, hurry = tmp_path / "run", tmp_path / "hurry"
    plan: dict[str, Any] = {
        "name": name, "out": out, "updates": UPDATES, "hurry": hurry, "resume": True,
        "checkpoint_seconds": 0.1,
    }  # fmt: skip
    ranks = start(before, train, logs=tmp_path / "before", **plan)
    until(lambda: len(checkpoint.paths(out)) == 2, ranks)
    kill(ranks)
    found = records.load(out)
    assert found.summary is None and found.manifest.world_size == before
    assert 0 < len(found.updates) < UPDATES
    hurry.touch()
    complete(after, train, logs=tmp_path / "after", **plan)
    assert records.read_manifest(out).world_size == after
    assert_same_run(out, whole / name)


# The command line ------------------------------------------------------------------


def legw(words: list[str], folder: Path, variables: dict[str, str]) -> int:
    """Be one process of `legw WORDS` in a folder."""
    os.chdir(folder)
    os.environ.update(variables)
    return main(words)


class Command:
    """`legw train APP` on two processes, in a folder of its own."""

    def __init__(self, folder: Path, app: str = "train.tasks:Lines") -> None:
        self.folder, self.app = folder, app
        examples = 704 if "streams" in app else 200
        small = recipe(epochs=UPDATES * 64 / examples)
        (folder / "small.toml").write_text(to_toml(small), encoding="utf-8")

    def start(
        self, *words: str, port: int | None = None, world_size: int = 2, **variables: str
    ) -> list[Rank]:
        always = ["train", self.app, "--recipe", "small.toml", "--micro-batch-size", "64"]
        if "--out" not in words:
            always += ["--out", "run"]
        variables = {"LEGW_TEST_HURRY": str(self.folder / "hurry")} | variables
        logs = self.folder / f"logs-{time.monotonic_ns()}"
        return start(
            world_size, legw, [*always, *words], self.folder, variables, logs=logs, port=port
        )

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def hurry(self) -> None:
        (self.folder / "hurry").touch()


def assert_told_once(ranks: list[Rank], line: str, by: int = 0, code: int = 2) -> None:
    """All processes ended with the code; one alone told why, in one line."""
    assert [rank.wait() for rank in ranks] == [code] * len(ranks)
    told = [[text for text in rank.lines if text.startswith("legw: ")] for rank in ranks]
    assert [len(lines) for lines in told] == [int(n == by) for n in range(len(ranks))], told
    assert line in told[by][0]
    assert not any(word in rank.text for rank in ranks for word in ("Traceback", "frame #"))


@contextlib.contextmanager
def kept_store() -> Iterator[int]:
    """Keep a store as torchrun's agent does, over all restarts; give its port."""
    port = free_port()
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", port, is_master=True, wait_for_workers=False
    )
    try:
        yield port
    finally:
        del store


def test_more_processes_than_examples(tmp_path: Path) -> None:
    ranks = Command(tmp_path).start("-b", "1")
    assert_told_once(
        ranks,
        "world_size=2: is larger than batch_size=1; start fewer processes or choose a larger batch",
    )
    assert not (tmp_path / "run").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ranks = Command(tmp_path).start("--out", "file/run")
    assert_told_once(ranks, "file/run: cannot be written: Not a directory; choose another --out")


@pytest.mark.ci
def test_a_folder_of_another_recipe(tmp_path: Path) -> None:
    command = Command(tmp_path)
    for rank in command.start():
        assert rank.wait() == 0, rank.text
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    ranks = command.start("--lr", "0.06", "--resume")
    assert_told_once(ranks, "run: holds a run of lr=0.05, not 0.06; choose another --out")
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_mistyped_option(tmp_path: Path) -> None:
    one, two = Command(tmp_path).start("--batch-sise", "64")
    assert (one.wait(), two.wait()) == (2, 2)
    assert "batch-sise" in one.text and two.text == ""


@pytest.mark.ci
def test_data_that_one_machine_lacks(tmp_path: Path) -> None:
    ranks = Command(tmp_path, "train.paced:lacking").start()
    assert_told_once(ranks, "lines: there are no data here; bring them")


@pytest.mark.ci
def test_data_that_one_machine_loses(tmp_path: Path) -> None:
    """It alone knows why, so it tells; the other has lost it, and says nothing."""
    ranks = Command(tmp_path, "train.paced:failing").start()
    assert_told_once(ranks, "lines: the data are gone; bring them back", by=1)


@pytest.mark.ci
def test_a_port_in_use(tmp_path: Path) -> None:
    """The first process cannot listen; the second finds nobody there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        one, two = Command(tmp_path).start("--patience-seconds", "2", port=port)
        assert (one.wait(), two.wait()) == (2, 2)
    here = f"legw: rendezvous at 127.0.0.1:{port}: "
    (line,) = one.lines
    assert line.startswith(here) and line.endswith("address already in use; is the port free?")
    told = [line for line in two.lines if line.startswith(here)]
    assert len(told) == 1 and told[0].endswith(
        "; are all processes started, and do they reach each other?"
    )


@pytest.mark.ci
@pytest.mark.parametrize("kept", [False, True])
def test_a_process_that_does_not_come(tmp_path: Path, kept: bool) -> None:
    command = Command(tmp_path)
    with kept_store() if kept else contextlib.nullcontext() as port:
        variables = {"WORLD_SIZE": "2", "TORCHELASTIC_USE_AGENT_STORE": str(kept)}
        (rank,) = command.start("--patience-seconds", "2", port=port, world_size=1, **variables)
        assert_told_once([rank], "are all processes started, and do they reach each other?")
    assert rank.lines[-1].startswith("legw: rendezvous")


def test_a_study_under_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = "legw: study: starts its own processes; leave torchrun to legw train\n"
    for rank, expected in (("0", told), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["study", "digits-lstm", "--batch-sizes", "32"]) == 2
        assert capsys.readouterr().err == expected


def test_restarts_over_several_hosts_with_one_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    dist._warn_of_shared_store()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.warns(LegwWarning, match="start it with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        dist._warn_of_shared_store()


# Processes that die, and processes that are asked to stop ---------------------------


def checkpoints(command: Command) -> Callable[[], bool]:
    return lambda: len(checkpoint.paths(command.out)) == 2


@pytest.mark.ci
@pytest.mark.parametrize("dies", [0, 1])
def test_a_process_that_dies(whole: Path, tmp_path: Path, dies: int) -> None:
    command = Command(tmp_path, "train.paced:streams")
    often = ["--resume", "--checkpoint-seconds", "0.1"]
    ranks = command.start(*often)
    until(checkpoints(command), ranks)
    ranks[dies].process.kill()
    survivor = 1 - dies
    assert_told_once(
        [ranks[survivor]],
        f"rank {survivor}: lost another process (",
    )
    assert (
        ranks[survivor]
        .lines[-1]
        .endswith("; the same command with --resume goes on from the last checkpoint")
    )
    assert checkpoint.paths(command.out)
    command.hurry()
    for rank in command.start(*often):
        assert rank.wait() == 0, rank.text
    assert_same_run(command.out, whole / "streams")


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        pytest.param(1, signal.SIGTERM, marks=pytest.mark.ci),
        pytest.param(0, signal.SIGTERM, marks=pytest.mark.ci),
        pytest.param(1, signal.SIGINT, marks=pytest.mark.ci),
    ],
)
def test_one_process_is_asked_to_stop(
    whole: Path, tmp_path: Path, asked: int, number: signal.Signals
) -> None:
    """All make the same update their last, and write a checkpoint."""
    command = Command(tmp_path, "train.paced:streams")
    ranks = command.start("--checkpoint-epochs", "1")
    until(lambda: bool(checkpoint.paths(command.out)), ranks)
    os.kill(ranks[asked].process.pid, number)
    assert_told_once(ranks, "run: stopped after update ", code=130)
    summary = records.read_summary(command.out)
    assert summary is not None and summary.status == "interrupted"
    assert checkpoint.paths(command.out)[-1].stem == f"checkpoint-{summary.updates:09d}"
    command.hurry()
    for rank in command.start("--resume"):
        assert rank.wait() == 0, rank.text
    assert_same_run(command.out, whole / "streams")


@pytest.mark.ci
def test_a_restart_meets_at_the_same_store(whole: Path, tmp_path: Path) -> None:
    """The addresses that dead processes left there mislead nobody."""
    command = Command(tmp_path, "train.paced:streams")
    often = ["--resume", "--checkpoint-seconds", "0.1"]
    by_agent = {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    with kept_store() as port:
        for rows in (10, 30):
            ranks = command.start(*often, port=port, **by_agent)
            until(lambda least=rows: _progress(command.out) >= least, ranks)
            kill(ranks)
        command.hurry()
        for rank in command.start(*often, port=port, **by_agent):
            assert rank.wait() == 0, rank.text
    assert_same_run(command.out, whole / "streams")


def _progress(out: Path) -> int:
    return len(records.load(out).updates) if (out / "manifest.json").exists() else 0


# torchrun itself -------------------------------------------------------------------


@pytest.mark.ci
def test_torchrun(tmp_path: Path) -> None:
    words = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "legw", "train", "digits-lstm", "-b", "64", "--epochs", "2", "--out", "run",
    ]  # fmt: skip
    done = subprocess.run(
        words,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(set(lines)), lines
    assert lines[-1].startswith("accuracy 0.") and lines[-1].endswith(" → run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    run = records.load(tmp_path / "run")
    assert run.manifest.world_size == 2
    assert run.summary is not None and run.summary.status == "finished"
