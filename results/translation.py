"""Print what docs/translation.md says beside its tables: beam search, and the base at one's loss.

    python results/translation.py results/translation

For each rule and batch, means over seeds after the last epoch: BLEU by the likeliest subword
and by beam search, the perplexity of a held-out subword, and the training loss of that epoch.
Then, for others than the base, how many epochs the base took to that training loss, and the
BLEU it had there.
"""

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from legw import records
from legw.records import Evaluation, Run


def ended(folder: Path) -> dict[tuple[str, int], list[Run]]:
    """Return the finished runs of a study by rule and batch, the base's first."""
    runs = defaultdict(list)
    for run in map(records.load, records.find_runs(folder / "runs")):
        if run.status == "finished":
            size, base = run.manifest.recipe.batch_size, run.manifest.base.batch_size
            runs["base" if size == base else run.manifest.rule, size].append(run)
    return dict(sorted(runs.items(), key=lambda each: each[0][1]))


def mean_of(runs: Sequence[Run], name: str) -> float:
    """Return the mean of one of the numbers that a run's summary has at its end."""
    return fmean(run.summary.metrics[name] for run in runs if run.summary is not None)


def at_loss(run: Run, loss: float) -> Evaluation | None:
    """Return the first evaluation of a run at which its training loss is as low."""
    return next((row for row in run.evaluations if row.loss and row.loss <= loss), None)


def main() -> None:
    """Print a line for each rule and batch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with runs")
    found = ended(parser.parse_args().study)
    base = next(runs for (rule, _), runs in found.items() if rule == "base")
    for (rule, size), runs in found.items():
        last = [run.evaluations[-1] for run in runs]
        loss = fmean(row.loss or 0.0 for row in last)
        bleu = fmean(row.metric or 0.0 for row in last)
        print(
            f"{rule} {size} (n = {len(runs)}): BLEU {bleu:.1f}, by beam search "
            f"{mean_of(runs, 'beam_bleu'):.1f}; perplexity "
            f"{mean_of(runs, 'subword_perplexity'):.2f}, training loss {loss:.2f}"
        )
        there = [row for run in base if (row := at_loss(run, loss))]
        if rule != "base" and there:
            print(
                f"  the base has that loss after {fmean(row.epoch for row in there):.1f} epochs, "
                f"and there BLEU {fmean(row.metric or 0.0 for row in there):.1f}"
            )


if __name__ == "__main__":
    main()
