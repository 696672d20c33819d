"""Start the processes of a run on this machine as torchrun does, without its slow start.

The processes fork from a server that has imported torch already. Each writes what
it prints to a log of its own, and dumps its stacks there if it takes far too long.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    ["legw.cli.commands.train", "legw.cli.progress", "legw.probes", "torch._dynamo"]
)  # the slow imports, once

LIMIT = 100.0
"""Seconds after which a process is taken to hang, unless a test says otherwise."""


@dataclass
class Rank:
    """One process of a run."""

    process: Any
    log: Path
    limit: float = LIMIT

    def wait(self) -> int:
        """Return its exit code; the signal's number, negative, if one ended it."""
        self.process.join(self.limit + 10)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"hangs: {self.text}")
        code: int = self.process.exitcode
        return code

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def start(
    world_size: int,
    action: Callable[..., Any],
    *arguments: Any,
    logs: Path,
    port: int | None = None,
    limit: float = LIMIT,
    **more: Any,
) -> list[Rank]:
    """Call a function in so many processes that are to join each other.

    Args:
        world_size: number of processes, at least 1.
        action: called in each; a number that it returns is the exit code.
        *arguments: of the call.
        **more: named arguments of the call.
        logs: folder for the logs; made if it is not there.
        port: where they meet; a free one if not given.
        limit: seconds after which a process is taken to hang.
    """
    logs.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    ranks = []
    for rank in range(world_size):
        variables = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1,
        }  # fmt: skip
        log = logs / f"rank-{rank}.log"
        environment = {name: str(value) for name, value in variables.items()}
        told = (environment, log, limit, action, arguments, more)
        process = CONTEXT.Process(target=_be, args=told)
        process.start()
        ranks.append(Rank(process, log, limit))
    return ranks


def complete(world_size: int, action: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    """Do so, wait for the end, and see that all went well."""
    for rank in start(world_size, action, *arguments, **more):
        code = rank.wait()
        assert code == 0, rank.text


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def _be(  # noqa: PLR0917 (as a process is started)
    variables: dict[str, str],
    log: Path,
    limit: float,
    action: Callable[..., Any],
    arguments: tuple[Any, ...],
    more: dict[str, Any],
) -> None:
    """Be one process: set the variables that torchrun sets, and call the function."""
    import torch

    os.environ.update(variables)
    torch.set_num_threads(1)
    with log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.dump_traceback_later(limit, exit=True)
    code = action(*arguments, **more)
    atexit._run_exitfuncs()  # multiprocessing leaves them out
    sys.exit(code if isinstance(code, int) else 0)
