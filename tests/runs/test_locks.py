"""One process at a time: locks that exclude, are shared, and go with their holder."""

from __future__ import annotations

from pathlib import Path

import pytest

from expect import error_line
from legw import RunError
from legw.runs import locks


def hold(folder: Path, **options: object) -> None:
    with locks.held(folder, patience_seconds=0, **options):  # type: ignore[arg-type]
        pass


def test_a_second_holder_is_told_in_one_line(tmp_path: Path) -> None:
    with locks.held(tmp_path):
        assert locks.is_held(tmp_path)
        error_line(hold, tmp_path, kind=RunError)
    assert not locks.is_held(tmp_path)
    hold(tmp_path)


def test_shared_locks_keep_out_an_unshared_one_alone(tmp_path: Path) -> None:
    with locks.held(tmp_path, shared=True):
        hold(tmp_path, shared=True)
        error_line(hold, tmp_path, kind=RunError)


def test_locks_of_other_names_do_not_meet(tmp_path: Path) -> None:
    with locks.held(tmp_path):
        hold(tmp_path, name="other")


def test_a_lock_is_dropped_when_an_error_passes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), locks.held(tmp_path):
        raise ValueError("mine")
    hold(tmp_path)


def test_without_locks_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOCKS", False)
    with locks.held(tmp_path), locks.in_turn(tmp_path / "x"):
        hold(tmp_path)
    assert not locks.is_held(tmp_path)


def test_a_cache_that_cannot_be_locked_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with locks.in_turn(tmp_path / "file" / "cache.lock"):
        pass
    with locks.in_turn(tmp_path / "cache" / "lock"):
        assert (tmp_path / "cache" / "lock").exists()
