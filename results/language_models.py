"""Print what the notebook on language models says beside its tables: steps, and word counts.

    python results/language_models.py results/ptb-small-nesterov    # mean steps of its runs
    python results/language_models.py --words ../data/ptb           # unigram perplexity

A step is rate times the gradient's norm after clipping, the mean over the updates that a run
kept. The unigram perplexity is the test text's under the frequencies of the training text.
"""

import argparse
import math
from pathlib import Path
from statistics import fmean

import torch

from legw.apps.ptb.text import read_corpus
from legw.runs import records
from legw.runs.records import Run


def mean_step(run: Run) -> float:
    """Return the mean over a run's updates of rate times clipped norm."""
    limit = run.manifest.recipe.clip_norm or math.inf
    return fmean(row.lr * min(row.grad_norm or 0.0, limit) for row in run.updates)


def unigram_perplexity(folder: Path) -> float:
    """Return the test text's perplexity under nothing but the training text's frequencies."""
    corpus = read_corpus(folder)
    counts = torch.bincount(corpus.train.long(), minlength=len(corpus.vocabulary.words)).double()
    logs = (counts / counts.sum()).log()
    return math.exp(-logs[corpus.test.long()].mean().item())


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, nargs="?", help="folder with runs")
    parser.add_argument("--words", type=Path, help="folder with the texts")
    asked = parser.parse_args()
    if asked.words:
        print(f"unigram perplexity of the test text: {unigram_perplexity(asked.words):.1f}")
    if asked.study:
        for folder in records.find_runs(asked.study / "runs"):
            print(f"{folder.name}: mean step {mean_step(records.load(folder)):.3f}")


if __name__ == "__main__":
    main()
