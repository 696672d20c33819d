"""Write the tables of README and docs from what lies beside this file.

    python results/tables.py            # say whether they are current
    python results/tables.py --write    # bring them up to date

A block between ``<!-- table NAME -->`` and ``<!-- end -->`` is the table of the
study in ``results/NAME``, with one true sentence below it and what it was made on.
``docs/NAME.svg`` is drawn with the table of a study that a page shows a picture of. The
block ``<!-- paper -->`` is the paper's comparison for its LSTM applications, with published
values beside ours, ``<!-- bases -->`` each application's bases side by side,
``<!-- growth -->`` a constant batch beside one that grows. The block ``<!-- predictors -->`` is
made by `predictors.py`, and ``<!-- critical -->``, ``<!-- branches -->``, ``<!-- foretold -->``,
``<!-- kept -->`` and ``<!-- kept by seed -->`` by `how_large.py`: a result of ``legw probe
critical`` in ``results/theory/critical/NAME`` has its rows, and ``docs/critical-NAME.svg`` is drawn
of it.
"""

import json
import re
import sys
from dataclasses import replace
from math import floor, inf, log10
from pathlib import Path
from statistics import fmean, median

import how_large
import predictors
from figures import figure, with_interval
from names import CARRYING, STUDIES, UNTIMED

from legw.analysis import evidence, stats, summary
from legw.analysis.columns import Column, Line
from legw.analysis.table import Cell
from legw.analysis.targets import first
from legw.analysis.trials import best_trials
from legw.report.charts import comparison, probes
from legw.report.charts.style import render
from legw.runs.records import Manifest, Run
from legw.study.plan import Row

HERE = Path(__file__).parent
PICTURES = ("digits-lstm-muon", "mnist-lstm")
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").rglob("*.md")))
PUBLISHED = {
    "mnist-lstm": None,
    "ptb-small": "115.91 perplexity, test",
    "ptb-large": "78.29 perplexity, test",
    "gnmt": None,
    "gnmt-small": "another model, on Multi30k",
}
"""What is published for the four applications of arXiv 1901.08256 at their base batch, where
we have read it: TensorFlow's PTB tutorial. None is a value that we have from memory only. The
small translation model stands in for the full one, which takes more than is at hand."""

IMAGENET = {
    512: "77.02 %, top-1",
    32768: "76.75 %, top-1, warmup of 14 epochs in place of 10",
}
"""What a public replication of ResNet-50 with LARS reports at the ends of the ladder."""

USUAL = {"gpt-small": "AdamW's"}
"""What a base is called that is in no form of the paper's."""

GROWING = {
    "MNIST-LSTM, Muon": ("mnist-lstm-muon", "0.001"),
    "MNIST-LSTM, momentum SGD": ("mnist-lstm", "0.001"),
    "MNIST-LSTM, momentum SGD, linear decay": ("mnist-lstm-polynomial", "0.001"),
    "MNIST-LSTM, momentum SGD, noise scale": ("mnist-lstm-noise", "0.001"),
    "MNIST-LSTM, Muon, noise scale": ("mnist-lstm-muon-noise", "0.001"),
    "PTB-small": ("ptb-small", "3%"),
}
"""Each comparison of a constant batch with one that grows: its study below
``results/batch-schedule``, and how much worse than the base counts as kept."""

UPDATE_SECONDS = 2e-3
"""Time of an update of a device that the table takes for an example, whatever the batch."""

EXAMPLES_PER_SECOND = 1e6
"""Throughput of that device beside it: a batch of 2,000 takes half of its time for each."""

BASE_OF = {folder: recipe for recipe, folder in STUDIES.items()}
"""The base recipe of a study whose folder has another name."""


def markdown(folder: Path) -> str:
    """Return a study's table as Markdown: mean and 95 % interval over seeds."""
    found = evidence.read(folder)[0]
    table = found.table
    lines = [
        f"| {' | '.join(each.title for each in COLUMNS)} |".replace("METRIC", table.metric),
        "|" + "---|" * len(COLUMNS),
        *(
            f"| {' | '.join(each.plain(Line(table, cell)) for each in COLUMNS)} |"
            for cell in sorted(table.cells, key=lambda cell: cell.batch_size)
        ),
        "",
        summary.sentence(table),
        _made_on(found),
    ]
    return "\n".join(lines) + "\n"


def _made_on(found: evidence.Evidence) -> str:
    """Return the devices and precisions of a study's runs, in one line."""
    places = dict.fromkeys(", ".join(_place(run.manifest)) for _, run in found.runs)
    return f"Made on {'; '.join(places)}."


COLUMNS = (
    Column("rule", lambda line: f"{line.cell.rule} {line.cell.variant}".strip()),
    Column("batch", lambda line: str(line.cell.batch_size)),
    Column("lr", lambda line: "-" if line.cell.lr is None else f"{line.cell.lr:.4g}"),
    Column("METRIC, last epoch", lambda line: figure(line.cell)),
    Column("n", lambda line: str(len(line.cell.metrics))),
    Column("diverged", lambda line: str(line.cell.diverged or "-")),
)
"""Of a study's table in README and docs."""


def paper() -> str:
    """Return the paper's table: base and largest batch under LEGW, for each application."""
    lines = [
        "| application | published | batch | rule | ours | n | updates | seconds | speedup |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, known in PUBLISHED.items():
        said = known or "not verified"
        folder = HERE / STUDIES.get(name, name)
        if not (folder / "table.json").exists():
            lines.append(f"| {name} | {said} | - | - | not run yet | 0 | - | - | - |")
            continue
        lines += _application(name, said, evidence.read(folder)[0])
    for batch, said in IMAGENET.items():
        rule = "base" if batch == min(IMAGENET) else "legw"
        ours = "recipe exact, not run here"
        lines.append(f"| resnet50-imagenet | {said} | {batch} | {rule} | {ours} | 0 | - | - | - |")
    lines += [
        "",
        "Ours: mean over seeds of the metric after the last epoch, ± half the 95 % interval. "
        "Seconds: training without evaluations, of the runs that were made on one device and in "
        "one precision at both batches (none where the code became faster between the runs); "
        "speedup: their ratio. Equal epochs at both batch sizes.",
    ]
    return "\n".join(lines) + "\n"


def _application(name: str, published: str, found: evidence.Evidence) -> list[str]:
    """Return an application's lines: its base, and the largest batch under LEGW."""
    ended = [(row, run.manifest) for row, run in found.runs if row.status == "finished"]
    base = [pair for pair in ended if pair[0].rule == "base"]
    ours = [pair for pair in ended if pair[0].rule == "legw"]
    largest = max((row.batch_size for row, _ in ours), default=0)
    ours = [pair for pair in ours if pair[0].batch_size == largest]
    alike = {_place(manifest) for _, manifest in base} & {_place(manifest) for _, manifest in ours}
    lines, seconds = [], {}
    for own in (base, ours):
        if not own:
            lines.append(f"| {name} | {published} | - | - | not finished yet | 0 | - | - | - |")
            continue
        first, metric = (
            own[0][0],
            stats.estimate([r.metric for r, _ in own if r.metric is not None]),
        )
        timed = [row.seconds or 0.0 for row, each in own if not alike or _place(each) in alike]
        seconds[first.rule] = fmean(timed)
        took, share = f"{seconds[first.rule]:.3g}", "-"
        if name in UNTIMED:
            took = "-"
        elif first.rule == "legw" and alike:
            share = f"{seconds['base'] / seconds['legw']:.2g}"
        lines.append(
            f"| {name} | {published if first.rule == 'base' else '-'} | {first.batch_size} "
            f"| {first.rule} | {with_interval(metric)} | {metric.n} | {first.updates} "
            f"| {took} | {share} |"
        )
    return lines


def bases() -> str:
    """Return a table: each application's bases, and what LEGW makes of them at a large batch."""
    lines = [
        "| application | base | at its batch | under LEGW at | verdict | updates (seconds) to the "
        "base's quality |",
        "|---|---|---|---|---|---|",
    ]
    waiting = []
    for application, (batch_size, tolerance, *names) in CARRYING.items():
        kinds = dict(zip(("carries", "paper's form"), names, strict=True))
        if not (HERE / kinds["carries"] / "table.json").exists():
            del kinds["carries"]
            waiting.append(application)
        for kind, name in kinds.items():
            cells = _carried(HERE / name, batch_size, tolerance)
            lines.append(f"| {application} | {USUAL.get(name, kind)}: `{name}` | {cells} |")
    if waiting:
        lines += ["", f"Not trained yet with a base that carries: {', '.join(waiting)}."]
    lines += [
        "",
        "Metric after the last epoch: mean over n seeds ± half its 95 % interval, test data, equal "
        "epochs; nothing is tuned at the larger batch. Verdict: Welch's 95 % interval of the "
        "difference against the tolerance in brackets. The base's quality is its mean less the "
        "tolerance; updates and seconds are medians over the runs, a dash: most did not get there.",
    ]
    return "\n".join(lines) + "\n"


def _carried(folder: Path, batch_size: int, tolerance: str) -> str:
    """Return base, large batch under LEGW, verdict and costs as cells of a table."""
    found = replace(evidence.read(folder)[0], tolerance=tolerance)
    table, base = found.table, found.table.base_of("")
    large = table.find("", "legw", batch_size)
    if base is None or large is None or not (base.metrics and large.metrics):
        return "not finished yet | - | - | -"
    figures = [
        f"{c.batch_size}: {_together(figure(c))} {_together(f'(n = {len(c.metrics)})')}"
        for c in (base, large)
    ]
    verdict = f"**{table.verdict(large)}** ({table.tolerance.of(table.metric)})"
    return " | ".join([*figures, verdict, _to_quality(found, base, large)])


def growth() -> str:
    """Return the table of batches that grow, beside the constant ones at base and target."""
    lines = [
        "| recipe | rule | batch | metric | verdict (tolerance) | updates | seconds there |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, (name, tolerance) in GROWING.items():
        found = replace(evidence.read(HERE / "batch-schedule" / name)[0], tolerance=tolerance)
        table = found.table
        cells = [cell for cell in table.cells if cell.metrics]
        for cell in sorted(cells, key=lambda cell: (cell.batch_size, -_updates(found, cell))):
            verdict = table.verdict(cell)
            allowed = table.tolerance.of(table.metric)
            said = "" if verdict is None else f"**{verdict}** ({allowed})"
            count = _updates(found, cell)
            seconds = count * UPDATE_SECONDS + _examples(found, cell) / EXAMPLES_PER_SECOND
            metric = f"{figure(cell)} (n = {len(cell.metrics)})"
            lines.append(
                f"| {title} | {cell.rule} | {cell.batch_size} | {metric} | {said} | {count:.0f} "
                f"| {seconds:.3g} |"
            )
    lines += [
        "",
        "Metric after the last epoch: mean over n seeds ± half its 95 % interval, test data, equal "
        "epochs; nothing is tuned at the larger batch. Batch: at the end of the run. Seconds: not "
        f"measured, but of an example of a device, {UPDATE_SECONDS:g} s an update and "
        f"{EXAMPLES_PER_SECOND:,.0f} examples a second.",
    ]
    return "\n".join(lines) + "\n"


def _updates(found: evidence.Evidence, cell: Cell) -> float:
    """Return the mean number of updates of a cell's runs."""
    return fmean(row.updates for row, _ in _runs_of(found, cell))


def _examples(found: evidence.Evidence, cell: Cell) -> float:
    """Return the mean number of examples that a cell's runs saw."""
    runs = [run for _, run in _runs_of(found, cell)]
    return fmean(float(run.summary.examples) for run in runs if run.summary is not None)


def _runs_of(found: evidence.Evidence, cell: Cell) -> list[tuple[Row, Run]]:
    own = (cell.rule, cell.batch_size)
    return [pair for pair in found.runs if (pair[0].rule, pair[0].batch_size) == own]


def _together(text: str) -> str:
    """Return a text that no line breaks."""
    return text.replace(" ", "\u00a0")


def costs() -> str:
    """Return README's table: each base, and what is lost at the largest batch under LEGW."""
    lines = [
        "| application | base recipe | base batch | largest batch, LEGW | verdict (tolerance) |",
        "|---|---|---|---|---|",
    ]
    for application, (batch_size, tolerance, *names) in CARRYING.items():
        for name in names:
            if not (HERE / name / "table.json").exists():
                continue
            found = replace(evidence.read(HERE / name)[0], tolerance=tolerance)
            table, base = found.table, found.table.base_of("")
            large = table.find("", "legw", batch_size)
            cells = "not finished yet | - | -"
            if base is not None and large is not None and base.metrics and large.metrics:
                own, ours = (f"{each.batch_size}: {_few_digits(each)}" for each in (base, large))
                allowed = table.tolerance.of(table.metric)
                cells = f"{own} | {ours} | **{table.verdict(large)}** ({allowed})"
            lines.append(f"| {application} | `{BASE_OF.get(name, name)}` | {cells} |")
    lines += [
        "",
        "Test metric of the last epoch, equal epochs: mean over n seeds ± half its 95 % interval. "
        "Nothing is tuned at the larger batch.",
    ]
    return "\n".join(lines) + "\n"


def _few_digits(cell: Cell) -> str:
    """Return a cell's metric, to the digit to which its interval tells it, and its n."""
    estimate = cell.estimate
    if estimate is None or not estimate.half_width:
        return f"{figure(cell)} (n = {len(cell.metrics)})"
    half = estimate.half_width
    digits = max(-floor(log10(half)), 0)
    if half * 10**digits < 1.5:  # 0.011, not 0.01
        digits += 1
    return f"{estimate.mean:.{digits}f} ± {half:.{digits}f} (n = {estimate.n})"


def _to_quality(found: evidence.Evidence, base: Cell, large: Cell) -> str:
    """Return the updates and seconds that both batches needed to the base's quality."""
    table, mean = found.table, fmean(base.metrics)
    allowed = table.tolerance.absolute(mean)
    target = mean - allowed if table.higher_is_better else mean + allowed
    small, big = (_median_cost(found, cell, target) for cell in (base, large))
    if big is None or small is None:
        return "-"
    said = f"{small[0]:.0f} → {big[0]:.0f}"
    return said if found.title in UNTIMED else f"{said} ({small[1]:.3g} → {big[1]:.3g} s)"


def _median_cost(found: evidence.Evidence, cell: Cell, target: float) -> tuple[float, float] | None:
    """Return median updates and seconds to a target over a cell's runs; None if it is not reached.

    A run that never came so far counts as an endless one.
    """
    costs = []
    for row, run in found.runs:
        if (row.rule, row.batch_size) == (cell.rule, cell.batch_size):
            there = first(run, target, higher_is_better=found.table.higher_is_better)
            costs.append((there.update, there.seconds) if there else (inf, inf))
    updates, seconds = (median(each) for each in zip(*costs, strict=True))
    return None if updates == inf else (updates, seconds)


def _place(manifest: Manifest) -> tuple[str, str]:
    return manifest.device, manifest.precision


MADE = {
    "paper": paper,
    "bases": bases,
    "costs": costs,
    "growth": growth,
    "predictors": predictors.tables,
    "critical": how_large.critical_batches,
    "branches": how_large.branches,
    "foretold": how_large.foreseen,
    "kept": how_large.kept,
    "kept by seed": how_large.kept_by_seed,
}
"""Each block's name, and what makes it."""

BLOCK = re.compile(rf"(<!-- (table \S+|{'|'.join(MADE)}) -->\n).*?(<!-- end -->)", re.DOTALL)


def updated(text: str) -> str:
    """Return a page's text with all its tables made anew."""
    return BLOCK.sub(lambda match: match[1] + _made(match[2]) + match[3], text)


def _made(name: str) -> str:
    return MADE[name]() if name in MADE else markdown(HERE / name.removeprefix("table "))


def draw(folder: Path, picture: Path) -> None:
    """Draw a study's metric against the batch size."""
    import vl_convert

    found = evidence.read(folder)[0]
    chart = comparison.metric_by_batch(best_trials(found.table), title=found.title)
    picture.write_text(vl_convert.vegalite_to_svg(chart), "utf-8")


def main(write: bool) -> int:
    """Return 0 if all pages are current, or have been made so."""
    stale = [page for page in PAGES if updated(page.read_text("utf-8")) != page.read_text("utf-8")]
    for page in stale:
        if write:
            page.write_text(updated(page.read_text("utf-8")), "utf-8")
        else:
            print(f"{page}: a table is not current; python results/tables.py --write")
    if write:
        for name in PICTURES:
            draw(HERE / name, HERE.parent / "docs" / f"{name}.svg")
        for place in how_large.measured():
            found = json.loads(place.read_text("utf-8"))
            picture = HERE.parent / "docs" / f"critical-{place.parent.name}.svg"
            picture.write_bytes(render(probes.critical_chart(found), "svg"))
    return 0 if write or not stale else 1


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
