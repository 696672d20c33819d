"""The built site: its pages that are made from the code, and its looks in a browser."""

from __future__ import annotations

import base64
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import tyro
from PIL import Image, ImageStat

from browser import CHROMIUM, Browser
from docs import commands
from legw.cli import COMMANDS, main
from legw.cli.commands.probe import SUBCOMMANDS

ROOT = Path(__file__).parents[1]

REFERENCE = commands.reference()


def sections() -> dict[str, str]:
    """Return the text of each command's section by its head; shared options are in it."""
    found = {}
    for part in re.split(r"^## ", REFERENCE, flags=re.MULTILINE)[1:]:
        head, _, text = part.partition("\n")
        found[head] = text
    for shared in commands.SHARED.values():
        found = {head: text.replace(f"[{shared}]", found[shared]) for head, text in found.items()}
    return found


def helps() -> list[str]:
    subcommands = {"probe": SUBCOMMANDS}
    return [
        " ".join([name, sub]).strip() for name in COMMANDS for sub in subcommands.get(name, [""])
    ]


@pytest.mark.parametrize("command", helps())
def test_the_reference_has_every_option_and_default(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "129")  # more would be two columns of boxes
    assert main([*command.split(), "--help"]) == 0
    rows = [
        line.strip("│─- ") and line.strip("│ ") for line in capsys.readouterr().out.splitlines()
    ]
    told = re.sub(r"\n(?!-|$)", " ", "\n".join(rows))  # the text of a long name is below it
    section = sections()[f"legw {command}"]

    options = re.findall(r"^(?:(-\w)[^,\n]*, )?(--[a-z][\w-]*)(.*)", told, re.MULTILINE)
    listed = re.findall(r"^- (?:`(-\w)`, )?`(--[a-z][\w-]*)(.*)", section, re.MULTILINE)
    wanted = {(short, name) for short, name, _ in options} - {("-h", "--help")}
    assert {(short, name) for short, name, _ in listed} == wanted
    defaults = {name: re.findall(r"\(default: (.*?)\)", rest) for _, name, rest in options}
    for _, name, rest in listed:
        if (command, name) != ("demo", "--jobs"):  # as many as the machine has cores
            assert re.findall(r"Default: `(.*?)`", rest) == defaults[name], name
    if command != "report":  # which asks for a folder itself
        assert section.count("*Required.*") == told.count("(required)")


def test_the_reference_has_nothing_else() -> None:
    assert set(sections()) == {f"legw {name}" for name in helps()} | {*commands.SHARED.values()}


@pytest.mark.parametrize("line", re.findall(r"^legw (.*)$", REFERENCE, re.MULTILINE))
def test_an_example_of_the_reference_is_understood(line: str) -> None:
    name, *words = shlex.split(re.split(r" [<>] ", line)[0])
    command = importlib.import_module(f"legw.cli.commands.{name}")
    plain = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    tyro.cli(command.Options, args=words, config=plain)


# In a browser -------------------------------------------------------------------------

MAIN = (
    "", "rules/", "own-recipe/", "own-loop/", "bases/", "results/", "theory/", "configurations/",
    "troubleshooting/", "cli/", "api/train/", "notebook/theory/",
)  # fmt: skip
"""Pages that are looked at."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the site, serve it on loopback, and return its address."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=True, timeout=300,
    )  # fmt: skip

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium")

WIDER = "document.documentElement.scrollWidth - innerWidth"
BROKEN = """[...document.querySelectorAll('article table code')]
    .filter(code => /^\\S+$/.test(code.textContent) && code.getClientRects().length > 1)
    .map(code => code.textContent)"""
"""Words of code in tables that stand in more than one line."""
HIDDEN = """[...document.querySelectorAll('article table')].filter(table => {
    const box = table.closest('.md-typeset__scrollwrap');
    return table.getBoundingClientRect().right > innerWidth
        && !(box && getComputedStyle(box).backgroundImage.split('linear-gradient').length === 5);
}).length"""
"""Tables wider than the page that no shadow says so of."""
CHART = "document.querySelector('article img[src$=\".svg\"]')"


@pytest.mark.ci
@needs_browser
def test_no_page_is_wider_than_a_phone(site: str, tmp_path: Path) -> None:
    with Browser(tmp_path, width=390) as browser:
        for page in MAIN:
            browser.go(f"{site}{page}", "document.querySelector('article h1')")
            browser.wait("[...document.querySelectorAll('article table')]"
                         ".every(table => table.closest('.md-typeset__scrollwrap'))")  # fmt: skip
            assert browser.run(WIDER) == 0, page
            assert browser.run(BROKEN) == [], page
            assert browser.run(HIDDEN) == 0, page


@pytest.mark.ci
@needs_browser
def test_the_switch_makes_the_page_dark_and_its_charts_too(site: str, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.go(f"{site}theory/", f"{CHART}.complete")
        assert lightness(browser) > 0.9
        browser.run("document.querySelector('label[title=\"Switch to a dark page\"]').click()")
        browser.wait("document.body.dataset.mdColorScheme === 'slate'")
        assert lightness(browser) < 0.3
        browser.go(f"{site}results/", f"{CHART}.complete")
        assert browser.run("document.body.dataset.mdColorScheme") == "slate", "it stays"
        assert lightness(browser) < 0.3
        browser.look(1280, dark=True)
        assert not browser.complaints


def lightness(browser: Browser) -> float:
    """Return the mean lightness, 0 to 1, of what is seen of the first chart and around it."""
    browser.run(f"{CHART}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = browser.run(f"(({{x, y, width, height}}) => ({{x, y: y + scrollY, width, height}}))"
                      f"({CHART}.getBoundingClientRect())")  # fmt: skip
    shot = browser.call("Page.captureScreenshot", clip={**box, "scale": 0.5}, format="png")
    picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("L")
    return ImageStat.Stat(picture).mean[0] / 255


@pytest.mark.ci
@needs_browser
def test_the_search_finds_a_page(site: str, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.go(f"{site}?q=adascale", "document.querySelector('.md-search-result__item a')")
        assert "rules/" in browser.run(
            "[...document.querySelectorAll('.md-search-result__item a')].map(a => a.href).join()"
        )


CUT_OFF = """(() => {
    const whole = document.documentElement.getBoundingClientRect();
    return [...document.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < whole.left - 1 || box.right > whole.right + 1
            || box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
    }).map(text => text.textContent);
})()"""
"""Texts of a chart that are not in it as a whole."""


@pytest.mark.ci
@needs_browser
def test_no_chart_is_cut_off(tmp_path: Path) -> None:
    charts = sorted((ROOT / "docs").glob("*.svg"))
    assert len(charts) >= 9
    with Browser(tmp_path) as browser:
        for chart in charts:
            browser.open(chart)
            assert browser.run("document.querySelectorAll('text').length") > 5
            assert browser.run(CUT_OFF) == [], chart.name
