"""Recipes from the configurations of Transformers and timm, and back in the same form."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from legw import LAMB, SGD, AdamW, Constant, Cosine, Exponential, Polynomial, Step, from_config
from legw.adapters import transformers_config
from legw.schedule import epochs_of

HF: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-4,
    "num_train_epochs": 3.0,
    "warmup_ratio": 0.01,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "output_dir": "out",
    "fp16": True,
}
TIMM: dict[str, Any] = {
    "model": "resnet50",
    "batch_size": 128,
    "opt": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "sched": "cosine",
    "epochs": 90,
    "warmup_epochs": 1,
    "warmup_lr": 0.01,
    "min_lr": 0.001,
    "amp": True,
}


def test_transformers_is_read() -> None:
    config = from_config(HF, processes=2)
    recipe = config.recipe
    assert config.form == "transformers"
    assert (recipe.batch_size, recipe.lr, recipe.epochs) == (64, 1e-4, 3.0)
    assert recipe.warmup_epochs == pytest.approx(0.03)
    assert recipe.decay == Cosine()
    assert recipe.optimizer == AdamW(beta2=0.98, weight_decay=0.1)
    assert recipe.clip_norm == 1.0


@pytest.mark.parametrize("version", [None, (4, "4.57.1")])
def test_transformers_is_scaled_in_the_same_form(
    version: tuple[int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers_config, "installed", lambda: version)
    big = from_config(HF).scaled(512)
    assert big.values == HF | {
        "gradient_accumulation_steps": 32,
        "learning_rate": pytest.approx(4e-4),
        "warmup_ratio": pytest.approx(0.16),
    }
    again = from_config(big.values).recipe
    assert (again.batch_size, again.epochs) == (512, 3.0)
    assert again.warmup_epochs == pytest.approx(big.recipe.warmup_epochs)


def test_transformers_5_has_no_warmup_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written loads in the installed version: a share is then named warmup_steps."""
    monkeypatch.setattr(transformers_config, "installed", lambda: (5, "5.24.0"))
    big = from_config(HF | {"logging_dir": "runs"}).scaled(512)
    assert "warmup_ratio" not in big.values
    assert big.values["warmup_steps"] == pytest.approx(0.16)
    assert from_config(big.values).recipe.warmup_epochs == pytest.approx(big.recipe.warmup_epochs)
    assert "logging_dir: Transformers 5.24.0 has no such names; take them out" in big.left_out
    whole = HF | {"warmup_steps": 100, "max_steps": 4000}
    assert "warmup_ratio" not in from_config(whole).scaled(512).values
    assert from_config(HF).scaled(512, "sqrt").values["warmup_steps"] == 0.01
    monkeypatch.setattr(transformers_config, "installed", lambda: (4, "4.57.1"))
    assert from_config(big.values).scaled(512).values["warmup_ratio"] == pytest.approx(0.16)


def test_a_warmup_in_updates_keeps_its_updates() -> None:
    values = HF | {"warmup_steps": 100, "max_steps": 4000}
    config = from_config(values)
    assert (config.recipe.steps, config.recipe.warmup_steps) == (4000, 100)
    assert epochs_of(config.recipe, num_examples=64_000) == (0.05, 2.0)
    big = config.scaled(256).values
    assert (big["warmup_steps"], big["max_steps"]) == (100, 500)
    small = config.scaled(256, "sqrt").values
    assert (small["warmup_steps"], small["max_steps"]) == (13, 500)  # 12.5 updates


def test_a_share_under_the_name_of_steps() -> None:
    """Transformers 5 has `warmup_steps` below 1 in the place of `warmup_ratio`."""
    values = {k: v for k, v in HF.items() if k != "warmup_ratio"} | {"warmup_steps": 0.02}
    config = from_config(values)
    assert config.recipe.warmup_epochs == pytest.approx(0.06)
    assert config.scaled(128).values["warmup_steps"] == pytest.approx(0.08)


@pytest.mark.parametrize(
    ("kind", "more", "decay"),
    [
        ("linear", {}, Polynomial(power=1)),
        ("polynomial", {"lr_end": 1e-5, "power": 2.0}, Polynomial(power=2, end=0.1)),
        ("cosine_with_min_lr", {"min_lr_rate": 0.1}, Cosine(end=0.1)),
        ("constant_with_warmup", {}, Constant()),
    ],
)
def test_decays_of_transformers(kind: str, more: dict[str, float], decay: object) -> None:
    recipe = from_config(HF | {"lr_scheduler_type": kind, "lr_scheduler_kwargs": more}).recipe
    assert type(recipe.decay) is type(decay)
    assert vars(recipe.decay) == pytest.approx(vars(decay))


def test_a_schedulers_values_are_read_as_yaml_and_command_lines_give_them(tmp_path: Path) -> None:
    """PyYAML reads 1e-6 as text; Transformers' command line takes JSON text."""
    pytest.importorskip("yaml", reason="PyYAML not installed")
    path = tmp_path / "args.yaml"
    path.write_text(
        "learning_rate: 1e-4\nwarmup_ratio: 0.01\nper_device_train_batch_size: 8\n"
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6}\n",
        encoding="utf-8",
    )
    assert from_config(path).recipe.decay == Cosine(end=1e-6 / 1e-4)
    assert from_config(path).scaled(32).values["lr_scheduler_kwargs"] == {
        "min_lr": pytest.approx(2e-6)
    }
    as_text = {"lr_scheduler_type": "polynomial", "learning_rate": 1e-3, "warmup_steps": 0.01,
               "lr_scheduler_kwargs": '{"lr_end": "1e-5", "power": 2}'}  # fmt: skip
    config = from_config(as_text)
    assert config.recipe.decay == Polynomial(power=2, end=1e-5 / 1e-3)
    assert json.loads(config.scaled(32).values["lr_scheduler_kwargs"]) == {
        "lr_end": pytest.approx(2e-5), "power": 2,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["out/kwargs.json", "[1]", "[" * 100_000, 3],
                         ids=["file", "list", "deep", "number"])  # fmt: skip
def test_a_schedulers_values_that_are_none(text: object) -> None:
    error_line(from_config, HF | {"lr_scheduler_kwargs": text})
    more = {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"lr_end": "low"}}
    error_line(from_config, HF | more)


def test_what_trainer_cannot_do_of_goyals_warmup_is_named() -> None:
    config = from_config(HF | {"num_train_epochs": 10, "optim": "sgd"})
    assert not any("warmup_from_lr" in line for line in config.scaled(128).left_out)
    big = config.scaled(128, "goyal")
    assert big.recipe.warmup_from_lr == pytest.approx(1e-4)
    assert big.left_out == (
        "warmup: Trainer's first update has rate 0 (ramp='start' in legw)",
        "warmup_from_lr=0.0001: Trainer's warmup begins at rate 0",
    )
    again = [line for line in big.scaled(512, "sqrt").left_out if "warmup_from_lr" in line]
    assert again == ["warmup_from_lr=0.0002: Trainer's warmup begins at rate 0"]


@pytest.mark.parametrize("more", [{}, {"warmup_ratio": 0.02}, {"warmup_steps": 100}])
def test_a_rule_that_warms_up_does_not_leave_the_constant_rate(more: dict[str, Any]) -> None:
    """Transformers' `constant` ignores every warmup."""
    values = {"learning_rate": 0.1, "num_train_epochs": 10, "optim": "sgd",
              "lr_scheduler_type": "constant"}  # fmt: skip
    config = from_config(values | more, num_examples=8000)
    assert config.recipe.warmup_epochs == 0
    assert config.scaled(128, "sqrt").values["lr_scheduler_type"] == "constant"
    big = config.scaled(128, "goyal")
    assert big.values["lr_scheduler_type"] == "constant_with_warmup"
    assert from_config(big.values, num_examples=8000).recipe.warmup_epochs == pytest.approx(5, 0.01)


def test_what_transformers_says_beyond_a_recipe_is_named() -> None:
    values = HF | {
        "lr_scheduler_type": "cosine_with_restarts",
        "optim": "adafactor",
        "eval_steps": 500,
    }
    config = from_config(values)
    assert config.left_out == (
        "lr_scheduler_type='cosine_with_restarts': legw has no such decay; it stays",
        "optim='adafactor': is none of legw's optimizers; it stays as it is, and whether a rule "
        "fits it is not known",
        "warmup: Trainer's first update has rate 0 (ramp='start' in legw)",
        "eval_steps=500: counts updates, and stays",
    )
    assert config.scaled(64).values["optim"] == "adafactor"
    assert not isinstance(config.recipe.optimizer, AdamW)
    config = from_config(HF | {"lr_scheduler_type": "constant"})
    assert config.recipe.warmup_epochs == 0
    assert config.left_out == (
        "lr_scheduler_type='constant': does not warm up; constant_with_warmup would",
    )


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_what_steers_itself_in_trainer_has_no_warmup(kind: str) -> None:
    """Trainer hands it none, whatever warmup_steps says."""
    config = from_config(HF | {"lr_scheduler_type": kind, "num_train_epochs": 10.0, "optim": "sgd"})
    assert config.recipe.warmup_epochs == 0
    assert config.left_out == (
        f"lr_scheduler_type='{kind}': legw has no such decay; it stays",
        f"lr_scheduler_type='{kind}': does not warm up; constant_with_warmup would",
    )
    assert config.scaled(64, "sqrt").left_out == config.left_out
    big = config.scaled(64, "goyal")
    assert big.left_out[-1] == (
        f"warmup_epochs={big.recipe.warmup_epochs:g}: Trainer's {kind} has none; "
        "legw.train.RecipeLR(after_warmup=...) would"
    )


def test_timm_is_read_and_scaled() -> None:
    config = from_config(TIMM, processes=2)
    recipe = config.recipe
    assert (recipe.batch_size, recipe.lr, recipe.epochs, recipe.warmup_epochs) == (256, 0.1, 90, 1)
    assert recipe.decay == Cosine(end=0.01, after_warmup=False)
    assert recipe.optimizer == SGD(momentum=0.9, nesterov=True, weight_decay=1e-4)
    assert config.left_out == (
        "warmup: timm's decay begins with a jump at its end, legw's has begun at epoch 0; "
        "warmup_prefix agrees",
        "sched_on_updates: off, so timm's warmup moves once an epoch; the scaled file has it on",
    )
    big = config.scaled(2048, processes=4)
    assert big.values == TIMM | {
        "batch_size": 128,
        "grad_accum_steps": 4,
        "lr": pytest.approx(0.1 * 8**0.5),
        "warmup_epochs": 8,
        "warmup_lr": pytest.approx(0.01 * 8**0.5),
        "min_lr": pytest.approx(0.001 * 8**0.5),
        "sched_on_updates": True,
    }


def test_a_rate_that_timm_would_scale_by_itself_is_written_out() -> None:
    values = {k: v for k, v in TIMM.items() if k != "lr"} | {"lr_base": 0.2, "lr_base_size": 256}
    assert from_config(values).recipe.lr == pytest.approx(0.1)
    assert from_config(values | {"opt": "lamb"}).recipe.lr == pytest.approx(0.2 / 2**0.5)
    assert from_config(values).scaled(512).values["lr"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("more", "decay"),
    [
        (
            {"sched": "step", "decay_epochs": 30, "decay_rate": 0.5},
            Exponential(rate=0.5, constant_epochs=30, every_epochs=30),
        ),
        ({"sched": "multistep", "decay_milestones": [30, 60]}, Step(milestones_epochs=(30, 60))),
        ({"sched": "poly", "decay_rate": 2, "min_lr": 0}, Polynomial(power=2, after_warmup=False)),
        ({"sched": "constant"}, Constant()),
    ],
)
def test_decays_of_timm(more: dict[str, Any], decay: object) -> None:
    assert from_config(TIMM | more).recipe.decay == decay


def test_an_average_of_timm_is_carried_and_scaled_where_the_rule_does() -> None:
    values = TIMM | {"model_ema": True, "model_ema_decay": 0.999}
    config = from_config(values)
    assert config.recipe.ema_decay == 0.999
    assert config.scaled(512).values["model_ema_decay"] == 0.999
    kept = config.scaled(512, "legw-timescales").values["model_ema_decay"]
    assert kept == pytest.approx(0.999**4)
    usual = from_config(TIMM | {"model_ema": True, "model_ema_warmup": True})
    assert usual.recipe.ema_decay == 0.9998
    assert any(line.startswith("model_ema_decay=0.9998: is not given") for line in usual.filled_in)
    assert any(line.startswith("model_ema_warmup: ") for line in usual.left_out)
    assert from_config(TIMM | {"model_ema_decay": 0.999}).recipe.ema_decay is None


def test_what_timm_says_beyond_a_recipe_is_named() -> None:
    values = TIMM | {
        "opt": "madgrad", "sched": "tanh", "cooldown_epochs": 10, "clip_grad": 1.0,
        "clip_mode": "agc", "sched_on_updates": True,
    }  # fmt: skip
    assert from_config(values).left_out == (
        "cooldown_epochs=10: has no place in a recipe, and stays",
        "sched='tanh': legw has no such decay; it stays",
        "opt='madgrad': is none of legw's optimizers; it stays as it is, and whether a rule fits "
        "it is not known",
        "clip_mode='agc': only norm has a word; it stays",
    )


def test_hoffers_rule_stretches_the_milestones() -> None:
    values = TIMM | {"sched": "multistep", "decay_milestones": [30, 60]}
    assert (
        "decay_milestones: sched_on_updates is off, so timm's come one epoch early; "
        "in the scaled file, one update"
    ) in from_config(values).left_out
    big = from_config(values).scaled(256, "hoffer")
    assert (big.values["epochs"], big.values["decay_milestones"]) == (180, [60, 120])
    assert big.left_out == ("decay_milestones: timm's come one update early",)


def test_one_milestone_is_a_list_of_one() -> None:
    config = from_config(TIMM | {"sched": "multistep", "decay_milestones": 30})
    assert config.recipe.decay == Step(milestones_epochs=(30,))
    assert config.scaled(256).values["decay_milestones"] == [30]


def test_timms_none_has_no_warmup_either() -> None:
    config = from_config(TIMM | {"sched": "none"})
    assert config.recipe.warmup_epochs == 0
    assert config.left_out == ("sched='none': does not warm up; constant would",)
    assert config.scaled(256, "sqrt").values["sched"] == "none"
    big = config.scaled(256, "goyal").values
    assert (big["sched"], big["warmup_epochs"]) == ("constant", 5)


def test_lamb_of_timm() -> None:
    values = TIMM | {"opt": "lamb", "opt_eps": "1e-6", "opt_betas": [0.9, 0.98]}
    assert from_config(values).recipe.optimizer == LAMB(beta2=0.98, weight_decay=1e-4)


@pytest.mark.parametrize("betas", [0.9, [0.9], [0.9, 0.99, 0.999], []])
def test_two_betas_make_an_adam(betas: object) -> None:
    error_line(from_config, TIMM | {"opt": "adamw", "opt_betas": betas})
    assert from_config(TIMM | {"opt_betas": betas}).recipe.optimizer.kind == "sgd"


@pytest.mark.parametrize(
    "values",
    [
        TIMM | {"lr": 0},
        TIMM | {"lr": None, "lr_base": 0},
        TIMM | {"lr": None, "lr_base_size": 0},
        TIMM | {"min_lr": "low"},
        TIMM | {"lr": float("nan")},
        TIMM | {"sched": "multistep", "decay_milestones": [30, None]},
        HF | {"learning_rate": 0, "lr_scheduler_type": "polynomial"},
        HF | {"max_steps": 1e999},
        HF | {"weight_decay": 10**400},
    ],
)
def test_values_that_cannot_be(values: dict[str, Any]) -> None:
    error_line(from_config, values, num_examples=1000)


@pytest.mark.parametrize(("name", "text"), [("a.json", "["), ("a.yaml", "[")])
def test_a_file_nested_without_end(tmp_path: Path, name: str, text: str) -> None:
    if name.endswith(".yaml"):
        pytest.importorskip("yaml", reason="PyYAML not installed")
    (tmp_path / name).write_text(text * 20_000, encoding="utf-8")
    error_line(from_config, tmp_path / name)


def test_a_date_that_is_none(tmp_path: Path) -> None:
    """PyYAML lets the error of such a date through as it is."""
    pytest.importorskip("yaml", reason="PyYAML not installed")
    (tmp_path / "a.yaml").write_text("lr: 2024-13-45", encoding="utf-8")
    error_line(from_config, tmp_path / "a.yaml")


def test_files_and_objects(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML not installed")
    path = tmp_path / "args.yaml"
    path.write_text(yaml.safe_dump(TIMM), encoding="utf-8")
    config = from_config(path)
    assert config.recipe.name == "args"
    assert config.values == TIMM
    config.scaled(1024).write(path)
    assert from_config(path).recipe.lr == pytest.approx(0.1 * 8**0.5)
    path = tmp_path / "training_args.json"
    from_config(HF).write(path)
    assert json.loads(path.read_text(encoding="utf-8")) == HF
    assert from_config(str(path)).recipe == from_config(HF, name="training_args").recipe
    assert from_config(argparse.Namespace(**TIMM)).recipe.name == "timm"


def test_what_cannot_be(tmp_path: Path) -> None:
    error_line(from_config, {"a": 1})
    error_line(from_config, 3)
    error_line(from_config, HF | {"learning_rate": "fast"})
    error_line(from_config, TIMM | {"batch_size": 0})
    error_line(from_config, HF | {"warmup_steps": 10})
    error_line(from_config(HF).scaled, 33, processes=2)
    missing = tmp_path / "no.json"
    error_line(from_config, missing)  # fmt: skip
    for text in ("{", "[1]"):
        missing.write_text(text, encoding="utf-8")
        error_line(from_config, missing)
    missing.write_bytes(b"\xff")
    error_line(from_config, missing)
    error_line(from_config(HF).write, tmp_path)
    (tmp_path / "bad.yaml").write_text("a: [", encoding="utf-8")
    error_line(from_config, tmp_path / "bad.yaml")
