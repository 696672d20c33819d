"""`legw scale` of another library's configuration: read, told, and written in its own form."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Legw = Callable[[str], Any]

HF = {
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "learning_rate": 1e-4,
    "max_steps": 8000, "warmup_steps": 100, "lr_scheduler_type": "cosine", "save_steps": 500,
}  # fmt: skip


@pytest.fixture
def arguments(tmp_path: Path) -> Path:
    path = tmp_path / "training_args.json"
    path.write_text(json.dumps(HF), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["json", "yaml", "toml"])
def test_one_command_scales_it(legw: Legw, arguments: Path, suffix: str) -> None:
    new = arguments.with_name(f"new.{suffix}")
    code, out, err = legw(f"scale {arguments} -b 256 --processes 2 --write {new}")
    assert (code, err) == (0, "")
    assert out.startswith(
        "training_args: batch 32 → 256 (k=8, legw): lr 0.0001 → 0.00028284, warmup 100 steps"
    )
    assert "\nfilled in: optim='adamw_torch_fused': is not given; this is the default of" in out
    assert "\nleft out: save_steps=500: counts updates, and stays\n" in out
    assert out.endswith(f"wrote {new}\n")
    found = read(new)
    assert found["gradient_accumulation_steps"] == 8
    assert (found["max_steps"], found["warmup_steps"], found["save_steps"]) == (1000, 100, 500)


def read(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        yaml = pytest.importorskip("yaml", reason="PyYAML not installed")
        return dict(yaml.safe_load(text))
    return dict(json.loads(text) if path.suffix == ".json" else tomllib.loads(text))


def test_json_has_what_is_left_out(legw: Legw, arguments: Path) -> None:
    code, out, err = legw(f"scale {arguments} -b 64 --json")
    found = json.loads(out)
    assert (code, found["form"], found["scaled"]["batch_size"]) == (0, "transformers", 64)
    assert "save_steps=500: counts updates, and stays" in found["left_out"]
    assert len(found["filled_in"]) == 1
    assert "left out: save_steps=500" in err


def test_a_ladder_of_it(legw: Legw, arguments: Path) -> None:
    code, out, _ = legw(f"scale {arguments} --ladder 16:64")
    assert code == 0 and "\nleft out: save_steps=500" in out


def test_another_base_length_is_a_recipe(legw: Legw, arguments: Path) -> None:
    assert legw(f"scale {arguments} -b 64 --warmup-steps 50").code == 0


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("mnist-lstm -b 512 --write a.json", "--write is for the configuration of another library, "
         "and mnist-lstm is a recipe; --toml writes it"),
        ("mnist-lstm -b 512 --processes 2", "--processes is for the configuration of another"),
        ("FILE -b 64 --write a.txt", "--write=a.txt: the suffix must be one of .json, .yaml, .yml"),
        ("FILE -b 64 --lr 1 --write a.json", "--lr changes the recipe, --write the configuration"),
        ("FILE --ladder 16:64 --write a.json", "--write means one batch size, --ladder makes many"),
        ("FILE -b 33 --processes 2", "transformers: batch_size=33: is no whole number of examples"),
        ("FILE -b 64 --write a.py", "a.py: transformers is no Python file"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(legw: Legw, arguments: Path, command: str, line: str) -> None:
    code, _, err = legw("scale " + command.replace("FILE", str(arguments)))
    assert code == 2
    assert err.startswith(f"legw: {line}") and err.count("\n") == 1


def test_a_configuration_that_is_not_read_is_one_line(legw: Legw, tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text('{"log_history": [], "global_step": 5, "num_train_epochs": 3}')
    code, out, err = legw(f"scale {path} -b 64")
    assert (code, out) == (2, "")
    assert err == (
        "legw: from_config: this is the state of a run, trainer_state.json (it has log_history and "
        "global_step): it is no configuration; give that run's TrainingArguments\n"
    )


def test_an_optimizer_of_another_library_goes_into_no_recipes_file(
    legw: Legw, arguments: Path
) -> None:
    arguments.write_text(json.dumps(HF | {"optim": "adafactor"}), encoding="utf-8")
    code, _, err = legw(f"scale {arguments} -b 64 --toml {arguments}.toml")
    assert code == 2 and "its optimizer is none of legw's" in err
    assert legw(f"scale {arguments} -b 64").code == 0
