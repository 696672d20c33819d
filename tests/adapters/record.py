"""Run examples and print, as JSON, the rate of every update that their torch optimizer made.

python tests/adapters/record.py examples/lightning_loop.py

With `--each` before them, several examples are run one after the other, each in a fork of one
process that has imported the libraries, for that takes longer than the examples do. What became of
each is then one object.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

SLOW_IMPORTS = ("sklearn.datasets", "accelerate", "transformers.trainer", "timm", "lightning")
"""What the examples import, as far as it is installed."""

RATES: list[float] = []


def record(optimizer: Any, args: Any, kwargs: Any) -> None:
    """Note the rate at which an optimizer is about to step."""
    if type(optimizer).__module__.startswith("torch.optim"):  # not a wrapper around one
        RATES.append(float(optimizer.param_groups[0]["lr"]))


def one(path: str) -> None:
    """Run an example in this process."""
    register_optimizer_step_pre_hook(record)
    runpy.run_path(path, run_name="__main__")
    rank = os.environ.get("RANK", "0")
    print(f"rates of {rank}: {json.dumps(RATES)}", flush=True)


def forked(path: str) -> dict[str, Any]:
    """Run an example in a fork of this process, and return its exit code and what it printed."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            code = 1
            try:
                one(path)
                code = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        errors.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "out": out.read(), "errors": errors.read()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, *others = sys.argv[1:]
    if first != "--each":
        one(first)
    else:
        for library in SLOW_IMPORTS:
            with contextlib.suppress(ImportError):
                importlib.import_module(library)
        print(json.dumps({Path(path).stem: forked(path) for path in others}))
