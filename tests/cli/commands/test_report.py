"""`legw report`: what the page holds, that it keeps to itself, and that a browser draws it."""

from __future__ import annotations

import html.parser
import json
import os
import re
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from browser import CHROMIUM, Browser
from folders import BASE, write_run, write_study
from legw import rules, scale
from legw.analysis import evidence
from legw.cli import tables
from legw.errors import on_command_line
from legw.recipe import from_dict
from legw.report import markdown, page, plots
from legw.study import plan as study
from legw.study.plan import Study, plan

Legw = Callable[[str], Any]

HOSTILE = "<script>alert(1)</script>&\"'"
"""A name that is a script where it is not escaped."""

ASKED = Study(
    task="mine", base=BASE, batch_sizes=(16, 64, 128, 512), rules=("legw", "linear"),
    seeds=(0, 1), command="legw study mine --batch-sizes 16,64,128,512",
)  # fmt: skip

WITH_LOSSES: dict[str, dict[str, Any]] = {
    "linear_b64_s0": {"metric": 0.6},
    "linear_b128_s0": {"status": "diverged", "losses": [2.3, 9.0, None]},
    "linear_b128_s1": {"status": "diverged", "losses": [2.3, 8.0]},
    "legw_b128_s1": {},
}
"""What is special about runs: two diverged, one missing."""


class Parts(html.parser.HTMLParser):
    """What a page consists of, as a browser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.summaries: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._inside != "style":
            self.text += data
        if self._inside == "summary":
            self.summaries.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    @property
    def charts(self) -> list[dict[str, Any]]:
        """The charts' specifications."""
        return [json.loads(s) for attributes, s in self.scripts if "id" in attributes]


def parts(folder: Path) -> Parts:
    return Parts(page.text(evidence.read(folder)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with all that can become of a run; it is made once."""
    folder = tmp_path_factory.mktemp("written")
    write_study(folder / "s", ASKED, **WITH_LOSSES)
    path = folder / "page.html"
    path.write_text(page.text(evidence.read(folder / "s")), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shown(written: Path) -> Parts:
    return Parts(written.read_text(encoding="utf-8"))


# What it holds ----------------------------------------------------------------------


def test_the_command_writes_one_file_and_says_what_it_shows(legw: Legw, tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    answer = legw(f"report {tmp_path / 's'}")
    assert (answer.code, answer.err) == (0, "")
    first, last = answer.out.splitlines()
    assert first.startswith("mine: Cannot tell whether the base's accuracy is kept within 1 %: at")
    assert last == f"wrote {tmp_path / 's' / 'report.html'}"
    assert (tmp_path / "s" / "report.html").stat().st_size < 3e6


def test_the_page_is_the_same_wherever_it_is_written(legw: Legw, tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    out = tmp_path / "x.html"
    for place in ("", f" --out {out}"):
        assert legw(f"report {tmp_path}{place}").code == 0
    assert out.read_bytes() == (tmp_path / "report.html").read_bytes()


def test_summary_table_and_caveat_are_text(shown: Parts) -> None:
    text = shown.text
    assert "mine: batch 16 to 512, legw, linear" in text
    assert "At batch 128 (8 times the base's 16), legw reaches accuracy 0.9000" in text
    assert "1 run not done yet." in text
    assert "12 runs: 9 finished, 1 missing, 2 diverged." in text
    for line in ("diverged 2/2", "missing 1/2", "undefined [1]", "0.9050 ± 0.0635"):
        assert line in text
    assert "Equal epochs: every run makes 4 passes over the data" in text
    assert "[1] mine: batch_size=512 (k=32): legw would warm up for 8 of 4 epochs" in text


def test_notes_diverged_runs_and_the_command_are_there(shown: Parts) -> None:
    assert "Batch 128, legw, linear: only 3.1 updates per epoch, fewer than 5" in shown.text
    assert "linear-b128-s0: diverged at update 3: the loss is not finite" in shown.text
    assert ASKED.command in shown.text


def test_the_runs_of_a_cell_are_folded_up_with_one_recipe_and_their_environment(
    shown: Parts,
) -> None:
    assert shown.summaries[-6:] == [
        "base at batch 16 · 2 runs · 0.9050 ± 0.0635",
        "legw at batch 64 · 2 runs · 0.9050 ± 0.0635",
        "linear at batch 64 · 2 runs · 0.7550 ± 1.9695",
        "legw at batch 128 · 1 run · 0.9000 (n=1)",
        "linear at batch 128 · 2 runs",
        "linear at batch 512 · 2 runs · 0.9050 ± 0.0635",
    ]
    assert "legw-b64-s11finished0.91002" in shown.text  # a line of a table
    assert shown.text.count("warmup_epochs = 1.0\n") == 1
    assert "cpu (a processor)" in shown.text


def test_the_recipe_to_use_comes_before_the_result(shown: Parts) -> None:
    said = "The largest that may is batch 512 under linear: more seeds decide."
    assert "No larger batch is shown to keep the base's accuracy within 1 %. " + said in shown.text
    assert shown.text.index("batch_size = 512") < shown.text.index("Result")


def test_what_is_strange_of_intervals_is_explained(shown: Parts) -> None:
    assert "An interval that reaches below 0 or above 1 is Student's for so few" in shown.text
    assert "± 0.0000" not in shown.text


def test_the_charts_are_overview_two_a_batch_size_costs_and_recipes(shown: Parts) -> None:
    assert len(shown.charts) == 1 + 2 * 4 + 3 + 2
    overview, loss, rate = shown.charts[:3]
    updates, examples, seconds, rates, warmups = shown.charts[9:]
    assert [row["y"] for row in updates["datasets"]["perfect"]] == [100.0, 25.0, 12.5, 3.125]
    assert {row["y"] for row in examples["datasets"]["perfect"]} == {1600.0}
    assert [row["y"] for row in seconds["datasets"]["perfect"][:2]] == [1.5, 0.375]
    assert {(row["name"], row["batch"]) for row in updates["datasets"]["cells"]} == {
        ("base", 16), ("legw", 16), ("linear", 16), ("legw", 64), ("legw", 128),
        ("linear", 512),
    }  # fmt: skip
    peaks = {(row["name"], row["batch"]): row["y"] for row in rates["datasets"]["cells"]}
    assert peaks["legw", 64] == pytest.approx(0.2)
    assert peaks["linear", 128] == pytest.approx(0.8)
    assert ("legw", 512) not in peaks
    assert {row["y"] for row in warmups["datasets"]["cells"] if row["name"] == "legw"} == {
        0.25, 1.0, 2.0,
    }  # fmt: skip
    cells = overview["datasets"]["cells"]
    assert {row["name"] for row in cells} == {"base", "legw", "linear"}
    assert [row["diverged"] for row in cells if row["batch"] == 128] == [0, 2]
    assert {curve["run"] for curve in loss["datasets"]["plain"]} == {"base-b16-s0", "base-b16-s1"}
    (line,) = rate["datasets"]["plain"]
    assert (line["name"], max(line["y"])) == ("base", BASE.lr)
    assert all(chart["width"] == "container" for chart in shown.charts)


def test_a_diverged_run_ends_in_a_cross(shown: Parts) -> None:
    ends = [chart["datasets"].get("diverged") for chart in shown.charts]
    assert [len(rows) for rows in ends if rows] == [2]


@pytest.mark.ci
def test_long_curves_are_thinned_and_keep_their_peaks(tmp_path: Path) -> None:
    losses: list[float] = [1.0 + 0.1 * (s % 7) for s in range(20_000)]
    losses[12_345] = 50.0
    write_run(tmp_path / "a", losses=losses, recipe=replace(BASE, epochs=800))
    (_, loss, _) = parts(tmp_path).charts
    (curve,) = loss["datasets"]["faint"]
    assert len(curve["y"]) <= 500
    assert max(curve["y"]) == 50.0
    assert len(loss["datasets"]["plain"][0]["y"]) == 60


# That it keeps to itself ------------------------------------------------------------


def test_nothing_is_loaded_and_only_our_scripts_run(shown: Parts) -> None:
    for tag, attributes in shown.tags:
        assert not {"src", "href", "srcset", "action", "background", "poster"} & attributes.keys()
        assert not any(name.startswith("on") for name in attributes)
        assert tag not in ("link", "iframe", "object", "embed", "base", "form", "img")
    kinds = [attributes.get("type") for attributes, _ in shown.scripts]
    assert kinds.count("application/json") == len(shown.charts) == len(kinds) - 2
    (policy,) = [a["content"] for t, a in shown.tags if t == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy


def test_the_stylesheet_loads_nothing() -> None:
    text = page.text([evidence.Evidence(title="x", folder=Path())])
    (style,) = re.findall(r"<style>(.*?)</style>", text, flags=re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_names_are_shown_and_never_run(tmp_path: Path) -> None:
    base = replace(BASE, name=HOSTILE)
    asked = replace(
        ASKED, task=HOSTILE, base=base, command=HOSTILE, grid={"source": (HOSTILE, "plain")}
    )
    write_study(tmp_path / "s", asked)
    write_run(tmp_path / "s" / "runs" / HOSTILE.replace("/", "|"), base=base, recipe=base,
              metric=0.5, environment={HOSTILE: HOSTILE}, notes=(HOSTILE,))  # fmt: skip
    shown = parts(tmp_path / "s")
    assert HOSTILE in shown.text
    assert len([1 for attributes, _ in shown.scripts if "id" not in attributes]) == 2
    assert all(HOSTILE not in script for attributes, script in shown.scripts if "id" in attributes)
    names = {row["name"] for row in shown.charts[0]["datasets"]["cells"]}
    assert f"source={HOSTILE} legw" in names


# Folders as they come ---------------------------------------------------------------


def test_folders_without_runs_are_an_error(legw: Legw, tmp_path: Path) -> None:
    answer = legw(f"report {tmp_path}")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"legw: {tmp_path}: holds no runs; legw train and legw study make them\n"
    answer = legw(f"report {tmp_path / 'x'}")
    assert answer.err.endswith("is not a folder; give the folder of a study or of runs\n")


def test_a_page_that_cannot_be_written_is_an_error(legw: Legw, tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    answer = legw(f"report {tmp_path} --out {tmp_path}/no/where.html")
    assert answer.code == 2
    assert "cannot be written: No such file or directory; choose another place" in answer.err


def test_damage_is_named_on_the_page_and_in_the_terminal(legw: Legw, tmp_path: Path) -> None:
    path = write_run(tmp_path / "a", status=None) / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    answer = legw(f"report {tmp_path}")
    assert answer.code == 0
    problem = "a: metrics.jsonl line 101: cannot be read, passed over"
    assert answer.out.startswith(f"note: {problem}\n")
    text = Parts((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert problem in text
    assert "No run has ended yet: 1 run planned." in text
    assert "1 runs: 1 running." in text


def test_a_study_that_has_not_begun_has_a_page(tmp_path: Path) -> None:
    empty: dict[str, Any] = {}
    names = [run.replace("-", "_") for run in ("base-b16-s0", "base-b16-s1")]
    asked = replace(ASKED, batch_sizes=(16,))
    write_study(tmp_path / "s", asked, **dict.fromkeys(names, empty))
    shown = parts(tmp_path / "s")
    assert "No run has ended yet: 2 runs planned." in shown.text
    assert shown.charts == []


def test_losses_that_are_no_numbers_or_negative_are_drawn_on_a_linear_scale(
    tmp_path: Path,
) -> None:
    write_run(tmp_path / "a", losses=[float("nan"), -1.0, 2.0, float("inf")], metric=float("nan"))
    (_, loss, _) = parts(tmp_path).charts
    assert loss["datasets"]["plain"][0]["y"] == [-1.0, 2.0]
    assert "log" not in json.dumps(loss["layer"])


@pytest.mark.ci
def test_several_studies_are_sections_of_one_page(tmp_path: Path) -> None:
    asked = replace(ASKED, batch_sizes=(16, 64))
    write_study(tmp_path / "one", asked)
    write_study(tmp_path / "two", replace(asked, task="other"))
    shown = parts(tmp_path)
    assert [tag for tag, _ in shown.tags].count("h1") == 2
    names = [attributes["id"] for attributes, _ in shown.scripts if "id" in attributes]
    assert len(set(names)) == len(names) == 20
    links = [attributes["href"] for tag, attributes in shown.tags if tag == "a"]
    there = [f"#{attributes['id']}" for tag, attributes in shown.tags if tag == "section"]
    assert links == there == ["#study-0", "#study-1"]
    assert "other: batch 16 to 64, legw, linear (two)" in shown.text
    assert "a" not in [tag for tag, _ in parts(tmp_path / "one").tags]


def test_the_numbers_go_by_batch_whenever_a_run_was_made(tmp_path: Path) -> None:
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=(16, 64, 128)))
    study.write(replace(ASKED, batch_sizes=(16, 128), rules=("linear",)), tmp_path / "s")
    (found,) = evidence.read(tmp_path / "s")
    lines = [(cell.batch_size, cell.rule) for cell in found.table.by_batch]
    assert lines == [
        (16, "base"), (64, "linear"), (64, "legw"), (128, "linear"), (128, "legw"),
    ]  # fmt: skip
    assert [cell.batch_size for cell in found.table.cells] != [size for size, _ in lines]


def test_a_study_of_one_batch_speaks_neither_of_variants_nor_of_scaling(tmp_path: Path) -> None:
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=(16,)))
    shown = parts(tmp_path)
    assert "Accuracy at batch 16" in shown.text
    assert "perfect scaling" not in shown.text


STRANGE = ("x" * 10_000, "a\x00b\u202e", "</main></body>", "${alert(1)}")


@pytest.mark.parametrize("suffix", ["html", "md"])
def test_strange_names_of_tasks_are_shown(legw: Legw, tmp_path: Path, suffix: str) -> None:
    """A section each on one page, which ends once."""
    for number, name in enumerate(STRANGE):
        write_run(tmp_path / str(number), task=name, environment={name: name}, notes=(name,))
    answer = legw(f"report {tmp_path} --format {suffix}")
    assert answer.code == 0
    text = (tmp_path / f"report.{suffix}").read_text(encoding="utf-8")
    assert text.count("</main>") == (1 if suffix == "html" else 0)
    assert text.count("<section") == (len(STRANGE) if suffix == "html" else 0)
    assert "No run" not in answer.out


def test_a_folder_from_a_newer_version_and_what_is_no_json_are_named(
    legw: Legw, tmp_path: Path
) -> None:
    write_run(tmp_path / "good")
    write_run(tmp_path / "newer")
    path = tmp_path / "newer" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=(16,)))
    path = tmp_path / "s" / "study.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_bytes(b"\xff\x00{")
    answer = legw(f"report {tmp_path}")
    assert answer.code == 0
    for name in ("newer/manifest.json: format=2", "s/study.json: is from a newer legw"):
        assert name in answer.out
    assert "broken/manifest.json: cannot be read" in answer.out
    text = Parts((tmp_path / "report.html").read_text(encoding="utf-8")).text
    assert "is from a newer legw; upgrade to read it" in text
    assert "good" in text


def test_a_metric_that_is_no_number_is_no_result(legw: Legw, tmp_path: Path) -> None:
    constants = ("NaN", "Infinity", "-Infinity", "1e999", "null")
    for seed, constant in enumerate(constants):
        path = write_run(tmp_path / str(seed), seed=seed, metric=0.123456) / "summary.json"
        path.write_text(path.read_text().replace("0.123456", constant))
    answer = legw(f"report {tmp_path}")
    assert answer.code == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<script>")[0]
    assert "NaN" not in text
    (found,) = evidence.read(tmp_path)
    assert [row.status for row in found.rows] == ["finished"] * len(constants)
    assert found.table.cells[0].metrics == ()


# Other formats ------------------------------------------------------------------------


def test_markdown_holds_the_text_of_the_page(legw: Legw, tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED, **WITH_LOSSES)
    answer = legw(f"report {tmp_path / 's'} --format md")
    assert answer.out.splitlines()[-1] == f"wrote {tmp_path / 's' / 'report.md'}"
    text = (tmp_path / "s" / "report.md").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert "at batch 128 (8 times the base's 16), legw reaches accuracy" in lines[2]
    assert "| rule | 16 | 64 | 128 | 512 |" in lines
    (linear,) = [line for line in lines if line.startswith("| linear |  | ")]
    assert " | diverged 2/2 | " in linear
    assert any(line.endswith(" | undefined \\[1\\] |") for line in lines)
    assert "| legw | 64 | 2 of 2 | 25 | 1600 | 1.5 |" in lines
    assert "| linear | 128 | 0 of 2 | - | - | - |" in lines
    assert f"```text\n{ASKED.command}\n```\n" in text
    recipe = text.partition("## The recipe to use")[2].partition("```toml\n")[2].partition("```")[0]
    assert from_dict(tomllib.loads(recipe)) == rules.apply(BASE, 512, rules.LINEAR)


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["md", "html"])
def test_a_page_goes_to_stdout(
    legw: Legw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The page and nothing else, and no file of the name -."""
    write_study(tmp_path / "s", ASKED, **WITH_LOSSES)
    monkeypatch.chdir(tmp_path)
    answer = legw(f"report s --format {kind} --out -")
    assert answer.code == 0
    with on_command_line():
        made = (markdown if kind == "md" else page).text(evidence.read("s"))
    assert answer.out == made
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_charts_cannot_go_to_stdout(legw: Legw, tmp_path: Path) -> None:
    write_study(tmp_path / "s", ASKED)
    answer = legw(f"report {tmp_path / 's'} --format svg --out -")
    assert answer == (2, "", "legw: --out=-: charts are several files; give a folder\n")


@pytest.mark.ci
def test_nothing_is_said_of_bold_where_nothing_is_bold(tmp_path: Path) -> None:
    """Of several bases none has a metric yet."""
    asked = replace(ASKED, grid={"lr": (0.1, 0.2)})
    write_study(tmp_path / "some", asked)
    assert "Bold: best of its column" in parts(tmp_path / "some").text
    runs = [run.name.replace("-", "_") for run in plan(asked).runs]
    write_study(tmp_path / "none", asked, **{name: {} for name in runs})
    assert "est of its column" not in parts(tmp_path / "none").text
    assert not tables.marks_best(evidence.read(tmp_path / "none")[0].table)
    assert tables.marks_best(evidence.read(tmp_path / "some")[0].table)


def test_markdown_shows_names_as_they_are(tmp_path: Path) -> None:
    command = "legw study ```\n<b>"
    write_study(tmp_path / "s", replace(ASKED, task=HOSTILE, command=command))
    text = markdown.text(evidence.read(tmp_path))
    assert "<script>" not in text
    assert text.startswith("# &lt;script&gt;alert(1)&lt;/script&gt;&amp;\"'\n")
    assert "````text\nlegw study ```\\n<b>\n````" in text  # in one line


@pytest.mark.ci
@pytest.mark.parametrize(("suffix", "begin"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_charts_are_files_of_their_own(
    legw: Legw, tmp_path: Path, suffix: str, begin: bytes
) -> None:
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=(16, 64)))
    answer = legw(f"report {tmp_path / 's'} --format {suffix}")
    assert answer.code == 0
    made = sorted((tmp_path / "s" / "charts").iterdir())
    assert [path.stem for path in made] == [
        "examples-to-target", "learning-rate-at-16", "learning-rate-at-64",
        "learning-rate-by-batch", "loss-at-16", "loss-at-64", "metric", "seconds-to-target",
        "updates-to-target", "warmup-by-batch",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(begin) for path in made)


@pytest.mark.ci
def test_a_batch_that_grows_is_drawn_beside_its_rate(tmp_path: Path) -> None:
    rules = ("legw", "legw-ramp")
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=(16, 64), rules=rules))
    (found,) = evidence.read(tmp_path / "s")
    drawn = {size: [plot.name for plot in each] for size, each in plots.panels(found)}
    assert drawn == {16: ["loss", "learning-rate"], 64: ["loss", "learning-rate", "batch-size"]}
    _, (_, (*_, sizes)) = plots.panels(found)
    lines = {row["name"]: (row["x"], row["y"]) for row in sizes.figure["datasets"]["plain"]}
    assert lines["base"] == ([0, 4], [16, 16])
    assert lines["legw"] == ([0, 4], [64, 64])
    ramp = scale(BASE, 64, "legw-ramp").batch_schedule
    epochs, batches = lines["legw-ramp"]
    assert ramp is not None and batches == [*ramp.sizes, 64, 64] == [16, 32, 64, 64]
    assert epochs == pytest.approx([0, *ramp.until, 4], abs=64 / 400)  # between two updates
    assert "batch size against epoch on the way to 64" in page.text([found])


@pytest.mark.ci
def test_several_folders_are_one_page_and_a_target_may_be_given(legw: Legw, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_study(tmp_path / name, replace(ASKED, task=name, batch_sizes=(16, 64)))
    out = tmp_path / "x.html"
    assert legw(f"report {tmp_path / 'a'} {tmp_path / 'b'} --out {out} --target 0.85").code == 0
    text = out.read_text(encoding="utf-8")
    assert text.count("<summary><h2>Costs to accuracy 0.8500</h2></summary>") == 2
    assert legw(f"report {tmp_path / 'a'} --out {out} --target 2").code == 0
    assert "No cell has reached it with all its runs." in out.read_text(encoding="utf-8")


def test_a_folder_is_needed(legw: Legw) -> None:
    answer = legw("report")
    assert answer.code == 2
    assert answer.err == "legw: report: FOLDER is missing; give the folder of a study or of runs\n"


@pytest.mark.ci
def test_rivals_are_their_best_trial(tmp_path: Path) -> None:
    asked = replace(ASKED, batch_sizes=(16, 64), tuned={"adam": {"lr": (0.001, 0.002)}})
    names = [run.name.replace("-", "_") for run in plan(asked).runs if "0.002" in run.name]
    write_study(tmp_path / "s", asked, **{name: {"metric": 0.99} for name in names})
    shown = parts(tmp_path / "s")
    assert "tuned-adam at batch 64: lr=0.002 is the best of 2 trials" in shown.text
    overview = shown.charts[0]["datasets"]["cells"]
    assert {row["name"] for row in overview} == {"base", "legw", "linear", "tuned-adam"}
    losses = [chart for chart in shown.charts if "params" in chart]
    runs = {curve["run"] for curve in losses[-1]["datasets"]["plain"]}
    assert len(runs) == 2 * 4


@pytest.mark.ci
def test_a_thousand_runs_take_at_most_ten_seconds_and_ten_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # of what is written here
    base = replace(BASE, num_examples=800)
    asked = replace(
        ASKED, base=base, batch_sizes=(16, 32, 64, 128), seeds=tuple(range(125)),
        rules=("legw", "linear", "sqrt"),
    )  # fmt: skip
    write_study(tmp_path / "s", asked)
    assert len(plan(asked).runs) >= 1000
    began = time.process_time()
    text = page.text(evidence.read(tmp_path / "s"))
    assert time.process_time() - began < 10
    assert len(text) < 10e6


# In a browser -----------------------------------------------------------------------

OPENED = "document.querySelectorAll('details').forEach((part) => { part.open = true; })"

DRAWN = "[...document.querySelectorAll('.chart')].every((box) => box.querySelector('svg'))"


@pytest.fixture(scope="module")
def drawn(written: Path) -> Iterator[Browser]:
    """A browser that shows that page."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: page not drawn here")
    with Browser(written.parent / "profile") as browser:
        browser.open(written, until="document.querySelectorAll('.chart svg').length === 9")
        browser.run(OPENED)
        browser.wait(DRAWN)
        yield browser


def count(browser: Browser, selector: str) -> int:
    return int(browser.run(f"document.querySelectorAll({selector!r}).length"))


def test_a_browser_draws_every_mark_without_a_complaint(drawn: Browser) -> None:
    assert drawn.complaints == []
    (only,) = drawn.requests
    assert only.startswith("file:")
    assert count(drawn, ".chart svg") == 14
    assert "cannot be drawn" not in drawn.run("document.body.innerText")
    assert count(drawn, ".mark-symbol.role-mark path") >= 5 + 9 + 1 + 2
    assert count(drawn, ".mark-rule.role-mark line") >= 4
    assert count(drawn, ".mark-line.role-mark path") >= 2 + 3 * 3 + 2 * 2 + 4 * 2


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(drawn: Browser, width: int, dark: bool) -> None:
    drawn.look(width, dark=dark)
    drawn.wait(f"window.innerWidth === {width}")
    drawn.wait("document.documentElement.scrollWidth <= window.innerWidth")
    paper = drawn.run("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


@pytest.mark.ci
def test_the_result_of_eight_batch_sizes_fits_on_a_wide_page(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: page not drawn here")
    sizes = (16, 24, 32, 48, 64, 96, 128, 192)
    write_study(tmp_path / "s", replace(ASKED, batch_sizes=sizes))
    path = tmp_path / "page.html"
    path.write_text(page.text(evidence.read(tmp_path / "s")), encoding="utf-8")
    hidden = "[...document.querySelectorAll('.scroll')].map((s) => s.scrollWidth - s.clientWidth)"
    with Browser(tmp_path / "profile") as browser:
        browser.open(path)
        assert set(browser.run(hidden)) == {0}
        browser.look(390)
        browser.wait("window.innerWidth === 390")
        assert browser.run(hidden)[0] > 0
        browser.run("document.querySelector('.scroll').scrollLeft = 200")
        left = "document.querySelector('tbody th').getBoundingClientRect().left"
        assert browser.run(left) >= 0  # the rule stays in sight


def test_print_is_light_and_without_controls(drawn: Browser) -> None:
    drawn.look(1280, dark=True, media="print")
    assert drawn.run("getComputedStyle(document.querySelector('.units')).display") == "none"
    assert drawn.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    drawn.look(1280)


def column(browser: Browser, number: int) -> list[str]:
    rows = "[...document.querySelector('.sortable').tBodies[0].rows]"
    found = browser.run(f"{rows}.map((row) => row.cells[{number}].textContent)")
    assert isinstance(found, list)
    return found


def test_tables_sort_by_the_column_that_is_pressed(drawn: Browser) -> None:
    before = column(drawn, 2)
    press = "document.querySelectorAll('.sortable th button')[2].click()"
    drawn.run(press)
    rates = [float(text) for text in column(drawn, 2)]
    assert rates == sorted(rates) != [float(text) for text in before]
    drawn.run(press)
    assert [float(text) for text in column(drawn, 2)] == sorted(rates, reverse=True)
    drawn.run("document.querySelectorAll('.sortable th button')[9].click()")
    last = column(drawn, 9)
    assert last[-1] == "" and last[0] != ""
    drawn.run("document.querySelectorAll('.sortable th button')[0].click()")
    assert column(drawn, 0) == sorted(column(drawn, 0))
    assert drawn.run("document.querySelectorAll('[aria-sort]').length") == 1


@pytest.mark.parametrize("unit", ["seconds", "updates", "epochs"])
def test_losses_are_drawn_against_what_is_chosen(drawn: Browser, unit: str) -> None:
    drawn.run(f"document.querySelector('.units input[value={unit}]').click()")
    titles = (
        "[...document.querySelectorAll('[data-units]')].map((box) => "
        "[...box.querySelectorAll('.role-axis-title text')].map((t) => t.textContent))"
    )
    drawn.wait(f"{titles}.every((own) => own.includes('{unit}'))")
    assert count(drawn, "[data-units] .mark-line.role-mark path") >= 6
    assert drawn.complaints == []


@pytest.mark.ci
def test_a_hostile_page_runs_nothing(tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: page not drawn here")
    name = "<img src=x onerror=document.title='owned'>"
    base = replace(BASE, name=name)
    write_study(tmp_path / "s", replace(ASKED, task=name, base=base, command=f"</pre>{name}"))
    path = tmp_path / "page.html"
    path.write_text(page.text(evidence.read(tmp_path / "s")), encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        browser.open(path)
        browser.run(OPENED)
        browser.wait(DRAWN)
        assert browser.run("document.title").startswith(name)
        assert count(browser, "img") == 0
        assert browser.complaints == []
