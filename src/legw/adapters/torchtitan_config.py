"""Configuration of torchtitan in TOML: its names, and its differences from a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from legw import optimizers as kinds
from legw.adapters.fields import Fields, Values, count, number, passes, positive
from legw.adapters.forms import CARRIED, COUNTS, KEPT, Form, Named, Usual, all_of
from legw.adapters.optimizer_names import other
from legw.decays import Constant, Cosine, Decay, Polynomial, Tail, WarmupStableDecay
from legw.errors import RecipeError, shown
from legw.recipe import Recipe
from legw.schedule import updates, warmup_updates

SHAPES: dict[str, Tail] = {"linear": "linear", "sqrt": "1-sqrt", "cosine": "cosine"}
"""Its decays, and ours."""

TABLES = ("training", "optimizer", "lr_scheduler", "parallelism")


def read(values: Values, num_examples: int | None, processes: int) -> tuple[Fields, list[str]]:
    """Return the recipe's fields in torchtitan's tables, and the settings left out."""
    del num_examples  # torchtitan counts in updates
    form, flat = "torchtitan", _flat(values)
    left_out: list[str] = []
    whole = number(form, flat, "training.global_batch_size", -1)
    batch = count(form, flat, _local(flat), 8) * processes
    if whole > 0:
        given = count(form, flat, "training.global_batch_size", 1)
        if given % batch:
            raise RecipeError(
                f"{form}: training.global_batch_size={given}: is no multiple of {_local(flat)} on "
                f"processes={processes}; give the number of data-parallel processes"
            )
        batch = given
    lr = positive(form, flat, "optimizer.lr", 8e-4)
    decay, reason = _decay(flat)
    left_out += [reason] if reason else []
    optimizer, reason = _optimizer(flat)
    left_out += [reason] if reason else []
    clip = number(form, flat, "training.max_norm", 1.0)
    return {
        "batch_size": batch,
        "lr": lr,
        "steps": positive(form, flat, "training.steps", 10_000),
        "warmup_steps": number(form, flat, _warmup(flat), 200),
        "decay": decay,
        "optimizer": optimizer,
        "clip_norm": clip if clip > 0 else None,
        "tokens_per_example": count(form, flat, "training.seq_len", 2048),
    }, left_out


def _flat(values: Values) -> dict[str, Any]:
    """Return the values of the tables that matter, each with its table and a dot before it."""
    found: dict[str, Any] = {}
    for table in TABLES:
        inner = values.get(table, {})
        if not isinstance(inner, Mapping):
            raise RecipeError(f"torchtitan: {table}={shown(inner)}: must be a table")
        found |= {f"{table}.{name}": value for name, value in inner.items()}
    return found


def _local(flat: Values) -> str:
    """Return the name of the batch of one device: that of older versions, or the newer one."""
    old = "training.batch_size"
    return old if old in flat else "training.local_batch_size"


def _warmup(flat: Values) -> str:
    old = "training.warmup_steps"
    return old if old in flat else "lr_scheduler.warmup_steps"


def _floor(flat: Values) -> str:
    """Return the name of the lowest learning rate in this or older versions."""
    old = "lr_scheduler.lr_min"
    return old if old in flat else "lr_scheduler.min_lr_factor"


def _decay(flat: Values) -> tuple[Decay, str]:
    form = "torchtitan"
    kind = str(flat.get("lr_scheduler.decay_type") or "linear")
    end = number(form, flat, _floor(flat), 0.0)
    ratio = flat.get("lr_scheduler.decay_ratio")
    if not 0 <= end < 1:
        raise RecipeError(f"{form}: {_floor(flat)}={end:g}: must be at least 0 and below 1")
    if kind not in SHAPES:
        return (
            Constant(),
            f"lr_scheduler.decay_type={shown(kind)}: legw has no such decay; it stays",
        )
    if ratio is not None:
        tail = number(form, flat, "lr_scheduler.decay_ratio", 0.0)
        if not 0 <= tail <= 1:
            raise RecipeError(f"{form}: lr_scheduler.decay_ratio={tail:g}: must be 0 to 1")
        return WarmupStableDecay(tail=tail, shape=SHAPES[kind], end=end) if tail else Constant(), ""
    if kind == "sqrt":
        return Constant(), (
            "lr_scheduler.decay_type='sqrt': from the end of the warmup on is a decay that legw "
            "does not have; it stays, and decay_ratio would say it"
        )
    return Polynomial(end=end) if kind == "linear" else Cosine(end=end), ""


def _optimizer(flat: Values) -> tuple[kinds.Optimizer, str]:
    form, name = "torchtitan", str(flat.get("optimizer.name") or "AdamW")
    if name not in ("Adam", "AdamW"):
        return other("optimizer.name", name)
    kind = kinds.AdamW if name == "AdamW" else kinds.Adam
    return kind(
        beta1=number(form, flat, "optimizer.beta1", 0.9),
        beta2=number(form, flat, "optimizer.beta2", 0.95),
        epsilon=number(form, flat, "optimizer.eps", 1e-8),
        weight_decay=number(form, flat, "optimizer.weight_decay", 0.1),
    ), ""


def write(values: Values, base: Recipe, big: Recipe, processes: int) -> tuple[Fields, list[str]]:
    """Return torchtitan's tables of a scaled recipe, and notes on what they lack."""
    flat, lost = _flat(values), []
    old = count("torchtitan", flat, _local(flat), 8)
    accumulates = _local(flat) == "training.local_batch_size"
    size, times = passes(big.batch_size, old, processes)
    if not accumulates:
        size, times = big.batch_size // processes, 1
        if size > old:
            lost.append(f"training.batch_size={size}: is one pass on a device, for this version of "
                        "torchtitan does not accumulate")  # fmt: skip
    elif 2 * size <= old and times > 1:
        lost.append(f"training.local_batch_size={size}: instead of {old}, for nothing larger "
                    f"divides {size * times} on a device")  # fmt: skip
    changes = {
        _local(flat): size,
        "optimizer.lr": big.lr,
        "training.steps": updates(big),
        _warmup(flat): warmup_updates(big),
    }
    if accumulates:
        changes["training.global_batch_size"] = big.batch_size
    if big.clip_norm is not None and big.clip_norm != base.clip_norm:
        changes["training.max_norm"] = big.clip_norm
    if isinstance(big.optimizer, kinds.Adam) and big.optimizer != base.optimizer:
        changes |= {
            "optimizer.beta1": big.optimizer.beta1,
            "optimizer.beta2": big.optimizer.beta2,
            "optimizer.eps": big.optimizer.epsilon,
            "optimizer.weight_decay": big.optimizer.weight_decay,
        }
    new = {name: dict(value) if isinstance(value, Mapping) else value
           for name, value in values.items()}  # fmt: skip
    for place, value in changes.items():
        table, _, name = place.partition(".")
        new.setdefault(table, {})[name] = value
    return new, lost


SHARES = Named("lets several devices share one batch; processes are those with one of their own",
               (1,))  # fmt: skip

FORM = Form(
    title="torchtitan",
    known_by=(
        ("training.seq_len", "training.steps"), ("training.local_batch_size",),
        ("lr_scheduler.warmup_steps", "training.steps"), ("training.seq_len", "parallelism"),
        ("training.steps", "parallelism"), ("training.warmup_steps", "job"),
    ),
    settings={
        **all_of(
            "training.local_batch_size training.batch_size training.global_batch_size "
            "training.steps training.seq_len training.max_norm training.warmup_steps "
            "optimizer.name optimizer.lr optimizer.beta1 optimizer.beta2 optimizer.eps "
            "optimizer.weight_decay lr_scheduler.warmup_steps lr_scheduler.decay_ratio "
            "lr_scheduler.decay_type lr_scheduler.lr_min lr_scheduler.min_lr_factor world_size",
            CARRIED,
        ),
        **all_of(
            "checkpoint.interval metrics.log_freq profiling.profile_freq training.gc_freq "
            "validation.freq validation.steps",
            COUNTS,
        ),
        **all_of(
            "parallelism.tensor_parallel_degree parallelism.pipeline_parallel_degree "
            "parallelism.context_parallel_degree training.tensor_parallel_degree "
            "experimental.pipeline_parallel_degree experimental.context_parallel_degree",
            SHARES,
        ),
        "parallelism.pipeline_parallel_microbatch_size": KEPT,
        "optimizer.implementation": KEPT,
        "optimizer.fused": KEPT,
        "optimizer.early_step_in_backward": Named("steps before the gradient is clipped"),
        "validation.local_batch_size": KEPT,
        "checkpoint.initial_load_path": KEPT,
        "checkpoint.load_step": Named("goes on with a run, whose batch and place it has", (-1,)),
        "job": KEPT,
        "model": KEPT,
    },
    usual=(
        Usual(
            "batch", ("training.local_batch_size", "training.batch_size"),
            "training.local_batch_size=8",
        ),
        Usual("rate", ("optimizer.lr",), "optimizer.lr=0.0008"),
        Usual("length", ("training.steps",), "training.steps=10000"),
        Usual(
            "warmup", ("lr_scheduler.warmup_steps", "training.warmup_steps"),
            "lr_scheduler.warmup_steps=200",
        ),
        Usual(
            "schedule", ("lr_scheduler.decay_type",), "lr_scheduler.decay_type='linear'",
        ),
        Usual("optimizer", ("optimizer.name",), "optimizer.name='AdamW'"),
    ),
    read=read,
    write=write,
)  # fmt: skip
"""torchtitan's TOML files."""
