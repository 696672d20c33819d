"""Server of a report: the page of a folder whose runs go on, on this machine alone.

    /           the page
    /version    version of what the page would show now: a short text
    /main       the page's inner part, which the page puts in place of its old one

It listens on 127.0.0.1, answers GET and HEAD alone, reads the run folders and writes nothing. No
address leads to a file. A request that names another host is refused, so that no page of the web
can read it through a name of its own that leads here (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from legw.analysis import evidence
from legw.errors import LegwError, RunError, check_count, check_range, duration, given, one_line
from legw.report import page
from legw.report.html import Html, table, tag
from legw.runs import locks, reading, records
from legw.study import watch
from legw.study.watch import Progress, View

HOST = "127.0.0.1"
"""The only address that it listens on."""

FILES = (
    "manifest.json", "metrics.jsonl", "summary.json", "study.json", "curvature.jsonl",
    "noise.jsonl", "probes.json",
)  # fmt: skip
"""Files whose change makes another page."""

MAX_SHARE = 0.1
"""Largest share of one core's time that drawing may take while runs go on."""

MAX_ROWS = 40
"""Most lines of the table of progress."""

PATIENCE_SECONDS = 30.0
"""Time after which a connection that sends nothing is closed."""

WRONG_HOST = b"legw watch --serve answers on its own address only"
WRONG_METHOD = b"legw watch --serve answers GET and HEAD only"
NO_PAGE = b"legw watch --serve has no such page"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every answer: nothing is kept, and no other page shows or reads it."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A page as it was drawn for one state of the folder."""

    version: str
    """Version of that state."""
    whole: bytes
    """The page."""
    main: bytes
    """Its inner part."""
    at: float
    """Clock at which it was finished, in seconds."""
    seconds: float
    """Time that drawing took."""


class Pages:
    """Draws the page of a folder, at most once for each state of its runs.

    A state is told by sizes and times of the runs' files, so that asking for it reads none of them.

    Args:
        folder: of a study, or with runs at any depth.
        every_seconds: time between two questions of the page, above 0.
        clock: returns the time in seconds.

    Raises:
        RunError: the folder holds nothing to show.
        ModuleNotFoundError: `legw[report]` is not installed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        every_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._every, self._clock = Path(folder), every_seconds, clock
        self._turn = threading.Lock()
        self.count = 0
        """Number of pages drawn."""
        first = self._draw(state(self._folder))
        self._drawn = replace(
            first, seconds=0.0
        )  # most of it was the import of the charts' package

    def version(self) -> str:
        """Return the version of what would be shown now.

        It stays the old one for a while where drawing takes long, for the runs need the machine.
        """
        drawn = self._drawn
        rest = drawn.seconds * (1 / MAX_SHARE - 1)
        if self._clock() - drawn.at < rest:
            return drawn.version
        return state(self._folder)

    def drawn(self) -> Drawn:
        """Return the page for the present version, drawn once however many ask for it."""
        with self._turn:
            version = self.version()
            if version != self._drawn.version:
                self._drawn = self._draw(version)
            return self._drawn

    def _draw(self, version: str) -> Drawn:
        began = self._clock()
        everything = evidence.read(self._folder)
        live = page.Live(
            version=version,
            every_seconds=self._every,
            above=progress(watch.look(self._folder)),
        )
        whole = page.text(everything, live=live)
        self.count += 1
        ended = self._clock()
        return Drawn(
            version=version,
            whole=whole.encode(),
            main=page.inner(whole).encode(),
            at=ended,
            seconds=ended - began,
        )


def state(folder: Path) -> str:
    """Return a short text that changes whenever a run of a folder writes, begins, or ends."""
    found: list[object] = []
    places = dict.fromkeys([*reading.find(folder, "study.json"), *records.find_runs(folder)])
    for place in places:
        for name in FILES:
            with contextlib.suppress(OSError):
                about = (place / name).lstat()
                found.append((str(place), name, about.st_size, about.st_mtime_ns))
        found.append(locks.is_held(place))
    return hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def progress(view: View) -> Html:
    """Return the section that shows which runs go on, how far they are, and when they end."""
    lines = [run for run in watch.grouped(view.runs) if run.status != "finished"]
    ended = len(view.runs) - sum(run.status not in ("finished", "diverged") for run in view.runs)
    said = f"{ended} of {len(view.runs)} runs have ended"
    if view.seconds_left is not None:
        said += f"; the last ends in about {duration(view.seconds_left)}"
    head = ["run", "state", "epoch", "loss", "metric", "left"]
    shown = sorted(lines, key=lambda run: run.status != "running")[:MAX_ROWS]
    more = len(lines) - len(shown)
    return tag(
        "section",
        tag("h2", "Progress"),
        tag("p", f"{said}."),
        table(head, [_row(run) for run in shown]) if shown else "",
        tag("p", f"And {more} more.", class_="caption") if more else "",
        id="progress",
    )


def _row(run: Progress) -> Iterator[Html]:
    epochs = f"{run.epoch:.4g} of {run.epochs:.4g}" if run.epochs else ""
    known = run.status == "running" and run.seconds_left is not None
    yield tag("td", run.name, class_="text")
    for text in (
        run.status,
        epochs,
        "" if run.loss is None else f"{run.loss:.4g}",
        "" if run.metric is None else f"{run.metric_name} {run.metric:.4g}",
        duration(run.seconds_left or 0.0) if known else "",
    ):
        yield tag("td", text)


# The server -------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Server of one folder's page, on this machine alone; `serve_forever` answers.

    Args:
        pages: source of its answers.
        port: to listen on, 0 to 65535; 0 takes a free one.

    Raises:
        RunError: the port is taken, or not allowed.
    """

    daemon_threads = True

    def __init__(self, pages: Pages, port: int = 0) -> None:
        check_count("", "port", port, least=0, most=65535, error=RunError)
        self.pages = pages
        try:
            super().__init__((HOST, port), Handler)
        except OSError as error:
            raise RunError(
                f"{given('port', port)}: cannot be listened on: {error.strerror}; give another, or "
                "0 for a free one"
            ) from None

    @property
    def address(self) -> str:
        """Address to open in a browser."""
        return f"http://{HOST}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a reader that has gone; anything else is our bug and keeps its trace."""
        import sys

        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection: it answers GET and HEAD of three addresses, and refuses all else."""

    server: Server
    protocol_version = "HTTP/1.0"  # a connection a request: none outlives the server
    server_version, sys_version = "legw", ""
    timeout = PATIENCE_SECONDS

    def do_GET(self) -> None:  # as the standard library calls it
        """Answer with a page, or with the reason why not."""
        port = self.server.server_address[1]
        names = self.headers.get_all("Host", [])
        if names not in ([f"{HOST}:{port}"], [f"localhost:{port}"]):
            self._answer(HTTPStatus.FORBIDDEN, WRONG_HOST)
            return
        pages = self.server.pages
        try:
            if self.path == "/":
                self._answer(HTTPStatus.OK, pages.drawn().whole, "text/html")
            elif self.path == "/main":
                self._answer(HTTPStatus.OK, pages.drawn().main, "text/html")
            elif self.path == "/version":
                self._answer(HTTPStatus.OK, pages.version().encode())
            else:
                self._answer(HTTPStatus.NOT_FOUND, NO_PAGE)
        except LegwError as error:  # the folder has gone, or holds nothing any longer
            line = one_line(str(error), 400)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, line.encode("utf-8", "replace"))

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self.close_connection = True  # whatever it sends is not read
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, WRONG_METHOD)

    do_POST = do_PUT = do_DELETE = do_PATCH = _refuse  # noqa: N815
    do_OPTIONS = do_TRACE = do_CONNECT = _refuse  # noqa: N815

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal shows the address alone."""


def serve(
    folder: str | Path,
    *,
    port: int = 0,
    every_seconds: float = 2.0,
    ready: Callable[[str], object] = print,
) -> None:
    """Show a folder's report on this machine until Ctrl-C, kept up to date while runs go on.

    Args:
        folder: of a study, or with runs at any depth; nothing is written to it.
        port: to listen on, 0 to 65535; 0 takes a free one.
        every_seconds: time between two looks of an open page, in seconds, above 0.
        ready: called with the address once it can be opened.

    Raises:
        RunError: the folder holds nothing to show, or the port is taken.
        ModuleNotFoundError: `legw[report]` is not installed.
    """
    check_range("", "every_seconds", every_seconds, 0, above=True, error=RunError)
    with Server(Pages(folder, every_seconds=every_seconds), port) as server:
        ready(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever(poll_interval=0.1)
