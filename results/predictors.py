"""List the bases that were carried, and correlate what is measured at a base with what it loses.

    python results/predictors.py            # say whether results/predictors/bases.json is current
    python results/predictors.py --write    # bring it up to date

`tables.py` writes the tables of docs/bases.md with `tables` from here.
"""

import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from carried import Base, bases
from rank_correlation import Correlation, correlate

from legw.analysis.check import FAST
from legw.runs import files

LISTED = Path(__file__).parent / "predictors" / "bases.json"


@dataclass(frozen=True)
class Predictor:
    """One predictor, as the tables show it."""

    title: str
    expected: int
    """1: the more of it, the more loss was expected; -1: the less."""
    everywhere: bool = True
    """Whether its values of two optimizers or applications can be compared."""


PREDICTORS = {
    "slower": Predictor(
        f"loss of a short run at {FAST:g} times the rate, over that at the rate", 1
    ),
    "fast_loss": Predictor(f"loss of a short run at {FAST:g} times the rate", 1),
    "early_loss": Predictor("training loss of the run's first tenth", 1),
    "headroom": Predictor("headroom of the rate", -1),
    "clipped_share": Predictor("share of clipped updates", 1),
    "gap": Predictor("gap: held-out less training loss", 1),
    "train_loss": Predictor("training loss of the last epoch", -1),
    "early_noise_scale": Predictor("noise scale of the first 200 updates", -1),
    "noise_scale": Predictor("noise scale of the whole run", -1),
    "warmup_share": Predictor("control: warmup's share of the large batch's run", 1),
    "lr": Predictor("control: the rate itself", 1, everywhere=False),
    "mean_lr": Predictor("control: mean rate of the large batch's run", -1, everywhere=False),
    "base_metric": Predictor("control: the base's own metric", -1, everywhere=False),
}
"""All that is tried, and what was expected of it."""

FAMILIES = {"sgd": "momentum SGD", "adamw": "AdamW", "muon": "Muon"}
"""Of the digits' bases."""

RULES: dict[str, Callable[[Base], Any]] = {
    "rule: the largest rate": lambda base: -_number(base.predictors["lr"]),
    "rule: the best metric": lambda base: (
        -base.base_metric if base.higher_is_better else base.base_metric
    ),
    "rule: the smallest rate": lambda base: base.predictors["lr"],
    "rule: the largest headroom, then the smallest rate": lambda base: (
        -_number(base.predictors["headroom"]),
        base.predictors["lr"],
    ),
}
"""Rules that choose without what was learned here; the base for which it is least is chosen."""

SEEN = 12
"""Digits' bases, of the first, that had been seen when some of the predictors were thought of."""

LEVEL = 0.05
"""Chance of one false "predicts" in the whole table: each predictor has an equal part of it."""

Value = Callable[[Base], float | None]
Group = Callable[[Base], object]


def _loss_of(base: Base) -> float:
    return base.loss


def _quality_lost(base: Base) -> float:
    """Return the metric at the large batch, turned so that more is worse."""
    return -base.large_metric if base.higher_is_better else base.large_metric


def _family(base: Base) -> object:
    return base.application, base.optimizer


def _application(base: Base) -> object:
    return base.application


def _everything(base: Base) -> object:
    return None


def _half(which: int) -> Value:
    return lambda base: None if base.halves is None else base.halves[which]


def correlation(
    predictor: str | Value,
    group: Group,
    *,
    of: Value = _loss_of,
    among: Callable[[Base], bool] = lambda base: True,
) -> Correlation | None:
    """Return a predictor's correlation with the loss within groups of bases.

    Args:
        predictor: its name, or a value of a base; bases of which it is not known are left out.
        group: of a base; bases are compared within groups alone.
        of: what is predicted; the loss at the large batch if not given.
        among: whether a base is one of those that are looked at; all if not given.
    """
    groups: dict[object, list[tuple[float, float]]] = {}
    for base in filter(among, bases()):
        known = base.predictors.get(predictor) if isinstance(predictor, str) else predictor(base)
        target = of(base)
        if known is not None and target is not None:
            groups.setdefault(group(base), []).append((known, target))
    return correlate(list(groups.values()))


def _of_digits_family(kind: str) -> Callable[[Base], bool]:
    return lambda base: _family(base) == ("digits", kind)


def _of_digits() -> list[Base]:
    return [base for base in bases() if base.application == "digits"]


def _is_later(base: Base) -> bool:
    """Whether a digits' base was trained after the predictors had been thought of."""
    return base in _of_digits()[SEEN:]


def _has_its_familys_rate(base: Base) -> bool:
    """Whether a digits' base has the rate of its family's first one."""
    firsts = {each.optimizer: each.predictors["lr"] for each in reversed(_of_digits())}
    return base in _of_digits() and base.predictors["lr"] == firsts[base.optimizer]


def _is_near(base: Base) -> bool:
    """Whether seeds cannot tell a digits' base from the best of its family."""
    own = [each for each in _of_digits() if each.optimizer == base.optimizer]
    return base in own and base in near_best(own)


@cache
def tables() -> str:
    """Return the tables of docs/bases.md."""
    return "\n".join([_correlations(), _subsets(), _choices()])


def _correlations() -> str:
    """Return the correlation of each predictor with the loss, a line each."""
    heads = ["measured at the base", *(f"digits, {title}" for title in FAMILIES.values()),
             "within families", "within applications", "over all", "verdict"]  # fmt: skip
    lines = _head(heads)
    for name, each in PREDICTORS.items():
        within = correlation(name, _family)
        found = [correlation(name, _family, among=_of_digits_family(kind)) for kind in FAMILIES]
        found += [within] + [
            correlation(name, group) if each.everywhere else None
            for group in (_application, _everything)
        ]
        said = verdict(within, correlation(name, _family, among=_is_later), each.expected)
        lines.append(_row([each.title, *map(_cell, found), said]))
    told = correlation(_half(0), _family, of=_half(1))
    lines += [
        "",
        "Spearman's rank correlation with the loss of quality at the large batch, as a share of "
        "the base's metric; p of a permutation test; n bases. Above 0: the more of it, the more is "
        "lost. Within families and applications the bases of all are pooled, each ranked among its "
        "own; a rate or a metric of two of them cannot be compared. Verdict, of the column within "
        f"families: a hint has p below {LEVEL:g}; what predicts has p below {LEVEL:g} / "
        f"{len(PREDICTORS)}, and below {LEVEL:g} on the later bases of the next table too. Two "
        f"halves of the seeds order the digits' losses alike to {_cell(told)}.",
    ]
    return "\n".join(lines) + "\n"


SUBSETS: dict[str, tuple[Callable[[Base], bool], Value]] = {
    f"digits' bases after the first {SEEN}": (_is_later, _loss_of),
    "those near the best": (_is_near, _loss_of),
    "those with the first one's rate": (_has_its_familys_rate, _loss_of),
    "all bases, with the metric at the large batch": (lambda base: True, _quality_lost),
}
"""Columns of the second table: the bases that are looked at, and what is predicted."""


def _subsets() -> str:
    """Return the correlations within families, of fewer bases or with the metric itself."""
    lines = _head(["within families", *SUBSETS])
    for name, each in PREDICTORS.items():
        found = [correlation(name, _family, among=among, of=of) for among, of in SUBSETS.values()]
        lines.append(_row([each.title, *map(_cell, found)]))
    lines += [
        "",
        f"The training loss of the first tenth and the mean rate were thought of when {SEEN} "
        "bases had been seen. A short run has 200 updates. Near the best: seeds cannot tell their "
        "accuracy at the base batch from the best of their family. The metric is turned so that "
        "more is worse.",
    ]
    return "\n".join(lines) + "\n"


def _choices() -> str:
    """Return what each predictor would choose among the digits' bases near the best one."""
    near = {kind: near_best(list(filter(_of_digits_family(kind), bases()))) for kind in FAMILIES}
    rows = {"(the best of them)": [max(_large(near[kind])) for kind in FAMILIES]}
    rows |= {
        each.title: [chosen(name, near[kind], kind) for kind in FAMILIES]
        for name, each in PREDICTORS.items()
        if name not in {"lr", "base_metric"}  # rules of their own
    }
    rows |= {
        title: [_mean_large_of_least(near[kind], rule) for kind in FAMILIES]
        for title, rule in RULES.items()
    }
    rows["(any of them, on average)"] = [statistics.fmean(_large(near[kind])) for kind in FAMILIES]
    heads = [f"{title} (of {len(near[kind])})" for kind, title in FAMILIES.items()]
    lines = _head(["chosen by", *heads, "mean"])
    for title, found in rows.items():
        known = [each for each in found if each is not None]
        mean = f"{statistics.fmean(known):.4f}" if len(known) == len(FAMILIES) else "-"
        cells = ["-" if each is None else f"{each:.4f}" for each in found]
        lines.append(_row([title, *cells, mean]))
    lines += [
        "",
        f"Accuracy at batch {bases()[0].large_batch_size} of the digits' base that is chosen, of "
        "those whose accuracy at the base batch seeds cannot tell from the family's best. Which "
        "way a predictor points is taken from the other families and applications; of equal ones "
        "the mean. A dash: it is not known of all, or tells none apart.",
    ]
    return "\n".join(lines) + "\n"


def _large(found: Sequence[Base]) -> list[float]:
    return [each.large_metric for each in found]


def near_best(found: Sequence[Base]) -> list[Base]:
    """Return the bases within the noise of seeds of the best: two standard errors of a difference.

    The variance is the mean of those of all the bases, which have a few seeds each.
    """
    best = max(found, key=lambda each: each.base_metric)
    pooled = math.sqrt(
        statistics.fmean(each.deviation**2 for each in found if each.deviation is not None)
    )
    return [
        each for each in found
        if best.base_metric - each.base_metric
        <= 2 * pooled * math.sqrt(1 / best.base_n + 1 / each.base_n)
    ]  # fmt: skip


def chosen(name: str, near: Sequence[Base], kind: str) -> float | None:
    """Return the metric at the large batch of the base that a predictor chooses.

    None where it is not known of one of them, does not vary, or points nowhere elsewhere.
    """
    elsewhere = correlation(name, _family, among=lambda base: not _of_digits_family(kind)(base))
    values = [each.predictors.get(name) for each in near]
    known = [value for value in values if value is not None]
    if elsewhere is None or not elsewhere.value or len(known) < len(near) or len(set(known)) == 1:
        return None
    sign = 1 if elsewhere.value > 0 else -1
    return _mean_large_of_least(near, lambda base: sign * _number(base.predictors[name]))


def _mean_large_of_least(near: Sequence[Base], rule: Callable[[Base], Any]) -> float:
    """Return the mean metric at the large batch of the bases for which the rule is least."""
    least = min(map(rule, near))
    return statistics.fmean(each.large_metric for each in near if rule(each) == least)


def _number(value: float | None) -> float:
    assert value is not None, "a predictor that chooses is known of all"
    return value


def _head(cells: Sequence[str]) -> list[str]:
    return [_row(cells), _row(["---"] * len(cells))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(found: Correlation | None) -> str:
    if found is None:
        return "-"
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.2g}"
    value = f"{found.value:+.2f}".replace("-0.00", "+0.00")
    return f"{value} ({p}, n = {found.n})".replace(" ", "\u00a0")


def verdict(within: Correlation | None, later: Correlation | None, expected: int) -> str:
    """Return what correlations within families say of a predictor: of all bases, and of later ones.

    >>> strong, weak = Correlation(0.8, 0.001, 30), Correlation(0.5, 0.03, 18)
    >>> verdict(strong, weak, 1), verdict(strong, weak, -1)
    ('**predicts**', '**predicts**, against what was expected')
    >>> verdict(strong, None, 1), verdict(weak, strong, 1), verdict(None, strong, 1)
    ('hint', 'hint', 'not seen')
    """
    if within is None or within.p > LEVEL:
        return "not seen"
    again = later is not None and later.p <= LEVEL and later.value * within.value > 0
    said = "**predicts**" if within.p <= LEVEL / len(PREDICTORS) and again else "hint"
    return said if within.value * expected > 0 else f"{said}, against what was expected"


def main(words: list[str]) -> int:
    """Return 0 if the list of bases is current, or has been made so."""
    found = files.finite([asdict(each) | {"loss": each.loss} for each in bases()])
    if "--write" in words:
        files.write_json(LISTED, found)
        return 0
    if LISTED.exists() and json.loads(LISTED.read_text("utf-8")) == json.loads(json.dumps(found)):
        return 0
    print(f"{LISTED}: is not current; python results/predictors.py --write")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
