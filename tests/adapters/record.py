"""Run an example and print, as JSON, the rate of every update that its torch optimizer made.

python tests/adapters/record.py examples/lightning_loop.py
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

RATES: list[float] = []


def record(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Note the rate at which an optimizer is about to step."""
    if type(optimizer).__module__.startswith("torch.optim"):  # not a wrapper around one
        RATES.append(float(optimizer.param_groups[0]["lr"]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    register_optimizer_step_pre_hook(record)
    runpy.run_path(sys.argv[1], run_name="__main__")
    rank = os.environ.get("RANK", "0")
    print(f"rates of {rank}: {json.dumps(RATES)}", flush=True)
