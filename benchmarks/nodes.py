"""Seconds per update, predicted and measured: here, and on two emulated nodes.

    python -m benchmarks.nodes mnist-lstm --batch-sizes 128,512,2048,8192
    sudo python -m benchmarks.nodes mnist-lstm --batch-sizes 128,8192 --nodes 2 --link 1gbit

The nodes are network namespaces of this machine, joined by a cable (a veth pair) whose
both ends `tc ... tbf` holds to the link's rate; one process trains on each, with one
thread. The prediction is `legw plan`'s, from passes measured apart from the training: on
both nodes at once, for they share this machine's memory and cores; and from the latency
of a small message, which is measured too. Training chooses its own micro-batch, as `legw
train` does. Each round measures the passes and then trains at every batch size, so that
both sides see the same machine; medians over the rounds count.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from legw import presets, rules, schedule
from legw.analysis import cost
from legw.analysis.cost import Network, Timing, read_rate
from legw.apps import Options, find
from legw.probes.ladder import Unjudged
from legw.probes.speed import all_reduce_seconds, measure
from legw.recipe import Recipe
from legw.runs import files, records
from legw.runs.measurements import Speed
from legw.train import Settings, Task, fit
from legw.train.dist import World, joined
from legw.train.hardware import environment
from legw.train.microbatch.candidates import Candidate

SKIPPED = 3
"""Updates at the start that do not count: kernels are chosen, memory is allocated."""

SPACES = ("legw-node-1", "legw-node-2")
ADDRESSES = ("10.78.0.1", "10.78.0.2")
BURST = "128kb"


MIN_SECONDS = 2.0
"""A run has as many updates as are predicted to take so long, if that is more than asked for."""


def main(words: list[str]) -> int:
    """Predict and measure each batch size; print a line each, and write them as JSON."""
    options = _options(words)
    if options.inside:
        return _rounds(options)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        with _nodes(options.link) if options.nodes > 1 else contextlib.nullcontext():
            _start(words, options.nodes, found)
        if options.out:
            files.write_json(Path(options.out), json.loads(found.read_text()))
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("app")
    parser.add_argument("--batch-sizes", default="128,512,2048,8192")
    parser.add_argument("--updates", type=int, default=20, help="of each run, at least")
    parser.add_argument("--rounds", type=int, default=3, help="of passes and trainings")
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--link", default="1gbit", help="as tc writes it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="")
    parser.add_argument("--inside", default="", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _recipe(app: str, batch_size: int) -> Recipe:
    """Return the base with another batch and no warmup: only its time counts here."""
    plain = rules.apply(replace(presets.find(app), warmup_epochs=0.0), batch_size, rules.SQRT)
    return replace(plain, lr=plain.lr / 100)  # it must not diverge


def _rounds(options: argparse.Namespace) -> int:
    """Measure and train in turn, as one of the processes; the first writes what came of it."""
    task = find(options.app, Options())
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    rounds = []
    with joined(options.device) as world, tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            speed, network = _speed(task, options, sizes, world), _network(options, world)
            timings = [cost.timing(speed, size, network) for size in sizes]
            rows = []
            for size, timing in zip(sizes, timings, strict=True):
                out = Path(folder) / f"{number}-{size}"
                updates = max(options.updates, math.ceil(MIN_SECONDS / timing.seconds))
                _train(task, options, size, updates=SKIPPED + 1 + updates, out=out)
                if world.first:
                    rows.append(_row(timing, size, records.load(out)))
                    print(_line(rows[-1]), flush=True)
            rounds.append(rows)
    if world.first:
        _finish(options, [_median(each) for each in zip(*rounds, strict=True)], speed, network)
    return 0


def _finish(
    options: argparse.Namespace, rows: list[dict[str, Any]], speed: Speed, network: Network
) -> None:
    print("medians", *map(_line, rows), sep="\n")
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in rows]
    print(f"median error {statistics.median(errors):.0%}, largest {max(errors):.0%}", flush=True)
    found = {
        "app": options.app, "nodes": options.nodes, "rows": rows, "rounds": options.rounds,
        "device": speed.device, "link": options.link if options.nodes > 1 else None,
        "latency_seconds": network.latency_seconds, "environment": environment(),
        "gradient_bytes": speed.gradient_bytes, "step_seconds": speed.step_seconds,
        "passes": {str(size): seconds for size, seconds in speed.passes.items()},
        "lanes": {str(Candidate(*key)): seconds for key, seconds in speed.rounds.items()},
    }  # fmt: skip
    files.write_json(Path(options.inside), found)


def _speed(task: Task, options: argparse.Namespace, sizes: list[int], world: World) -> Speed:
    """Measure the passes on every node at once; return their means."""
    own = measure(
        task, _recipe(options.app, min(sizes)), world=world, largest=-(-max(sizes) // world.size)
    )
    found = world.gather(own)
    shared = set.intersection(*(set(each.passes) for each in found))
    return replace(
        own,
        passes={size: statistics.fmean(each.passes[size] for each in found) for size in shared},
        step_seconds=statistics.fmean(each.step_seconds for each in found),
    )


def _network(options: argparse.Namespace, world: World) -> Network:
    """Return what joins the nodes: the link's rate as given, the latency as measured.

    An all-reduce of a number by two processes takes two messages in turn.
    """
    if world.size == 1:
        return Network()
    latency = world.share(all_reduce_seconds(world, 4, repeats=200) / 2)
    rate = read_rate(options.link.replace("gbit", "Gbit").replace("mbit", "Mbit"))
    return Network(devices=world.size, bandwidth=rate, latency_seconds=latency)


def _train(task: Task, options: argparse.Namespace, size: int, *, updates: int, out: Path) -> None:
    """Make a run that is not evaluated."""
    epochs = updates * size / task.num_examples(size)
    settings = Settings(device=options.device, checkpoint_seconds=1e9)
    recipe = replace(_recipe(options.app, size), epochs=epochs)
    fit(Unjudged(task), recipe, out=out, settings=settings)


def _median(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return a batch size's row of medians over the rounds."""
    names = ("predicted", "measured", "predicted_sync")
    return rows[0] | {name: statistics.median(row[name] for row in rows) for name in names}


def _row(timing: Timing, size: int, run: records.Run) -> dict[str, Any]:
    counted = [row.seconds for row in run.updates][SKIPPED:]
    whole = replace(run.manifest.recipe, epochs=1)
    return {
        "batch_size": size,
        "updates": len(counted) - 1,
        "epoch_updates": schedule.updates(whole, run.manifest.num_examples),
        "predicted": timing.seconds,
        "measured": (counted[-1] - counted[0]) / (len(counted) - 1),
        "predicted_sync": timing.sync_seconds,
        "predicted_way": str(Candidate(timing.micro_batch_size, timing.lanes)),
        "measured_way": str(Candidate(run.manifest.micro_batch_size, run.manifest.lanes)),
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"batch {row['batch_size']:>6}: predicted {row['predicted']:.4f} s/update "
        f"(of it {row['predicted_sync']:.4f} synchronisation; {row['predicted_way']}), measured "
        f"{row['measured']:.4f} over {row['updates']} updates ({row['measured_way']}): "
        f"{row['predicted'] / row['measured'] - 1:+.0%}"
    )


# On one process or on two nodes -------------------------------------------------------


def _start(words: list[str], nodes: int, found: Path) -> None:
    """Do the rounds in a process of its own, or by torchrun in one on each node."""
    module = ["-m", "benchmarks.nodes", *words, "--inside", str(found)]
    if nodes == 1:
        subprocess.run([sys.executable, *module], check=True)
        return
    processes = []
    for number, space in enumerate(SPACES):
        launch = [
            "ip", "netns", "exec", space, sys.executable, "-m", "torch.distributed.run",
            "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1",
            "--master-addr", ADDRESSES[0], "--master-port", "29417", *module,
        ]  # fmt: skip
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable",
                     "TORCH_CPP_LOG_LEVEL": "ERROR"}  # fmt: skip
        processes.append(subprocess.Popen(launch, env=os.environ | variables))
    codes = [process.wait(1200) for process in processes]
    if any(codes):
        raise SystemExit(f"a node ended with {codes}")


@contextlib.contextmanager
def _nodes(rate: str) -> Iterator[None]:
    """Make two namespaces and a cable of this rate between them; take them away at the end."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit("two nodes need root, and iproute2 with tc (apt-get install iproute2)")
    try:
        for space in SPACES:
            _ip(f"netns del {space}", check=False)  # of a run that was killed
            _ip(f"netns add {space}")
            _ip(f"-n {space} link set lo up")
        _ip(f"link add cable netns {SPACES[0]} type veth peer name cable netns {SPACES[1]}")
        for space, address in zip(SPACES, ADDRESSES, strict=True):
            _ip(f"-n {space} address add {address}/24 dev cable")
            _ip(f"-n {space} link set cable up")
            shape = f"qdisc add dev cable root tbf rate {rate} burst {BURST} latency 50ms"
            _ip(f"netns exec {space} tc {shape}")
        yield
    finally:
        for space in SPACES:
            _ip(f"netns del {space}", check=False)


def _ip(words: str, check: bool = True) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"ip {words}: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
