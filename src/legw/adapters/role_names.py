"""Setting names: whether one sets batch, length, warmup, learning rate or schedule.

No list has every name that a script may use. `role_of` reads the words of a name, so that a value
under an unknown name is reported and never ignored.
"""

from __future__ import annotations

import re
from typing import Literal

Role = Literal[
    "batch", "accumulation", "length", "warmup", "rate", "schedule", "optimizer",
    "optimizer setting", "examples", "processes", "count",
]  # fmt: skip
"""Role of a value; "count" is a number of updates or batches with none of the other roles."""

DECIDES: tuple[Role, ...] = (
    "batch", "accumulation", "length", "warmup", "rate", "schedule", "optimizer",
)  # fmt: skip
"""Roles without which a recipe would be a guess."""

WHOLE_NAMES: dict[str, Role] = {
    "update_freq": "accumulation", "iter_size": "accumulation", "subdivisions": "accumulation",
    "acc_steps": "accumulation", "grad_acc": "accumulation", "ga_steps": "accumulation",
    "n_grad_acc": "accumulation", "max_tokens": "batch", "tokens_per_step": "batch",
    "ims_per_batch": "batch", "max_duration": "length", "niter": "length", "niters": "length",
    "nepoch": "length", "nepochs": "length", "maxiter": "length", "steps_per_epoch": "length",
    "epoch_repeats": "length", "max_train_tokens": "length", "total_tokens": "length",
    "train_tokens": "length", "num_tokens": "length", "lr0": "rate", "lrf": "schedule",
    "wd": "optimizer setting", "world_size": "processes", "n_gpu": "processes",
    "ngpu": "processes", "gpus": "processes", "devices": "processes", "nnodes": "processes",
    "num_nodes": "processes", "nproc_per_node": "processes", "num_gpus": "processes",
    "num_processes": "processes", "dp_size": "processes", "warm": "warmup",
}  # fmt: skip
"""Names whose role follows from the whole name, not from its words."""

UNRELATED_WORDS = frozenset({
    "eval", "evaluation", "val", "valid", "validation", "test", "testing", "predict",
    "prediction", "log", "logging", "save", "saving", "ckpt", "checkpoint", "checkpointing",
    "print", "report", "infer", "inference", "generation", "generate", "decode", "decoding",
    "sample", "sampling", "vis", "preprocess", "preprocessing", "tokenize", "tokenizer", "map",
    "writer", "cache", "keep", "wandb", "profiler", "profiling",
})  # fmt: skip
"""Words of settings outside of training, such as evaluation."""

COUNTING = frozenset({
    "step", "steps", "iter", "iters", "iteration", "iterations", "update", "updates", "interval",
    "every", "freq",
})  # fmt: skip
LENGTH_WORDS = frozenset({
    "max", "num", "n", "nb", "total", "train", "training", "end", "stop", "number", "target",
})  # fmt: skip


def role_of(name: str) -> Role | None:
    """Return the role that a name suggests; None without one.

    >>> [role_of(name) for name in ("train_bsz", "update_freq", "max_iters", "lrWarmupEpochs")]
    ['batch', 'accumulation', 'length', 'warmup']
    >>> role_of("eval_batch_size"), role_of("eval_steps"), role_of("hidden_size")
    (None, 'count', None)
    """
    words = _words(name)
    whole = "_".join(words)
    if whole in WHOLE_NAMES:
        return WHOLE_NAMES[whole]
    found = set(words)
    if found & UNRELATED_WORDS:
        return "count" if found & COUNTING else None
    return _setting(words, found) or _counting(found)


def _setting(words: list[str], found: set[str]) -> Role | None:
    if any(word.startswith(("warmup", "rampup")) for word in words) or {"warm", "up"} <= found:
        return "warmup"
    if any(word.startswith("accum") for word in words):
        return "accumulation"
    if _of_batch(found):
        return "batch"
    if found & {"noise", "mask", "masking", "ema"}:
        return None
    return _rate(found) or _length(words, found) or _optimizer(found)


def _rate(found: set[str]) -> Role | None:
    rate = found & {"lr", "lrs", "blr"} or {"learning", "rate"} <= found
    shape = {"sched", "scheduler", "schedule", "anneal", "annealing", "warmdown", "cooldown",
             "milestones", "milestone"}  # fmt: skip
    bent = {"decay", "gamma", "step", "steps", "min", "end", "final", "cycle", "policy", "style"}
    if (found & shape and "beta" not in found) or (rate and found & bent):
        return "schedule"
    return "rate" if rate else None


def _of_batch(found: set[str]) -> bool:
    names = {"batch", "batches", "bs", "bsz", "batchsize", "mbs", "gbs", "microbatch", "minibatch",
             "microbatches"}  # fmt: skip
    return bool(found & names) and not found & {"norm", "bn", "sampler", "first", "renorm"}


def _length(words: list[str], found: set[str]) -> Role | None:
    passes = {"epoch", "epochs"}
    if found & {"start", "per"}:
        return None
    if found & passes and (found & LENGTH_WORDS or (len(words) == 1 and "epochs" in found)):
        return "length"
    steps = COUNTING - {"interval", "every", "freq"}
    if found & steps and (found & LENGTH_WORDS or words in (["steps"], ["iters"], ["iterations"])):
        return "length"
    if found & {"samples", "examples"} and found & LENGTH_WORDS:
        return "examples"
    return None


def _optimizer(found: set[str]) -> Role | None:
    named = {"optimizer", "optimiser", "optim", "opt"}
    if found & named:
        return "optimizer" if found <= named | {"name", "type", "kind"} else "optimizer setting"
    ones = {"muon", "galore", "apollo", "badam", "adafactor", "lion", "lomo", "adam", "adamw"}
    if "use" in found and found & ones:
        return "optimizer setting"
    if found & {"momentum", "betas", "beta1", "beta2"} or {"weight", "decay"} <= found:
        return "optimizer setting"
    return None


def _counting(found: set[str]) -> Role | None:
    average = "ema" in found and found & {"decay", "momentum", "beta", "halflife", "rate"}
    return "count" if found & COUNTING or average else None


def _words(name: str) -> list[str]:
    """Return the words of a name, in snake_case or camelCase."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return [word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word]
