"""Train on two emulated nodes: network namespaces of this machine, joined by a slow cable.

    python results/two_nodes.py --link 100mbit mnist-lstm-muon -b 2048 --out runs/two-nodes

Everything after the link is given to `legw train`, which `torchrun` starts in both namespaces, with
one thread each. The cable is a veth pair whose ends send no faster than the link (`tc` with a token
bucket). It needs Linux, root, iproute2, and a core for each node; the run folder is shared. At the
end it prints the seconds from the first line to the last, the start of both processes included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator

NODES = {"legw-node-0": "10.94.7.1", "legw-node-1": "10.94.7.2"}
CABLE = "cable"
PORT = 29407


def run(words: str) -> None:
    subprocess.run(words.split(), check=True)


@contextlib.contextmanager
def cluster(link: str) -> Iterator[None]:
    """Join two namespaces with a cable of a given speed, as `tc` writes it, and remove them."""
    first, second = NODES
    try:
        for space in NODES:
            run(f"ip netns add {space}")
        ends = f"{CABLE} netns {first} type veth peer name {CABLE} netns {second}"
        run(f"ip link add {ends}")
        for space, address in NODES.items():
            run(f"ip -n {space} addr add {address}/24 dev {CABLE}")
            run(f"ip -n {space} link set {CABLE} up")
            run(f"ip -n {space} link set lo up")
            bucket = f"tbf rate {link} burst 128kb latency 50ms"
            run(f"ip netns exec {space} tc qdisc add dev {CABLE} root {bucket}")
        yield
    finally:
        for space in NODES:
            subprocess.run(["ip", "netns", "del", space], check=False)


def start(rank: int, space: str, words: list[str]) -> subprocess.Popen[bytes]:
    """Start `torchrun ... legw train` on one node; the first one's output is shown."""
    command = [
        "ip", "netns", "exec", space, sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "2", "--nproc-per-node", "1", "--node-rank", str(rank),
        "--master-addr", NODES["legw-node-0"], "--master-port", str(PORT),
        "-m", "legw", "train", *words,
    ]  # fmt: skip
    variables = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE}
    return subprocess.Popen(
        command, env=variables, stdout=None if rank == 0 else subprocess.DEVNULL
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--link", default="100mbit", help="speed of the cable, as tc writes it")
    asked, words = parser.parse_known_args()
    with cluster(asked.link):
        began = time.monotonic()
        nodes = [start(rank, space, words) for rank, space in enumerate(NODES)]
        codes = [node.wait() for node in nodes]
        print(f"{time.monotonic() - began:.1f} s on two nodes, {asked.link}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
