"""W&B tracker: a run in Weights & Biases, online or in files (``WANDB_MODE=offline``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from legw.errors import RunError, given, one_line
from legw.train.trackers.tracker import End, Point, Start

WITHOUT_ACCOUNT = ("offline", "disabled", "dryrun")
"""Modes of W&B that send nothing."""

EXIT_CODES = {"finished": 0, "failed": 1, "diverged": 3, "interrupted": 130}
"""The exit code of `legw train` at each end, from which W&B tells a run's state."""


class WandB:
    """Hands a run over to W&B, whose own environment variables and settings apply.

    Raises:
        RunError: wandb is not installed, its settings are wrong, or no account is set up.
    """

    def __init__(self) -> None:
        try:
            import wandb
        except ImportError:
            raise RunError(
                f"{given('log_to', 'wandb')}: wandb is not installed; pip install wandb"
            ) from None
        self._wandb: Any = wandb
        self._run: Any = None
        try:
            self._mode = str(wandb.setup().settings.mode)
            known = self._mode in WITHOUT_ACCOUNT or self._logged_in()
        except Exception as error:  # pydantic's, W&B's own: a setting that cannot be
            raise RunError(f"{given('log_to', 'wandb')}: {one_line(str(error))}") from None
        if not known:
            raise RunError(
                f"{given('log_to', 'wandb')}: no account of W&B is set up here; "
                "wandb login sets one up, and WANDB_MODE=offline keeps runs in files"
            )

    def _logged_in(self) -> bool:
        """Return whether there is an account; without a question at the terminal."""
        try:
            return bool(self._wandb.login(prompt=False, verify=False))
        except TypeError:  # an older wandb, which asks once the run begins
            return True

    def start(self, start: Start) -> str:
        """Begin or go on with a run; the project is the task's, unless WANDB_PROJECT names one."""
        goes_on = {"id": start.id} if start.id else {}
        if start.id and self._mode not in WITHOUT_ACCOUNT:
            goes_on["resume"] = "allow"
        self._run = self._wandb.init(
            project=None if "WANDB_PROJECT" in os.environ else start.project,
            name=None if "WANDB_NAME" in os.environ else start.name,
            config=dict(start.config),
            reinit="create_new",  # a run of the caller's own goes on beside this one
            settings=self._wandb.Settings(console="off"),
            **goes_on,
        )
        return str(self._run.id)

    def log(self, points: Sequence[Point]) -> None:
        """Log each point at its update; W&B sends them by itself."""
        for point in points:
            self._run.log(dict(point.values), step=point.update)

    def finish(self, end: End) -> None:
        """Write the summary and finish with the exit code of the run's end."""
        said = {"status": end.status} | ({"reason": end.reason} if end.reason else {})
        self._run.summary.update(dict(end.values) | said)
        self._run.finish(exit_code=EXIT_CODES[end.status])
