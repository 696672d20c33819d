"""What README and docs show is true: their Python runs, their commands exist."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import messages
import small
from legw import cli, presets
from legw.analysis import evidence
from legw.analysis.stats import Estimate
from legw.cli import COMMANDS
from legw.report import markdown

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# ([\w.-]+\.(?:toml|py))\n")
"""First line of a block that is a file of this name for the page's other blocks."""


def name_of(page: Path) -> str:
    """Return a page's name, with its folder below docs."""
    return str(page.relative_to(DOCS)) if page.is_relative_to(DOCS) else page.name


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (page, code) of every block in this language."""
    found = []
    for page in PAGES:
        for name, code in BLOCK.findall(page.read_text(encoding="utf-8")):
            if name == language:
                found.append((name_of(page), code))
    return found


def write_named(page: str, folder: Path) -> None:
    """Write the page's blocks that are files."""
    for of_page, code in [*blocks("toml"), *blocks("python")]:
        named = NAMED.match(code)
        if of_page == page and named:
            (folder / named[1]).write_text(code, encoding="utf-8")


TUNED = re.compile(r"legw tune \S+ --recipe (\S+) .*--toml (\S+)")
"""A command that chooses a base: the recipe that it tunes, and the file that it writes."""


def write_chosen(page: str, folder: Path) -> None:
    """Write what the page's `legw tune` would, as the recipes that they tune."""
    commands = [line for of, code in blocks("bash") if of == page for line in lines_of(code)]
    for tuned, chosen in TUNED.findall("\n".join(commands)):
        shutil.copy(folder / tuned, folder / chosen)


LONG_PYTHON = ("adapters.md", "check.md", "how-large.md", "report.md", "tune.md")
"""Pages whose Python takes more than a few seconds."""


def python_blocks() -> list[Any]:
    """Return (page, code) of every Python block, those of the longer pages for CI."""
    return [
        pytest.param(page, code, marks=[pytest.mark.ci] if page in LONG_PYTHON else [])
        for page, code in blocks("python")
    ]


@pytest.mark.parametrize(("page", "code"), python_blocks())
def test_python_runs(page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # some write run folders
    write_named(page, tmp_path)
    write_chosen(page, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "example"})


@pytest.mark.parametrize(("page", "code"), blocks("toml"))
def test_recipes_can_be_read(page: str, code: str, tmp_path: Path) -> None:
    from legw.recipe import read

    path = tmp_path / "my_recipe.toml"
    path.write_text(code, encoding="utf-8")
    assert read(path).batch_size >= 1


# Shell: quick blocks run as they are, the digits' too, in the slow suite; all others on small
# data with narrow nets (`small`), those of the longer pages in CI. What needs a
# cluster, several GPUs or ImageNet says "# not run: why" where readers see it.

QUICK = ("env", "recipes", "scale", "schedule")
"""Commands that answer at once."""
NOT_RUN = re.compile(r"^# not run: \S.*$", re.MULTILINE)
RUN_ELSEWHERE = re.compile(r"^# run here ", re.MULTILINE)
"""A block that a test of its own runs, as its first line says."""


def lines_of(code: str) -> list[str]:
    """Return a block's commands: continued lines joined; comments and what CI does left out."""
    joined = code.replace("\\\n", " ").splitlines()
    return [line for line in joined if line.strip() and not re.match(r"#|make |pip install ", line)]


def sort_of(code: str) -> str:
    """Return "marked", "quick" (answers at once), "digits" or "small" (on small data)."""
    if NOT_RUN.search(code) or RUN_ELSEWHERE.search(code):
        return "marked"
    lines = lines_of(code)
    if all(re.match(rf"legw ({'|'.join(QUICK)})\b", line) for line in lines):
        return "quick"
    digits = all("digits-lstm" in line or line.startswith("legw demo") for line in lines)
    return "digits" if digits else "small"


def shell(sort: str) -> list[Any]:
    return [
        pytest.param(page, code, id=f"{page}-{number}")
        for number, (page, code) in enumerate(blocks("bash"))
        if sort_of(code) == sort
    ]


def legw_lines() -> list[str]:
    """Return the words of every `legw` command there is, marked or not."""
    found = []
    for _, code in blocks("bash"):
        for line in lines_of(code):
            command = re.search(r"(?:^|-m )legw (.*)$", line)
            if command:
                found.append(command.group(1))
    return sorted(set(found))


TRAINING_ARGUMENTS = """{
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 4, "learning_rate": 5e-05,
    "num_train_epochs": 3, "warmup_ratio": 0.02, "lr_scheduler_type": "linear"
}"""
"""A file of Transformers, for the commands that take a user's."""


@pytest.fixture
def my_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty folder with `my_recipe.toml`, as a page has it, and `training_args.json`."""
    code = next(code for _, code in blocks("toml"))
    (tmp_path / "my_recipe.toml").write_text(code, encoding="utf-8")
    (tmp_path / "training_args.json").write_text(TRAINING_ARGUMENTS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("line", legw_lines())
def test_a_command_is_understood(line: str) -> None:
    """Every command and option there is, those of blocks that are not run, too."""
    import importlib

    import tyro

    name, *words = shlex.split(line, comments=True)
    assert name in COMMANDS
    words = words[: words.index("<")] if "<" in words else words
    command = importlib.import_module(f"legw.cli.commands.{name}")
    plain = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    tyro.cli(command.Options, args=words, config=plain)


def test_the_page_of_rules_averages_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from legw.cli import main

    monkeypatch.chdir(tmp_path)
    [recipe] = [code for _, code in blocks("toml") if "ema_decay" in code]
    [code] = [code for _, code in blocks("bash") if "average.toml" in code]
    Path("average.toml").write_text(recipe, encoding="utf-8")
    for line in lines_of(code):
        assert main(shlex.split(line)[1:]) == 0
    out = capsys.readouterr().out
    assert "ema_decay 0.99 averages over 4 times the examples: legw-timescales takes 0.9606" in out
    assert "note: mine: evaluations measure the average of the weights over about 25.4" in out
    assert "(averaged weights; the last ones 0." in out


@pytest.mark.parametrize(("page", "code"), shell("quick"))
def test_a_quick_block_runs(
    page: str, code: str, my_recipe: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from legw.cli import main

    write_named(page, Path())
    for line in lines_of(code):
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
        assert capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), shell("digits"))
def test_a_block_on_digits_runs(page: str, code: str, my_recipe: None) -> None:
    write_named(page, Path())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-ec", "\n".join(lines_of(code))],
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        check=True, timeout=1800,
    )  # fmt: skip


LONG = (
    "README.md", "bases.md", "batch-schedule.md", "check.md", "images.md", "language-models.md",
    "report.md", "task.md", "theory.md", "training.md", "transformer.md", "translation.md",
)  # fmt: skip
"""Pages whose blocks take more than a few seconds on small data."""


def pages() -> list[Any]:
    found = sorted({page for page, code in blocks("bash") if sort_of(code) == "small"})
    return [pytest.param(p, marks=[pytest.mark.ci] if p in LONG else []) for p in found]


def paste(line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a `legw` command as a shell does, with its `< in` and `> out`."""
    from legw.cli import main

    line, *written = re.split(r"\s> ", line.split("  #", maxsplit=1)[0])
    line, *read = re.split(r"\s< ", line)
    name, *words = shlex.split(line, comments=True)
    assert name == "legw", line
    with contextlib.ExitStack() as stack:
        if read:
            text = stack.enter_context(Path(read[0].strip()).open(encoding="utf-8"))
            monkeypatch.setattr("sys.stdin", text)
        code = main(words)
    out, err = capsys.readouterr()
    assert code == 0, f"{line}\n{out[-1000:]}{err[-1000:]}"
    if written:
        Path(written[0].strip()).write_text(out, encoding="utf-8")


@pytest.fixture
def small_world(my_recipe: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small data where the commands look for them, and nets that are as small."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LEGW_DATA", str(tmp_path / "data"))
    small.narrow(monkeypatch)
    (tmp_path / "data").mkdir()
    small.write_data(tmp_path / "data")
    small.write_place(tmp_path)
    recipe = Path("my_recipe.toml").read_text(encoding="utf-8")
    for long, short in (
        ("steps = 100000", "steps = 1000"),
        ("warmup_steps = 2000", "warmup_steps = 20"),
    ):
        assert long in recipe
        recipe = recipe.replace(long, short)
    Path("my_recipe.toml").write_text(recipe, encoding="utf-8")


@pytest.mark.parametrize("page", pages())
def test_a_pages_blocks_run_on_small_data(
    page: str,
    small_world: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after another, in one folder, as a reader pastes them."""
    write_named(page, Path())
    for of_page, code in blocks("bash"):
        if of_page == page and sort_of(code) == "small":
            for line in lines_of(code):
                paste(line, capsys, monkeypatch)


def test_every_block_is_run_or_says_why_not(record_property: Any) -> None:
    """Prints how many there are of each (pytest -s)."""
    sorts = [(page, sort_of(code), code) for page, code in blocks("bash")]
    unmarked = [
        f"{page}: {line}"
        for page, sort, code in sorts
        for line in lines_of(code)
        if sort == "small" and not line.startswith("legw ")
    ]
    assert not unmarked, "\n".join(["say '# not run: why' in these blocks", *unmarked])
    names = ("quick", "digits", "small")
    counts = {name: sum(sort == name for _, sort, _ in sorts) for name in names}
    counts["not run"] = sum(bool(NOT_RUN.search(code)) for *_, code in sorts)
    counts["python"] = len(blocks("python"))
    print("\nblocks of README and docs:", ", ".join(f"{n} {name}" for name, n in counts.items()))
    record_property("blocks", counts)
    assert all(counts.values())


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_table_in_the_readme_is_what_scale_prints(capsys: pytest.CaptureFixture[str]) -> None:
    from legw.cli import main

    assert main(["scale", presets.MNIST_LSTM.name, "-b", "8192"]) == 0
    table, _, _ = capsys.readouterr().out.partition("\nnote: ")
    assert f"```text\n{table}```\n" in README


def test_the_readme_begins_with_its_two_commands_and_is_short() -> None:
    """At most 700 words of prose and tables; blocks of code and links' targets do not count."""
    assert [line.split("#")[0].strip() for line in README.splitlines()[3:5]] == [
        "make demo",
        "make test",
    ]
    prose = re.sub(r"<!--.*?-->|\]\([^)]*\)", " ", BLOCK.sub("", README))
    assert len([word for word in prose.split() if re.search(r"\w", word)]) <= 700


def test_your_own_recipe_shows_what_the_commands_print(
    my_recipe: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from legw.cli import main

    page = "own-recipe.md"
    write_named(page, Path())
    for line in [line for of, code in blocks("bash") if of == page for line in lines_of(code)]:
        assert main(shlex.split(line)[1:]) == 0
    told = capsys.readouterr().out
    shown = [code for of, code in blocks("text") if of == page]
    assert len(shown) == 2 and all(text in told for text in shown)


def on_the_command_line(message: str) -> str:
    """Return a message of Python as the command tells it: `micro_batch_size` is an option there."""

    def option(found: re.Match[str]) -> str:
        name, _, value = found[1].partition("=")
        return f"--{name.replace('_', '-')} {value}".rstrip()

    return re.sub(r"`([a-z_]+(?:=[\w]+)?)`", option, message)


SNAPSHOTS = {
    on_the_command_line(line.removeprefix("legw: "))
    for path in messages.FOLDER.rglob("*.txt")
    for lines in messages.read(path).values()
    for line in lines
} | {cli._missing_extra("train", ModuleNotFoundError(name="torch"))}
"""All messages to users that tests hold, without the command's name."""


@pytest.mark.parametrize("code", [c for page, c in blocks("text") if page == "troubleshooting.md"])
def test_troubleshooting_quotes_messages_that_there_are(code: str) -> None:
    """A line that ends in ``...`` leaves out the rest."""
    for line in code.splitlines():
        begin = line.removeprefix("legw: ").removesuffix("...")
        cut = line.endswith("...")
        assert any(each == begin or (cut and each.startswith(begin)) for each in SNAPSHOTS), line


def test_troubleshooting_has_a_cure_below_each_message() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    sections = re.split(r"^### ", page, flags=re.MULTILINE)[1:]
    assert len(sections) >= 20
    for section in sections:
        said = BLOCK.sub("", section.partition("\n")[2]).strip()
        assert "```text" in section and len(said.split()) >= 10, section


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    """Heads too; mkdocs sees to links between pages of the site, and not to README's."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)}: {target}"
        if anchor and file.suffix == ".md" and file.parent.name != "api" and file.name != "cli.md":
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            made = [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]
            assert anchor in made, f"{name_of(page)}: {target}"


RESULTS = ROOT / "results"


class Done(NamedTuple):
    """What a script came to."""

    code: int
    out: str
    err: str


@pytest.fixture
def script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Done]:
    """Return a function that runs a script of `results` in this process."""

    def run(name: str, *words: str | Path) -> Done:
        monkeypatch.syspath_prepend(RESULTS)
        monkeypatch.setattr("sys.argv", [name, *map(str, words)])
        try:
            runpy.run_path(str(RESULTS / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        else:
            code = 0
        out, err = capsys.readouterr()
        if isinstance(code, str):  # as Python itself does
            return Done(1, out, f"{err}{code}\n")
        return Done(code or 0, out, err)

    return run


@pytest.mark.ci
def test_tables_are_made_from_the_results() -> None:
    """README and docs show what lies under results/, to the digit."""
    done = subprocess.run(
        [sys.executable, str(RESULTS / "tables.py")], capture_output=True, text=True, check=False,
        timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("mean", "half", "told"),
    [
        (0.99137, 0.0007985, "0.9914 ± 0.0008"),
        (0.97896, 0.003, "0.9790 ± 0.0030"),
        (0.26, 0.357, "0.26 ± 0.36"),
        (452.63, 242.0, "453 ± 242"),
        (152.8, 3.774, "152.8 ± 3.8"),
        (34.7861, 0.3611, "34.79 ± 0.36"),
        (0.5, 0.0, "0.5000 ± 0.0000"),
        (0.9903, None, "0.9903"),
    ],
)
def test_tables_have_the_digits_that_the_interval_tells(
    mean: float, half: float | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RESULTS)
    with_interval = runpy.run_path(str(RESULTS / "tables.py"))["with_interval"]
    assert with_interval(Estimate(mean=mean, deviation=half, half_width=half, n=3)) == told


@pytest.mark.parametrize(
    ("value", "told"),
    [(1218.4, "1220"), (197_123.0, "197000"), (62.71, "62.7"), (0.0981, "0.0981"), (0.0, "0")],
)
def test_noise_scales_have_three_digits_and_no_exponent(
    value: float, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(RESULTS)
    assert runpy.run_path(str(RESULTS / "theory.py"))["few_digits"](value) == told


def test_a_markdown_report_writes_costs_in_full() -> None:
    text = markdown.text(evidence.read(RESULTS / "digits-lstm-muon"))
    assert re.search(r"^\| base \| 16 \| 20 of 20 \| 1079 \| 172\d\d \| ", text, re.MULTILINE)
    assert "e+" not in text


def test_no_table_has_digits_that_nobody_can_read() -> None:
    """Neither an exponent nor more than four digits of an interval."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"\d[eE]\+\d|± \d*\.\d{5,}", BLOCK.sub("", text)), page


def test_the_theory_page_is_made_from_the_results(script: Callable[..., Done]) -> None:
    done = script("theory.py")
    assert done.code == 0, done.out + done.err


def test_the_translation_page_quotes_what_its_script_prints(script: Callable[..., Done]) -> None:
    done = script("translation.py", RESULTS / "translation")
    page = (DOCS / "notebook" / "translation.md").read_text(encoding="utf-8")
    assert done.code == 0
    assert done.out.startswith("base 64 (n = ") and f"\n{done.out}```\n" in page


@pytest.mark.parametrize(
    "words",
    [("--beside", str(RESULTS / "translation-mixed" / "legw-b1024-s0")),
     ("--after", "7,10,20,30")],
    ids=["beside", "after"],
)  # fmt: skip
def test_the_translation_page_quotes_what_stands_side_by_side(
    words: tuple[str, ...], script: Callable[..., Done]
) -> None:
    done = script("translation.py", RESULTS / "translation", *words)
    page = (DOCS / "notebook" / "translation.md").read_text(encoding="utf-8")
    assert done.code == 0
    assert done.out.startswith("after epoch ") and f"\n{done.out}```\n" in page


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_to_set_beside_has_been_evaluated(
    begun: bool, tmp_path: Path, script: Callable[..., Done]
) -> None:
    if begun:
        source = RESULTS / "translation-mixed" / "legw-b1024-s0" / "manifest.json"
        shutil.copyfile(source, tmp_path / "manifest.json")
        (tmp_path / "metrics.jsonl").write_text("")
    done = script("translation.py", RESULTS / "translation", "--beside", tmp_path)
    assert done.code == 2
    assert done.err.startswith(f"{tmp_path}") and done.err.count("\n") == 1
    assert begun == done.err.endswith(": nothing has been evaluated yet\n")


def test_the_translation_script_says_what_is_missing(
    tmp_path: Path, script: Callable[..., Done]
) -> None:
    done = script("translation.py", tmp_path)
    assert done == (2, "", f"{tmp_path}: no run of the base has finished\n")


def test_epochs_to_stand_side_by_side_are_whole_numbers(script: Callable[..., Done]) -> None:
    done = script("translation.py", RESULTS / "translation", "--after", "7,soon")
    assert done.code == 2
    assert done.err == "--after=7,soon: must be epochs, for example 7,10,20\n"
