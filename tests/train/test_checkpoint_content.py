"""A checkpoint whose content is not the run's is named and passed over, never put to work."""

from __future__ import annotations

import copy
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expect import error_line
from legw import LegwWarning, RunError
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Muon, Optimizer
from legw.runs import records
from legw.train import checkpoint
from train.runs import train, train_adascale, weights

Content = dict[str, Any]
Change = Callable[[Content], object]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(momentum=0.9), "adam": Adam(), "adamw": AdamW(), "lars": LARS(), "lamb": LAMB(),
    "muon": Muon(),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that copies a run of 30 updates, made once, with two checkpoints."""
    there: dict[str, Path] = {}

    def make(to: Path, task: str = "streams", kind: str = "sgd") -> Path:
        name = f"{task}-{kind}"
        if name not in there:
            there[name] = tmp_path_factory.mktemp(name)
            changes = {"optimizer": OPTIMIZERS[kind]}
            train(task, there[name], updates=30, checkpoint_epochs=1.0, changes=changes)
        shutil.copytree(there[name], to / "run")
        (to / "run" / "summary.json").unlink()
        return to / "run"

    return make


def resume(folder: Path, task: str = "streams", kind: str = "sgd") -> Any:
    changes = {"optimizer": OPTIMIZERS[kind]}
    return train(task, folder, updates=30, resume=True, changes=changes)


def change(path: Path, how: Change) -> None:
    """Change a checkpoint's content, and write it as whole as it was."""
    content = torch.load(path, weights_only=True)
    how(content)
    torch.save(content, path)


def put(*path: Any, value: Any) -> Change:
    """Return what puts a value at a place in the content."""

    def do(content: Any) -> None:
        *way, last = path
        for step in way:
            content = content[step]
        content[last] = value

    return do


def drop(*path: Any) -> Change:
    def do(content: Any) -> None:
        *way, last = path
        for step in way:
            content = content[step]
        del content[last]

    return do


def of_state(name: str, make: Callable[[torch.Tensor], Any]) -> Change:
    """Return what changes one tensor in the first parameter's state."""

    def do(content: Content) -> None:
        state = content["optimizer"]["state"][0]
        state[name] = make(state[name])

    return do


def is_passed_over(folder: Path, said: str, task: str = "streams", kind: str = "sgd") -> None:
    """See that the run goes on from the checkpoint before, to the same end."""
    newest = checkpoint.paths(folder)[-1].name
    with pytest.warns(LegwWarning) as caught:
        summary = resume(folder, task, kind)
    lines = [str(each.message) for each in caught]
    assert any(line.startswith(f"{newest}: is {said}") for line in lines), lines
    assert lines[0].endswith("; taking the one before")
    assert summary.status == "finished"
    assert [row.update for row in records.load(folder).updates] == list(range(30))


# The optimizer's state: kernels walk out of buffers of another shape ---------------------


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: torch.zeros(2, dtype=t.dtype), "of another model"),
        (lambda t: t.half(), "of another model"),
        (lambda t: t[..., :1].expand(t.shape).to_sparse(), "damaged"),
        (lambda t: "text", "damaged"),
    ],
    ids=["shape", "dtype", "layout", "text"],
)
def test_state_unlike_its_parameter(
    made: Callable[..., Path], tmp_path: Path, kind: str, make: Any, said: str
) -> None:
    folder = made(tmp_path, "lines", kind)
    (old,) = [name for name in ("momentum_buffer", "exp_avg") if name in first_state(folder)]
    change(checkpoint.paths(folder)[-1], of_state(old, make))
    is_passed_over(folder, said, "lines", kind)


def first_state(folder: Path) -> Content:
    content = torch.load(checkpoint.paths(folder)[-1], weights_only=True)
    found: Content = content["optimizer"]["state"][0]
    return found


@pytest.mark.parametrize("kind", ["adam", "lamb"])
@pytest.mark.parametrize(
    ("how", "said"),
    [
        (of_state("step", lambda _: torch.zeros(3)), "damaged"),
        (of_state("step", lambda _: torch.tensor(1e9)), "damaged"),
        (of_state("step", lambda _: torch.tensor(float("nan"))), "damaged"),
        (of_state("exp_avg_sq", lambda _: None), "of another model"),
        (drop("optimizer", "state", 0, "exp_avg"), "of another model"),
        (put("optimizer", "state", 0, "more", value=torch.zeros(1)), "of another model"),
        (put("optimizer", "state", 99, value={}), "of another model"),
        (put("optimizer", "state", value={}), "damaged"),
        (put("optimizer", "param_groups", 0, "betas", value=(0.5, 0.5)), "of another model"),
        (put("optimizer", "param_groups", 0, "params", value=[0]), "of another model"),
        (put("optimizer", "param_groups", value=[]), "of another model"),
    ],
)
def test_an_optimizer_that_is_not_the_runs(
    made: Callable[..., Path], tmp_path: Path, kind: str, how: Change, said: str
) -> None:
    folder = made(tmp_path, "lines", kind)
    change(checkpoint.paths(folder)[-1], how)
    is_passed_over(folder, said, "lines", kind)


# Everything else ---------------------------------------------------------------------------

MISSING = [drop(name) for name in ("position", "metrics_bytes", "last_metric", "model",
                                   "optimizer", "carried")]  # fmt: skip


@pytest.mark.parametrize("how", MISSING)
def test_a_part_that_is_missing(made: Callable[..., Path], tmp_path: Path, how: Change) -> None:
    folder = made(tmp_path)
    change(checkpoint.paths(folder)[-1], how)
    is_passed_over(folder, "damaged")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (put("position", "updates", value=10**6), "damaged (updates=1000000: its file's name"),
        (put("position", "updates", value="x"), "damaged (Expected `int`, got `str`"),
        (put("position", "updates", value=-1), "damaged"),
        (put("position", "seconds", value=float("nan")), "damaged"),
        (put("position", "divergence", value=[]), "damaged"),
        (put("position", "divergence", "recent", value=[1.0] * 99), "damaged"),
        (put("position", "last_epoch", "count", value=10**9), "damaged"),
        (put("metrics_bytes", value=-5), "damaged (metrics_bytes=-5: must be at least 0"),
        (put("metrics_bytes", value="all"), "damaged"),
        (put("last_metric", value=[1]), "damaged"),
        (put("costs", value={"compute": "much"}), "damaged"),
        (put("costs", value={"compute": -1.0}), "damaged"),
        (put("costs", value={"compute": float("inf")}), "damaged"),
        (put("costs", value={"compute": float("nan")}), "damaged"),
        (put("steering", value={"scale": 4.0}), "damaged"),
        (put("model", value=5), "damaged"),
        (put("model", "more", value=torch.zeros(1)), "of another model"),
        (drop("model", "decode.weight"), "of another model"),
        (put("model", "decode.bias", value=torch.zeros(12).double()), "of another model"),
        (put("carried", value=5), "damaged"),
        (put("carried", value=(torch.zeros(64, 1, 3),)), "of another model"),
    ],
)
def test_what_no_run_has_written(
    made: Callable[..., Path], tmp_path: Path, how: Change, said: str
) -> None:
    folder = made(tmp_path)
    change(checkpoint.paths(folder)[-1], how)
    is_passed_over(folder, said)


def test_a_position_past_the_runs_end(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made(tmp_path)
    newest = checkpoint.paths(folder)[-1]
    change(newest, put("position", "updates", value=10**6))
    newest.rename(folder / "checkpoint-001000000.pt")
    is_passed_over(folder, "damaged (updates=1000000: the whole run has 30)")


@pytest.mark.parametrize(
    "how",
    [
        put("steering", value=None), drop("steering", "gained"),
        put("steering", "gained", value=float("inf")), put("steering", "scale", value=1.0),
    ],
)  # fmt: skip
def test_steering_that_no_run_has_come_to(tmp_path: Path, how: Change) -> None:
    train_adascale(tmp_path, checkpoint_epochs=0.5)
    (tmp_path / "summary.json").unlink()
    newest = checkpoint.paths(tmp_path)[-1]
    change(newest, how)
    with pytest.warns(LegwWarning, match=rf"{newest.name}: is damaged \(steering"):
        assert train_adascale(tmp_path, resume=True).status == "finished"


def test_a_state_that_shares_its_memory_does_not_stay_shared(
    made: Callable[..., Path], tmp_path: Path
) -> None:
    """Two averages in one storage would be moved twice."""
    folder = made(tmp_path, "lines", "adam")

    def share(content: Content) -> None:
        state = content["optimizer"]["state"][0]
        state["exp_avg_sq"] = state["exp_avg"]

    change(checkpoint.paths(folder)[-1], share)
    content = checkpoint.load_newest(folder, print)
    assert content is not None
    assert resume(folder, "lines", "adam").status == "finished"


def test_what_is_whole_is_loaded_bit_for_bit(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made(tmp_path)
    before = copy.deepcopy(weights(folder))
    checkpoint.paths(folder)[-1].unlink()
    resume(folder)
    for name, tensor in weights(folder).items():
        assert torch.equal(before[name], tensor), name


def test_parts_that_are_packed_are_not_unpacked(made: Callable[..., Path], tmp_path: Path) -> None:
    """A few kilobytes could come to gigabytes."""
    folder = made(tmp_path)
    newest = checkpoint.paths(folder)[-1]
    with zipfile.ZipFile(newest) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(newest, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part + bytes(2**22))
    is_passed_over(folder, "damaged (its parts are larger than the file)")


def test_none_that_fits_is_one_line(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made(tmp_path)
    for path in checkpoint.paths(folder):
        change(path, drop("model", "decode.weight"))
    with pytest.warns(LegwWarning, match="is of another model"):
        line = error_line(resume, folder, kind=RunError)
    assert line == (
        f"{folder}: its checkpoint is of another model (has no decode.weight); "
        "go on with the model of its start, or choose another `out`"
    )


# What else lies in the folder -----------------------------------------------------------------


@pytest.mark.parametrize("left", [0, 0.5])
def test_rows_that_are_gone_are_told_of(
    made: Callable[..., Path], tmp_path: Path, left: float
) -> None:
    folder = made(tmp_path)
    path = folder / "metrics.jsonl"
    checkpoint.paths(folder)[-1].unlink()  # one of 22 updates is left
    content = path.read_bytes()
    keep = content[: int(left * len(content))]
    path.write_bytes(keep) if keep else path.unlink()
    rows = keep.count(b'"kind":"update"') - (0 if keep.endswith(b"\n") or not keep else 1)
    with pytest.warns(LegwWarning, match="the run goes on, its curve has a gap"):
        assert resume(folder).status == "finished"
    found = records.load(folder)
    assert not found.problems and b"\0" not in path.read_bytes()
    updates = [row.update for row in found.updates]
    kept = keep[: keep.rfind(b"\n") + 1].count(b'"kind":"update"')
    assert updates[:kept] == list(range(kept)) and rows >= 0
    first_new = updates[kept]
    assert first_new > kept and updates[kept:] == list(range(first_new, 30))


def test_what_killed_processes_left_is_cleared(made: Callable[..., Path], tmp_path: Path) -> None:
    folder = made(tmp_path)
    left = [".checkpoint-000000012.pt.4711", ".manifest.json.1", ".summary.json.99"]
    kept = [".checkpoint-000000012.pt", ".notes.2024", ".mine.json.7"]
    for name in left + kept:
        (folder / name).write_bytes(b"half")
    resume(folder)
    assert not [name for name in left if (folder / name).exists()]
    assert all((folder / name).exists() for name in kept)


@pytest.mark.parametrize("name", ["metrics.jsonl", ".lock", "manifest.json"])
def test_a_file_that_is_a_link_out_of_the_folder_is_not_touched(
    made: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    folder = made(tmp_path)
    outside = tmp_path / "outside"
    outside.write_bytes((folder / name).read_bytes() + b"precious\n")
    before = outside.read_bytes()
    (folder / name).unlink()
    (folder / name).symlink_to(outside)
    error_line(resume, folder, kind=RunError)
    assert outside.read_bytes() == before
