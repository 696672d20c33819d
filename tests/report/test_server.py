"""The report of a running study in a browser: who may ask, what is drawn when, and what stays."""

from __future__ import annotations

import html
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from cli.commands.test_watch import ASKED
from expect import error_line
from folders import write_run, write_study
from legw.cli import main
from legw.errors import RunError
from legw.report import server
from legw.report.server import Pages, Server, state
from legw.runs import locks, records
from train.launch import start
from train.runs import train


@contextmanager
def serving(folder: Path, **more: Any) -> Iterator[Server]:
    """Serve a folder in a thread of this process."""
    with Server(Pages(folder, **more)) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield running
        finally:
            running.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A study: the base has finished, a run goes on, the last has not begun."""
    half: dict[str, Any] = {"status": None, "losses": [2.0] * 7, "metric": 0.7}
    write_study(tmp_path / "s", ASKED, legw_b64_s0=half, sqrt_b64_s0={})
    with locks.held(tmp_path / "s" / "runs" / "legw-b64-s0"):
        yield tmp_path / "s"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that stands through many tests."""
    folder = tmp_path_factory.mktemp("standing")
    write_run(folder / "a")
    with serving(folder) as running:
        yield running


def ask(
    running: Server, path: str = "/", method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection("127.0.0.1", running.server_address[1], timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


# Who may ask, and for what --------------------------------------------------------------


@pytest.mark.ci
def test_it_shows_the_report_with_the_progress_above_it(folder: Path) -> None:
    with serving(folder) as running:
        answer, text = ask(running)
        assert answer.status == 200 and answer.getheader("Cache-Control") == "no-store"
        assert answer.getheader("X-Frame-Options") == "DENY"
        assert "1 of 3 runs have ended" in text and "legw-b64-s0" in text and "1.12 of 4" in text
        policy = html.unescape(text[: text.index("viewport")])
        assert "connect-src 'self'" in policy and "default-src 'none'" in policy
        _, inner = ask(running, "/main")
        assert inner.startswith("<main ") and inner.endswith("</main>") and inner in text
        _, version = ask(running, "/version")
        assert f'data-version="{version}"' in inner
        assert ask(running, Host=f"localhost:{running.server_address[1]}")[0].status == 200
        answer, text = ask(running, method="HEAD")
        assert (answer.status, text) == (200, "") and int(answer.getheader("Content-Length", "0"))


@pytest.mark.parametrize(
    "path",
    ["/index.html", "/main/", "/study.json", "/../s/study.json", "/%2e%2e/s/study.json",
     "//etc/passwd", "/runs/legw-b64-s0/metrics.jsonl", "/?x", "/main?x=1", "*"],
)  # fmt: skip
def test_no_other_address_leads_anywhere(standing: Server, path: str) -> None:
    answer, text = ask(standing, path)
    assert (answer.status, text) == (404, "legw watch --serve has no such page")


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:PORT", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:PORT.evil.example",
     "localhost", "[::1]:PORT", "", "127.0.0.1:PORT, evil.example"],
)  # fmt: skip
def test_a_name_that_is_not_its_own_is_refused(standing: Server, host: str) -> None:
    """As a page of the web has it whose own name leads here (DNS rebinding)."""
    answer, text = ask(standing, Host=host.replace("PORT", str(standing.server_address[1])))
    assert (answer.status, text) == (403, "legw watch --serve answers on its own address only")


def test_no_name_and_two_names_are_refused(standing: Server) -> None:
    port = standing.server_address[1]
    for heads in ("", f"Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as line:
            line.sendall(f"GET / HTTP/1.1\r\n{heads}Connection: close\r\n\r\n".encode())
            assert line.recv(2**16).startswith(b"HTTP/1.0 403")


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"]
)
def test_no_other_method_is_answered(standing: Server, method: str) -> None:
    answer, _ = ask(standing, method=method)
    assert answer.status == (501 if method == "BREW" else 405)


def test_it_writes_nothing(folder: Path) -> None:
    def files() -> dict[str, float]:
        return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}

    before = files()
    with serving(folder) as running:
        for path in ("/", "/main", "/version"):
            assert ask(running, path)[0].status == 200
    assert files() == before


def test_it_listens_on_this_machine_alone(folder: Path) -> None:
    with serving(folder) as running:
        assert running.socket.getsockname()[0] == "127.0.0.1"
        assert running.address == f"http://127.0.0.1:{running.server_address[1]}/"


# What is drawn when -------------------------------------------------------------------------


@pytest.mark.ci
def test_a_page_is_drawn_once_for_each_state_of_the_runs(folder: Path) -> None:
    now = [0.0]
    pages = Pages(folder, clock=lambda: now[0])
    first = pages.version()
    assert all(pages.drawn().version == first for _ in range(3)) and pages.count == 1
    metrics = folder / "runs" / "legw-b64-s0" / "metrics.jsonl"
    with metrics.open("ab") as file:
        file.write(b'{"kind":"update","update":7,"epoch":1.28,"loss":0.125,"lr":0.2}\n')
    assert pages.version() != first
    threads = [threading.Thread(target=pages.drawn) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert pages.count == 2 and b"0.125" in pages.drawn().main
    (folder / "notes.txt").write_text("nothing of a run's")
    assert pages.version() == pages.drawn().version and pages.count == 2


@pytest.mark.ci
def test_what_takes_long_to_draw_is_drawn_seldom(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    pages = Pages(folder, clock=lambda: now[0])
    real = server.page.text

    def slow(*args: Any, **more: Any) -> str:
        now[0] += 3.0
        return real(*args, **more)

    monkeypatch.setattr(server.page, "text", slow)
    for number in (1, 2):
        write_run(folder / "runs" / f"more-{number}", seed=number)
        pages.drawn()
    assert pages.count == 2, "the second is not drawn yet"
    now[0] += 3.0 / server.MAX_SHARE
    pages.drawn()
    assert pages.count == 3


def test_the_begin_and_the_end_of_a_run_are_changes(tmp_path: Path) -> None:
    place = write_run(tmp_path / "a", status=None)
    versions = {state(tmp_path)}
    with locks.held(place):
        versions.add(state(tmp_path))
    write_run(tmp_path / "b")
    versions.add(state(tmp_path))
    assert len(versions) == 3 and state(tmp_path) in versions


def test_a_folder_that_goes_away_is_a_line(tmp_path: Path) -> None:
    write_run(tmp_path / "s" / "a")
    with serving(tmp_path / "s") as running:
        (tmp_path / "s").rename(tmp_path / "t")
        answer, text = ask(running)
        assert answer.status == 503
        assert text.startswith(f"{tmp_path / 's'}: is not a folder")
        (tmp_path / "t").rename(tmp_path / "s")
        assert ask(running)[0].status == 200


def test_a_port_that_is_taken_is_a_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Pages(folder)
    with Server(pages) as running:
        port = running.server_address[1]
        with pytest.raises(RunError, match=f"port={port}: cannot be listened on: Address already"):
            Server(pages, port)
    error_line(Server, pages, 65536, kind=RunError)


@pytest.mark.parametrize(
    "words", ["{} --serve --once", "{} --port 80", "{} --serve --port 70000", "{}/none --serve"]
)
def test_mistakes(folder: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", *words.format(folder).split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("legw: ") and err.count("\n") == 1


HEARING = """
import signal, sys
from legw.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main())
"""
"""The command, which hears Ctrl-C also where the suite runs in the background and does not."""


def test_the_command_says_its_address_and_ends_with_ctrl_c(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HEARING, "watch", str(folder), "--serve"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        address, _, rest = line.partition(" ")
        assert address.startswith("http://127.0.0.1:")
        assert rest == f"shows {folder}; Ctrl-C ends it\n"
        connection = http.client.HTTPConnection(address.split("/")[2], timeout=60)
        connection.request("GET", "/version")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert process.wait(30) == 0


# In a browser -----------------------------------------------------------------------------

DRAWN = (
    "[...document.querySelectorAll('.chart')].filter((box) => !box.closest('details:not([open])'))"
    ".every((box) => box.querySelector('svg'))"
)
PROGRESS = "document.querySelector('#progress p').textContent"
FIGURE = "document.querySelector('#progress td:nth-child(3)')?.textContent"


def each(selector: str, what: str) -> str:
    return f"[...document.querySelectorAll('{selector}')].map((one) => one.{what})"


@pytest.mark.ci
def test_a_browser_sees_a_run_go_on_and_keeps_its_place(tmp_path: Path) -> None:
    """A real run writes while the page is open; the page is never loaded again."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: page not opened here")
    write_study(tmp_path / "all" / "s", ASKED)
    hurry = tmp_path / "hurry"
    out = tmp_path / "all" / "lines"
    (rank,) = start(
        1, train, "lines", out, updates=1000, hurry=hurry, checkpoint_seconds=0.5,
        logs=tmp_path / "logs",
    )  # fmt: skip
    deadline = time.monotonic() + 100
    while not records.begun(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    with (
        serving(tmp_path / "all", every_seconds=0.2) as running,
        Browser(tmp_path / "profile") as browser,
    ):
        browser.go(running.address, until=DRAWN)
        assert browser.run(PROGRESS).startswith("3 of 4 runs have ended")
        browser.run("window.sameDocument = true")
        browser.run("document.querySelector('#study-0 details:last-of-type').open = true")
        browser.run("document.querySelectorAll('.units input[value=seconds]')[1].click()")
        browser.wait(DRAWN)
        browser.run("document.querySelector('#study-1 h1').scrollIntoView()")
        top = "document.querySelector('#study-1 h1').getBoundingClientRect().top"
        before, at = browser.run(FIGURE), browser.run(top)
        browser.wait(f"{FIGURE} !== {before!r}")  # an evaluation has come
        browser.wait(f"({DRAWN}) && document.querySelectorAll('.chart').length > 8")
        assert browser.run(top) == pytest.approx(at, abs=2)
        assert "running" in browser.run("document.querySelector('#progress').textContent")

        hurry.touch()
        assert rank.wait() == 0
        browser.wait(f"{PROGRESS}.startsWith('4 of 4 runs have ended')")
        browser.wait(DRAWN)
        assert browser.run("window.sameDocument") is True
        assert browser.run("document.querySelector('#study-0 details:last-of-type').open")
        chosen, drawn = ".units input:checked", "#study-1 .chart[data-units] svg"
        assert browser.run(each(chosen, "value")) == ["epochs", "seconds"]
        titles = browser.run(each(drawn, "textContent"))
        assert titles and all("seconds" in title for title in titles)
        assert browser.run(top) == pytest.approx(at, abs=2)
        assert browser.complaints == []
        assert all(place.startswith((running.address, "data:")) for place in browser.requests)

        running.shutdown()
        running.server_close()
        browser.wait("document.getElementById('live').classList.contains('gone')")
