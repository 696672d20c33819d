"""Two thousand cases of the fuzzer, of every kind; `python -m tests.fuzz` runs more."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import cases
from fuzz.mutate import EXTREME
from fuzz.run import run

CASES = 1000
CPU_SECONDS = 15.0


def test_whatever_is_read_ends_well_or_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cases").mkdir()
    before = repr(EXTREME)
    result = run(CASES, tmp_path / "cases")
    print(f"\n{result.table()}")
    assert not result.failures, result.grouped()
    assert repr(EXTREME) == before, "each case is the same, whichever ran before it"
    assert sum(sum(counts.values()) for counts in result.counts.values()) == CASES
    for kind, counts in result.counts.items():
        assert counts["refused"], f"{kind}: nothing was wrong enough to be refused"
    assert sum(result.seconds.values()) < CPU_SECONDS


def test_the_fuzzer_would_see_code_that_is_run() -> None:
    """A pickle that runs something leaves its mark, where it is loaded carelessly."""
    import pickle

    pickle.loads(pickle.dumps(cases.Bomb()))
    assert cases.RAN == ["a pickle"]
    cases.RAN.clear()


def test_the_fuzzer_would_see_a_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def broken(*_: object) -> None:
        raise KeyError("position")

    monkeypatch.setattr(cases.recipe, "from_dict", broken)
    result = run(4, tmp_path, only="recipes")
    assert [(kind, number) for kind, number, _ in result.failures] == [
        ("recipes", each) for each in range(4)
    ]
    assert "4 of this sort" in result.grouped()
