"""`--keep-quality` and `--critical` of scale, plan and train, on branches of the digits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import legw as library
from legw.analysis.keep_quality import kept
from legw.analysis.measured_critical import RESULT, read_critical
from legw.apps import find
from legw.probes import measure_critical, plan_batch_size
from legw.runs import records
from legw.runs.measurements import Speed
from legw.train import Settings

SHORT = (
    "name = 'short'\nbatch_size = 16\nlr = 0.1\nepochs = 6\nwarmup_epochs = 0.1\n"
    "num_examples = 1438\nclip_norm = 1.0\ndecay = {kind = 'step', milestones_epochs = [4]}\n"
    "[optimizer]\nkind = 'sgd'\nmomentum = 0.9\n"
)
STRETCH = 628 / 516 + 0.1 / 6 / 2 * (8 - 628 / 516)
"""Of batch 128 with a noise batch of 500; half of the warmup is not stretched."""
QUICK = "--recipe short.toml --device cpu"
ASKED = "digits-lstm -b 128 --keep-quality 5% --critical measured"


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Branches at 2, 4 and 8 times the batch, from one point."""
    folder = tmp_path_factory.mktemp("branches")
    (folder / "short.toml").write_text(SHORT)
    base = library.read_recipe(folder / "short.toml")
    settings = Settings(micro_batch_size=64, device="cpu")
    out = folder / "measured"
    found = measure_critical(
        find("digits-lstm"), base, out=out, points=(0.2,), window=0.5, budget=40.0, tolerance=0.9,
        settings=settings,
    )  # fmt: skip
    assert json.loads(json.dumps(found)) == json.loads((out / RESULT).read_text())
    return folder


@pytest.fixture(autouse=True)
def beside_the_branches(branches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("measured").mkdir()
    for name in ("short.toml", f"measured/{RESULT}"):
        shutil.copyfile(branches / name, name)


def change(**values: Any) -> None:
    """Put other numbers in the place of those that were measured."""
    path = Path("measured") / RESULT
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def bounded() -> None:
    """Let 32 be the bound, and 500 examples the noise batch."""
    found = json.loads((Path("measured") / RESULT).read_text())
    point = found["points"][0]
    for one, excess in zip(point["branches"], (0.0, 0.06, 0.2), strict=True):
        one["excess"] = excess
    noise = {"value": 500.0, "low": 250.0, "high": 2000.0}
    change(points=[point | {"noise_batch": noise}], noise_batch=noise)


def measured(monkeypatch: pytest.MonkeyPatch, **speed: Any) -> None:
    """Let every measurement of the speed come to the same."""
    found = Speed(gradient_bytes=400_000_000, spread=0.1, device="cpu", **speed)
    monkeypatch.setattr("legw.probes.speed.measure", lambda *args, **more: found)


BUSY = {"passes": {16: 0.01}, "step_seconds": 0.0}
"""Speed of a device whose time grows with the batch."""
IDLE = {"passes": {16: 0.0}, "step_seconds": 0.01}
"""Speed of a device whose time does not."""


@pytest.mark.ci
def test_what_was_measured_is_in_the_folder(branches: Path) -> None:
    found = read_critical(str(branches / "measured"))
    assert [one.batch_size for one in found.points[0].branches] == [32, 64, 128]
    assert found.task == "digits-lstm" and found.points[0].base_loss > 0
    values = json.loads((branches / "measured" / RESULT).read_text())
    assert all(one["predicted"] is not None for one in values["points"][0]["branches"])
    low, high = values["noise_batch"]["low"], values["noise_batch"]["high"]
    assert low >= 0 and (high is None or high > low)


# scale --------------------------------------------------------------------------------


def test_scale_shows_both_recipes_and_prints_the_recommended(legw: Callable, bounded: None) -> None:
    answer = legw(f"scale short.toml {ASKED.partition(' ')[2]} --toml kept.toml")
    assert answer.code == 0
    assert re.search(r"equal epochs +32 +legw +6 ", answer.out)
    assert re.search(r"stretched +128 \* +stretch +7\.641 ", answer.out)
    assert max(map(len, answer.out.split("loss within")[0].splitlines())) <= 80
    assert "loss within 5 % of the base's: at most batch 32" in answer.out
    kept_recipe = library.read_recipe("kept.toml")
    assert kept_recipe.batch_size == 128
    assert kept_recipe.epochs == pytest.approx(6 * STRETCH)
    assert kept_recipe.decay.milestones_epochs == pytest.approx((4 * STRETCH,))  # type: ignore[attr-defined]
    assert kept_recipe.warmup_epochs == pytest.approx(0.8)


def test_scale_at_a_batch_within_the_bound(legw: Callable, bounded: None) -> None:
    found = legw("scale short.toml -b 32 --keep-quality 5% --critical measured --json").json
    assert found["rule"] == "legw" and found["scaled"]["epochs"] == 6
    assert found["keep_quality"]["recommended"] == "equal_epochs"
    assert found["keep_quality"]["stretched"] is None


def test_the_json_of_scale_has_both(legw: Callable, bounded: None) -> None:
    answer = legw(f"scale short.toml {ASKED.partition(' ')[2]} --json")
    found = answer.json["keep_quality"]
    assert answer.json["rule"] == "stretch" and found["largest_batch"] == 32
    assert found["stretched"]["updates"] == answer.json["updates"]
    assert found["noise_batch"]["value"] == 500.0


def test_a_rule_takes_the_number_without_a_contract(legw: Callable, bounded: None) -> None:
    found = legw("scale short.toml -b 128 --rule stretch --critical measured --json").json
    assert found["scaled"]["epochs"] == pytest.approx(6 * STRETCH)
    rows = legw("scale short.toml -b 128 --all-rules --critical measured --json").json["rows"]
    assert {row["rule"] for row in rows if row["error"] is None} >= {"legw", "stretch"}
    assert legw("scale short.toml -b 16 --critical measured --toml base.toml").code == 0
    assert library.read_recipe("base.toml").noise_batch == 500.0
    base = library.read_recipe("base.toml")
    assert library.scale(base, batch_size=128, rule="stretch").epochs == found["scaled"]["epochs"]


@pytest.mark.parametrize(
    "words",
    [
        "-b 128 --keep-quality 1%",
        "-b 128 --keep-quality much --critical measured",
        "-b 128 --keep-quality 1% --critical runs",
        "-b 128 --keep-quality 1% --critical short.toml",
        "-b 128 --critical=",
        "-b 8 --keep-quality 1% --critical measured",
        "-b 128 --keep-quality 1% --critical measured --rule sqrt",
        "-b 128 --keep-quality 1% --critical measured --lr 0.1",
        "-b 128 --keep-quality 1% --critical measured --epochs 3",
        "--ladder 16:128 --keep-quality 1% --critical measured",
        "-b 128 --rule stretch",
    ],
)
def test_what_scale_refuses(legw: Callable, words: str) -> None:
    assert legw(f"scale short.toml {words}").code == 2


# plan ---------------------------------------------------------------------------------


def test_plan_has_both_choices_and_takes_the_one_that_is_sooner(
    legw: Callable, bounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"plan digits-lstm {QUICK} --keep-quality 5% --critical measured"
    measured(monkeypatch, **IDLE)
    answer = legw(words)
    assert answer.code == 0 and "* take batch 1024, stretch" in answer.out
    assert re.search(r"equal epochs +32 ", answer.out) and "takes less time" in answer.out
    found = legw(f"{words} --json").json
    assert found["recommended"] == 1024
    both = found["keep_quality"]
    assert both["equal_epochs"]["batch_size"] == 32 and both["recommended"] == "stretched"
    for choice in (both["equal_epochs"], both["stretched"]):
        assert choice["seconds"] == pytest.approx(0.01 * choice["updates"])
        assert choice["device_seconds"] == pytest.approx(choice["seconds"])
    measured(monkeypatch, **BUSY)
    found = legw(f"{words} --batch-sizes 16,32,128 --json").json
    assert found["recommended"] == 16 and found["keep_quality"]["recommended"] == "equal_epochs"
    assert [one["updates"] for one in found["options"]] == [540, 270, 86]


def test_plan_on_many_nodes_counts_every_device(
    legw: Callable, bounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, **IDLE)
    words = f"plan digits-lstm {QUICK} --keep-quality 5% --critical measured --json"
    found = legw(f"{words} --nodes 4 --link 100Gbit --batch-sizes 32,128").json["keep_quality"]
    for choice in (found["equal_epochs"], found["stretched"]):
        assert choice["device_seconds"] == pytest.approx(4 * choice["seconds"])


def test_the_plan_of_python_is_the_same(bounded: None, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, **IDLE)
    base = library.read_recipe("short.toml")
    found = plan_batch_size(
        find("digits-lstm"), base, batch_sizes=(32, 128), kept=kept(base, "measured", "5%"),
        device="cpu",
    )  # fmt: skip
    assert found is not None and found.contract is not None
    assert found.best.recipe == found.contract.best.recipe and found.best.batch_size == 128
    assert found.rule_of(found.best).name == "stretch"


@pytest.mark.parametrize("words", ["--noise 40", "--batch-sizes 64,128", "--rule linear"])
def test_what_plan_refuses(
    legw: Callable, bounded: None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, **IDLE)
    asked = f"plan digits-lstm {QUICK} --keep-quality 5% --critical measured"
    assert legw(f"{asked} {words}").code == 2


@pytest.mark.parametrize("command", ["plan", "train"])
def test_the_result_of_another_task_is_refused(
    legw: Callable, bounded: None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, **IDLE)
    change(task="mnist-lstm")
    assert legw(f"{command} digits-lstm {QUICK} --critical measured").code == 2
    assert not Path("runs").exists()


# train --------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", ["stretch-b128", pytest.param("legw-b32", marks=pytest.mark.ci)])
def test_train_makes_the_recommended_run_and_goes_on_with_it(
    legw: Callable, bounded: None, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    rule, batch = taken.split("-b")
    speed, other = (IDLE, BUSY) if rule == "stretch" else (BUSY, IDLE)
    measured(monkeypatch, **speed)
    words = f"train {ASKED} {QUICK} --micro-batch-size 64"
    answer = legw(words)
    folder = Path("runs") / f"digits-lstm-{taken}-s0"
    assert answer.code == 0 and f"* take batch {batch}, {rule}" in answer.out
    manifest = records.read_manifest(folder)
    assert (manifest.rule, manifest.recipe.batch_size) == (rule, int(batch))
    epochs = 6 * STRETCH if rule == "stretch" else 6
    assert manifest.recipe.epochs == pytest.approx(epochs)
    measured(monkeypatch, **other)  # by which the other one would be taken today
    again = legw(f"{words} --resume")
    assert again.code == 0 and str(folder) in again.out
    assert len(list(Path("runs").iterdir())) == 1


def test_a_dry_run_has_both_and_trains_nothing(
    legw: Callable, bounded: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, **IDLE)
    answer = legw(f"train {ASKED} {QUICK} --micro-batch-size 64 --dry-run")
    assert answer.code == 0 and re.search(r"stretched +128 \*", answer.out)
    found = legw(f"train {ASKED} {QUICK} --micro-batch-size 64 --dry-run --json").json
    assert found["keep_quality"]["recommended"] == "stretched" and found["rule"] == "stretch"
    assert not Path("runs").exists()


def test_train_refuses_a_rate_of_its_own(legw: Callable, bounded: None) -> None:
    assert legw(f"train {ASKED} {QUICK} --lr 0.3").code == 2
