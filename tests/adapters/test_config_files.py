"""Configuration files: read whatever they hold, and written right or refused in one line."""

from __future__ import annotations

import argparse
import enum
import json
import tomllib
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from adapters.test_configs import HF, TIMM
from expect import error_line
from legw import from_config
from legw.adapters.config_files import check_size, read, text_of
from legw.adapters.configs import of_another_library, recognise

yaml = pytest.importorskip("yaml", reason="PyYAML not installed")


class Level(enum.Enum):
    HIGH = "high"


class device:  # noqa: N801 # torch's own name
    def __init__(self, name: str) -> None:
        self.name = name

    def __str__(self) -> str:
        return self.name


device.__module__ = "torch"

OF_A_NAMESPACE: dict[str, Any] = {
    "output": Path("runs") / "a", "device": device("cuda:0"), "day": date(2025, 4, 1),
    "level": Level.HIGH, "sizes": (1, 2), "tags": {"b", "a"}, "more": argparse.Namespace(x=1),
}  # fmt: skip


# Writing ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "yaml", "toml"])
def test_what_a_namespace_holds_is_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"new.{suffix}"
    from_config(argparse.Namespace(**TIMM, **OF_A_NAMESPACE)).scaled(512).write(path)
    found = read(path)
    assert found["batch_size"] == 128 and found["grad_accum_steps"] == 4
    assert (found["output"], found["device"], found["level"]) == ("runs/a", "cuda:0", "high")
    assert (found["sizes"], found["tags"], found["more"]) == ([1, 2], ["a", "b"], {"x": 1})
    assert found["day"] == (date(2025, 4, 1) if suffix != "json" else "2025-04-01")
    assert from_config(path).recipe.lr == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("value", "suffix"),
    [
        (float("nan"), "json"),
        (float("inf"), "json"),
        ([1, {"y": float("nan")}], "json"),
        (None, "toml"),
        (b"x", "yaml"),
        (object(), "json"),
        ("\ud800", "yaml"),
        ({3: 4}, "json"),
    ],
    ids=["nan", "inf", "nested-nan", "none", "bytes", "object", "surrogate", "key"],
)
def test_what_a_language_has_no_word_for_is_one_line(
    tmp_path: Path, value: object, suffix: str
) -> None:
    config = from_config(HF | {"x": value})
    error_line(config.write, tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


def test_nan_is_right_where_there_is_a_word_for_it(tmp_path: Path) -> None:
    from_config(HF | {"x": float("nan")}).write(tmp_path / "a.yaml")
    assert read(tmp_path / "a.yaml")["x"] != read(tmp_path / "a.yaml")["x"]
    text = text_of("mine", {"x": datetime(2025, 4, 1, 12), "y": float("inf")}, Path("a.toml"))
    assert tomllib.loads(text) == {"x": datetime(2025, 4, 1, 12), "y": float("inf")}


def test_numbers_of_numpy_are_plain_ones() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy not installed")
    text = text_of("mine", {"a": numpy.float64(0.5), "b": numpy.int64(3)}, Path("a.json"))
    assert json.loads(text) == {"a": 0.5, "b": 3}


# Reading ----------------------------------------------------------------------------


def test_a_toml_file_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "llama.toml"
    path.write_text(
        '[job]\ndump_folder = "out"\n[optimizer]\nname = "AdamW"\nlr = 3e-4\n'
        "[lr_scheduler]\nwarmup_steps = 20\n[training]\nlocal_batch_size = 1\nseq_len = 8192\n"
        "steps = 1000\n",
        encoding="utf-8",
    )
    config = from_config(path, processes=8)
    assert (config.form, config.recipe.batch_size, config.recipe.name) == ("torchtitan", 8, "llama")
    config.scaled(32).write(path)
    found = read(path)
    assert found["training"] == {
        "local_batch_size": 1, "seq_len": 8192, "steps": 250, "global_batch_size": 32,
    }  # fmt: skip
    assert found["job"] == {"dump_folder": "out"}


def test_a_python_file_is_read_and_never_run(tmp_path: Path) -> None:
    path = tmp_path / "train_gpt2.py"
    path.write_text(
        '"""GPT-2."""\nimport time\nbatch_size = 12\nblock_size = 1024\n'
        "gradient_accumulation_steps = 5 * 8\nmax_iters = 600000 # 300B tokens\n"
        "lr_decay_iters = max_iters\nlearning_rate = 6e-4\nmin_lr = learning_rate / 10\n"
        "warmup_iters = 2000\n",
        encoding="utf-8",
    )
    config = from_config(path)
    assert config.recipe.batch_size == 480
    assert config.recipe.min_lr == pytest.approx(6e-5)
    config.scaled(1920).write(path)
    assert "gradient_accumulation_steps = 160\n" in path.read_text(encoding="utf-8")
    assert from_config(path).recipe.steps == 150_000
    error_line(from_config(HF).write, path)
    for line in (
        "batch_size = len([1])",
        "print('hello')",
        "batch_size = 1 / 0",
        "batch_size = = 3",
        "batch_size = a",
    ):
        path.write_text(line + "\n", encoding="utf-8")
        error_line(from_config, path)


def test_nesting_without_measure(tmp_path: Path) -> None:
    deep: Any = []
    for _ in range(990):
        deep = [deep]
    error_line(from_config, HF | {"x": deep})
    path = tmp_path / "a.json"
    path.write_text('{"learning_rate": ' + '{"a": ' * 400 + "1" + "}" * 401, encoding="utf-8")
    error_line(from_config, path)  # fmt: skip
    round_: dict[str, Any] = dict(HF)
    round_["x"] = [round_]
    error_line(from_config, round_)
    error_line(from_config, HF | {"x": 10**5000})
    check_size("mine", {"x": [[[1]]]})


def test_aliases_that_unfold_to_ten_million(tmp_path: Path) -> None:
    lines = ["learning_rate: 1e-4", "num_train_epochs: 3", "a0: &a0 [1, 2, 3]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    path = tmp_path / "a.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    error_line(from_config, path)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "training_args.bin"
    path.write_bytes(b"PK\x03\x04\xff\xfe")
    error_line(from_config, path)
    line = error_line(from_config, tmp_path / "none.pt")
    assert line.endswith("none.pt: cannot be read: No such file or directory; check the path")


# Recognising --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"log_history": [], "global_step": 3, "num_train_epochs": 3},
        {"architectures": ["A"], "model_type": "llama", "hidden_size": 8},
        {"blr": 1e-3, "accum_iter": 1},
        {"trainer": {"max_epochs": 3}},
        {"SOLVER": {"IMS_PER_BATCH": 16}},
        {"optim_wrapper": {}, "train_cfg": {}},
        {"lr0": 0.01, "lrf": 0.01, "epochs": 100},
        {"max_duration": "1ep"},
        {"optimizer": {"_component_": "torch.optim.AdamW"}},
        {"train_micro_batch_size_per_gpu": 4},
        {"batch_size": 8, "lr": 0.1, "epochs": 3},
    ],
    ids=str,
)
def test_what_is_known_and_not_read_is_named(values: dict[str, Any]) -> None:
    error_line(recognise, values)


@pytest.mark.parametrize(
    "values",
    [{}, {"learning_rate": 0.1}, {"opt": "adamw", "lr": 1e-3}, {"batch_size": 8, "model": "x"}],
    ids=str,
)
def test_one_common_name_is_not_enough(values: dict[str, Any]) -> None:
    line = error_line(recognise, values)
    assert line.startswith("from_config: is neither of Hugging Face TrainingArguments (per_device_")
    for title in ("timm", "axolotl", "nanoGPT", "nanochat", "torchtitan", "torchvision"):
        assert f"of {title} (" in line


def test_a_recipe_is_told_from_a_configuration(tmp_path: Path) -> None:
    for name, text, other in (
        ("a.toml", "batch_size = 8\nlr = 0.1\nepochs = 2\n", False),
        ("a.json", '{"global_batch_size": 8, "learning_rate": 0.1, "max_steps": 2}', False),
        ("a.json", '{"per_device_train_batch_size": 8}', True),
        ("a.json", '{"log_history": [], "global_step": 1}', True),
        ("a.json", '{"batch": 8}', False),
        ("a.json", '{"batch_size": 8, "lr": 1, "num_train_epochs": 3, "warmup": 1}', False),
        ("a.json", "{", False),
        ("a.toml", "[training]\nsteps = 3\nseq_len = 4\n", True),
        ("a.yaml", "a: 1", True),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert of_another_library(tmp_path / name) == other, text
    assert of_another_library(tmp_path / "none.yaml")  # whose reading says that there is none
    assert not of_another_library(tmp_path / "none.json")
