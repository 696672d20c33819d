"""Run records: the files that a run writes, and their readers.

    DIR/manifest.json    what was run: recipe before and after, rule, seed, machine
    DIR/metrics.jsonl    one line an update, one line an evaluation
    DIR/summary.json     how it ended

Everything is plain JSON, so that any tool can read it. A value that is not a
finite number (the loss of a diverged run) is written as null. A last line that a killed run left
half-written is skipped and reported, and is never an error. A folder may come from anybody: see
`legw.runs.reading`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, get_type_hints

from legw import recipe as recipes
from legw.errors import LegwError, RunError, one_line, setting, shown
from legw.recipe import Recipe
from legw.runs import reading
from legw.runs.files import finite, write_json
from legw.runs.reading import at_least, typed

FORMAT = 1
"""Version of the folder's layout; a reader refuses what is newer."""

LAST_WEIGHTS = "_of_last_weights"
"""Behind the metric's name in a summary whose metric is that of averaged weights."""

HELD_OUT_LOSS = "held_out_loss"
"""Name among a summary's metrics of the loss on the held-out data, in the unit of the training
loss; a task measures it in `final_metrics`."""

Status = Literal["running", "finished", "diverged", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Manifest of a run: everything that is needed to run it again."""

    task: str
    """The application's or the user's task's name."""
    rule: str
    """Name of the rule that made `recipe` from `base`."""
    seed: int
    """Seed of the weights, the order of examples and the dropout draws."""
    base: Recipe
    """The recipe before scaling."""
    recipe: Recipe
    """The recipe that is trained."""
    num_examples: int
    """Examples in one epoch at the recipe's batch size."""
    updates: int
    """Optimizer updates of the whole run."""
    micro_batch_size: int
    """Most examples per forward and backward pass."""
    lanes: int = 1
    """Micro-batches that a process works on at once."""
    precision: str = "fp32"
    """fp32, or bf16 (autocast; weights and optimizer state stay fp32)."""
    world_size: int = 1
    """Number of processes."""
    device: str = "cpu"
    """Device type and, where it has one, its name."""
    metric: str = ""
    """Name of the metric that evaluations report."""
    higher_is_better: bool = True
    """Whether a larger metric is better."""
    data: str = ""
    """Fingerprint of the data."""
    environment: dict[str, str] = field(default_factory=dict)
    """Versions of Python, torch and legw, the machine, and the start's date."""
    notes: tuple[str, ...] = ()
    """Warnings about the recipe, and findings before the start."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further values of the run, such as the micro-batch table."""
    format: int = FORMAT
    """Version of the folder's layout."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """One optimizer update. `kind` in the file: "update"."""

    update: int
    """Number of the update, from 0."""
    epoch: float
    """Position at its end, in epochs."""
    loss: float | None
    """The global batch's loss: its sum over its weight."""
    lr: float
    """Learning rate it was made with."""
    grad_norm: float | None = None
    """Norm of the whole gradient before clipping."""
    examples_per_second: float | None = None
    """Examples over the time since the last update; on an accelerator a rough figure."""
    seconds: float = 0.0
    """Training time at its end, evaluations left out; restarts add up."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation, at the end of an epoch. `kind` in the file: "evaluation"."""

    update: int
    """Updates made so far."""
    epoch: float
    """Position in epochs."""
    metric: float | None
    """Value of the metric on the held-out data."""
    loss: float | None
    """Mean training loss since the last evaluation."""
    seconds: float = 0.0
    """Training time so far, evaluations left out."""


class Measured(TypedDict):
    """A run's metric."""

    name: NotRequired[str]
    """The metric's."""
    value: NotRequired[float | None]
    """After the last update; None unless finished."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Summary of a run's end."""

    status: Status
    """finished, diverged or interrupted."""
    final_loss: float | None
    """Mean training loss of the last epoch. Of a run that ended early: the mean since the last
    evaluation, or, if it ended at one, since the evaluation before."""
    metric: Measured
    """`name`, and `value` after the last update: null unless finished."""
    updates: int
    """Updates made."""
    seconds: float
    """Training time, evaluations left out."""
    examples: int = 0
    """Examples seen."""
    wall_seconds: float = 0.0
    """Time from start to end with evaluations, added up over restarts."""
    reason: str = ""
    """Reason of divergence or interruption, or the way in which a steering rule ended the run."""
    epochs: float | None = None
    """Passes over the data made."""
    metrics: dict[str, float | None] = field(default_factory=dict)
    """Further metrics at the end; empty unless finished. Where the metric is of averaged weights,
    `METRIC_of_last_weights` is the metric of the last ones."""
    costs: dict[str, float | None] = field(default_factory=dict)
    """Seconds of data, compute and communication; peak memory in bytes."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, read."""

    folder: Path
    manifest: Manifest
    updates: list[Update]
    evaluations: list[Evaluation]
    summary: Summary | None
    """Summary of the run's end; None during the run, or after it was killed."""
    problems: tuple[str, ...] = ()
    """Lines and files that could not be read, one line each."""

    @property
    def status(self) -> Status:
        """Status of the run; "running" also where it was killed."""
        return self.summary.status if self.summary else "running"


def load(folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: there is no manifest, it is damaged, or from a newer version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    updates: list[Update] = []
    evaluations: list[Evaluation] = []
    problems: list[str] = []
    for number, row in _rows(folder / "metrics.jsonl", problems):
        try:
            found = _record(row)
        except RunError as error:
            problems.append(f"metrics.jsonl line {number}: {error}")
            continue
        if isinstance(found, Update):
            updates.append(found)
        else:
            evaluations.append(found)
    return Run(
        folder=folder,
        manifest=manifest,
        updates=updates,
        evaluations=evaluations,
        summary=read_summary(folder),
        problems=_some(problems),
    )


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a run folder.

    Raises:
        RunError: there is none, it is damaged, or from a newer version.
    """
    folder = Path(folder)
    path = folder / "manifest.json"
    if not reading.there(path):
        raise RunError(f"{folder}: is not a run folder: manifest.json is missing")
    try:
        return _manifest(reading.json_object(path))
    except LegwError as error:
        raise RunError(f"{path}: {error}") from None


def read_summary(folder: str | Path) -> Summary | None:
    """Read the summary of a run; None while it has not ended.

    Raises:
        RunError: the file is damaged.
    """
    path = Path(folder) / "summary.json"
    if not reading.there(path):
        return None
    try:
        found = typed(Summary, reading.json_object(path))
        at_least(found, updates=0, seconds=0, examples=0, wall_seconds=0, epochs=0)
    except RunError as error:
        raise RunError(f"{path}: {error}") from None
    return found


def begun(folder: Path) -> bool:
    """Whether a folder has a manifest, possibly a damaged one."""
    return reading.there(folder / "manifest.json")


def find_runs(folder: str | Path) -> list[Path]:
    """Return the run folders at or below a folder, sorted by path."""
    return reading.find(Path(folder), "manifest.json")


def create(folder: str | Path) -> Path:
    """Make the folder of a run and check that it can be written.

    Raises:
        RunError: it cannot be made or written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written: {error.strerror}; choose another {setting('out')}"
        ) from None
    return folder


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json in one piece."""
    data = asdict(manifest)
    for name in ("base", "recipe"):
        data[name] = recipes.to_dict(getattr(manifest, name))
    write_json(folder / "manifest.json", data)


def write_summary(folder: Path, summary: Summary) -> None:
    """Write summary.json in one piece."""
    write_json(folder / "summary.json", asdict(summary))


class MetricsWriter:
    """Appends rows to metrics.jsonl, after the rows up to the checkpoint.

    `lacking` names, in one line, rows before the checkpoint that are missing; empty for none.

    Raises:
        RunError: the disk is full, the folder cannot be written, or there is something else
            of this name.
    """

    def __init__(self, folder: Path, keep_bytes: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        self.lacking = ""
        if reading.there(self.path):
            try:
                reading.check_plain(self.path)
            except RunError as error:
                raise RunError(f"{self.path}: {error}") from None
        try:
            self._file = self.path.open("ab")
            self._file.truncate(self._whole(keep_bytes))
        except OSError as error:
            raise self._fault(error) from None

    def _whole(self, keep_bytes: int) -> int:
        """Return the end of the last whole row within a number of bytes from the beginning."""
        if not keep_bytes:
            return 0
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            end = min(size, keep_bytes)
            while end:
                begin = max(end - reading.MAX_LINE_BYTES, 0)
                file.seek(begin)
                if (found := file.read(end - begin).rfind(b"\n")) >= 0:
                    end = begin + found + 1
                    break
                end = begin
        if end < keep_bytes:
            self.lacking = (
                f"{self.path}: {keep_bytes - end} of the {keep_bytes} bytes that the checkpoint "
                "vouches for are not there, and their rows with them; the run goes on, its curve "
                "has a gap"
            )
        return end

    def write(self, rows: Iterable[Update | Evaluation]) -> None:
        """Append rows; they reach the disk at the next `flush`."""
        lines = (json.dumps(finite(_row(row)), separators=(",", ":")) + "\n" for row in rows)
        try:
            self._file.write("".join(lines).encode())
        except OSError as error:
            raise self._fault(error) from None

    def flush(self, sync: bool = False) -> int:
        """Hand all rows to the system (and with `sync` to the disk); return the file's length."""
        try:
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise self._fault(error) from None

    def close(self) -> None:
        """Write what is left and close the file."""
        try:
            self._file.close()
        except OSError as error:
            raise self._fault(error) from None

    def _fault(self, error: OSError) -> RunError:
        return RunError(f"{self.path}: cannot be written: {error.strerror}")


# Rows ------------------------------------------------------------------------

MAX_PROBLEMS = 20
"""Most damaged lines of a file that are named one by one."""


def _row(row: Update | Evaluation) -> dict[str, Any]:
    return {"kind": "update" if isinstance(row, Update) else "evaluation", **vars(row)}


def _rows(path: Path, problems: list[str]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Yield the rows of a file of one JSON object a line, with the lines' numbers."""
    if not reading.there(path):
        return
    try:
        file = reading.open_plain(path, reading.MAX_METRICS_BYTES)
    except RunError as error:
        problems.append(f"{path.name}: {error}")
        return
    with file:
        for number, line in enumerate(reading.lines(file), start=1):
            try:
                row = reading.json_value(line)
            except RunError:
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(f"{path.name} line {number}: cannot be read, passed over")


def _some(problems: list[str]) -> tuple[str, ...]:
    """Return the first of many problems, and the number of others."""
    more = len(problems) - MAX_PROBLEMS
    return (*problems[:MAX_PROBLEMS], *([f"and {more} lines more"] if more > 0 else []))


def row_of_line(line: bytes) -> Update | Evaluation | None:
    """Return the row that a line of metrics.jsonl is; None where it is none."""
    try:
        row = reading.json_value(line)
        return _record(row) if isinstance(row, dict) else None
    except RunError:
        return None


def _record(row: dict[str, Any]) -> Update | Evaluation:
    """Return a row by its kind, types and ranges checked."""
    kind = row.pop("kind", None)
    if kind == "update":
        update = typed(Update, row)
        at_least(update, update=0, lr=0, seconds=0)
        if not update.epoch > 0:
            raise RunError(f"cannot be read: epoch={update.epoch}: must be above 0")
        return update
    if kind == "evaluation":
        evaluation = typed(Evaluation, row)
        at_least(evaluation, update=0, epoch=0, seconds=0)
        return evaluation
    raise RunError(f"unknown kind {shown(kind)}")


def _manifest(data: dict[str, Any]) -> Manifest:
    """Build a manifest; its recipes find their optimizer and decay by their kind."""
    version = data.get("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise RunError(f"format={shown(version)}: is from a newer legw; upgrade to read it")
    values: dict[str, Any] = {}
    for name, kind in get_type_hints(Manifest).items():
        if name not in data:
            continue
        try:
            values[name] = (
                recipes.from_dict(typed(dict[str, Any], data[name]))
                if kind is Recipe
                else typed(kind, data[name])
            )
        except RunError as error:
            said = str(error).removeprefix("cannot be read: ")
            raise RunError(f"cannot be read: {name}: {said}") from None
    try:
        found = Manifest(**values)
    except TypeError as error:
        raise RunError(f"cannot be read: {one_line(str(error))}") from None
    at_least(found, seed=0, num_examples=1, updates=0, micro_batch_size=1, lanes=1, world_size=1)
    return found
