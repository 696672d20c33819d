"""Quality as a contract: which of the two recipes, by updates and by time, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.test_measured_critical import BASE, ladder, result
from expect import error_line
from legw import rules
from legw.analysis import cost
from legw.analysis.cost import Network, Option
from legw.analysis.keep_quality import (
    Contract,
    Kept,
    contract_lines,
    keep_quality,
    kept,
    of_options,
)
from legw.analysis.measured_critical import from_values, read_critical
from legw.errors import LegwError, RecipeError
from legw.recipe import to_dict
from legw.recipe.rule import Rule
from legw.rules import LEGW, STRETCH
from legw.runs.measurements import Speed

MEASURED = Path(__file__).parents[2] / "results" / "theory" / "critical"

KNOWN = replace(BASE, num_examples=1600)
"""3000 updates at batch 16."""


def found(tolerance: str = "0.01", **changes: Any) -> Kept:
    return kept(KNOWN, replace(from_values(result(**changes)), source="DIR"), tolerance)


def price(step_seconds: float, pass_seconds: float = 0.0) -> Any:
    """Return the cost on a device with a fixed time an update, and one for 16 examples."""
    speed = Speed(passes={16: pass_seconds}, step_seconds=step_seconds, gradient_bytes=0)

    def priced(size: int, rule: Rule) -> Option:
        (option,) = cost.options(
            KNOWN if rule is LEGW else found().base, rule, [size], speed=speed,
            network=Network(devices=2, devices_per_node=2), num_examples={size: 1600},
        )  # fmt: skip
        return option

    return priced


def test_a_batch_within_the_bound_runs_the_bases_epochs() -> None:
    contract = keep_quality(found(), 32)
    assert contract.stretched is None and contract.best is contract.equal
    assert contract.best.recipe == replace(rules.apply(KNOWN, 32, LEGW), noise_batch=100.0)
    assert (contract.best.stretch, contract.best.updates) == (1, 1500)
    assert contract.reason == "batch 32 is within 0.01 of the base's loss in its epochs"


def test_the_base_itself_is_its_own_answer() -> None:
    contract = keep_quality(found("0.001"), 16)
    assert contract.best.recipe == replace(KNOWN, noise_batch=100.0)


def test_a_larger_one_has_two_recipes_and_the_stretched_one_fewer_updates() -> None:
    contract = keep_quality(found(), 128)
    assert contract.stretched is not None and contract.best is contract.stretched
    assert contract.equal.recipe.batch_size == 32 and contract.equal.updates == 1500
    stretch = 228 / 116
    stretch += 0.25 / 30 / 2 * (8 - stretch)  # half of the warmup is not stretched
    assert contract.best.stretch == pytest.approx(stretch)
    assert contract.best.recipe.epochs == pytest.approx(30 * stretch)
    assert contract.best.updates == 747  # ceil(30 * stretch * 1600 / 128)
    assert contract.best.seconds is None and "no speed was measured" in contract.reason


def test_time_that_grows_with_the_batch_keeps_the_smaller_one() -> None:
    """Passes that cost by the example: the longer run takes longer."""
    contract = keep_quality(found(), 128, price(0.0, pass_seconds=0.01))
    assert contract.stretched is not None and contract.best is contract.equal
    assert contract.equal.seconds == pytest.approx(15, rel=0.01)  # 1500 passes of half a batch
    assert contract.equal.device_seconds == pytest.approx(2 * 15, rel=0.01)
    assert contract.stretched.seconds == pytest.approx(747 * 0.04)
    assert contract.reason.endswith("has fewer updates than batch 32, but takes no less time here")


def test_time_that_does_not_grow_takes_the_larger_one() -> None:
    contract = keep_quality(found(), 128, price(0.01))
    assert contract.best is contract.stretched
    assert contract.best.seconds == pytest.approx(7.47)
    assert contract.reason == "batch 128 has fewer updates than batch 32, and takes less time"


def test_a_stretch_that_saves_no_updates_is_not_recommended() -> None:
    small = {"value": 0.5, "low": 0.1, "high": 2.0}  # far below the base's batch: k times as long
    contract = keep_quality(found("0.012", noise_batch=small), 128)
    assert contract.equal.recipe.batch_size == 64 and contract.best is contract.equal
    assert contract.reason == "batch 128 would have no fewer updates than batch 64"


def test_without_a_number_of_examples_updates_are_compared_all_the_same() -> None:
    unknown = kept(BASE, from_values(result()), "0.01")
    contract = keep_quality(unknown, 128)
    assert contract.best is contract.stretched and contract.best.updates is None


def test_the_lines_have_both_numbers_and_the_recommendation() -> None:
    assert contract_lines(keep_quality(found(), 128)) == [
        "loss within 0.01 of the base's: at most batch 32 in its epochs (of batches up to 128)",
        "noise batch 100 (95 % interval 50 to 400): batch 128 in 1.99 times the epochs "
        "(1.3 to 2.72)",
        "* take batch 128, stretch, 747 updates: batch 128 has fewer updates than batch 32; no "
        "speed was measured, and legw plan predicts the time",
    ]
    assert "a larger batch needs" in contract_lines(keep_quality(found(), 32))[1]


@pytest.mark.parametrize(
    ("noise", "words", "longer"),
    [
        ({"value": None, "low": 70.0, "high": None}, "no branch was behind the base",
         "2.33 times the epochs (1.03 to 2.33)"),
        ({"value": 100.0, "low": 0.0, "high": None}, "do not bound the noise batch from below",
         "1.99 times the epochs (1.03 to 8)"),
    ],
)  # fmt: skip
def test_what_is_not_sure_is_said(noise: dict[str, Any], words: str, longer: str) -> None:
    contract = keep_quality(found(noise_batch=noise), 128)
    assert any(words in line for line in contract.notes)
    assert longer in contract_lines(contract)[1]
    assert keep_quality(found(noise_batch=noise), 32).notes == ()


@pytest.mark.parametrize("measured", sorted(MEASURED.iterdir()), ids=lambda path: path.name)
def test_every_measurement_of_ours_gives_a_contract(measured: Path) -> None:
    """Their intervals have no end, an end at 0, or both ends."""
    critical = read_critical(str(measured))
    bound = kept(critical.base, critical, str(critical.tolerance))
    for batch_size in (critical.base.batch_size, 4 * bound.largest_tried):
        lines = contract_lines(keep_quality(bound, batch_size))
        assert lines[-1].startswith("* take batch ")


def test_a_batch_past_the_branches_is_extrapolated() -> None:
    assert keep_quality(found(), 256).notes == ()
    (line,) = keep_quality(found(), 512).notes
    assert line == "the largest branch was of batch 128; what batch 512 needs is extrapolated"


def test_without_a_noise_batch_there_is_no_longer_run() -> None:
    contract = keep_quality(found(noise_batch={"value": None, "low": 0.0, "high": None}), 128)
    assert contract.stretched is None and contract.best.recipe.batch_size == 32
    assert "which is not known" in contract.notes[0]


def test_a_warmup_without_room_at_the_bound_leaves_a_smaller_batch() -> None:
    base = replace(KNOWN, warmup_epochs=10)
    values = result(base=to_dict(base))
    values["points"] = values["points"][:1]
    wide = kept(base, from_values(values), "0.01")
    assert wide.largest_batch == 64  # where legw would warm up for 40 of 30 epochs
    assert keep_quality(wide, 128).equal.recipe.batch_size == 32
    error_line(keep_quality, wide, 64)


def test_json_has_both() -> None:
    plain = keep_quality(found(), 128).to_dict()
    assert plain["recommended"] == "stretched" and plain["largest_batch"] == 32
    assert plain["stretched"]["recipe"]["batch_size"] == plain["stretched"]["batch_size"] == 128
    assert plain["equal_epochs"]["rule"] == "legw" and plain["tolerance"] == "0.01"
    assert keep_quality(found(), 32).to_dict()["stretched"] is None


# Among priced batches, as `legw plan` has them --------------------------------------------


def priced(*sizes: int, step_seconds: float) -> Contract:
    bound, each = found(), price(step_seconds, pass_seconds=0.001)
    return of_options(bound, [each(size, bound.rule(size)) for size in sizes])


def test_a_plan_takes_the_best_of_each_kind() -> None:
    contract = priced(16, 32, 64, 128, 256, step_seconds=0.1)
    assert contract.stretched is not None
    assert contract.equal.recipe.batch_size == 32
    assert contract.stretched.recipe.batch_size == 256 and contract.best is contract.stretched
    assert priced(16, 32, step_seconds=0.1).best.recipe.batch_size == 32
    assert priced(16, 32, 64, step_seconds=1e-9).best.recipe.batch_size <= 32


def test_a_plan_without_a_small_batch_is_refused() -> None:
    error_line(priced, 64, 128, step_seconds=0.1)
    error_line(priced, 8, 64, step_seconds=0.1)
    assert priced(8, 16, step_seconds=0.1).best.recipe.batch_size == 16


def test_the_rule_of_a_size_changes_at_the_bound() -> None:
    assert [found().rule(size) for size in (16, 32, 33)] == [LEGW, LEGW, STRETCH]


# What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", ["", "0", "-1%", "much", "nan", "inf%"])
def test_a_tolerance_that_cannot_be(tolerance: str) -> None:
    error_line(found, tolerance, kind=LegwError)


def test_without_a_measurement_it_says_what_measures() -> None:
    error_line(kept, KNOWN, None, "1%", kind=LegwError)


def test_another_rule_is_refused_wherever_it_comes_from() -> None:
    error_line(kept, KNOWN, from_values(result()), "1%", "sqrt", kind=LegwError)
    error_line(found, rule="linear", kind=LegwError)


def test_another_base_is_refused() -> None:
    measured = replace(from_values(result()), source="DIR")
    error_line(kept, replace(KNOWN, epochs=3), measured, "1%", kind=LegwError)


@pytest.mark.parametrize("batch", [8, 0, 1.5])
def test_a_batch_below_the_base_is_refused(batch: Any) -> None:
    error_line(keep_quality, found(), batch, kind=RecipeError)


def test_a_ladder_that_ended_early_bounds_the_batch_from_below() -> None:
    (point, _) = result()["points"]
    short = result(points=[point | {"base_loss": 1.0, "branches": ladder(0.0)}])
    assert kept(KNOWN, from_values(short), "50%").largest_batch == 32
