"""Write tables and pictures of docs/theory.md and its notebook from what lies in `results/theory`.

    python results/theory.py            # say whether they are current
    python results/theory.py --write    # bring them up to date
    python results/theory.py --collect runs/mnist-lstm-curvature results/theory/curvature/mnist-lstm

`--collect` copies what is small of probed runs: manifest, summary and measurements, and the result
of `legw probe critical`, of which `results/tables.py` makes its table. Below
`results/theory` lie `curvature/APP` and `noise/APP` with such runs, and in `seconds` what
`python -m benchmarks.nodes` writes. A table says what is missing.
"""

import json
import math
import re
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from names import STUDIES, UNTIMED

from legw.analysis import probed
from legw.analysis.measured_critical import RESULT
from legw.analysis.noise import examples_against
from legw.probes.noise import EVERY
from legw.report.charts import probes
from legw.report.charts.style import render
from legw.runs import measurements, records
from legw.runs.measurements import Curvature, Noise

HERE = Path(__file__).parent
FOLDER = HERE / "theory"
DOCS = HERE.parent / "docs"
PAGES = (DOCS / "theory.md", DOCS / "notebook" / "theory.md")
BLOCK = re.compile(r"(<!-- (curvature|noise|examples|seconds|epochs|speedup)(?: (\S+))? -->\n)"
                   r".*?(<!-- end -->)", re.DOTALL)  # fmt: skip
LSTMS = {"mnist-lstm": 8192, "ptb-small": 640, "ptb-large": 640, "gnmt-small": 1024}
"""The applications whose mean speedup is compared with the published one, and the largest batch
of each that counts."""
ENOUGH_UPDATES = 50
"""Fewest updates, over all rounds, whose seconds per update count."""
PUBLISHED = 5.3
STRETCHES = 8


def updated(page: Path) -> str:
    """Return a page's text with all its tables made anew; pictures lie in docs itself."""
    up = "../" * (len(page.relative_to(DOCS).parts) - 1)
    return BLOCK.sub(
        lambda match: match[1] + MAKERS[match[2]](match[3]).replace("](", f"]({up}") + match[4],
        page.read_text("utf-8"),
    )


def few_digits(value: float) -> str:
    """Return three significant digits, without an exponent.

    >>> few_digits(1218.4), few_digits(0.0981)
    ('1220', '0.0981')
    """
    short = f"{value:.3g}"
    return f"{float(short):.0f}" if "e+" in short else short


def curvature(name: str) -> str:
    """Return the peaks: a line a batch size, and the exponent below."""
    runs = probed.read(FOLDER / "curvature" / name)
    if not runs:
        return f"Not measured yet: {name}.\n\n"
    found = probed.curvature_result(records.read_manifest(runs[0].folder).base, runs)
    lines = ["| batch | lr | n | peak: update | peak: epoch | L there | 1/lr |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for size in sorted({row["batch_size"] for row in found["runs"]}):
        rows = [row for row in found["runs"] if row["batch_size"] == size and row["peak"]]
        tops = [row["peak"] for row in rows]
        lines.append(
            f"| {size} | {rows[0]['lr']:.3g} | {len(rows)} "
            f"| {_all(top['update'] for top in tops)} | {_all(top['epoch'] for top in tops)} "
            f"| {_all(top['curvature'] for top in tops)} | {1 / rows[0]['lr']:.3g} |"
        )
    asked = found["suggested_warmup"]
    said = "" if asked is None else (
        f" The base run's own L stays below 1/lr from update {asked['updates']:g} on, which is "
        f"a warmup of {asked['epochs']:.3g} epochs; the base recipe has {asked['base_epochs']:.3g}."
    )  # fmt: skip
    sentence = probed.exponent_line(found)
    picture = f"![Curvature along the gradient against epochs, {name}](curvature-{name}.svg)"
    text = f"{sentence[0].upper()}{sentence[1:]}.{said}{_cost(runs)}"
    return "\n".join([*lines, "", text, "", picture]) + "\n"


def _cost(runs: Sequence[probed.Probed]) -> str:
    """Return what a measurement takes, in gradients of the probe batch at the run's own speed."""
    found = []
    for run in runs:
        noted = run.folder / measurements.PROBES
        if noted.exists():
            examples = json.loads(noted.read_text("utf-8"))["CurvatureProbe"]["examples"]
            count = len(measurements.read(run.folder, Curvature))
            gradient = run.summary.seconds / run.summary.updates / run.recipe.batch_size * examples
            found.append(run.summary.costs["probes"] / count / gradient)
    if not found:
        return ""
    return (f" A measurement took {min(found):.2f} to {max(found):.2f} times a gradient of as many "
            f"examples (n = {len(found)} runs).")  # fmt: skip


def _all(values: Any) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def noise(name: str) -> str:
    """Return the noise scale over the run."""
    runs = probed.read(FOLDER / "noise" / name)
    if not runs:
        return f"Not measured yet: {name}.\n\n"
    found = probed.noise_result(records.read_manifest(runs[0].folder).base, runs, STRETCHES)
    lines = ["| epochs | noise scale | 95 % interval | samples |", "|---|---|---|---|"]
    parts = [*found["stretches"], found["noise_scale"]]
    for part in parts:
        label = f"{part['from_epoch']:.2g} to {part['to_epoch']:.2g}"
        low = "-" if part["low"] is None else _interval(part)
        lines.append(f"| {label} | {_scale(part['value'])} | {low} | {part['n']} |")
    late = found["late_noise_scale"]
    between = "" if late["low"] is None else f" ({_interval(late)})"
    text = (
        f"Batch {found['batch_size']}, n = {len(runs)}; the last line is the whole run. In its "
        f"last half, which is what `--noise DIR` reads: {_scale(late['value'])}{between}. "
        f"{_sampling(runs)}"
    )
    picture = f"![Noise scale against epochs, {name}](noise-{name}.svg)"
    return "\n".join([*lines, "", text, "", picture]) + "\n"


def _sampling(runs: Sequence[probed.Probed]) -> str:
    """Return the share of the time that sampling takes at the usual rate."""
    seconds = sum(run.summary.costs["probes"] for run in runs)
    each = seconds / sum(len(measurements.read(run.folder, Noise)) for run in runs)
    update = sum(r.summary.seconds for r in runs) / sum(r.summary.updates for r in runs)
    return f"One sample in {EVERY} updates takes {each / update / EVERY:.1%} of the time."


def _scale(value: float | None) -> str:
    return "lost in noise" if value is None else few_digits(value)


def _interval(part: dict[str, Any]) -> str:
    return f"{few_digits(part['low'])} to {few_digits(part['high'])}"


def examples(_: str | None) -> str:
    """Return the examples to a common target: as the noise scale predicts, and as measured."""
    lines = [
        "| application | batch | target | predicted, whole run | last half | measured | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, largest in LSTMS.items():
        rows = _to_target(name)
        for row in rows:
            lines.append(
                f"| {name} | {row.size} | {row.target:.4g} | {_predicted(name, row.size)} "
                f"| {'≥ ' * row.at_least}{row.factor:.3g}x | {row.count} |"
            )
        if not rows and _runs(name):
            lines.append(
                f"| {name} | {largest} | - | {_predicted(name, largest)} | not run yet | 0 |"
            )
    return "\n".join(lines) + "\n"


def _predicted(name: str, size: int) -> str:
    """Return the examples over the base's, as the scales of `_scales` predict them, and in
    brackets at the ends of their 95 % intervals.
    """
    return " | ".join(_factors(name, size, scale) for scale in _scales(name))


def _factors(name: str, size: int, scale: dict[str, Any] | None) -> str:
    if scale is None:
        return "not measured"
    if scale["value"] is None:
        return "lost in noise"
    base = _base_batch(name)
    value, most, least = (
        examples_against(size, base, at) if at != 0 else size / base  # its limit
        for at in (scale[each] for each in ("value", "low", "high"))
    )
    return f"{value:.3g}x" + ("" if least is None else f" ({least:.3g} to {most:.3g})")


def _scales(name: str) -> Sequence[dict[str, Any] | None]:
    """Return the noise scale of the whole run, and of its last half; None is not measured.

    Of runs at several batches the largest counts: it is the one that can tell.
    """
    folders = {batch: folder for folder, batch in _measured_at(name)}
    runs = probed.read(folders[max(folders)]) if folders else []
    if not runs:
        return None, None
    found = probed.noise_result(records.read_manifest(runs[0].folder).base, runs, 1)
    return found["noise_scale"], found["late_noise_scale"]


def _base_batch(name: str) -> int:
    return next(run.manifest.base.batch_size for run in _runs(name))


@cache
def _runs(name: str) -> list[records.Run]:
    """Return the finished runs under LEGW (and the base's) of an application's study."""
    return [
        run
        for run in map(records.load, records.find_runs(_place(name)))
        if run.status == "finished"
        and _is_legw(run.manifest)
        and any(row.metric is not None for row in run.evaluations)
    ]


def _place(name: str) -> Path:
    return HERE / STUDIES.get(name, name) / "runs"


def _is_legw(manifest: records.Manifest) -> bool:
    """Whether a run is the base's (which every rule leaves as it is), or LEGW's."""
    return manifest.rule == "legw" or manifest.recipe.batch_size == manifest.base.batch_size


def _is_base(run: records.Run) -> bool:
    return run.manifest.recipe.batch_size == run.manifest.base.batch_size


def _measured_at(name: str) -> list[tuple[Path, int]]:
    """Return the folders of an application's probed runs, NAME and NAME-BATCH, and their batch."""
    found = []
    for folder in (FOLDER / "noise").glob(f"{name}*"):
        if re.fullmatch(rf"{name}(-\d+)?", folder.name) and (runs := probed.read(folder)):
            found.append((folder, runs[0].recipe.batch_size))
    return found


@dataclass(frozen=True, kw_only=True)
class ToTarget:
    """What a larger batch takes to a metric that it and the base both reach."""

    size: int
    target: float
    """The best metric that each of the runs of both batches reaches."""
    factor: float
    """Examples over those of the base; medians over seeds."""
    at_least: bool
    """Whether it may be more: the base is there at its first evaluation, and when is not known."""
    as_good: int
    """Runs that reach the mean of the base's last metrics."""
    count: str
    """Runs of the base, and of this batch."""


def _to_target(name: str) -> list[ToTarget]:
    """Return a row for each batch but the base's."""
    runs = _runs(name)
    if not any(_is_base(run) for run in runs):
        return []
    base = runs[0].manifest.base.batch_size
    by_size: dict[int, list[records.Run]] = {}
    for run in runs:
        by_size.setdefault(run.manifest.recipe.batch_size, []).append(run)
    quality = statistics.fmean(_metrics(run)[-1] for run in by_size[base])
    found = []
    for size in sorted(by_size.keys() - {base}):
        target = _common([*by_size[base], *by_size[size]])
        own, other = (
            statistics.median(_examples(run, target) for run in by_size[each])
            for each in (base, size)
        )
        first = statistics.median(_examples(run, _metrics(run)[0]) for run in by_size[base])
        found.append(
            ToTarget(
                size=size,
                target=target,
                factor=other / own,
                at_least=own <= first,
                as_good=sum(_examples(run, quality) < math.inf for run in by_size[size]),
                count=f"{len(by_size[base])} + {len(by_size[size])}",
            )
        )
    return found


def _metrics(run: records.Run) -> list[float]:
    return [row.metric for row in run.evaluations if row.metric is not None]


def _common(runs: Sequence[records.Run]) -> float:
    higher = runs[0].manifest.higher_is_better
    best = [(max if higher else min)(_metrics(run)) for run in runs]
    return min(best) if higher else max(best)


def _examples(run: records.Run, target: float) -> float:
    sign = 1 if run.manifest.higher_is_better else -1
    for row in run.evaluations:
        if row.metric is not None and sign * row.metric >= sign * target:
            return row.update * run.manifest.recipe.batch_size
    return math.inf


def seconds(_: str | None) -> str:
    """Return what `legw plan` predicts for an update, beside what it takes."""
    tables = _tables()
    if not tables:
        return "Not measured yet.\n\n"
    lines = ["| application | where | batch | predicted s | measured s | updates | error |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    errors: dict[tuple[str, str], list[float]] = {}
    for found in tables:
        for row in found["rows"]:
            error = row["predicted"] / row["measured"] - 1
            errors.setdefault((found["app"], _where(found)), []).append(abs(error))
            lines.append(
                f"| {found['app']} | {_where(found)} | {row['batch_size']} "
                f"| {row['predicted']:.4g} | {row['measured']:.4g} "
                f"| {found['rounds']} x {row['updates']} | {error:+.0%} |"
            )
    said = "; ".join(
        f"{name} on {where} {statistics.median(each):.0%} (n = {len(each)})"
        for (name, where), each in errors.items()
    )
    return "\n".join(lines) + f"\n\nMedian error: {said}.\n"


def epochs(_: str | None) -> str:
    """Return the seconds of an epoch at each batch size, over those of the base's."""
    lines = ["| application | where | batch | updates | s an epoch | times as fast as the base |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for found in _tables():
        base = found["rows"][0]
        for row in found["rows"]:
            whole, own = (each["measured"] * each["epoch_updates"] for each in (base, row))
            lines.append(
                f"| {found['app']} | {_where(found)} | {row['batch_size']} "
                f"| {row['epoch_updates']} | {own:.3g} | {whole / own:.2f} |"
            )
    return "\n".join(lines) + "\n" if len(lines) > 2 else "Not measured yet.\n\n"


def _tables() -> list[dict[str, Any]]:
    """Return what `python -m benchmarks.nodes` wrote, the batches ascending from the base's."""
    return [json.loads(path.read_text("utf-8")) for path in sorted((FOLDER / "seconds").glob("*"))]


def _where(found: dict[str, Any]) -> str:
    if found["nodes"] > 1:
        return f"two nodes, {found['link']}"
    return "one GPU" if found["device"].startswith("cuda") else "one CPU process"


def speedup(_: str | None) -> str:
    """Return base batch against largest: updates to the target times seconds per update."""
    columns = ("one CPU process", "two nodes, 1gbit", "one GPU")
    lines = ["| application | batches | target | " + " | ".join(columns)
             + " | base's own quality |",
             "|---|---|---|" + "---|" * len(columns) + "---|"]  # fmt: skip
    ratios: dict[str, list[float]] = {column: [] for column in columns}
    timed = _timed()
    for name, largest in LSTMS.items():
        found = [row for row in _to_target(name) if row.size == largest]
        if not found:
            lines.append(f"| {name} | - | - |" + " - |" * len(columns) + " - |")
            continue
        row, base, cells = found[0], _base_batch(name), []
        for column in columns:
            one, other = (timed.get((name, column, each)) for each in (base, row.size))
            if one is None or other is None:
                cells.append("not measured")
                continue
            ratio = one / other * (row.size / base) / row.factor
            cells.append(f"{'≤ ' * row.at_least}{ratio:.2f}")
            if not row.at_least:
                ratios[column].append(ratio)
        quality = f"{row.as_good} of {row.count.split()[-1]} runs reach it"
        lines.append(
            f"| {name} | {base} → {row.size} | {row.target:.4g} | {' | '.join(cells)} | {quality} |"
        )
    means = [f"{statistics.fmean(each):.2f} ({len(each)} of {len(LSTMS)})" if each else "-"
             for each in ratios.values()]  # fmt: skip
    lines.append("| mean (n of 4) | | | " + " | ".join(means) + " | |")
    said = (
        f"Published, over four LSTM applications, without losing quality: {PUBLISHED}. A mean "
        "leaves out what is known as a bound alone (≤)."
    )
    return "\n".join(lines) + f"\n\n{said}\n"


def _timed() -> dict[tuple[str, str, int], float]:
    """Return seconds per update by application, place and batch size.

    They are those of the studies' own runs, median over seeds, unless measured apart.
    """
    times: dict[tuple[str, str, int], list[float]] = {}
    for name in sorted(LSTMS.keys() - UNTIMED):
        for folder in records.find_runs(_place(name)):
            manifest, summary = records.read_manifest(folder), records.read_summary(folder)
            if summary is None or manifest.world_size > 1 or not _is_legw(manifest):
                continue
            if summary.status == "finished" and summary.updates >= ENOUGH_UPDATES:
                place = _where({"nodes": 1, "device": manifest.device})
                key = (name, place, manifest.recipe.batch_size)
                times.setdefault(key, []).append(summary.seconds / summary.updates)
    found = {key: statistics.median(each) for key, each in times.items()}
    for data in _tables():
        for row in data["rows"]:
            if data["rounds"] * row["updates"] >= ENOUGH_UPDATES:
                found[data["app"], _where(data), row["batch_size"]] = row["measured"]
    return found


MAKERS = {
    "curvature": curvature, "noise": noise, "examples": examples, "seconds": seconds,
    "epochs": epochs, "speedup": speedup,
}  # fmt: skip


def draw() -> None:
    """Draw the curvature and noise of every application that was measured."""
    for kind, result, chart in (
        ("curvature", probed.curvature_result, probes.curvature_chart),
        ("noise", lambda base, runs: probed.noise_result(base, runs, STRETCHES),
         probes.noise_chart),
    ):  # fmt: skip
        for folder in sorted((FOLDER / kind).glob("*")):
            runs = probed.read(folder)
            if not runs:
                continue
            manifest = records.read_manifest(runs[0].folder)
            found = {"app": manifest.task, "rule": manifest.rule} | result(manifest.base, runs)
            picture = DOCS / f"{kind}-{folder.name}.svg"
            picture.write_bytes(render(chart(found), "svg"))


def collect(source: Path, place: Path) -> None:
    """Copy manifest, summary and measurements of all runs below a folder, and a result there."""
    branched = (source / RESULT).exists()
    for folder in records.find_runs(source):
        if branched and not folder.name.startswith("base-"):
            continue  # all that is said of a branch lies in the result
        into = place / folder.name
        into.mkdir(parents=True, exist_ok=True)
        for name in (
            "manifest.json", "summary.json", "curvature.jsonl", "noise.jsonl", measurements.PROBES,
        ):  # fmt: skip
            if (folder / name).exists():
                shutil.copyfile(folder / name, into / name)
    if branched:
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / RESULT, place / RESULT)


def main(words: list[str]) -> int:
    """Return 0 if both pages are current, or have been made so."""
    if words[:1] == ["--collect"]:
        collect(Path(words[1]), Path(words[2]))
        return 0
    stale = [page for page in PAGES if updated(page) != page.read_text("utf-8")]
    if "--write" in words:
        for page in stale:
            page.write_text(updated(page), "utf-8")
        draw()
        return 0
    for page in stale:
        print(f"{page}: a table is not current; python results/theory.py --write")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
