"""`legw scale`: one recipe, every rule, a ladder; as text, JSON and TOML."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from expect import GOLDEN
from legw import SGD, Polynomial, recipe, rules, schedule
from legw.analysis.remarks import evidence, remarks
from legw.presets import GNMT, MNIST_LSTM, PTB_MEDIUM, RECIPES
from legw.recipe import from_dict, to_dict

Legw = Callable[[str], Any]


# One recipe, as text -------------------------------------------------------------


def test_the_text_is_the_golden_one(legw: Legw) -> None:
    code, out, err = legw("scale resnet50-imagenet -b 32768")
    assert (code, err) == (0, "")
    assert out == (GOLDEN / "scale-resnet50-imagenet.txt").read_text(encoding="utf-8")


def test_the_first_line_is_the_change_on_one_line(legw: Legw) -> None:
    line = legw("scale resnet50-imagenet -b 32768").out.splitlines()[0]
    assert line == (
        "resnet50-imagenet: batch 512 → 32768 (k=64, legw): "
        "lr 4 → 32, warmup 0.15625 → 10 epochs (391 updates)"
    )


def test_at_the_base_batch_nothing_changes(legw: Legw) -> None:
    out = legw("scale resnet50-imagenet -b 512").out
    assert out.startswith(
        "resnet50-imagenet: batch 512 (the base recipe itself): "
        "lr 4, warmup 0.15625 epochs (391 updates)\n"
    )
    assert not {"×", "÷", "→"} & set(out)  # noqa: RUF001


def test_a_rule_that_changes_the_optimizer_says_so(legw: Legw) -> None:
    out = legw("scale gnmt -b 4096 --rule adam-sde").out
    assert out.splitlines()[0].endswith(
        "beta1 0.9 → 0.8, beta2 0.999 → 0.998, epsilon 1e-08 → 7.0711e-09"
    )
    assert "  beta1             0.9         0.8\n" in out


def test_cautions_are_notes_below_the_table(legw: Legw) -> None:
    out = legw("scale ptb-medium -b 640").out
    [caution] = rules.cautions(PTB_MEDIUM, rules.apply(PTB_MEDIUM, 640, rules.LEGW), rules.LEGW)
    assert f"\n\nnote: {caution.removeprefix('ptb-medium: ')}\n" in out
    assert ": lr 1 → 5.6569, no warmup\n" in out


def test_a_given_rate_beats_the_rule(legw: Legw) -> None:
    answer = legw("scale resnet50-imagenet -b 2048 --lr 5")
    assert "(k=4, legw): lr 4 → 5, " in answer.out
    assert "\n\nnote: lr=5 is given; legw says 8\n" in answer.out


def test_a_file_without_the_number_of_examples(legw: Legw, tmp_path: Path) -> None:
    file = write(tmp_path, 'name = "mine"\nbatch_size = 16\nlr = 0.1\nepochs = 3\n')
    out = legw(f"scale {file} -b 64").out
    assert "\nnote: num_examples is not known; --num-examples N counts the updates\n" in out
    assert "\nupdates" not in out


def test_a_file_takes_the_number_of_examples(legw: Legw, tmp_path: Path) -> None:
    file = write(tmp_path, "batch_size = 16\nlr = 0.1\nepochs = 3\nwarmup_epochs = 0.5\n")
    found = legw(f"scale {file} -b 64 --num-examples 1000 --json").json
    assert found["base"]["name"] == "mine", "a recipe without a name takes the file's"
    counts = [found[name] for name in ("num_examples", "updates", "warmup_updates")]
    assert counts == [1000, 47, 32]


# One recipe, for machines --------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_json_is_one_object_with_both_recipes(legw: Legw, name: str) -> None:
    base = RECIPES[name]
    big = rules.apply(base, 4 * base.batch_size, rules.LEGW)
    answer = legw(f"scale {name} -b {big.batch_size} --json")
    cautions = rules.cautions(base, big, rules.LEGW)
    assert answer.code == 0
    assert answer.json == {
        "rule": "legw",
        "k": 4.0,
        "base": to_dict(base),
        "scaled": to_dict(big),
        "num_examples": big.epoch_examples,
        "updates": schedule.updates(big),
        "warmup_updates": schedule.warmup_updates(big),
        "warmup_share": big.warmup / big.length,
        "remarks": remarks(base, big, rules.LEGW),
        "evidence": evidence(base.optimizer),
        "warnings": cautions,
    }
    notes = [c.removeprefix(f"{name}: ") for c in cautions] + answer.json["remarks"]
    assert answer.err == "".join(f"note: {line}\n" for line in notes)


def test_json_without_the_number_of_examples_has_nulls(legw: Legw, tmp_path: Path) -> None:
    file = write(tmp_path, "batch_size = 16\nlr = 0.1\nepochs = 3\n")
    found = legw(f"scale {file} -b 64 --json").json
    assert [found[name] for name in ("num_examples", "updates", "warmup_updates")] == [None] * 3


@pytest.mark.parametrize("rule", rules.RULES)
def test_json_of_every_rule(legw: Legw, tmp_path: Path, rule: str) -> None:
    base = MNIST_LSTM if rules.find(rule).needs is SGD else GNMT
    where: object = base.name
    if rules.find(rule).growth is not None or rules.find(rule).stretch is not None:
        scales = ((1.0, 500.0), (3.0, 9000.0))
        base = replace(base, decay=Polynomial(), noise_scales=scales, noise_batch=900.0)
        (tmp_path / "base.toml").write_text(recipe.to_toml(base), encoding="utf-8")
        where = tmp_path / "base.toml"
    found = legw(f"scale {where} -b 4096 --rule {rule} --json").json
    assert found["rule"] == rule
    assert from_dict(found["scaled"]) == rules.apply(base, 4096, rules.find(rule))


def test_a_given_rate_is_a_warning_in_json(legw: Legw) -> None:
    answer = legw("scale resnet50-imagenet -b 2048 --lr 5 --json")
    assert answer.json["scaled"]["lr"] == 5
    assert answer.json["warnings"] == ["resnet50-imagenet: lr=5 is given; legw says 8"]
    assert answer.err == "note: lr=5 is given; legw says 8\n"


def test_toml_is_read_back_unchanged(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "big.toml"
    answer = legw(f"scale mnist-lstm -b 8192 --toml {file}")
    assert answer.out.endswith(f"wrote {file}\n")
    assert recipe.read(file) == rules.apply(MNIST_LSTM, 8192, rules.LEGW)
    assert [path.name for path in tmp_path.iterdir()] == ["big.toml"], "nothing half-written stays"


def test_toml_on_stdout_is_all_there_is(legw: Legw, tmp_path: Path) -> None:
    answer = legw("scale ptb-medium -b 640 --toml -")
    file = write(tmp_path, answer.out)
    assert recipe.read(file) == rules.apply(PTB_MEDIUM, 640, rules.LEGW)
    assert answer.err.startswith("note: the base recipe has no warmup")


def test_toml_beside_json(legw: Legw, tmp_path: Path) -> None:
    file = tmp_path / "big.toml"
    answer = legw(f"scale mnist-lstm -b 4096 --json --toml {file}")
    assert to_dict(recipe.read(file)) == answer.json["scaled"]
    assert answer.err == f"wrote {file}\n"


def test_a_link_is_written_through_and_a_pipe_into(legw: Legw, tmp_path: Path) -> None:
    link, file = tmp_path / "link.toml", tmp_path / "file.toml"
    link.symlink_to(file)
    assert legw(f"scale mnist-lstm -b 256 --toml {link}").code == 0
    assert link.is_symlink()
    assert recipe.read(file).batch_size == 256
    assert legw("scale mnist-lstm -b 256 --toml /dev/null").code == 0
    assert not Path("/dev/null").is_file()


# Many ----------------------------------------------------------------------------


def test_all_rules_has_one_row_each_and_the_reasons_below(legw: Legw) -> None:
    code, out, err = legw("scale resnet50-imagenet -b 1024 --all-rules")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines()[1:13])) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows["base"] == ["4", "0.15625", "391", "0.17", "%", "90", "225206"]
    assert rows["legw"] == ["5.6569", "0.3125", "391", "0.35", "%", "90", "112603"]
    assert rows["goyal"] == ["8", "5", "6256", "5.6", "%", "90", "112603", "from_lr", "4"]
    assert rows["hoffer"] == ["5.6569", "0.3125", "391", "0.17", "%", "180", "225206"]
    reason = "is defined for the Adam family only, not for lars; choose another rule"
    for name in ("adam-sde", "beta2-half-life"):
        assert rows[name] == reason.split(), "below the row of dashes"
        assert f"\n{name} {reason}\n" in out


def test_a_note_about_some_rules_names_them_and_one_about_all_does_not(legw: Legw) -> None:
    out = legw("scale gnmt -b 4096 --all-rules").out
    for name in ("linear", "linear-epoch", "goyal"):
        assert f"\nnote: {name} was made for SGD; with adam the rate grows as sqrt(k)" in out
    few = legw("scale mnist-lstm -b 16384 --ladder 16384:30000").out
    assert "\nnote: batch 30000: only 2.0 updates per epoch, fewer than 5" in few
    assert "\nnote: batch 16384: the warmup is 51% of the run; try a shorter one" in few
    assert few.count("note: ") == 4
    none = legw("scale ptb-medium --ladder 40:320").out
    assert none.count("note: ") == 1
    assert "\nnote: the base recipe has no warmup, so legw equals sqrt here" in none


def test_all_rules_in_json(legw: Legw) -> None:
    found = legw("scale mnist-lstm -b 256 --all-rules --json").json
    assert found["base"] == to_dict(MNIST_LSTM)
    assert [row["rule"] for row in found["rows"]] == list(rules.RULES)
    for row in found["rows"]:
        assert (row["scaled"] is None) == (row["error"] is not None)
        assert row["k"] == 2
    [error] = [row["error"] for row in found["rows"] if row["rule"] == "adam-sde"]
    assert error == (
        "mnist-lstm: batch_size=256 (k=2): adam-sde is defined for the Adam family only, "
        "not for sgd; choose another rule"
    )


def test_a_ladder_doubles_up_to_its_last_rung(legw: Legw) -> None:
    found = legw("scale resnet50-imagenet --ladder 512:5000 --json").json
    assert [row["batch_size"] for row in found["rows"]] == [512, 1024, 2048, 4096, 5000]
    assert {row["warmup_updates"] for row in found["rows"]} == {391}


def test_a_ladder_takes_the_batch_size_in(legw: Legw) -> None:
    found = legw("scale resnet50-imagenet -b 3000 --ladder 512:2048 --json").json
    assert [row["batch_size"] for row in found["rows"]] == [512, 1024, 2048, 3000]


def test_a_ladder_goes_on_after_a_rung_that_fails(legw: Legw) -> None:
    code, out, err = legw("scale resnet50-imagenet --ladder 262144:524288")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    base = ["512", "1", "4", "0.15625", "391", "0.17", "%", "90", "225206"]
    assert base in rows, "the base is there"
    assert ["524288", "1024", "-", "-", "-", "-", "-", "-", "see", "below"] in rows
    assert (
        "\nbatch 524288: legw would warm up for 160 of 90 epochs; "
        "the largest batch that fits is 294911; at this one a base warmup of 0.0878 epochs "
        "(--warmup-epochs) fits; rules that fit: linear, goyal, sqrt, fixed, hoffer, seesaw\n"
    ) in out
    found = legw("scale resnet50-imagenet --ladder 262144:524288 --json").json
    assert [row["error"] is None for row in found["rows"]] == [True, False]
    assert found["rows"][1]["updates"] is None


# The user's mistakes -------------------------------------------------------------

KNOWN = ", ".join(RECIPES)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "scale mnist-lsmt -b 8192",
            f"recipe 'mnist-lsmt' is unknown; did you mean 'mnist-lstm'? (known: {KNOWN})",
        ),
        (
            "scale mnist-lstm -b 8192 --rule lgew",
            f"rule 'lgew' is unknown; did you mean 'legw'? (known: {', '.join(rules.RULES)})",
        ),
        ("scale mnist-lstm", "--batch-size is missing; give the target, for example -b 8192"),
        ("scale mnist-lstm -b 0", "mnist-lstm: batch_size=0: must be a whole number, at least 1"),
        (
            "scale mnist-lstm -b 256 --num-examples 0",
            "mnist-lstm: num_examples=0: must be a whole number, at least 1",
        ),
        (
            "scale resnet50-imagenet -b 524288",
            "resnet50-imagenet: batch_size=524288 (k=1024): legw would warm up for 160 of 90 "
            "epochs; the largest batch that fits is 294911; at this one a base warmup of "
            "0.0878 epochs (--warmup-epochs) fits; rules that fit: linear, goyal, sqrt, fixed, "
            "hoffer, seesaw",
        ),
        (
            "scale mnist-lstm --ladder 8192:128",
            "--ladder=8192:128: must be two batch sizes A:B with 1 <= A <= B; "
            "give for example 128:8192",
        ),
        (
            "scale mnist-lstm -b 256 --all-rules --ladder 128:256",
            "--all-rules and --ladder are two tables; give one of the two",
        ),
        (
            "scale mnist-lstm -b 256 --all-rules --lr 1",
            "--lr means one recipe, --all-rules makes many; give one of the two",
        ),
        (
            "scale mnist-lstm --ladder 128:256 --toml x.toml",
            "--toml means one recipe, --ladder makes many; give one of the two",
        ),
        (
            "scale mnist-lstm -b 256 --json --toml -",
            "--json and --toml - both want stdout; give the TOML a file name",
        ),
    ],
)
def test_a_mistake_is_one_line(legw: Legw, words: str, line: str) -> None:
    assert legw(words) == (2, "", f"legw: {line}\n")


@pytest.mark.parametrize("ladder", ["0:8", "8", "8:", ":8", "a:b", "1:2:3", "-1:8", "1" * 50])
def test_a_ladder_that_is_none(legw: Legw, ladder: str) -> None:
    answer = legw(f"scale mnist-lstm --ladder={ladder}")
    assert answer.code == 2
    assert f"--ladder={ladder}: must be two batch sizes A:B with 1 <= A <= B" in answer.err


@pytest.mark.parametrize(
    "lr",
    ["0", "-1", "nan"],
)
def test_a_rate_that_cannot_be(legw: Legw, lr: str) -> None:
    answer = legw(f"scale mnist-lstm -b 256 --lr={lr}")
    assert answer.code == 2


@pytest.mark.parametrize("named", ["mine.toml", "mine.json", "./mine", "no/such/file"])
def test_what_looks_like_a_path_is_one(legw: Legw, named: str) -> None:
    answer = legw(f"scale {named} -b 8")
    assert answer.code == 2


def test_a_file_needs_no_suffix(legw: Legw, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(recipe.to_toml(replace(MNIST_LSTM, name="other")), encoding="utf-8")
    assert legw("scale mine -b 256").out.startswith("other: batch 128 → 256")


def test_a_broken_file_is_one_line(legw: Legw, tmp_path: Path) -> None:
    file = write(tmp_path, "batch_size = \n")
    answer = legw(f"scale {file} -b 8")
    assert answer.code == 2
    assert answer.err.count("\n") == 1


def test_a_file_that_cannot_be_written(legw: Legw, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "big.toml"
    answer = legw(f"scale mnist-lstm -b 256 --toml {missing}")
    assert answer.code == 2
    answer = legw(f"scale mnist-lstm -b 256 --toml {tmp_path}")
    assert answer.code == 2


def test_a_write_that_fails_leaves_the_old_file(
    legw: Legw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path, "precious")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    answer = legw(f"scale mnist-lstm -b 256 --toml {file}")
    assert answer.code == 2
    assert file.read_text(encoding="utf-8") == "precious"
    assert list(tmp_path.iterdir()) == [file]


# As a process --------------------------------------------------------------------

SCALE = ["scale", "mnist-lstm", "-b", "8192", "--json"]


def test_the_whole_process_takes_at_most_half_a_second(tmp_path: Path) -> None:
    """The median of 5, in CPU seconds: the wall clock of a machine that others share lies.

    The first run writes the bytecode, as an installation does, and is not counted.
    """
    cached = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds() -> float:
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "legw", *SCALE],
            env={**os.environ, **cached},
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout)["scaled"]["batch_size"] == 8192
        after = os.times()
        own = after.children_user - before.children_user
        return own + after.children_system - before.children_system

    times = [seconds() for _ in range(6)]
    assert statistics.median(times[1:]) <= 0.5, times


HEAVY = ["torch", "numpy", "altair", "vl_convert", "plotext", "typeguard"]
"""What `legw scale` has no use for; typeguard is what tyro loads for types it finds hard."""


@pytest.mark.parametrize("also", ["", *HEAVY[:3]])
def test_no_heavy_module_is_imported(tmp_path: Path, also: str) -> None:
    """And the check finds one that is (here: an empty fake)."""
    if also:
        (tmp_path / f"{also}.py").touch()
    script = (
        "import sys; from legw.cli import main\n"
        "main(['scale', 'mnist-lstm', '-b', '8192'])\n"
        "main(['scale', 'mnist-lstm', '-b', '8192', '--json'])\n"
        f"{f'import {also}' if also else ''}\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1] == f"{[also] if also else []}"


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_bases_length_and_warmup_may_be_given(legw: Legw) -> None:
    """What its own note asks for: a base without warmup gets one, and the rule scales it."""
    assert "the base recipe has no warmup" in legw("scale ptb-large -b 640").out
    answer = legw("scale ptb-large -b 640 --warmup-epochs 0.1 --epochs 20")
    assert "the base recipe has no warmup" not in answer.out
    base, scaled = (legw("scale ptb-large -b 640 --warmup-epochs 0.1 --epochs 20 --json").json[each]
                    for each in ("base", "scaled"))  # fmt: skip
    assert (base["epochs"], base["warmup_epochs"]) == (20, 0.1)
    assert scaled["warmup_epochs"] == pytest.approx(0.1 * 32)
    drawn = legw("schedule ptb-large -b 640 --warmup-epochs 0.1 --epochs 20 --json").json
    assert drawn["scaled"] == scaled
    assert legw("scale ptb-large -b 640 --warmup-epochs -1").code == 2
