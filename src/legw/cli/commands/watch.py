"""Command `legw watch`: shows the runs below a folder, their progress and expected end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tyro.conf import Positional, arg

from legw.cli import output
from legw.cli.options import Count, Flag
from legw.cli.output import figure
from legw.errors import RunError, check_range, duration, one_line
from legw.study import watch
from legw.study.watch import Progress, View

LOOKS = {
    "running": "green",
    "finished": "",
    "diverged": "red",
    "interrupted": "yellow",
    "stopped": "yellow",
    "missing": "dim",
}
"""The color of each state, where there are colors."""

MAX_ROWS = 40
"""Most lines of the table: those of running runs before the others."""

BAR_FROM = 100
"""Columns of a terminal from which on there is room for bars."""

MIN_NAME = 16
"""Fewest characters that a run's name is cut to."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Show the runs in a folder: their progress, loss so far, and expected end.

    In a terminal the table is kept up to date until everything has ended, or Ctrl-C.

    Example: legw watch runs/digits-lstm-study --once
    """

    folder: Annotated[Positional[Path], arg(metavar="FOLDER", help_behavior_hint="")]
    """Folder of a study, of a run, or with runs at any depth."""
    every: float = 2.0
    """Seconds between two looks, above 0."""
    once: Flag = False
    """Look once and end, as it does where there is no terminal."""
    serve: Flag = False
    """Show the report in a browser in place of the table, kept up to date while runs go on. It
    prints its address, which this machine alone can open, and ends with Ctrl-C."""
    port: Count = None
    """With --serve: the port to listen on, 0 to 65535; a free one if not given."""


def run(
    options: Options,
    now: Callable[[], datetime] = datetime.now,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the folder until all runs have ended; `now` and `sleep` are the clock."""
    check_range("", "--every", options.every, 0, above=True)
    if options.serve:
        return _serve(options)
    if options.port is not None:
        raise RunError(f"--port={options.port}: is for --serve; give both, or leave it out")
    if not options.folder.is_dir():
        raise RunError(f"{options.folder}: is not a folder; give the folder of a study or of runs")
    view = watch.look(options.folder)
    if not view.runs and not view.problems:
        raise RunError(f"{options.folder}: holds no runs; legw train and legw study make them")
    screen = output.console()
    if options.once or not screen.is_terminal:
        output.show(table_of(view, screen.width))
        for line in below(view, now()):
            output.say(line)
        return 0
    return live(options, view, screen, now, sleep)


def _serve(options: Options) -> int:
    """Serve the report until Ctrl-C; one line says where."""
    from legw.report.server import serve

    if options.once:
        raise RunError("--once: looks once and ends, and --serve goes on; give one of them")

    def say(address: str) -> None:
        print(f"{address} shows {one_line(str(options.folder), 200)}; Ctrl-C ends it", flush=True)

    serve(options.folder, port=options.port or 0, every_seconds=options.every, ready=say)
    return 0


def live(
    options: Options,
    view: View,
    screen: Console,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> int:
    """Keep the table up to date until all runs have ended."""
    with Live(drawn(view, now(), screen.width), console=screen, auto_refresh=False) as shown:
        while not view.done:
            try:
                sleep(options.every)
            except KeyboardInterrupt:
                return 0
            view = watch.look(options.folder)
            shown.update(drawn(view, now(), screen.width), refresh=True)
    return 0


def drawn(view: View, now: datetime, width: int = 80) -> RenderableType:
    """Return the table of a view in `width` columns, and the lines that sum it up."""
    return Group(table_of(view, width), *(Text(line) for line in below(view, now)))


def table_of(view: View, width: int = 80) -> Table:
    """Return a line a run (of seeds that have ended one together), those that run where there are
    too many.

    In few columns there are no bars, then names are cut in the middle.
    """
    lines = watch.grouped(view.runs)
    shown = sorted(lines, key=lambda run: run.status != "running")[:MAX_ROWS]
    names = {run.metric_name for run in lines if run.metric_name}
    one_metric = one_line(names.pop(), 16) if len(names) == 1 else ""
    heads = ["state", "epoch", "loss", one_metric or "metric", "left"]
    rows = [(run, _cells(run, not one_metric)) for run in sorted(shown, key=lines.index)]
    columns = [[head, *(cells[at] for _, cells in rows)] for at, head in enumerate(heads)]
    bars = width >= BAR_FROM
    taken = sum(max(map(len, column)) + 2 for column in columns) + (14 if bars else 0)

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, header_style="")
    table.add_column("run", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for _ in ("bar",) if bars else ():
        table.add_column("", width=12)
    for head in heads[1:]:
        table.add_column(head, justify="right", no_wrap=True)
    room = max(width - taken - 1, MIN_NAME)
    for run, (state, *figures) in rows:
        bar = ProgressBar(total=1.0, completed=run.share, width=12)
        between = [bar if run.status != "missing" else ""] if bars else []
        name = Text(output.cut(one_line(run.name), room))
        table.add_row(name, Text(state, style=LOOKS.get(state, "")), *between, *figures)
    return table


def _cells(run: Progress, named: bool) -> list[str]:
    """Return state, epoch, loss, metric and time left; the metric with its name where asked."""
    left = "" if run.seconds_left is None else duration(run.seconds_left)
    name = f"{one_line(run.metric_name, 16)} " if named else ""
    return [
        run.status,
        f"{run.epoch:.4g} of {run.epochs:.4g}" if run.epochs else "",
        figure(run.loss) if run.loss is not None else "",
        f"{name}{figure(run.metric)}" if run.metric is not None else "",
        left if run.status == "running" else "",
    ]


def below(view: View, now: datetime) -> list[str]:
    """Return the lines below the table: counts, expected end, and problems."""
    counts: dict[str, int] = {}
    for run in view.runs:
        counts[run.status] = counts.get(run.status, 0) + 1
    states = ", ".join(f"{count} {state}" for state, count in counts.items())
    line = f"{len(view.runs)} run{'' if len(view.runs) == 1 else 's'}: {states}"
    if view.seconds_left is not None:
        end = now + timedelta(seconds=view.seconds_left)
        line += f"; the last ends in about {duration(view.seconds_left)}, at {end:%a %H:%M}"
    hidden = len(watch.grouped(view.runs)) - MAX_ROWS
    lines = [line] + ([f"and {hidden} more that are not shown"] if hidden > 0 else [])
    if counts.get("stopped"):
        lines.append("stopped: no process works on it; the command that began it goes on with it")
    problems = [*view.problems, *(run.problem for run in view.runs if run.problem)]
    return lines + [f"note: {one_line(line)}" for line in problems]
