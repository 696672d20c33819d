"""MLflow tracker: a run in an MLflow server, database or folder (``MLFLOW_TRACKING_URI``)."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from legw.errors import RunError, given, one_line
from legw.train.trackers.tracker import End, Point, Start

STATES = {
    "finished": "FINISHED", "failed": "FAILED", "diverged": "FAILED", "interrupted": "KILLED",
}  # fmt: skip
"""MLflow's word for each end of a run."""

MAX_PARAMS = 100
"""Most parameters that MLflow takes in one call."""

MAX_METRICS = 1000
"""Most values of metrics that MLflow takes in one call."""

MAX_TEXT = 500
"""Longest value of a parameter that every version of MLflow takes, in characters."""


class MLflow:
    """Hands a run over to MLflow, whose own environment variables apply.

    Raises:
        RunError: mlflow is not installed, or where it is to write cannot be opened.
    """

    def __init__(self) -> None:
        try:
            from mlflow import MlflowClient, entities
        except ImportError:
            raise RunError(
                f"{given('log_to', 'mlflow')}: mlflow is not installed; pip install "
                "mlflow-skinny (for a server) or mlflow (with a database of its own)"
            ) from None
        self._entities: Any = entities
        self._id = ""
        try:
            self._client: Any = MlflowClient()
        except Exception as error:  # of many kinds: an unknown scheme, a missing database driver
            raise RunError(
                f"{given('log_to', 'mlflow')}: {one_line(' '.join(str(error).split()), 160)}; set "
                "MLFLOW_TRACKING_URI to a server, or pip install mlflow for a database here"
            ) from None

    def start(self, start: Start) -> str:
        """Begin or go on with a run; the experiment is the task, unless MLflow's variables say."""
        self._id = start.id or os.environ.get("MLFLOW_RUN_ID", "")
        if self._id:
            self._client.update_run(self._id, status="RUNNING")
        else:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_ID") or self._experiment(
                os.environ.get("MLFLOW_EXPERIMENT_NAME") or start.project
            )
            run = self._client.create_run(experiment, run_name=start.name)
            self._id = str(run.info.run_id)
        if not start.id:  # MLflow lets no parameter change
            self._write_params(start)
        return self._id

    def _experiment(self, name: str) -> str:
        """Return the id of an experiment, which is made if it is not there."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another run of the study may have made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def _write_params(self, start: Start) -> None:
        params = [
            self._entities.Param(name, str(value)[:MAX_TEXT])
            for name, value in start.config.items()
        ]
        for some in _pieces(params, MAX_PARAMS):
            self._client.log_batch(self._id, params=some)

    def log(self, points: Sequence[Point]) -> None:
        """Log all values of all points, each at its update."""
        values = (
            self._entities.Metric(name, value, int(point.time * 1000), point.update)
            for point in points
            for name, value in point.values.items()
        )
        for some in _pieces(values, MAX_METRICS):
            self._client.log_batch(self._id, metrics=some)

    def finish(self, end: End) -> None:
        """Log the summary's values, tag the run with its end, and close it."""
        if end.values:
            self.log([Point(end.update, end.values, time.time())])
        for name in ("status", "reason"):
            if value := getattr(end, name):
                self._client.set_tag(self._id, f"legw.{name}", value[:MAX_TEXT])
        self._client.set_terminated(self._id, status=STATES[end.status])


def _pieces(values: Iterable[Any], most: int) -> Iterator[list[Any]]:
    """Yield lists of at most so many values.

    >>> list(_pieces("abc", 2))
    [['a', 'b'], ['c']]
    """
    values = iter(values)
    while piece := list(itertools.islice(values, most)):
        yield piece
