"""Two hosts, one of which dies: the other finishes alone, or with it when it comes back.

The hosts are network namespaces of this machine, joined by a cable (a veth pair);
what runs on them is `torchrun`, as a user would start it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from legw.recipe import to_toml
from legw.runs import records
from legw.train import checkpoint
from train.runs import assert_same_run, recipe, train

UPDATES = 300
TESTS = Path(__file__).parents[1]


def ip(words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the system's `ip`."""
    return subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=check)


def why_not() -> str:
    """Return why there can be no namespaces here; empty where there can."""
    if not shutil.which("ip"):
        return "there is no `ip` here (apt-get install iproute2)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    name = f"legw-try-{os.getpid()}"
    made = ip(f"netns add {name}", check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    ip(f"netns del {name}")
    return ""


@dataclass
class Host:
    """A namespace with an address, in which torchrun is started."""

    space: str
    address: str
    folder: Path
    keeps_store: bool
    restarts: int = 3
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, endpoint: str, *more: str) -> None:
        """Start `torchrun ... legw train` here."""
        store = f"is_host={int(self.keeps_store)}"
        words = [
            "ip", "netns", "exec", self.space, sys.executable, "-m", "torch.distributed.run",
            "--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", str(self.restarts),
            "--rdzv-backend", "c10d", "--rdzv-id", "legw", "--rdzv-endpoint", endpoint,
            "--rdzv-conf", f"{store},last_call_timeout=2,keep_alive_interval=1",
            "--local-addr", self.address, "--monitor-interval", "0.2",
            "-m", "legw", "train", "train.paced:streams", "--recipe", "small.toml",
            "--micro-batch-size", "64", "--checkpoint-seconds", "0.5", "--resume", "--out", "run",
            *more,
        ]  # fmt: skip
        variables = {
            "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "LEGW_TEST_HURRY": str(self.folder / "hurry"), "LEGW_TEST_SECONDS": "0.3",
            "LEGW_TEST_STOP": str(self.folder / "stop"),
        }  # fmt: skip
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                words, cwd=self.folder, env=os.environ | variables, stdout=log, stderr=log
            )
        self.running.append(process)

    def kill(self) -> None:
        """Let all that runs here die at once."""
        for pid in ip(f"netns pids {self.space}").stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        for process in self.running:
            process.wait()
        self.running.clear()

    @property
    def log(self) -> Path:
        return self.folder / f"{self.space}.log"


@dataclass
class Cluster:
    """Two hosts and the folder that both see."""

    survivor: Host
    other: Host
    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def start(self, host: Host, *more: str) -> None:
        host.start(f"{self.survivor.address}:29400", *more)

    def until(self, what: str, true: Callable[[], bool], seconds: float = 120) -> None:
        """Wait until something is true, as long as the survivor lives."""
        deadline = time.monotonic() + seconds
        while not true():
            alive = self.survivor.running[0].poll() is None
            assert alive and time.monotonic() < deadline, f"{what}: {self.logs()}"
            time.sleep(0.05)

    def world_size(self) -> int:
        there = (self.out / "manifest.json").exists()
        return records.read_manifest(self.out).world_size if there else 0

    def until_trained_by(self, world_size: int) -> None:
        """Wait until so many processes have made two checkpoints."""
        self.until(f"{world_size} processes", lambda: self.world_size() == world_size)
        before = checkpoint.paths(self.out)
        self.until("checkpoints", lambda: len(set(checkpoint.paths(self.out)) - set(before)) == 2)

    def finish(self) -> None:
        """Let the run hurry to its end, and see that it ends well on the survivor."""
        (self.folder / "hurry").touch()
        assert self.survivor.running[0].wait(120) == 0, self.logs()

    def ends(self, host: Host, seconds: float = 120) -> str:
        """Wait until a host's torchrun has ended badly; return what it wrote.

        torchrun has a traceback of its own; none of it may lie in our files.
        """
        assert host.running[-1].wait(seconds) != 0, self.logs()
        host.running.clear()
        text = host.log.read_text(encoding="utf-8")
        assert f"{Path('src', 'legw')}/" not in text, text
        return text

    def starts_again(self) -> None:
        """Start both hosts with the same command, and see that the run ends as it should."""
        for host in (self.survivor, self.other):
            host.restarts = 3
            self.start(host)
        self.until_trained_by(2)
        self.finish()
        assert not [each.name for each in self.out.glob(".*") if each.name != ".lock"]

    def logs(self) -> str:
        found = [host.log for host in (self.survivor, self.other) if host.log.exists()]
        return "\n".join(f"{log.name}: {log.read_text(encoding='utf-8')[-3000:]}" for log in found)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two hosts; the parameter is the last number of the survivor's address, 1 or 2."""
    problem = why_not()
    if problem:
        pytest.skip(f"two hosts: left out: {problem}")
    small = recipe(epochs=UPDATES * 64 / 704)
    (tmp_path / "small.toml").write_text(to_toml(small), encoding="utf-8")
    hosts = [
        Host(f"legw-{os.getpid()}-{n}", f"10.77.0.{n}", tmp_path, keeps_store=n == request.param)
        for n in (1, 2)
    ]
    try:
        for host in hosts:
            ip(f"netns add {host.space}")
            ip(f"-n {host.space} link set lo up")
        one, two = (host.space for host in hosts)
        ip(f"link add cable netns {one} type veth peer name cable netns {two}")
        for host in hosts:
            ip(f"-n {host.space} address add {host.address}/24 dev cable")
            ip(f"-n {host.space} link set cable up")
        survivor, other = sorted(hosts, key=lambda host: not host.keeps_store)
        yield Cluster(survivor, other, tmp_path)
    finally:
        for host in hosts:
            host.kill()
            ip(f"netns del {host.space}", check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing happens to, on one process."""
    folder = tmp_path_factory.mktemp("whole")
    train("streams", folder, updates=UPDATES)
    return folder


@pytest.mark.ci  # all of them wait most of a minute for processes that start
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_the_surviving_host_finishes_alone(cluster: Cluster, whole: Path) -> None:
    cluster.start(cluster.survivor)
    cluster.start(cluster.other)
    cluster.until_trained_by(2)
    cluster.other.kill()
    cluster.until_trained_by(1)
    cluster.finish()
    assert_same_run(cluster.out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_the_host_that_died_comes_back(cluster: Cluster, whole: Path) -> None:
    """With the lower address it is the first process, both times."""
    cluster.start(cluster.survivor)
    cluster.start(cluster.other)
    cluster.until_trained_by(2)
    cluster.other.kill()
    cluster.until_trained_by(1)
    cluster.start(cluster.other)
    cluster.until_trained_by(2)
    cluster.finish()
    assert_same_run(cluster.out, whole)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [2], indirect=True)
def test_the_cable_breaks(cluster: Cluster, whole: Path) -> None:
    """No word from the other host, not even that it is gone: patience ends some time."""
    for host in (cluster.survivor, cluster.other):
        cluster.start(host, "--patience-seconds", "10")
    cluster.until_trained_by(2)
    ip(f"-n {cluster.other.space} link set cable down")
    cluster.until_trained_by(1)
    cluster.finish()
    assert_same_run(cluster.out, whole)


@pytest.mark.ci
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_the_host_of_the_rendezvous_dies_in_mid_checkpoint(cluster: Cluster, whole: Path) -> None:
    """With it go the store at which all meet and the process that writes; nothing is lost.

    The other ends with one line, for there is nobody to meet; the same command goes on.
    """
    for host in (cluster.survivor, cluster.other):
        cluster.start(host, "--patience-seconds", "10")
    cluster.until_trained_by(2)
    (cluster.folder / "stop").touch()
    cluster.until("half a file", lambda: bool(list(cluster.out.glob(".checkpoint-*"))))
    kept = {path: path.read_bytes() for path in checkpoint.paths(cluster.out)}
    cluster.survivor.kill()
    text = cluster.ends(cluster.other)
    assert text.count("legw: rank 1: lost another process (") == 1
    assert kept and all(path.read_bytes() == content for path, content in kept.items())
    (cluster.folder / "stop").unlink()
    cluster.starts_again()
    assert_same_run(cluster.out, whole)


@pytest.fixture
def small_disk(cluster: Cluster) -> Iterator[Path]:
    """Let the folder of the run lie on a disk of a mebibyte."""
    cluster.out.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(cluster.out)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small disk: left out: nothing can be mounted here")
    yield cluster.out
    for host in (cluster.survivor, cluster.other):
        host.kill()
    subprocess.run(["umount", "--lazy", str(cluster.out)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("cluster", [1], indirect=True)
def test_a_disk_that_is_full_ends_both_hosts(
    cluster: Cluster, small_disk: Path, whole: Path
) -> None:
    """A real one: the writer says so in one line, the last checkpoint stays, and both go on."""
    for host in (cluster.survivor, cluster.other):
        host.restarts = 0
        cluster.start(host)
    cluster.until_trained_by(2)
    with (small_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError):
        while True:
            ballast.write(b"x" * 4096)
    assert "No space left on device" in cluster.ends(cluster.survivor)
    cluster.ends(cluster.other)
    assert checkpoint.paths(small_disk)
    (small_disk / "ballast").unlink()
    cluster.starts_again()
    (small_disk / "ballast").unlink(missing_ok=True)
    assert_same_run(cluster.out, whole)
