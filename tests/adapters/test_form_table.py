"""Twenty-four configurations of public projects, in their own words, and what comes of each."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from adapters.their_configs import TABLE, Theirs
from expect import error_line
from legw import from_config
from legw.adapters import transformers_config
from legw.adapters.configs import Config
from legw.errors import number

pytestmark = pytest.mark.filterwarnings("ignore::legw.errors.LegwWarning")


@pytest.fixture(autouse=True)
def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which names a version has is another test's; here the files keep theirs."""
    monkeypatch.setattr(transformers_config, "installed", lambda: None)


def read(theirs: Theirs) -> Config:
    return from_config(theirs.values, num_examples=theirs.num_examples, processes=theirs.processes)


READ = [theirs for theirs in TABLE if not theirs.refused]
REFUSED = [theirs for theirs in TABLE if theirs.refused]


def test_there_are_twenty() -> None:
    assert len(TABLE) >= 20
    assert len({theirs.project for theirs in TABLE}) == len(TABLE)
    assert {theirs.base[0] for theirs in READ} == {
        "transformers", "timm", "axolotl", "nanogpt", "nanochat", "torchtitan", "torchvision",
    }  # fmt: skip


@pytest.mark.parametrize("theirs", READ, ids=lambda theirs: theirs.project)
def test_what_is_read_is_right(theirs: Theirs) -> None:
    config, given = read(theirs), copy.deepcopy(theirs.values)
    form, batch, lr, warmup, length, unit = theirs.base
    recipe = config.recipe
    assert (config.form, recipe.batch_size, recipe.unit) == (form, batch, unit)
    assert (recipe.lr, recipe.warmup, recipe.length) == pytest.approx((lr, warmup, length))
    big = config.scaled(4 * batch)
    for name, value in theirs.scaled.items():
        assert big.values[name] == (pytest.approx(value) if not isinstance(value, dict) else value)
    untouched = set(given) - set(theirs.scaled)
    assert all(name in big.values for name in untouched)
    assert theirs.values == given, "what is given stays as it is"
    said = (*config.left_out, *config.filled_in, *big.left_out)
    for beginning in theirs.said:
        assert any(line.startswith(beginning) for line in said), (beginning, said)
    again = from_config(
        big.values, num_examples=theirs.num_examples, processes=theirs.processes
    ).recipe
    assert again.batch_size == 4 * batch
    assert (again.lr, again.warmup, again.length) == pytest.approx(
        (big.recipe.lr, big.recipe.warmup, big.recipe.length)
    )


@pytest.mark.parametrize("theirs", REFUSED, ids=lambda theirs: theirs.project)
def test_what_is_refused_is_one_line(theirs: Theirs) -> None:
    assert error_line(read, theirs) == theirs.refused


def row(theirs: Theirs) -> str:
    """Return a configuration as a row of the docs' table."""
    if theirs.refused:
        return f"| {theirs.project} | refused: {theirs.refused.partition(': ')[2]} | | | |"
    config = read(theirs)
    base, big = config.recipe, config.scaled(4 * config.recipe.batch_size).recipe

    def change(old: float, new: float) -> str:
        return number(old) if old == new else f"{number(old)} → {number(new)}"

    cells = [
        theirs.project,
        f"{base.batch_size} → {big.batch_size}",
        change(base.lr, big.lr),
        f"{change(base.warmup, big.warmup)} of {change(base.length, big.length)} {base.unit}",
        f"{len(config.left_out)} left out, {len(config.filled_in)} filled in",
    ]
    return f"| {' | '.join(cells)} |"


def test_the_docs_have_this_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "configurations.md").read_text(encoding="utf-8")
    for theirs in TABLE:
        assert f"\n{row(theirs)}\n" in page, row(theirs)


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    transformers_config.installed = lambda: None
    print("\n".join(row(theirs) for theirs in TABLE))
