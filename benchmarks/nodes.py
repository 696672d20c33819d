"""Seconds per update, predicted and measured: here, and on two emulated nodes.

    python -m benchmarks.nodes mnist-lstm --batch-sizes 128,512,2048,8192
    sudo python -m benchmarks.nodes mnist-lstm --batch-sizes 128,8192 --nodes 2 --link 1gbit

The nodes are network namespaces of this machine, joined by a cable (a veth pair) whose
both ends `tc ... tbf` holds to the link's rate; one process trains on each, with one
thread. The prediction is `legw plan`'s, from passes measured on one such process alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from legw import cost, files, recipes, records, rules
from legw.apps import Options, find
from legw.cli.plan import read_rate
from legw.cli.probing import Unjudged
from legw.cost import Network, Speed
from legw.recipe import Recipe
from legw.train.machine import environment

SKIPPED = 3
"""Updates at the start that do not count: kernels are chosen, memory is allocated."""

SPACES = ("legw-node-1", "legw-node-2")
ADDRESSES = ("10.78.0.1", "10.78.0.2")
BURST = "128kb"


def main(words: list[str]) -> int:
    """Predict and measure each batch size; print a line each, and write them as JSON."""
    options = _options(words)
    if options.worker:
        return _train(options)
    sizes = [int(size) for size in options.batch_sizes.split(",")]
    speed = _speed(options, sizes)
    network = Network()
    if options.nodes > 1:
        rate = read_rate(options.link.replace("gbit", "Gbit").replace("mbit", "Mbit"))
        network = Network(devices=2, bandwidth=rate, latency_seconds=options.latency)
    rows = []
    with _nodes(options.link) if options.nodes > 1 else contextlib.nullcontext():
        for size in sizes:
            rows.append(_row(options, size, speed, network))
            print(_line(rows[-1]), flush=True)
    errors = [abs(row["predicted"] / row["measured"] - 1) for row in rows]
    print(f"median error {statistics.median(errors):.0%}, largest {max(errors):.0%}")
    if options.out:
        found = {
            "app": options.app, "nodes": options.nodes, "rows": rows, "device": speed.device,
            "link": options.link if options.nodes > 1 else None, "environment": environment(),
            "gradient_bytes": speed.gradient_bytes,
            "passes": {str(size): seconds for size, seconds in speed.passes.items()},
        }  # fmt: skip
        files.write_json(Path(options.out), found)
    return 0


def _options(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("app")
    parser.add_argument("--batch-sizes", default="128,512,2048,8192")
    parser.add_argument("--updates", type=int, default=53)
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--link", default="1gbit", help="as tc writes it")
    parser.add_argument("--latency", type=float, default=1e-4, help="seconds of a message")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    parser.add_argument("--micro-batch-size", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def _recipe(app: str, batch_size: int) -> Recipe:
    """Return the base with another batch and no warmup: only its time counts here."""
    from dataclasses import replace

    plain = rules.apply(replace(recipes.find(app), warmup_epochs=0.0), batch_size, rules.SQRT)
    return replace(plain, lr=plain.lr / 100)  # it must not diverge


def _speed(options: argparse.Namespace, sizes: list[int]) -> Speed:
    """Measure one process's passes, alone."""
    from legw.probes.speed import measure
    from legw.train.dist import World, choose_device

    task = find(options.app, Options())
    world = World(choose_device(options.device))
    return measure(
        task, _recipe(options.app, min(sizes)), world=world,
        largest=-(-max(sizes) // options.nodes), seconds=1.0,
    )  # fmt: skip


def _row(options: argparse.Namespace, size: int, speed: Speed, network: Network) -> dict[str, Any]:
    timing = cost.timing(speed, size, network)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        words = [
            options.app, "--batch-sizes", str(size), "--updates", str(options.updates),
            "--device", options.device, "--micro-batch-size", str(timing.micro_batch_size),
            "--worker", str(out),
        ]  # fmt: skip
        _run(words, options.nodes)
        seconds = [row.seconds for row in records.load(out).updates]
    counted = seconds[SKIPPED:]
    measured = (counted[-1] - counted[0]) / (len(counted) - 1)
    return {
        "batch_size": size,
        "updates": len(counted) - 1,
        "predicted": timing.seconds,
        "measured": measured,
        "predicted_sync": timing.sync_seconds,
        "micro_batch_size": timing.micro_batch_size,
    }


def _line(row: dict[str, Any]) -> str:
    return (
        f"batch {row['batch_size']:>6}: predicted {row['predicted']:.4f} s/update "
        f"(of it {row['predicted_sync']:.4f} synchronisation), measured {row['measured']:.4f} "
        f"over {row['updates']} updates: {row['predicted'] / row['measured'] - 1:+.0%}"
    )


# On one process or on two nodes -------------------------------------------------------


def _run(words: list[str], nodes: int) -> None:
    """Train in a process of its own, or by torchrun on both nodes."""
    module = ["-m", "benchmarks.nodes", *words]
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
        variables = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable"}
        processes.append(subprocess.Popen(launch, env=os.environ | variables))
    codes = [process.wait(1200) for process in processes]
    if any(codes):
        raise SystemExit(f"a node ended with {codes}")


def _train(options: argparse.Namespace) -> int:
    """Be one process of a run, which is not evaluated."""
    from dataclasses import replace

    from legw.train import Settings, fit

    size = int(options.batch_sizes)
    task = find(options.app, Options())
    recipe = _recipe(options.app, size)
    epochs = options.updates * size / task.num_examples(size)
    settings = Settings(
        micro_batch_size=options.micro_batch_size, device=options.device, checkpoint_seconds=1e9
    )
    summary = fit(
        Unjudged(task), replace(recipe, epochs=epochs), out=options.worker, settings=settings
    )
    return 0 if summary.status == "finished" else 1


@contextlib.contextmanager
def _nodes(rate: str) -> Iterator[None]:
    """Make two namespaces and a cable of this rate between them; take them away at the end."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        raise SystemExit("two nodes need root, and iproute2 with tc (apt-get install iproute2)")
    try:
        for space in SPACES:
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
