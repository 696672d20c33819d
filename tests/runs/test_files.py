"""Atomic files: several writers of one file, and errors in mid-write."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from legw import RunError
from legw.runs import files


def test_threads_that_write_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def write(number: int) -> None:
        for _ in range(50):
            files.write_atomically(path, str(number).encode() * 10_000)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (1, 2)))
    content = path.read_text()
    assert len(content) == 10_000 and len(set(content)) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_is_whole_when_it_is_there_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with files.atomic(path) as file:
        file.write(b"all")
        assert not path.exists()
    assert path.read_bytes() == b"all" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), OSError(28, "No space"), OSError("gone")]
)
def test_a_failing_writer_leaves_the_file_as_it_was(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    expected = RunError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught, files.atomic(path) as file:
        file.write(b"half")
        raise error
    assert "None" not in str(caught.value)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
