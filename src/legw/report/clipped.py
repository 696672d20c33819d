"""Clipping note: names batches that are clipped far more rarely than their base."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from legw.analysis.clipping import clipped_share, on_base_alone
from legw.runs.records import Run
from legw.study.plan import BASE, Row


def notes(runs: Iterable[tuple[Row, Run]]) -> list[str]:
    """Return a line for each batch size and rule where clipping acts on the base alone."""
    shares: dict[tuple[str, int, str], list[float]] = {}
    for row, run in runs:
        share = clipped_share(run.manifest.recipe, run.updates)
        if share is not None:
            shares.setdefault((row.variant, row.batch_size, row.rule), []).append(share)
    means = {key: fmean(found) for key, found in shares.items()}
    bases = {variant: share for (variant, _, rule), share in means.items() if rule == BASE}
    return [
        f"Batch {size}, {' '.join(filter(None, (rule, variant)))}: {share:.0%} of the updates "
        f"are clipped, of the base's {bases[variant]:.0%}: steps grow by less than the rate"
        for (variant, size, rule), share in means.items()
        if variant in bases and on_base_alone(bases[variant], share)
    ]
