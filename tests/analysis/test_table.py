"""From rows to cells, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest

from legw.analysis import summary, table
from legw.analysis.stats import estimate
from legw.analysis.table import Cell, Table
from legw.study.plan import Row, Undefined


def rows(rule: str, batch_size: int, *metrics: float | None, **more: Any) -> list[Row]:
    return [
        Row(
            **{
                "recipe": "mine", "rule": rule, "batch_size": batch_size, "seed": seed,
                "metric": metric, "status": "finished", "updates": 10, "seconds": 1.0,
                "epochs": 4.0, **more,
            }
        )
        for seed, metric in enumerate(metrics)
    ]  # fmt: skip


BASE = rows("base", 16, 0.95, 0.96, 0.97)
LEGW = rows("legw", 64, 0.94, 0.95, 0.96)
LINEAR = rows("linear", 64, 0.5, 0.6, 0.7)
LOST = rows("linear", 64, None, None, None, status="diverged")


def of(*groups: list[Row], **more: Any) -> Table:
    return table.of([row for group in groups for row in group], metric="accuracy", **more)


# Cells ------------------------------------------------------------------------------


def test_the_seeds_of_a_cell_are_its_rows() -> None:
    found = of(BASE, LEGW)
    cell = found.find("", "legw", 64)
    assert cell is not None
    assert cell.metrics == (0.94, 0.95, 0.96)
    assert cell.estimate == estimate(cell.metrics)
    assert found.find("", "legw", 16) is None


def test_lost_stopped_and_missing_runs_are_counted_apart() -> None:
    mixed = (
        rows("legw", 64, 0.9)
        + rows("legw", 64, None, status="diverged")
        + rows("legw", 64, None, status="interrupted")
        + rows("legw", 64, None, status="running")
        + rows("legw", 64, None, status="missing")
        + rows("legw", 64, None)  # finished, with a metric that is not a number
    )
    (cell,) = of(mixed).cells
    assert (len(cell.metrics), cell.diverged, cell.unfinished, cell.missing) == (1, 1, 2, 2)
    assert cell.total == 6
    assert of(mixed).text(cell) == ["0.9000", "diverged 1/6", "unfinished 2/6", "missing 2/6"]


def test_a_cell_says_n_where_it_is_not_the_tables() -> None:
    found = of(BASE, rows("legw", 64, 0.9, 0.92))
    cell = found.find("", "legw", 64)
    assert cell is not None
    assert found.text(cell) == ["0.9100 ± 0.1271 (n=2)", "cannot tell"]
    base = found.base_of("")
    assert base is not None
    assert found.text(base) == ["0.9600 ± 0.0248"]


def test_undefined_cells_have_numbered_reasons() -> None:
    why = [
        Undefined(variant="", rule=rule, batch_size=size, reason=reason)
        for rule, size, reason in (
            ("hoffer", 64, "no"),
            ("goyal", 64, "never"),
            ("hoffer", 128, "no"),
        )
    ]
    found = table.of(BASE, why, metric="accuracy")
    assert found.reasons == ["no", "never"]
    assert [found.text(cell) for cell in found.cells[1:]] == [
        ["undefined [1]"],
        ["undefined [2]"],
        ["undefined [1]"],
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95, "0.9500"), (115.9, "115.9"), (0.0123, "0.01230"), (12345.6, "12346"), (0.0, "0.0000")],
)
def test_numbers_have_four_digits(value: float, text: str) -> None:
    assert of(rows("base", 16, value)).number(value) == text


# The layout -------------------------------------------------------------------------


def test_the_base_has_a_line_and_a_column_of_its_own() -> None:
    found = of(rows("legw", 8, 0.9), BASE, LEGW, LINEAR)
    assert found.base_batch == 16
    assert found.batch_sizes == [16, 8, 64]
    assert found.lines == [("", "base"), ("", "legw"), ("", "linear")]
    assert found.at(("", "base"), 16) is found.cells[1]
    assert found.at(("", "legw"), 16) is None


def test_with_one_rule_the_base_joins_its_line() -> None:
    found = of(BASE, LEGW)
    assert found.lines == [("", "legw")]
    base = found.at(("", "legw"), 16)
    assert base is not None
    assert base.rule == "base"


def test_a_grid_has_a_line_for_each_variant() -> None:
    found = of(
        rows("base", 16, 0.9, variant="lr=1"),
        rows("legw", 64, 0.8, variant="lr=1"),
        rows("base", 16, 0.7, variant="lr=2"),
    )
    assert found.lines == [("lr=1", "legw"), ("lr=2", "base")]
    assert found.names == ["lr=1", "lr=2"]


def test_lines_of_several_rules_and_variants_have_both_names() -> None:
    found = of(
        rows("base", 16, 0.9, variant="lr=1"),
        rows("legw", 64, 0.8, variant="lr=1"),
        rows("linear", 64, 0.8, variant="lr=2"),
    )
    assert found.names == ["lr=1", "lr=1 legw", "lr=2 linear"]


@pytest.mark.parametrize(("higher", "best"), [(True, "legw"), (False, "linear")])
def test_the_best_depends_on_the_metrics_direction(higher: bool, best: str) -> None:
    found = of(BASE, LEGW, LINEAR, higher_is_better=higher)
    cell = found.best(64)
    assert cell is not None
    assert cell.rule == best
    assert found.best(99) is None


def test_a_cell_with_losses_is_not_the_best_while_there_is_a_whole_one() -> None:
    mixed = rows("sqrt", 64, 0.99) + rows("sqrt", 64, None, status="diverged")
    cell = of(BASE, LEGW, mixed).best(64)
    assert cell is not None
    assert cell.rule == "legw"
    alone = of(mixed).best(64)
    assert alone is not None
    assert alone.rule == "sqrt"


def test_captions() -> None:
    assert of(BASE).caption() == (
        "accuracy after the last epoch (higher is better): "
        "mean ± 95 % interval of the mean (Student t), n = 3 seeds"
    )
    assert of(BASE[:1], higher_is_better=False).caption() == (
        "accuracy after the last epoch (lower is better); "
        "n = 1: a single run each shows no spread and is not a claim"
    )
    assert of(LOST).caption().endswith(": no run has finished")
    assert of(BASE, LEGW).length().startswith("Equal epochs: every run makes 4 passes over")
    assert of(BASE, rows("hoffer", 64, 0.9, epochs=16)).length() == (
        "Not at equal epochs: the runs make 4 to 16 passes over the data."
    )
    assert Table(cells=()).length() == "No run is planned."


def test_a_steered_run_tells_its_length_when_it_has_finished() -> None:
    lost = rows("adascale", 64, None, status="diverged", epochs=0.3)
    done = rows("adascale", 64, 0.9, epochs=9.5)
    equal = "Equal epochs: every run makes 4 passes over the data, however few updates that is."
    assert of(BASE, LEGW, lost).length() == equal
    assert of(BASE, LEGW, LOST).length() == equal
    mixed = of(BASE, lost, done)
    assert mixed.length() == "Not at equal epochs: the runs make 4 to 9.5 passes over the data."
    cell = mixed.find("", "adascale", 64)
    assert cell is not None
    assert cell.epochs == 9.5
    assert of(lost).length() == "How long the runs are is not known: none has finished."


# The sentence -----------------------------------------------------------------------

COMPARED = (
    "Cannot tell whether the base's accuracy is kept within 1 %: "
    "at batch 64 (4 times the base's 16), legw reaches accuracy 0.9500 against the base's 0.9600 "
    "(difference -0.0100, 95 % interval -0.0327 to +0.0127, n = 3 and 3)"
)


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([], "No run has ended yet: 0 runs planned."),
        (
            [rows("base", 16, None, status="missing")],
            "No run has ended yet: 1 run planned.",
        ),
        ([BASE], "The base, at batch 16, reaches accuracy 0.9600 ± 0.0248 (n = 3)."),
        ([BASE, LEGW], f"{COMPARED}."),
        ([BASE, LEGW, LINEAR], f"{COMPARED}; linear 0.6000."),
        ([BASE, LEGW, LOST], f"{COMPARED}; linear diverged in 3 of 3 runs."),
        (
            [BASE, LEGW, LINEAR, rows("sqrt", 64, 0.8), rows("fixed", 64, 0.9)],
            f"{COMPARED}; fixed 0.9000, sqrt 0.8000, linear 0.6000.",
        ),
        (
            [BASE, LEGW, LINEAR, *(rows(f"r{i}", 64, i / 10) for i in range(3))],
            f"{COMPARED}; of the 4 other rules linear 0.6000 at best, r0 0.0000 at worst.",
        ),
        (
            [BASE, LEGW, rows("hoffer", 64, 0.97, epochs=16.0)],
            f"{COMPARED}; hoffer 0.9700 (in 4 times the epochs).",
        ),
        (
            [BASE[:1], LEGW[:1]],
            "Cannot tell whether the base's accuracy is kept within 1 %: "
            "at batch 64 (4 times the base's 16), legw reaches accuracy 0.9400 "
            "against the base's 0.9500 (n = 1: no claim).",
        ),
        (
            [LEGW, rows("legw", 64, None, status="missing")],
            "At batch 64, legw reaches accuracy 0.9500 ± 0.0248 (n = 3); 1 run not done yet.",
        ),
        (
            [BASE, LOST],
            "Loses 3 of 3 runs, by divergence: "
            "at batch 64 (4 times the base's 16), linear diverged in 3 of 3 runs.",
        ),
        (
            [BASE, rows("linear", 64, 0.6, 0.6, 0.6), rows("sqrt", 64, 0.9, 0.9, 0.9)],
            "Loses 6 points: "
            "at batch 64 (4 times the base's 16), sqrt reaches accuracy 0.9000 against the base's "
            "0.9600 (difference -0.0600, 95 % interval -0.0848 to -0.0352, n = 3 and 3); "
            "linear 0.6000.",
        ),
        (
            [BASE, LEGW, rows("legw", 64, None, status="diverged")],
            "Loses 1 of 4 runs, by divergence: at"
            + COMPARED.partition(": at")[2].replace("0.9500", "0.9500 (1 of 4 diverged)")
            + ".",
        ),
    ],
)
def test_the_sentence(groups: list[list[Row]], said: str) -> None:
    assert summary.sentence(of(*groups)) == said


def test_the_sentence_speaks_of_the_largest_batch_at_which_the_rule_has_ended() -> None:
    waiting = rows("legw", 128, None, status="missing")
    said = summary.sentence(of(BASE, LEGW, waiting))
    assert said == f"{COMPARED}; 1 run not done yet."


def test_a_grids_sentence_names_the_best_variant_at_the_base_batch() -> None:
    found = of(
        rows("base", 16, 0.9, 0.92, variant="lr=1"),
        rows("base", 16, 0.8, 0.82, variant="lr=2"),
        rows("legw", 64, 0.1, 0.12, variant="lr=1"),
        rows("legw", 64, 0.8, 0.82, variant="lr=2"),
    )
    assert summary.sentence(found) == (
        "Best of 2 at batch 16: lr=1 reaches accuracy 0.9100 ± 0.1271 (n = 2); "
        "next lr=2 with 0.8100."
    )


def test_a_grids_sentence_where_all_is_lost_or_only_one_is_left() -> None:
    gone = rows("base", 16, None, variant="lr=1", status="diverged")
    also = rows("base", 16, None, variant="lr=2", status="diverged")
    assert summary.sentence(of(gone, also)) == "All runs that ended at batch 16 diverged."
    left = rows("base", 16, 0.9, variant="lr=3")
    assert summary.sentence(of(gone, left)) == (
        "Best of 2 at batch 16: lr=3 reaches accuracy 0.9000 (n = 1: no claim)."
    )


def test_a_grid_whose_base_has_not_ended_speaks_of_what_has() -> None:
    waiting = rows("base", 16, None, variant="lr=1", status="missing")
    other = rows("base", 16, None, variant="lr=2", status="missing")
    scaled = rows("legw", 64, 0.9, variant="lr=1")
    assert summary.sentence(of(waiting, other, scaled)) == (
        "Best of 1 at batch 64: lr=1 reaches accuracy 0.9000 (n = 1: no claim); "
        "2 runs not done yet."
    )
    lost = rows("legw", 64, None, variant="lr=1", status="diverged")
    assert summary.sentence(of(waiting, other, lost)) == (
        "All runs that ended at batch 64 diverged; 2 runs not done yet."
    )


def test_lower_may_be_better() -> None:
    found = of(BASE, rows("linear", 64, 2.0), rows("sqrt", 64, 1.5), higher_is_better=False)
    assert "at batch 64 (4 times the base's 16), sqrt reaches" in summary.sentence(found)
    assert summary.sentence(found).endswith("; linear 2.000.")


def test_a_cell_without_a_base_has_no_difference() -> None:
    cell = Cell(variant="", rule="legw", batch_size=64, metrics=(0.9, 0.8))
    assert Table(cells=(cell,)).from_base(cell) is None
