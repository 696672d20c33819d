"""Trackers of a user's own, as `log_to` finds them: ``train.tracked:OnDisk`` and others."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from legw.train.trackers.tracker import End, Point, Start


class OnDisk:
    """Writes each call as a line of ``own.jsonl`` in the run folder."""

    def start(self, start: Start) -> str:
        self.path = start.folder / "own.jsonl"
        self._write(call="start", id=start.id, rank=os.environ.get("RANK", "0"))
        return start.id or "the-first"

    def log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._write(call="log", update=point.update, **point.values)

    def finish(self, end: End) -> None:
        self._write(call="finish", status=end.status, **end.values)

    def _write(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


class Down(OnDisk):
    """Cannot begin."""

    def start(self, start: Start) -> str:
        raise ConnectionError("no route to host\nat all")


class Breaks(OnDisk):
    """Fails once it has taken rows."""

    def log(self, points: Sequence[Point]) -> None:
        super().log(points)
        raise TimeoutError


class Hangs(OnDisk):
    """Waits for a network that never answers."""

    def log(self, points: Sequence[Point]) -> None:
        threading.Event().wait()


def calls(folder: Path) -> list[dict[str, Any]]:
    """Return what `OnDisk` was called with."""
    return [json.loads(line) for line in (folder / "own.jsonl").read_text("utf-8").splitlines()]
