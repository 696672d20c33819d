"""Print what the notebook on translation says beside its table: beam search, and the base then.

    python results/translation.py results/translation

For each rule and batch, means over seeds after the last epoch: BLEU by the likeliest subword
and by beam search, the perplexity of a held-out subword, and the training loss of that epoch.
Then, for others than the base, how many epochs the base of the same seed took to that training
loss, and the BLEU it had there: the mean of that epoch, the one before and the one behind, for
a single one moves by a point. With

    python results/translation.py results/translation --beside RUN

another run, ended or not, is set beside those of its rule and batch, halfway and where it has
come to. With

    python results/translation.py results/translation --after 7,10,20,30

the training losses of all seeds stand side by side after these epochs, except the base's.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from legw.errors import LegwError
from legw.runs import records
from legw.runs.records import Run

Runs = dict[int, Run]
"""Runs by seed."""


def ended(folder: Path) -> dict[tuple[str, int], Runs]:
    """Return the finished runs of a study by rule and batch, the smallest batch first."""
    found: dict[tuple[str, int], Runs] = defaultdict(dict)
    for run in map(records.load, records.find_runs(folder / "runs")):
        if run.status == "finished":
            size, base = run.manifest.recipe.batch_size, run.manifest.base.batch_size
            rule = "base" if size == base else run.manifest.rule
            found[rule, size][run.manifest.seed] = run
    return dict(sorted(found.items(), key=lambda each: each[0][1]))


def at_the_end(runs: Sequence[Run]) -> str:
    """Return the means of what runs come to."""
    last = [run.evaluations[-1] for run in runs]
    names = ("beam_bleu", "subword_perplexity")
    beam, perplexity = (
        fmean(run.summary.metrics[name] for run in runs if run.summary) for name in names
    )
    return (
        f"BLEU {fmean(row.metric or 0.0 for row in last):.1f}, by beam search {beam:.1f}; "
        f"perplexity {perplexity:.2f}, training loss {fmean(row.loss or 0.0 for row in last):.2f}"
    )


def at_loss(run: Run, loss: float) -> tuple[float, float] | None:
    """Return the epoch at which a run's training loss was first as low, and the BLEU around it."""
    rows = run.evaluations
    at = next((at for at, row in enumerate(rows) if row.loss and row.loss <= loss), None)
    if at is None:
        return None
    return rows[at].epoch, fmean(row.metric or 0.0 for row in rows[max(at - 1, 0) : at + 2])


def compared(other: Run, runs: Runs, count: int) -> list[str]:
    """Return where a run was after `count` evaluations, beside others; BLEU of three epochs."""
    lines = [f"after epoch {other.evaluations[count - 1].epoch:.0f}:"]
    for name, run in [("this run", other), *((f"seed {at}", run) for at, run in runs.items())]:
        rows = run.evaluations[:count]
        bleu = fmean(row.metric or 0.0 for row in rows[-3:])
        lines.append(f"  {name}: training loss {rows[-1].loss or 0.0:.2f}, BLEU {bleu:.1f}")
    return lines


def set_beside(folder: Path, found: dict[tuple[str, int], Runs]) -> int:
    """Print a run beside those of its rule and batch."""
    try:
        other = records.load(folder)
    except LegwError as error:
        print(error, file=sys.stderr)
        return 2
    if not other.evaluations:
        print(f"{folder}: nothing has been evaluated yet", file=sys.stderr)
        return 2
    like = other.manifest.rule, other.manifest.recipe.batch_size
    runs, whole = dict(sorted(found.get(like, {}).items())), len(other.evaluations)
    for count in sorted({max(whole // 2, 1), whole}):
        print("\n".join(compared(other, runs, count)))
    return 0


def after(text: str, found: dict[tuple[str, int], Runs]) -> int:
    """Print the training losses after some epochs, of each rule and batch but the base's."""
    try:
        epochs = [int(part) for part in text.split(",")]
    except ValueError:
        print(f"--after={text}: must be epochs, for example 7,10,20", file=sys.stderr)
        return 2
    for epoch in epochs:
        print(f"after epoch {epoch}:")
        for (rule, size), runs in found.items():
            losses = [
                next((row.loss for row in run.evaluations if int(row.epoch) == epoch), None)
                for _, run in sorted(runs.items())
            ]
            if rule != "base":
                said = ", ".join("-" if loss is None else f"{loss:.2f}" for loss in losses)
                print(f"  {rule} {size}: training loss {said}")
    return 0


def main() -> int:
    """Print a line for each rule and batch; or of one run and those like it; or losses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with runs")
    parser.add_argument("--beside", type=Path, help="another run's folder")
    parser.add_argument("--after", help="epochs, as 7,10,20: training losses there")
    options = parser.parse_args()
    study, found = options.study, ended(options.study)
    if options.beside:
        return set_beside(options.beside, found)
    if options.after:
        return after(options.after, found)
    base = next((runs for (rule, _), runs in found.items() if rule == "base"), None)
    if base is None:
        print(f"{study}: no run of the base has finished", file=sys.stderr)
        return 2
    for (rule, size), runs in found.items():
        print(f"{rule} {size} (n = {len(runs)}): {at_the_end(list(runs.values()))}")
        if rule == "base":
            continue
        there = [
            place
            for seed, run in runs.items()
            if seed in base and (place := at_loss(base[seed], run.evaluations[-1].loss or 0.0))
        ]
        if there:
            epochs, bleu = (fmean(each) for each in zip(*there, strict=True))
            print(
                f"  the base has that loss after {epochs:.1f} epochs, and there BLEU {bleu:.1f} "
                f"(n = {len(there)})"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
