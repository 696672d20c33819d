"""Setting names: whether one sets batch, length, warmup, learning rate or schedule.

No list has every name that a script may use. `role_of` reads the words of a name, so that a value
under an unknown name is reported and never ignored.
"""

from __future__ import annotations

import re
from typing import Literal

Role = Literal[
    "batch", "accumulation", "length", "warmup", "rate", "schedule", "schedule setting",
    "optimizer", "optimizer setting", "examples", "processes", "count",
]  # fmt: skip
"""Role of a value; "count" is a number of updates or batches with none of the other roles."""

DECIDES: tuple[Role, ...] = (
    "batch", "accumulation", "length", "warmup", "rate", "schedule", "optimizer",
)  # fmt: skip
"""Roles without which a recipe would be a guess."""

BY_ROLE: dict[Role, str] = {
    "accumulation": "update_freq iter_size subdivisions acc_steps grad_acc ga_steps n_grad_acc",
    "batch": "max_tokens tokens_per_step ims_per_batch mb_size micro_size train_micro_size",
    "length": "max_duration niter niters nepoch nepochs maxiter steps_per_epoch epoch_repeats "
              "max_train_tokens total_tokens train_tokens num_tokens epoch max_time max_hours",
    "warmup": "warm wu_steps",
    "rate": "lr0",
    "schedule": "lrf cosine use_cosine cos cos_lr cosine_lr lr_drop",
    "schedule setting": "gamma decay_rate t_max t_0 t_mult eta_min eta_max pct_start num_cycles "
                        "cycle_length drop_epochs",
    "optimizer": "solver",
    "optimizer setting": "wd l2",
    "examples": "dataset_size train_size epoch_size data_repeat num_repeats",
    "processes": "world_size n_gpu ngpu gpus devices nnodes num_nodes nproc_per_node num_gpus "
                 "num_processes",
}  # fmt: skip
WHOLE_NAMES: dict[str, Role] = {
    name: role for role, names in BY_ROLE.items() for name in names.split()
}
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
    "step", "steps", "stepsize", "iter", "iters", "iteration", "iterations", "update", "updates",
    "interval", "every", "freq",
})  # fmt: skip
LENGTH_WORDS = frozenset({
    "max", "num", "n", "nb", "no", "total", "train", "training", "end", "final", "stop", "number",
    "target",
})  # fmt: skip
COUNTED = frozenset({
    "samples", "examples", "images", "imgs", "sequences", "seqs", "sentences", "sents", "tokens",
})  # fmt: skip
"""Units that a batch and an epoch are counted in."""
PLACES = frozenset({"gpu", "gpus", "device", "devices", "node", "nodes", "machine", "machines"})
GLUED = re.compile(
    r"(max|min|num|nb|n|total|train|base|init|peak|learn|learning|lr|warm|grad)"
    r"(iters?|iterations?|steps?|epochs?|updates?|batch|batches|batchsize|bs|lr|rate|tokens|samples"
    r"|gpus?|devices?|scheduler?|decay|policy|accum|accumulation)"
)
"""Words that are written as one, as in maxiter."""


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
    if found & UNRELATED_WORDS and "clip" not in found:  # as in gradient_clip_val
        return "count" if found & COUNTING else None
    return _setting(words, found) or _counting(found)


def _setting(words: list[str], found: set[str]) -> Role | None:
    if _ramp(words, found):
        return "warmup"
    if any(word.startswith("accum") for word in words):
        return "accumulation"
    if _of_batch(found):
        return "batch"
    if found & {"noise", "mask", "masking", "ema"}:
        return None
    if _of_processes(found):
        return "processes"
    return _rate(found) or _length(words, found) or _optimizer(found)


def _ramp(words: list[str], found: set[str]) -> bool:
    if any(word.startswith(("warmup", "rampup", "burnin")) for word in words):
        return True
    slow = found & {"warm", "ramp"} and found & (COUNTING | {"epoch", "epochs", "ratio"})
    return bool(slow) or {"warm", "up"} <= found or {"burn", "in"} <= found


def _of_processes(found: set[str]) -> bool:
    counted = found & PLACES and found & {"n", "num", "nb", "number", "total", "count", "per"}
    split = {"parallel", "parallelism"} & found or found & {"dp", "tp", "pp", "cp", "sp"}
    return bool(counted or (split and found & {"size", "degree", "shard", "replicate"}))


def _rate(found: set[str]) -> Role | None:
    rate = found & {"lr", "lrs", "blr"} or ("rate" in found and found & {"learn", "learning"})
    shape = {"sched", "scheduler", "schedule", "anneal", "annealing", "warmdown", "cooldown",
             "milestones", "milestone"}  # fmt: skip
    bent = {"decay", "gamma", "step", "steps", "min", "end", "final", "cycle", "policy", "style"}
    if (found & shape and "beta" not in found) or (rate and found & bent):
        return "schedule"
    how = {"type", "style", "mode", "method", "fn", "func", "policy", "shape", "strategy"}
    if ("decay" in found and found & how) or "onecycle" in found or {"one", "cycle"} <= found:
        return "schedule"
    if "plateau" in found or {"div", "factor"} <= found:
        return "schedule setting"
    return "rate" if rate else None


def _of_batch(found: set[str]) -> bool:
    names = {"batch", "batches", "bs", "bsz", "batchsize", "mbs", "gbs", "microbatch", "minibatch",
             "microbatches"}  # fmt: skip
    each = PLACES | COUNTING | {"rank", "worker", "core", "chip", "batch"}
    if "per" in found and found & COUNTED and found & each:
        return True
    return bool(found & names) and not found & {"norm", "bn", "sampler", "first", "renorm"}


def _length(words: list[str], found: set[str]) -> Role | None:
    if found & COUNTED and {"per", "epoch"} <= found:
        return "examples"
    if found & {"start", "per"}:
        return None
    if _long(words, found):
        return "length"
    if found & {"samples", "examples"} and found & (LENGTH_WORDS | {"seen"}):
        return "examples"
    return None


def _long(words: list[str], found: set[str]) -> bool:
    steps = COUNTING - {"interval", "every", "freq"}
    alone = words in (["epochs"], ["steps"], ["iters"], ["iterations"])
    units = {"epoch", "epochs", "duration"} | steps
    tokens = "tokens" in found and found & {"train", "training", "total", "target", "budget"}
    return (
        alone
        or bool(found & units and found & LENGTH_WORDS)
        or bool(tokens or {"token", "budget"} <= found)
    )


def _optimizer(found: set[str]) -> Role | None:
    named = {"optimizer", "optimiser", "optim", "opt"}
    if found & named:
        return "optimizer" if found <= named | {"name", "type", "kind"} else "optimizer setting"
    ones = {"muon", "galore", "apollo", "badam", "adafactor", "lion", "lomo", "adam", "adamw",
            "lars", "lamb", "sgd", "rmsprop", "sophia", "shampoo", "soap"}  # fmt: skip
    if "use" in found and found & ones:
        return "optimizer setting"
    if found & {"clip", "clipping"} and found & {"grad", "gradient", "gradients", "norm"}:
        return "optimizer setting"
    if found & {"nesterov", "momentum", "betas", "beta1", "beta2"} or {"weight", "decay"} <= found:
        return "optimizer setting"
    return None


def _counting(found: set[str]) -> Role | None:
    average = "ema" in found and found & {"decay", "momentum", "beta", "halflife", "rate"}
    return "count" if found & COUNTING or average else None


def _words(name: str) -> list[str]:
    """Return the words of a name: between underscores, of a name likeThis, and of one likethis."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    words = [word for word in re.split(r"[^a-z0-9]+", apart.lower()) if word]
    glued = [GLUED.fullmatch(word) for word in words]
    return [part for word, two in zip(words, glued, strict=True)
            for part in (two.groups() if two else (word,))]  # fmt: skip
