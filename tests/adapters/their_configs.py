"""Configurations of public projects in their own words, each with what must come out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Theirs:
    """One configuration, with what must come out of it."""

    project: str
    """Whose it is."""
    values: Values
    """What it says, in its own words; what has no say in batch, length or rate is shortened."""
    processes: int | None = None
    num_examples: int | None = None
    base: tuple[Any, ...] = ()
    """(form, batch, rate, warmup, length, unit) that must be read."""
    scaled: Values = field(default_factory=dict)
    """What must be written at 4 times the batch, by LEGW."""
    said: tuple[str, ...] = ()
    """Beginnings of lines that must be left out or filled in."""
    refused: str = ""
    """The line of the error, where it is refused."""


OPTIMIZER = "optim='adamw_torch_fused': is not given"

TABLE = (
    Theirs(
        project="Transformers, fine-tuning on GLUE",
        values={"per_device_train_batch_size": 32, "learning_rate": 2e-5, "num_train_epochs": 3,
                "warmup_steps": 0.06, "lr_scheduler_type": "linear", "optim": "adamw_torch",
                "gradient_accumulation_steps": 1, "evaluation_strategy": "epoch", "fp16": True},
        base=("transformers", 32, 2e-5, 0.18, 3, "epochs"),
        scaled={"per_device_train_batch_size": 32, "gradient_accumulation_steps": 4,
                "learning_rate": 4e-5, "warmup_steps": 0.24, "evaluation_strategy": "epoch"},
        said=("warmup: Trainer's first update has rate 0",),
    ),
    Theirs(
        project="alignment-handbook, Zephyr 7B",
        values={"model_name_or_path": "mistralai/Mistral-7B-v0.1", "bf16": True,
                "gradient_accumulation_steps": 1, "learning_rate": 2e-5, "logging_steps": 5,
                "dataset_mixture": {"datasets": [{"id": "ultrachat_200k", "weight": 1.0}]},
                "lr_scheduler_type": "cosine", "max_seq_length": 2048, "max_steps": -1,
                "num_train_epochs": 1, "per_device_eval_batch_size": 8,
                "per_device_train_batch_size": 16, "save_steps": 100, "warmup_steps": 0.1},
        processes=8,
        base=("transformers", 128, 2e-5, 0.1, 1, "epochs"),
        scaled={"gradient_accumulation_steps": 4, "learning_rate": 4e-5, "warmup_steps": 0.4},
        said=(OPTIMIZER, "logging_steps=5: counts updates", "save_steps=100: counts updates"),
    ),
    Theirs(
        project="Transformers, machine translation with Adafactor",
        values={"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
                "learning_rate": 1e-3, "max_steps": 100_000, "warmup_steps": 10_000,
                "lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 10_000},
                "optim": "adafactor", "save_steps": 5000},
        base=("transformers", 16, 1e-3, 10_000, 100_000, "steps"),
        scaled={"gradient_accumulation_steps": 8, "learning_rate": 2e-3, "max_steps": 25_000,
                "warmup_steps": 10_000, "lr_scheduler_kwargs": {"timescale": 2500},
                "optim": "adafactor"},
        said=("optim='adafactor': is none of legw's optimizers",),
    ),
    Theirs(
        project="Transformers, run_glue_no_trainer",
        values={"per_device_train_batch_size": 8, "learning_rate": 5e-5, "num_train_epochs": 3,
                "max_train_steps": None, "gradient_accumulation_steps": 1, "weight_decay": 0.0,
                "lr_scheduler_type": "linear", "num_warmup_steps": 500},
        refused="transformers: num_warmup_steps=500: is no name of Transformers, and may set the "
                "warmup that is not given; give warmup_steps, or leave it out",
    ),
    Theirs(
        project="LLaMA-Factory, Llama 3 with LoRA",
        values={"stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "cutoff_len": 2048,
                "max_samples": 1000, "preprocessing_num_workers": 16, "logging_steps": 10,
                "save_steps": 500, "per_device_train_batch_size": 1,
                "gradient_accumulation_steps": 8, "learning_rate": 1e-4, "num_train_epochs": 3.0,
                "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "bf16": True},
        base=("transformers", 8, 1e-4, 0.3, 3, "epochs"),
        scaled={"gradient_accumulation_steps": 32, "learning_rate": 2e-4, "warmup_steps": 0.4},
        said=("max_samples=1000: is no name of Transformers; it may set the examples of an epoch",),
    ),
    Theirs(
        project="axolotl, Llama 3.2 1B with LoRA",
        values={"base_model": "NousResearch/Llama-3.2-1B", "datasets": [{"path": "a", "type": "b"}],
                "sequence_len": 2048, "sample_packing": True, "lora_r": 16,
                "gradient_accumulation_steps": 2, "micro_batch_size": 2, "num_epochs": 1,
                "optimizer": "adamw_8bit", "lr_scheduler": "cosine", "learning_rate": 0.0002,
                "group_by_length": False, "logging_steps": 1, "warmup_steps": 10,
                "evals_per_epoch": 4, "deepspeed": None, "weight_decay": 0.0},
        num_examples=8000,
        base=("axolotl", 4, 2e-4, 0.005, 1, "epochs"),
        scaled={"micro_batch_size": 2, "gradient_accumulation_steps": 8, "learning_rate": 4e-4,
                "warmup_steps": 10, "num_epochs": 1, "optimizer": "adamw_8bit"},
        said=("sample_packing: an example is a packed sequence", "logging_steps=1: counts updates"),
    ),
    Theirs(
        project="axolotl, no warmup given",
        values={"base_model": "a/b", "micro_batch_size": 2, "gradient_accumulation_steps": 4,
                "num_epochs": 3, "learning_rate": "2e-5", "optimizer": "paged_adamw_8bit"},
        refused="axolotl: warmup_steps is not given, and is then 3 % of the run and at most 100 "
                "updates; give it, or warmup_ratio, or num_examples",
    ),
    Theirs(
        project="timm, ResNet strikes back, A2",
        values={"model": "resnet50", "batch_size": 256, "opt": "lamb", "lr": 5e-3,
                "weight_decay": 0.02, "sched": "cosine", "epochs": 300, "warmup_epochs": 5,
                "warmup_lr": 1e-6, "min_lr": 1e-6, "aug_repeats": 3, "bce_loss": True,
                "mixup": 0.1, "cutmix": 1.0, "amp": True, "log_interval": 50},
        processes=8,
        base=("timm", 2048, 5e-3, 5, 300, "epochs"),
        scaled={"batch_size": 256, "grad_accum_steps": 4, "lr": 0.01, "warmup_epochs": 20,
                "min_lr": 2e-6, "epochs": 300, "sched_on_updates": True},
        said=("aug_repeats=3: has each image so many times in a batch",
              "grad_accum_steps=1: is not given", "log_interval=50: counts updates"),
    ),
    Theirs(
        project="timm, EfficientNet-B0",
        values={"model": "efficientnet_b0", "batch_size": 384, "sched": "step", "epochs": 450,
                "decay_epochs": 2.4, "decay_rate": 0.97, "opt": "rmsproptf", "opt_eps": 0.001,
                "warmup_lr": 1e-6, "warmup_epochs": 5, "weight_decay": 1e-5, "drop": 0.2,
                "model_ema": True, "model_ema_decay": 0.9999, "lr": 0.048, "amp": True},
        processes=2,
        base=("timm", 768, 0.048, 5, 450, "epochs"),
        scaled={"batch_size": 384, "grad_accum_steps": 4, "lr": 0.096, "warmup_epochs": 20,
                "decay_epochs": 2.4, "opt": "rmsproptf"},
        said=("opt='rmsproptf': is none of legw's optimizers",),
    ),
    Theirs(
        project="torchvision, ResNet-50",
        values={"model": "resnet50", "batch_size": 32, "epochs": 90, "opt": "sgd", "lr": 0.1,
                "momentum": 0.9, "weight_decay": 1e-4, "lr_scheduler": "steplr",
                "lr_warmup_epochs": 0, "lr_step_size": 30, "lr_gamma": 0.1, "world_size": 8},
        base=("torchvision", 256, 0.1, 0, 90, "epochs"),
        scaled={"batch_size": 128, "lr": 0.2, "epochs": 90, "lr_step_size": 30, "world_size": 8},
        said=("processes=8: is not given",),
    ),
    Theirs(
        project="torchvision, the newer ResNet-50",
        values={"model": "resnet50", "batch_size": 128, "lr": 0.5,
                "lr_scheduler": "cosineannealinglr", "lr_warmup_epochs": 5,
                "lr_warmup_method": "linear", "lr_warmup_decay": 0.01, "auto_augment": "ta_wide",
                "epochs": 600, "random_erase": 0.1, "weight_decay": 2e-5, "norm_weight_decay": 0.0,
                "label_smoothing": 0.1, "mixup_alpha": 0.2, "cutmix_alpha": 1.0,
                "ra_sampler": True, "ra_reps": 4, "opt": "sgd", "model_ema": True},
        processes=8,
        base=("torchvision", 1024, 0.5, 5, 600, "epochs"),
        scaled={"batch_size": 512, "lr": 1.0, "lr_warmup_epochs": 20, "epochs": 600,
                "lr_warmup_decay": 0.01},
        said=("ra_sampler=True: has each image several times", "model_ema=True: averages",
              "lr_warmup_epochs: the reference's warmup moves once an epoch"),
    ),
    Theirs(
        project="torchvision, Faster R-CNN",
        values={"batch_size": 2, "epochs": 26, "lr": 0.02, "lr_steps": [16, 22], "lr_gamma": 0.1,
                "lr_scheduler": "multisteplr", "aspect_ratio_group_factor": 3},
        refused="from_config: this is a detection or segmentation reference of torchvision (it "
                "has aspect_ratio_group_factor): its schedule is one of its own; write its "
                "numbers as a recipe",
    ),
    Theirs(
        project="nanoGPT, GPT-2 124M",
        values={"wandb_log": True, "wandb_project": "owt", "batch_size": 12, "block_size": 1024,
                "gradient_accumulation_steps": 40, "max_iters": 600_000, "lr_decay_iters": 600_000,
                "eval_interval": 1000, "eval_iters": 200, "log_interval": 10, "weight_decay": 0.1},
        processes=8,
        base=("nanogpt", 480, 6e-4, 2000, 600_000, "steps"),
        scaled={"batch_size": 12, "gradient_accumulation_steps": 160, "max_iters": 150_000,
                "lr_decay_iters": 150_000, "learning_rate": 1.2e-3, "min_lr": 1.2e-4,
                "warmup_iters": 2000},
        said=("learning_rate=0.0006: is not given", "warmup_iters=2000: is not given",
              "eval_interval=1000: counts updates"),
    ),
    Theirs(
        project="nanoGPT, fine-tuning on Shakespeare",
        values={"out_dir": "out-shakespeare", "init_from": "gpt2-xl", "eval_interval": 5,
                "batch_size": 1, "gradient_accumulation_steps": 32, "max_iters": 20,
                "learning_rate": 3e-5, "decay_lr": False},
        base=("nanogpt", 32, 3e-5, 0, 20, "steps"),
        scaled={"batch_size": 1, "gradient_accumulation_steps": 128, "max_iters": 5,
                "learning_rate": 6e-5, "decay_lr": False},
        said=("decay_lr=False: the rate is constant",),
    ),
    Theirs(
        project="nanochat, base model",
        values={"depth": 20, "max_seq_len": 2048, "device_batch_size": 32,
                "total_batch_size": 524_288, "num_iterations": 20_000, "embedding_lr": 0.3,
                "unembedding_lr": 0.008, "matrix_lr": 0.02, "scalar_lr": 0.5, "weight_decay": 0.28,
                "warmup_steps": 40, "warmdown_ratio": 0.65, "final_lr_frac": 0.05,
                "target_param_data_ratio": 12, "eval_every": 250, "resume_from_step": -1},
        processes=8,
        base=("nanochat", 256, 0.02, 40, 20_000, "steps"),
        scaled={"device_batch_size": 32, "total_batch_size": 2_097_152, "num_iterations": 5000,
                "matrix_lr": 0.02, "embedding_lr": 0.3, "warmup_steps": 40},
        said=("matrix_lr: nanochat multiplies its rates by sqrt(total_batch_size/2**19) itself",),
    ),
    Theirs(
        project="nanochat, its own length",
        values={"depth": 20, "device_batch_size": 32, "total_batch_size": 524_288,
                "num_iterations": -1, "target_param_data_ratio": 12, "warmup_steps": 40},
        refused="nanochat: num_iterations=-1: the length is then worked out from the model; give "
                "the number that the run prints",
    ),
    Theirs(
        project="torchtitan, Llama 3 8B",
        values={"job": {"dump_folder": "./outputs"}, "metrics": {"log_freq": 10},
                "optimizer": {"name": "AdamW", "lr": 3e-4, "eps": 1e-8},
                "lr_scheduler": {"warmup_steps": 200},
                "training": {"batch_size": 1, "seq_len": 8192, "max_norm": 1.0, "steps": 1000,
                             "compile": False, "dataset": "c4"},
                "parallelism": {"tensor_parallel_degree": 1},
                "checkpoint": {"interval": 500}},
        processes=64,
        base=("torchtitan", 64, 3e-4, 200, 1000, "steps"),
        scaled={"training": {"batch_size": 4, "seq_len": 8192, "max_norm": 1.0, "steps": 250,
                             "compile": False, "dataset": "c4"},
                "optimizer": {"name": "AdamW", "lr": 6e-4, "eps": 1e-8},
                "lr_scheduler": {"warmup_steps": 200}},
        said=("metrics.log_freq=10: counts updates", "training.batch_size=4: is one pass"),
    ),
    Theirs(
        project="torchtitan, warmup-stable-decay",
        values={"optimizer": {"name": "AdamW", "lr": 8e-4},
                "lr_scheduler": {"warmup_steps": 200, "decay_ratio": 0.8, "decay_type": "linear",
                                 "min_lr_factor": 0.1},
                "training": {"local_batch_size": 8, "global_batch_size": 64, "seq_len": 2048,
                             "steps": 10_000},
                "parallelism": {"tensor_parallel_degree": 2}},
        processes=4,
        base=("torchtitan", 64, 8e-4, 200, 10_000, "steps"),
        scaled={"training": {"local_batch_size": 8, "global_batch_size": 256, "seq_len": 2048,
                             "steps": 2500},
                "optimizer": {"name": "AdamW", "lr": 1.6e-3}},
        said=("parallelism.tensor_parallel_degree=2: lets several devices share one batch",),
    ),
    Theirs(
        project="ConvNeXt",
        values={"batch_size": 128, "epochs": 300, "update_freq": 4, "opt": "adamw", "lr": 4e-3,
                "min_lr": 1e-6, "warmup_epochs": 20, "warmup_steps": -1, "layer_decay": 1.0},
        refused="from_config: this is a list of arguments of ConvNeXt (it has update_freq and "
                "warmup_steps): its warmup is warmup_steps where that is above 0, its weight "
                "decay has a schedule (weight_decay_end); write its numbers as a recipe",
    ),
    Theirs(
        project="DeiT",
        values={"batch_size": 64, "epochs": 300, "opt": "adamw", "sched": "cosine", "lr": 5e-4,
                "warmup_lr": 1e-6, "min_lr": 1e-5, "warmup_epochs": 5, "repeated_aug": True,
                "data_set": "IMNET", "world_size": 8},
        refused="from_config: this is a list of arguments of DeiT (it has repeated_aug and "
                "sched): its lr is for 512 examples, and multiplied by the batch; write the "
                "rate that it prints as a recipe",
    ),
    Theirs(
        project="fairseq, wav2vec 2.0",
        values={"dataset": {"max_tokens": 1_400_000},
                "distributed_training": {"distributed_world_size": 64},
                "optimization": {"max_update": 400_000, "lr": [0.0005]},
                "lr_scheduler": {"_name": "polynomial_decay", "warmup_updates": 32_000}},
        refused="from_config: this is a configuration of fairseq (it has "
                "optimization.max_update): its batch is a number of tokens that differs in "
                "examples; write its numbers as a recipe",
    ),
    Theirs(
        project="OpenNMT, WMT 14",
        values={"train_steps": 100_000, "valid_steps": 5000, "world_size": 2,
                "batch_type": "tokens", "batch_size": 4096, "accum_count": [3], "optim": "adam",
                "learning_rate": 2, "warmup_steps": 6000, "decay_method": "noam"},
        refused="from_config: this is a configuration of OpenNMT (it has accum_count): its "
                "batch and its rate are in units of their own (batch_type, decay_method); write "
                "its numbers as a recipe",
    ),
    Theirs(
        project="GPT-NeoX, 125M",
        values={"optimizer": {"type": "Adam", "params": {"lr": 0.0006, "betas": [0.9, 0.95]}},
                "min_lr": 0.00006, "train_micro_batch_size_per_gpu": 4, "train_iters": 320_000,
                "lr_decay_iters": 320_000, "lr_decay_style": "cosine", "warmup": 0.01},
        refused="from_config: this is a configuration of Megatron or GPT-NeoX (it has "
                "train_iters and lr_decay_style): legw does not read these; write its numbers "
                "as a recipe",
    ),
    Theirs(
        project="Transformers, trainer_state.json",
        values={"best_metric": None, "epoch": 3.0, "global_step": 6313, "log_history": [],
                "max_steps": 6313, "num_train_epochs": 3, "train_batch_size": 32},
        refused="from_config: this is the state of a run, trainer_state.json (it has "
                "log_history and global_step): it is no configuration; give that run's "
                "TrainingArguments",
    ),
)  # fmt: skip
"""A configuration a row."""
