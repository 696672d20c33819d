"""Every field of TrainingArguments and of timm's arguments is accounted for."""

from __future__ import annotations

import argparse
import ast
import importlib.util
from pathlib import Path
from typing import Any

import pytest

from expect import error_line
from legw import Muon, from_config
from legw.adapters import timm_fields, transformers_fields
from legw.adapters.configs import FORMS
from legw.adapters.fields import passes
from legw.adapters.forms import CARRIED, KEPT, Named
from legw.adapters.optimizer_names import OtherOptimizer
from legw.adapters.role_names import role_of
from legw.errors import RecipeError
from legw.optimizers import Optimizer
from legw.recipe import kinds

HF: dict[str, Any] = {
    "per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 1e-4,
    "num_train_epochs": 3.0, "warmup_steps": 0.01, "lr_scheduler_type": "cosine",
    "optim": "adamw_torch",
}  # fmt: skip
TIMM: dict[str, Any] = {
    "batch_size": 128, "grad_accum_steps": 1, "opt": "sgd", "lr": 0.1, "sched": "cosine",
    "epochs": 90, "warmup_epochs": 1, "sched_on_updates": True, "warmup_prefix": True,
}  # fmt: skip


# The tables -----------------------------------------------------------------------


def installed_source(library: str, file: str) -> ast.Module:
    """Return the parsed source of an installed library's file; importing it takes seconds."""
    spec = importlib.util.find_spec(library)
    if spec is None or spec.origin is None:
        pytest.skip(f"{library} not installed")
    return ast.parse((Path(spec.origin).parent / file).read_text(encoding="utf-8"))


def test_each_field_of_the_installed_training_arguments_is_accounted_for() -> None:
    """A new one shows up here: put it into `transformers_fields.SETTINGS`."""
    for node in installed_source("transformers", "training_args.py").body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            fields = [line for line in node.body if isinstance(line, ast.AnnAssign)]
    theirs = {field.target.id for field in fields if isinstance(field.target, ast.Name)}
    theirs = {name for name in theirs if not name.startswith("_")}
    ours = set(transformers_fields.SETTINGS) - {"warmup_ratio", "world_size", "train_batch_size"}
    assert len(theirs) > 100
    assert theirs - ours == set(), "new fields: carried, kept or named?"
    assert ours - theirs == set(), "fields that are gone: to ONLY_BEFORE_5"
    assert not theirs & set(transformers_fields.ONLY_BEFORE_5)


def test_each_argument_that_timms_factories_read_is_accounted_for() -> None:
    """timm's script is not installed; what sets rates and steps goes through these two."""
    theirs = read_from_cfg("scheduler/scheduler_factory.py", "scheduler_kwargs")
    theirs |= read_from_cfg("optim/_optim_factory.py", "optimizer_kwargs")
    assert {"sched", "epochs", "lr_k_decay", "opt", "weight_decay"} <= theirs
    assert theirs - set(timm_fields.SETTINGS) == set(), "new arguments: carried, kept or named?"


def read_from_cfg(file: str, function: str) -> set[str]:
    """Return the names that a function of timm's reads from its `cfg`."""
    found = set()
    for part in installed_source("timm", file).body:
        if not (isinstance(part, ast.FunctionDef) and part.name == function):
            continue
        for node in ast.walk(part):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found |= {node.attr} if node.value.id == "cfg" else set()
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
                found.add(ast.literal_eval(node.args[1]))
    return found


def test_a_new_field_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(transformers_fields.SETTINGS, "max_grad_norm")
    with pytest.raises(AssertionError, match="max_grad_norm"):
        test_each_field_of_the_installed_training_arguments_is_accounted_for()


@pytest.mark.parametrize("name", FORMS)
def test_tables_say_one_of_three_things(name: str) -> None:
    form = FORMS[name]
    for key, setting in form.settings.items():
        assert setting in (CARRIED, KEPT) or isinstance(setting, Named), key
    for usual in form.usual:
        assert all(form.settings[key] == CARRIED for key in usual.names), usual
        assert usual.text.partition("=")[0] in usual.names


@pytest.mark.parametrize("name", ["transformers", "timm"])
def test_each_named_field_is_said_once_and_goes_out_as_it_came(name: str) -> None:
    base = {"transformers": HF, "timm": TIMM}[name]
    for key, setting in FORMS[name].settings.items():
        if isinstance(setting, Named) and key not in transformers_fields.ONLY_BEFORE_5:
            config = from_config(base | {key: 7})
            [line] = [line for line in config.left_out if line.startswith(f"{key}=7: ")]
            assert setting.why in line
            assert config.scaled(256).values[key] == 7
            assert not [x for x in from_config(base | {key: None}).left_out if key in x]


def test_each_kept_field_is_passed_over() -> None:
    for name, base in (("transformers", HF), ("timm", TIMM)):
        quiet = from_config(base).left_out
        for key, setting in FORMS[name].settings.items():
            if setting == KEPT and key not in transformers_fields.ONLY_BEFORE_5:
                assert from_config(base | {key: 7}).left_out == quiet, key


# Own keys that change the batch or the epoch ------------------------------------------


def test_split_batches_shares_the_batch_out_among_processes() -> None:
    values = HF | {"accelerator_config": {"split_batches": True}}
    config = from_config(values, processes=4)
    assert config.recipe.batch_size == 32
    big = config.scaled(256)
    assert (big.values["per_device_train_batch_size"], big.recipe.batch_size) == (16, 256)
    assert big.values["gradient_accumulation_steps"] == 16
    assert from_config(big.values, processes=4).recipe.batch_size == 256
    assert from_config(HF | {"accelerator_config": {"split_batches": False}}, processes=4).recipe \
        .batch_size == 128  # fmt: skip


def test_accelerates_own_accumulation_counts() -> None:
    """Trainer takes it in place of gradient_accumulation_steps, which then is 1."""
    own = {"gradient_accumulation_kwargs": {"num_steps": 4, "sync_each_batch": True}}
    values = HF | {"gradient_accumulation_steps": 1, "accelerator_config": own}
    config = from_config(values)
    assert config.recipe.batch_size == 64
    big = config.scaled(256)
    assert big.values["gradient_accumulation_steps"] == 1
    assert big.values["accelerator_config"] == {
        "gradient_accumulation_kwargs": {"num_steps": 16, "sync_each_batch": True}
    }
    assert from_config(big.values).recipe.batch_size == 256
    text = '{"gradient_accumulation_kwargs": {"num_steps": 4}}'
    again = from_config(values | {"accelerator_config": text}).scaled(256).values
    assert again["accelerator_config"] == '{"gradient_accumulation_kwargs": {"num_steps": 16}}'
    del values["gradient_accumulation_steps"]
    assert from_config(values).filled_in == ()
    assert error_line(from_config, HF | {"accelerator_config": own}) == (
        "transformers: gradient_accumulation_steps=2: accelerator_config has num_steps=4 too, and "
        "Trainer takes only one of them; give one"
    )


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True: may halve the batch"),
        ({"parallelism_config": {"tp_size": 2}}, "parallelism_config={'tp_size': 2}: may let"),
        ({"deepspeed": "ds.json"}, "deepspeed='ds.json': may have a batch, an optimizer"),
        ({"resume_from_checkpoint": "x"}, "resume_from_checkpoint='x': goes on with a run"),
    ],
)
def test_what_changes_the_batch_beside_its_own_fields(more: dict[str, Any], line: str) -> None:
    assert any(said.startswith(line) for said in from_config(HF | more).left_out)


def test_an_objects_world_size_counts() -> None:
    class Arguments:
        world_size, n_gpu = 4, 2

        def to_dict(self) -> dict[str, Any]:
            return dict(HF)

    config = from_config(Arguments())
    assert (config.processes, config.recipe.batch_size) == (8, 256)
    assert "processes=8: is not given; this is the source's own world_size" in config.filled_in
    space = argparse.Namespace(**TIMM, world_size=4)
    assert from_config(space).recipe.batch_size == 512
    assert from_config(space).scaled(1024, processes=2).values["world_size"] == 2
    assert from_config(TIMM | {"world_size": 1}, processes=4).recipe.batch_size == 512
    error_line(from_config, space, processes=2)
    error_line(from_config, TIMM | {"world_size": "two"})


# Values under other names --------------------------------------------------------------

NAMES = {
    "batch": "train_batch_size micro_batch_size per_gpu_batch_size bs bsz mbs globalBatchSize "
             "batch-size device_batch_size max_tokens minibatch total_batch_size nbatch "
             "virtual_batch_size samples_per_gpu images_per_device tokens_per_update mb_size",
    "accumulation": "accumulate_grad_batches update_freq accum_iter accumulation_steps iter_size "
                    "grad_accum gradient_accumulation iters_to_accumulate grad_accum_every "
                    "n_accum gradaccum",
    "length": "max_iters max_steps num_epochs n_epoch epochs max_epochs train_iters total_steps "
              "max_update num_train_steps niter iterations max_train_steps n_iters maxiter "
              "nsteps final_epoch epoch token_budget target_tokens max_time train_duration",
    "warmup": "warmup warmup_iters lr_warmup_epochs num_warmup_steps warmup-ratio rampup_steps "
              "warm_up_steps warmupUpdates burn_in warm_epochs ramp_steps",
    "rate": "lr LR base_lr learningrate learnrate peak_lr learning-rate max_learning_rate blr lr0 "
            "embedding_lr",
    "schedule": "scheduler lr_sched schedule lr_policy lr_decay_style lr_milestones min_lr "
                "lr_gamma lr_steps cooldown_epochs anneal_strategy lr_drop decay_type use_cosine "
                "lrscheduler one_cycle",
    "schedule setting": "gamma decay_rate T_max eta_min num_cycles pct_start lr_plateau div_factor",
    "optimizer": "optimizer optim_name optimiser solver",
    "optimizer setting": "momentum adam_betas wd optimizer_weight_decay use_galore use_muon "
                         "grad_clip gradient_clip_val use_lars nesterov l2",
    "examples": "max_samples num_train_examples samples_per_epoch dataset_size data_repeat",
    "processes": "world_size num_gpus nproc_per_node n_gpus num_devices num_machines tp_size "
                 "tensor_parallel_size data_parallel_size",
    "count": "eval_steps save_interval ema_decay log_every_n_steps",
}  # fmt: skip


@pytest.mark.parametrize(("role", "names"), NAMES.items(), ids=NAMES)
def test_what_names_say(role: str, names: str) -> None:
    assert {name: role_of(name) for name in names.split()} == dict.fromkeys(names.split(), role)


def test_names_that_say_nothing_of_these() -> None:
    quiet = (
        "seed hidden_size batch_norm eval_batch_size num_workers dropout output_dir beta_schedule "
    )
    quiet += "noise_schedule lora_alpha model tokenizer_batch_size max_seq_length fp16 start_epoch "
    quiet += "num_workers alpha eps gpu local_rank patch_size max_new_tokens swa_start cosine_loss"
    assert {name: role_of(name) for name in quiet.split()} == dict.fromkeys(quiet.split())


@pytest.mark.parametrize("base", [HF, TIMM], ids=["transformers", "timm"])
def test_none_of_these_names_passes_in_silence(base: dict[str, Any]) -> None:
    """Beside values that say all, each is told, or refused as a name of another library's."""
    settings = FORMS[from_config(base).form].settings | transformers_fields.ONLY_BEFORE_5
    told = 0
    for foreign in " ".join(NAMES.values()).split():
        if foreign in settings:
            continue
        try:
            said = from_config(base | {foreign: 7}).left_out
        except RecipeError as error:
            assert "from_config: " in str(error), foreign
            continue
        assert any(line.startswith(f"{foreign}=7: is no name of") for line in said), foreign
        told += 1
    assert told > 80


def test_another_name_is_told_and_refused_where_its_own_is_missing() -> None:
    config = from_config(HF | {"micro_batch_size": 4, "trainer": {"max_epochs_total": 9}})
    assert [line for line in config.left_out if "no name" in line] == [
        "micro_batch_size=4: is no name of Transformers; it may set the batch, and stays",
        "trainer.max_epochs_total=9: is no name of Transformers; it may set the length, and stays",
    ]
    without = {name: value for name, value in HF.items() if name != "gradient_accumulation_steps"}
    error_line(from_config, without | {"accumulate_grad_batches": 4})
    assert from_config(without | {"accumulate_grad_batches": None}).recipe.batch_size == 16


def test_a_length_that_another_goes_before_is_said() -> None:
    both = HF | {"max_steps": 400, "warmup_ratio": 0.1, "warmup_steps": 20}
    config = from_config(both)
    assert (config.recipe.steps, config.recipe.warmup_steps) == (400, 20)
    assert config.left_out[:2] == (
        "num_train_epochs=3.0: is passed over, for max_steps goes before it",
        "warmup_ratio=0.1: is passed over, for warmup_steps goes before it",
    )
    error_line(from_config, HF | {"learning_rate": True})


def test_what_is_filled_in_is_said() -> None:
    assert from_config(HF).filled_in == ()
    config = from_config({"lr_scheduler_type": "cosine"})
    assert [line.partition(":")[0] for line in config.filled_in] == [
        "per_device_train_batch_size=8", "gradient_accumulation_steps=1", "learning_rate=5e-05",
        "num_train_epochs=3", "warmup_steps=0", "optim='adamw_torch_fused'",
    ]  # fmt: skip
    assert config.filled_in[0].endswith(": is not given; this is the default of Transformers")
    steps = from_config({"lr_scheduler_type": "cosine", "max_steps": 100})
    assert not any("num_train_epochs" in line for line in steps.filled_in)
    step = from_config({"sched": "step"}).filled_in
    assert any(line.startswith("decay_epochs=90: is not given") for line in step)


def test_names_of_two_libraries_are_refused() -> None:
    error_line(from_config, HF | {"sched": "cosine"})


# Values that count updates, and optimizers ---------------------------------------------


def test_inverse_sqrts_own_time_scale_is_written_where_trainer_would_take_another() -> None:
    """Trainer's is the warmup, whose updates stay, where the run's shrink."""
    values = HF | {"lr_scheduler_type": "inverse_sqrt", "max_steps": 4000, "warmup_steps": 400}
    big = from_config(values).scaled(128)
    assert big.values["lr_scheduler_kwargs"] == {"timescale": 100}
    assert big.values["warmup_steps"] == 400
    again = from_config(big.values).recipe.decay
    assert again == big.recipe.decay


def test_a_schedulers_updates_that_no_decay_has_are_named() -> None:
    more = {"lr_scheduler_kwargs": {"num_stable_steps": 900, "num_decay_steps": 100}}
    config = from_config(
        HF | {"lr_scheduler_type": "warmup_stable_decay"} | more, num_examples=32000
    )
    assert (
        "lr_scheduler_kwargs: num_stable_steps=900: counts updates, and stays"
    ) in config.left_out


@pytest.mark.parametrize(
    "name", ["adafactor", "rmsprop", "lion_32bit", "galore_adamw", "schedule_free_adamw", "sgd2"]
)
def test_an_optimizer_that_is_none_of_ours_is_taken_for_none(name: str) -> None:
    config = from_config(HF | {"optim": name})
    assert config.recipe.optimizer == OtherOptimizer(name=name)
    assert any(line.startswith(f"optim='{name}': is none of legw's") for line in config.left_out)
    assert config.scaled(256).values["learning_rate"] == pytest.approx(1e-4 * 8**0.5)
    assert "other" not in kinds(Optimizer)


def test_muon_of_timm_has_a_kind() -> None:
    config = from_config(TIMM | {"opt": "muon", "weight_decay": 0.1})
    assert config.recipe.optimizer == Muon(momentum=0.9, weight_decay=0.1)
    assert any(line.startswith("opt='muon': timm's measures its step") for line in config.left_out)


def test_muon_elsewhere_has_a_kind() -> None:
    values = {"base_model": "a", "micro_batch_size": 2, "num_epochs": 1, "warmup_ratio": 0.1,
              "learning_rate": 1e-3, "optimizer": "muon"}  # fmt: skip
    config = from_config(values)
    assert config.recipe.optimizer == Muon()
    assert any(line.startswith("optimizer='muon': measures its step") for line in config.left_out)
    assert config.scaled(8).values["optimizer"] == "muon"


# Passes -------------------------------------------------------------------------------


def test_passes_of_a_batch_that_nothing_divides() -> None:
    """A linear search would not end: 10**12 examples on a device, of a prime."""
    assert passes(999_999_999_989, 10**12, 1) == (999_999_999_989, 1)
    assert passes(999_999_999_989, 10**11, 1) == (1, 999_999_999_989)
    assert passes(2**40, 3 * 2**20, 1) == (2**21, 2**19)
    big = from_config(HF).scaled(1021)
    assert big.values["gradient_accumulation_steps"] == 1021
    assert (
        "gradient_accumulation_steps=1021: passes of 1 instead of 16 on a device, for nothing "
        "larger divides 1021; 1024 would take 64"
    ) in big.left_out
    for size in range(1, 300):
        best = max(n for n in range(1, 17) if size % n == 0)
        assert passes(size, 16, 1) == (best, size // best)


def test_the_readers_import_no_library() -> None:
    folder = Path(transformers_fields.__file__).parent
    for name in ("axolotl", "nanochat", "nanogpt", "timm", "torchtitan", "torchvision"):
        text = (folder / f"{name}_config.py").read_text(encoding="utf-8")
        assert not {"import torch", "import timm", "import transformers"} & set(text.splitlines())


def test_numbers_without_end_are_one_line() -> None:
    """Found by the fuzzer: each was a traceback of a number that no float holds."""
    most = "must be at most 9007199254740992"
    assert error_line(from_config, TIMM | {"batch_size": 10**400, "lr": None}).endswith(most)
    assert error_line(from_config, HF | {"gradient_accumulation_steps": 2**60}) == (
        f"transformers: gradient_accumulation_steps=1152921504606846976: {most}"
    )
    nanogpt = {"batch_size": 12, "gradient_accumulation_steps": 40, "learning_rate": 6e-4,
               "max_iters": 1000, "lr_decay_iters": 1e308, "warmup_iters": 10}  # fmt: skip
    assert error_line(from_config(nanogpt).scaled, 1).endswith(f"lr_decay_iters=inf: {most}")
    axolotl = {"base_model": "a", "micro_batch_size": 2, "num_epochs": 1e308, "optimizer": "sgd",
               "learning_rate": 0.1}  # fmt: skip
    assert "epochs=1e+308: must be" in error_line(from_config, axolotl, num_examples=10**9)
    long = TIMM | {"sched": "wsd", "epochs": 1e308}
    assert "epochs=1e+308: must be" in error_line(from_config, long, num_examples=10**9)
