"""`legw schedule`: the curve in the terminal, as a picture, as numbers."""

from __future__ import annotations

import csv
import io
import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from legw import rules, schedule
from legw.decays import Cosine, Exponential, Step
from legw.errors import LegwError
from legw.presets import PTB_SMALL, RECIPES, RESNET50_IMAGENET
from legw.recipe import Recipe
from legw.report.charts.schedule import Point, all_points, points
from legw.report.charts.style import FORMATS, render

Legw = Callable[[str], Any]

BIG = rules.apply(RESNET50_IMAGENET, 32768, rules.LEGW)


# In the terminal -----------------------------------------------------------------


def test_the_terminal_shows_base_and_scaled_in_80_by_20(legw: Legw) -> None:
    code, out, err = legw("schedule resnet50-imagenet -b 32768")
    assert (code, err) == (0, "")
    head, empty, legend, *drawing = out.splitlines()
    assert head.startswith("resnet50-imagenet: batch 512 → 32768 (k=64, legw): lr 4 → 32, ")
    assert empty == ""
    assert legend == "··· batch 512 (base)   ⠒⠒⠒ batch 32768 (legw)"
    assert len(drawing) <= 19
    assert max(map(len, drawing)) <= 80
    assert drawing[-1].strip() == "epoch"
    assert drawing[-2].split() == [str(10 * i) for i in range(10)]
    assert [line[:2] for line in drawing if line[:2].strip()] == ["30", "20", "10", " 0"]
    assert "\x1b" not in out


def test_without_a_batch_size_it_is_the_base(legw: Legw) -> None:
    out = legw("schedule resnet50-imagenet").out
    assert "(the base recipe itself)" in out
    assert "\n⠒⠒⠒ batch 512 (base)\n" in out


@pytest.mark.parametrize("columns", [20, 40, 60, 200])
def test_the_drawing_fits_the_terminal(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    drawing = legw("schedule gnmt -b 16384").out.splitlines()[3:]
    assert max(map(len, drawing)) <= min(columns, 80)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_drawn(legw: Legw, name: str) -> None:
    size = 2 * RECIPES[name].batch_size
    assert legw(f"schedule {name} -b {size}").code == 0


def test_a_terminal_gets_colors(legw: Legw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[38;5;12m" in legw("schedule resnet50-imagenet -b 32768").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[38;5;12m" not in legw("schedule resnet50-imagenet -b 32768").out


# As numbers ----------------------------------------------------------------------


def test_csv_has_every_update_exactly(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "lr.csv"
    answer = legw(f"schedule resnet50-imagenet -b 32768 --plot {file}")
    assert answer.out.endswith(f"(391 updates)\nwrote {file}\n")
    rows = list(csv.reader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert rows[0] == ["update", "epoch", "lr"]
    lr = schedule.in_steps(BIG)
    assert [(int(u), float(e), float(r)) for u, e, r in rows[1:]] == [
        (s, s * 32768 / 1281167, lr(s)) for s in range(schedule.updates(BIG))
    ]


def test_the_ramp_of_the_published_code_starts_at_zero(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "lr.csv"
    assert legw(f"schedule resnet50-imagenet -b 32768 --ramp start --plot {file}").code == 0
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[1] == "0,0.0,0.0"
    assert len(lines) == 1 + schedule.updates(BIG)


def test_json_is_that_of_scale_and_the_curve(legw: Legw) -> None:
    found = legw("schedule resnet50-imagenet -b 32768 --json").json
    same = legw("scale resnet50-imagenet -b 32768 --json").json
    assert {name: found[name] for name in same} == same
    assert found["ramp"] == "end"
    curve = [Point(**point, batch_size=32768) for point in found["curve"]]
    assert curve == points(BIG)
    assert max(curve, key=lambda point: point.lr)[:3] == (390, 390 * 32768 / 1281167, 32.0)


# A batch that grows ---------------------------------------------------------------


GROWN = rules.apply(RECIPES["mnist-lstm"], 8192, rules.LEGW_RAMP)


def test_a_batch_that_grows_has_a_second_curve(legw: Legw) -> None:
    code, out, err = legw("schedule mnist-lstm -b 8192 --rule legw-ramp")
    assert (code, err) == (0, "")
    head, _, rest = out.partition("\n\n")
    assert head.endswith("batch from 128 on, whole at epoch 6.4")
    rates, _, sizes = rest.partition("\nbatch size\n")
    assert "0.8┤" in rates and "5000┤" in sizes
    assert "batch size" not in legw("schedule mnist-lstm -b 8192").out


def test_its_numbers_have_the_batch_size(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "lr.csv"
    assert legw(f"schedule mnist-lstm -b 8192 --rule legw-ramp --plot {file}").code == 0
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert [int(row["batch_size"]) for row in rows] == list(schedule.batches(GROWN))
    found = legw("schedule mnist-lstm -b 8192 --rule legw-ramp --json").json["curve"]
    assert [Point(**point) for point in found] == points(GROWN)
    assert {point["batch_size"] for point in found} == {128 * 2**i for i in range(7)}
    assert {499, 500, 749, 750} <= {point["update"] for point in found}, "both sides of a change"


@pytest.mark.ci
@pytest.mark.parametrize("suffix", ["svg", "html"])
def test_its_picture_has_two_panels(legw: Legw, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("altair")
    file = tmp_path / f"lr.{suffix}"
    assert legw(f"schedule mnist-lstm -b 8192 --rule legw-ramp --plot {file}").code == 0
    assert "batch size" in file.read_text(encoding="utf-8")


def test_the_form_of_another_tool_is_printed_alone(legw: Legw) -> None:
    code, out, err = legw("schedule mnist-lstm -b 8192 --rule legw-ramp --to levanter")
    assert code == 0 and out.startswith('{"train_batch_size": [{"start": 0, "value": 128}, ')
    assert err.startswith("note: lr_power=0.5: Levanter leaves the rate")
    assert legw("schedule mnist-lstm -b 8192 --rule legw-ramp --to megatron").code == 2
    assert legw("schedule mnist-lstm -b 8192 --to levanter --json").code == 2


def test_cautions_are_notes(legw: Legw, tmp_path: Path) -> None:
    note = "note: the base recipe has no warmup, so legw equals sqrt here; give the base one\n"
    assert legw("schedule ptb-medium -b 640").out.endswith(note)
    answer = legw(f"schedule ptb-medium -b 640 --json --plot {tmp_path / 'lr.csv'}")
    assert answer.err == f"{note}wrote {tmp_path / 'lr.csv'}\n"


# As a picture --------------------------------------------------------------------

MAGIC = {"svg": b"<svg ", "png": b"\x89PNG", "html": b"<!doctype html>"}


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_picture(legw: Legw, tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("altair")
    file = tmp_path / f"lr.{suffix.upper()}"
    answer = legw(f"schedule resnet50-imagenet -b 32768 --plot {file}")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines()[1:] == [f"wrote {file}"]
    assert file.read_bytes().lstrip().startswith(MAGIC[suffix])


def test_the_picture_says_what_it_shows(legw: Legw, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    file = tmp_path / "lr.svg"
    legw(f"schedule resnet50-imagenet -b 32768 --plot {file}")
    text = file.read_text(encoding="utf-8")
    for words in (
        "resnet50-imagenet: learning rate",
        "batch 512 → 32768 (k=64, legw): lr 4 → 32, warmup 0.15625 → 10 epochs (391 updates)",
        "batch 512 (base)",
        "batch 32768 (legw)",
        ">epoch<",
        ">learning rate<",
    ):
        assert words in text


def test_html_needs_no_network(legw: Legw, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    file = tmp_path / "lr.html"
    legw(f"schedule mnist-lstm --plot {file}")
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|url\(|@import|src=", text)
    assert len(text) < 100_000


@pytest.mark.ci
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "name"), [(390, "narrow"), (1280, "wide")])
def test_html_fits_a_phone_and_follows_light_and_dark(
    legw: Legw, tmp_path: Path, width: int, name: str, dark: bool
) -> None:
    pytest.importorskip("altair")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: page not drawn here")
    file = tmp_path / "lr.html"
    legw(f"schedule mnist-lstm -b 8192 --plot {file}")
    with Browser(tmp_path / "profile", width=width, dark=dark) as browser:
        browser.open(file)
        shown = "[...document.querySelectorAll('main > div')].filter((e) => e.offsetWidth)"
        assert browser.run(f"{shown}.map((e) => e.className)") == [name]
        assert browser.run("document.documentElement.scrollWidth") <= width
        paper = browser.run("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
        line = f"getComputedStyle(document.querySelector('.{name} .role-mark path')).stroke"
        assert browser.run(line) == ("rgb(154, 162, 171)" if dark else "rgb(125, 132, 140)")
        word = f"getComputedStyle(document.querySelector('.{name} .role-axis-label text')).fill"
        assert browser.run(word) == ("rgb(233, 236, 239)" if dark else "rgb(22, 25, 29)")
        assert browser.requests == [file.as_uri()]


def test_a_format_that_is_none() -> None:
    with pytest.raises(
        LegwError, match=r"^chart format 'pdf' is unknown; choose one of svg, png, html$"
    ):
        render(None, "pdf")


# The user's mistakes -------------------------------------------------------------


@pytest.mark.parametrize("name", ["lr.pdf", "lr", "svg", ".svg"])
def test_an_unknown_format_is_one_line(legw: Legw, name: str) -> None:
    assert legw(f"schedule mnist-lstm --plot {name}") == (
        2,
        "",
        f"legw: --plot={name}: the suffix must be one of .svg, .png, .html, .csv\n",
    )


def test_an_unknown_number_of_examples(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("batch_size = 16\nlr = 0.1\nepochs = 3\n", encoding="utf-8")
    answer = legw(f"schedule {file} -b 64")
    assert (answer.code, answer.out) == (2, "")
    assert answer.code == 2
    assert legw(f"schedule {file} -b 64 --num-examples 1000").code == 0


def test_a_file_that_cannot_be_written(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "missing" / "lr.csv"
    assert legw(f"schedule mnist-lstm --plot {file}") == (
        2,
        "",
        f"legw: {file}: cannot be written: No such file or directory; choose another place\n",
    )


def test_a_batch_size_of_zero_is_not_the_base(legw: Legw) -> None:
    answer = legw("schedule mnist-lstm -b 0")
    assert answer.code == 2


@pytest.mark.parametrize(
    ("module", "name"), [("altair", "altair"), ("vl_convert", "vl-convert-python")]
)
def test_without_the_report_extra(
    legw: Legw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, name: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    answer = legw(f"schedule mnist-lstm --plot {tmp_path / 'lr.svg'}")
    assert answer == (
        2,
        "",
        f"legw schedule: {name} is not installed; pip install 'legw[report]'\n",
    )
    assert legw(f"schedule mnist-lstm --plot {tmp_path / 'lr.csv'}").code == 0


# The points of a curve -----------------------------------------------------------


def run(decay: Any, **more: Any) -> Recipe:
    known = {"batch_size": 10, "lr": 1.0, "epochs": 90, "num_examples": 123_456} | more
    return Recipe(decay=decay, **known)


def test_a_short_run_is_drawn_in_full() -> None:
    short = run(Cosine(), epochs=1, num_examples=5000, warmup_epochs=0.3)
    assert points(short) == list(all_points(short))


@pytest.mark.parametrize("ramp", ["end", "start"])
@pytest.mark.parametrize(
    ("decay", "jumps_epochs"),
    [
        (Step(milestones_epochs=(30, 60.5, 80)), [30, 60.5, 80]),
        (Step(milestones_epochs=(0.05, 1.0)), [0.05, 1.0]),
        (Exponential(rate=0.9, constant_epochs=5), range(5, 90)),
    ],
)
def test_a_long_run_keeps_its_corners(decay: Any, jumps_epochs: Any, ramp: Any) -> None:
    """The update on each side of every jump, the end of the warmup, the first and the last."""
    long = run(decay, warmup_epochs=0.37)
    kept = points(long, ramp=ramp)
    assert len(kept) <= 1000
    updates = {point.update for point in kept}
    warmup = schedule.warmup_updates(long)
    assert {0, warmup - 1, warmup, schedule.updates(long) - 1} <= updates
    for epoch in jumps_epochs:
        after = -(-epoch * 123_456 // 10)
        assert {after - 1, after} <= updates, epoch
    lr = schedule.in_steps(long, ramp=ramp)
    assert all(
        point[:3] == (point.update, point.update * 10 / 123_456, lr(point.update)) for point in kept
    )


@pytest.mark.parametrize("name", RECIPES)
def test_lines_between_the_points_follow_the_schedule(name: str) -> None:
    """Nowhere is the drawn line further from the rate than a hundredth of the peak."""
    recipe = RECIPES[name]
    kept = points(recipe)
    assert len(kept) <= 1000
    lr = schedule.in_steps(recipe)
    for low, high in itertools.pairwise(kept):
        middle = (low.update + high.update) // 2
        share = (middle - low.update) / (high.update - low.update)
        drawn = low.lr + share * (high.lr - low.lr)
        assert abs(drawn - lr(middle)) <= 0.01 * recipe.lr


def test_streams_have_their_own_epoch() -> None:
    last = points(PTB_SMALL)[-1]
    assert last.epoch == pytest.approx(PTB_SMALL.epochs, abs=1e-3)
