"""Options that commands share: their types, their reading, and the recipe or task they name.

torch is imported by the functions that need it, so that mistakes appear without delay.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional, TypeVar

from tyro.conf import Positional, arg

from legw import presets, recipe, rules
from legw.analysis.scaled import doublings
from legw.errors import LegwError, RecipeError, RunError, one_line, unknown_name
from legw.recipe import Recipe
from legw.schedule import with_lengths

if TYPE_CHECKING:
    from legw.train import Settings, Task

# Optional[X], not X | None: of the latter tyro makes sense with typeguard, whose import
# alone takes a fifth of the time in which `legw scale` answers.
# ruff: noqa: UP045

Named = Annotated[Positional[str], arg(metavar="NAME|FILE", help_behavior_hint="")]
"""A shipped recipe's name, or a recipe file."""
BatchSize = Annotated[Optional[int], arg(aliases=["-b"], metavar="N", help_behavior_hint="")]
"""A target batch size that may be left out."""
Count = Annotated[Optional[int], arg(metavar="N", help_behavior_hint="")]
"""A whole number that may be left out."""
Number = Annotated[Optional[float], arg(metavar="X", help_behavior_hint="")]
"""A number that may be left out."""
File = Annotated[Optional[str], arg(metavar="FILE", help_behavior_hint="")]
"""A file's path that may be left out."""
Language = Annotated[Optional[str], arg(metavar="L", help_behavior_hint="")]
"""The ending of a text's files, such as en, that may be left out."""
Ladder = Annotated[Optional[str], arg(metavar="A:B", help_behavior_hint="")]
"""Two batch sizes that may be left out."""
RuleName = Annotated[str, arg(metavar="RULE", help=f"How to scale: {', '.join(rules.RULES)}.")]
"""A rule's name; `legw.rules.find` knows them."""
Noise = Annotated[Optional[str], arg(metavar="X|DIR", help_behavior_hint="")]
"""A noise scale that may be left out: a number, or a folder of runs; `noises.read` reads it."""
Critical = Annotated[Optional[str], arg(metavar="DIR|FILE", help_behavior_hint="")]
"""A result of `legw probe critical` that may be left out; `measured_critical` reads it."""
KeepQuality = Annotated[Optional[str], arg(metavar="X|X%", help_behavior_hint="")]
"""A tolerance of the loss that may be left out; `keep_quality.kept` reads it."""
Flag = Annotated[bool, arg(help_behavior_hint="")]
"""Off unless given."""


def find_recipe(named: str, num_examples: int | None = None) -> Recipe:
    """Return the recipe that a word of the command line names.

    Args:
        named: a shipped recipe's name, or else the path of a TOML or JSON file.
        num_examples: examples in one epoch, at least 1, in place of the recipe's own.

    Raises:
        RecipeError: no such recipe (the line names the nearest), or a file that
            cannot be read or is wrong.

    >>> find_recipe("mnist-lstm").batch_size
    128
    """
    found = presets.RECIPES.get(named) or _from_file(named)
    return found if num_examples is None else found.with_num_examples(num_examples)


def overridden(base: Recipe, options: object) -> Recipe:
    """Return the base recipe with the lengths given on the command line.

    Args:
        base: the recipe.
        options: any with some of `epochs`, `warmup_epochs`, `steps` and `warmup_steps`.

    Raises:
        RecipeError: a length is not possible, or two are in two units.
    """
    names = ("epochs", "warmup_epochs", "steps", "warmup_steps")
    return with_lengths(base, **{name: getattr(options, name, None) for name in names})


def _from_file(named: str) -> Recipe:
    path = Path(named)
    looks_like_a_path = path.suffix in (".toml", ".json") or "/" in named or "\\" in named
    if looks_like_a_path or path.is_file():
        return recipe.read(path)
    raise RecipeError(unknown_name("recipe", named, presets.RECIPES))


def read_ladder(text: str) -> list[int]:
    """Return the batch sizes of a ladder ``A:B``: A, 2A, 4A, ... and B.

    Raises:
        LegwError: it is not two whole numbers with ``1 <= A <= B``.

    >>> read_ladder("128:1000")
    [128, 256, 512, 1000]
    """
    first, _, last = text.partition(":")
    numbers = len(text) < 40 and first.isdecimal() and last.isdecimal()
    if not (numbers and 1 <= int(first) <= int(last)):
        raise LegwError(
            f"--ladder={one_line(text)}: must be two batch sizes A:B with 1 <= A <= B; "
            "give for example 128:8192"
        )
    return doublings(int(first), int(last))


def file_format(name: str, path: str, known: Sequence[str]) -> str:
    """Return the format for a file's suffix, before anything is computed.

    Args:
        name: the option's, for errors.
        path: the file's.
        known: suffixes without their dot.

    Raises:
        LegwError: the suffix is none of them.

    >>> file_format("--plot", "curve.SVG", ("svg", "png"))
    'svg'
    """
    found = Path(path).suffix.removeprefix(".").lower()
    if found not in known:
        names = ", ".join(f".{each}" for each in known)
        raise LegwError(f"{name}={one_line(path)}: the suffix must be one of {names}")
    return found


# Lists ------------------------------------------------------------------------------


Value = TypeVar("Value", int, str)

MAX_NUMBERS = 1000
"""Most numbers in a list of seeds or batch sizes: more is taken for a typing error."""


def read_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text: a count of seeds from 0 on, or a list with a comma.

    Raises:
        LegwError: it cannot be read, has one twice, or too many.

    >>> read_seeds("3"), read_seeds("3,"), read_seeds("0,7")
    ((0, 1, 2), (3,), (0, 7))
    """
    if "," in text:
        return whole_numbers("--seeds", text, least=0)
    (count,) = whole_numbers("--seeds", text, least=1)
    if count > MAX_NUMBERS:
        raise LegwError(f"--seeds={count}: must be at most {MAX_NUMBERS}")
    return tuple(range(count))


def whole_numbers(name: str, text: str, *, least: int) -> tuple[int, ...]:
    """Return the whole numbers of a list, each at least `least`.

    Args:
        name: the option's, for errors.
        text: as in ``16,64``.
        least: smallest number allowed.

    Raises:
        LegwError: it cannot be read, has one twice, or too many.

    >>> whole_numbers("--batch-sizes", "16,64", least=1)
    (16, 64)
    """
    parts = [part.strip() for part in text.removesuffix(",").split(",")]
    here = f"{name}={one_line(text, 60)}"
    if not all(part.isdecimal() and len(part) <= 16 for part in parts):
        raise LegwError(f"{here}: must be whole numbers, separated by commas")
    numbers = tuple(int(part) for part in parts)
    if min(numbers) < least:
        raise LegwError(f"{here}: must be at least {least}")
    if len(numbers) > MAX_NUMBERS:
        raise LegwError(f"{here}: are {len(numbers)} numbers; at most {MAX_NUMBERS}")
    return no_twice(name, numbers)


def no_twice(name: str, values: tuple[Value, ...]) -> tuple[Value, ...]:
    """Return values that are all different.

    Raises:
        LegwError: one is given twice.
    """
    for value in values:
        if values.count(value) > 1:
            raise LegwError(f"{name}: {value} is given twice; leave one out")
    return values


# Applications and machines -----------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Folder of an application's data, and the way they are read."""

    data: Annotated[Optional[Path], arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder with the application's data."""
    vocabulary: Count = None
    """Most words of a language model's vocabulary; rarer ones become <unk>. Of translation
    the number of subwords."""
    subwords: Count = None
    """gpt-small: read so many subwords, learned on the training text, in place of words."""
    source: Language = None
    """Translation: the language that is translated, as the files' names end; en if not given."""
    target: Language = None
    """Translation: the language translated into, as the files' names end; de if not given."""
    skip_broken: Flag = False
    """Images: leave broken files out, and print their number, in place of an error."""
    workers: Annotated[Optional[int], arg(metavar="N", help_behavior_hint="")] = None
    """ImageNet: processes that decode images, for each run at a time; 0 for none, one for each
    core less one if not given."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Settings of speed and device: batch, rates and data order stay; rounding and dropout may
    differ."""

    micro_batch_size: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Examples per forward and backward pass; auto measures which is fastest here."""
    lanes: Annotated[str, arg(metavar="N|auto")] = "auto"
    """Micro-batches at once on a CPU; auto measures it along with the micro-batch."""
    memory_limit: Annotated[Optional[str], arg(metavar="SIZE", help_behavior_hint="")] = None
    """Most memory for auto's micro-batches, as in 6GiB; 80 % of the free memory if not given."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is a GPU where there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32, or bf16: matrix products in bf16, weights and optimizer state in fp32."""
    checkpoint_seconds: float = 60.0
    """Training time between two checkpoints."""
    checkpoint_epochs: Number = None
    """Epochs between two checkpoints, beside those by time."""
    compile: Flag = False
    """Compile the model with torch.compile: slow to start, faster on a GPU."""
    patience_seconds: float = 600.0
    """Time without an answer of another process after which it counts as dead."""
    log_to: Annotated[Optional[str], arg(metavar="NAME,...", help_behavior_hint="")] = None
    """Trackers that are handed each run too: wandb, mlflow, tensorboard, or your own as
    module:name. One that fails ends no run."""

    def settings(self, resume: bool) -> Settings:
        """Return the settings of the training loop."""
        from legw.train import Settings

        return Settings(
            micro_batch_size=_whole_or_auto("micro-batch-size", self.micro_batch_size),
            lanes=_whole_or_auto("lanes", self.lanes),
            memory_limit=None if self.memory_limit is None else read_bytes(self.memory_limit),
            device=self.device,
            precision=self.precision,
            checkpoint_seconds=self.checkpoint_seconds,
            checkpoint_epochs=self.checkpoint_epochs,
            compile=self.compile,
            resume=resume,
            patience_seconds=self.patience_seconds,
            log_to=names_of(self.log_to),
        )


def names_of(text: str | None) -> tuple[str, ...]:
    """Return the names of a list; none of no list.

    >>> names_of("wandb, mlflow"), names_of(None)
    (('wandb', 'mlflow'), ())
    """
    return () if text is None else tuple(name.strip() for name in text.split(","))


def _whole_or_auto(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if not text.isdecimal() or int(text) < 1:
        raise RunError(f"--{option}={text}: must be auto or a whole number, at least 1")
    return int(text)


def read_bytes(text: str) -> int:
    """Return a size in bytes, as in 6GiB, 500MB or 1000000.

    Raises:
        RunError: it is not a size above 0.

    >>> read_bytes("6GiB"), read_bytes("1.5kB")
    (6442450944, 1500)
    """
    units = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}
    units |= {"kib": 2.0**10, "mib": 2.0**20, "gib": 2.0**30, "tib": 2.0**40}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = units.get(found.group(2).lower()) if found else None
    if found is None or unit is None or float(found.group(1)) <= 0:
        raise RunError(f"--memory-limit={text}: must be a size above 0, for example 6GiB")
    return int(float(found.group(1)) * unit)


def base_recipe(app: str, recipe: str | None) -> Recipe:
    """Return the base: the named or given recipe, or the application's own.

    Raises:
        RecipeError: no such recipe, or the application has none of its own.
        RunError: no such application.
    """
    if recipe is not None:
        return find_recipe(recipe)
    if app in presets.RECIPES:
        return presets.RECIPES[app]
    if ":" in app:
        raise RecipeError(f"{app}: --recipe is missing; your own task needs a base recipe")
    try:
        check_app(app)
    except ModuleNotFoundError:  # without torch the names of recipes stand in for applications'
        return presets.find(app)
    raise RecipeError(f"{app}: --recipe is missing; the application has no recipe of its own")


def check_app(app: str) -> None:
    """Refuse the name of an unknown application, before anything is made for it.

    Raises:
        RunError: no such application.
    """
    from legw.apps import APPS

    if ":" not in app and app not in APPS:
        raise RunError(unknown_name("application", app, APPS) + "; your own task is module:name")


def task_of(app: str, options: object = None, *, made_up: bool = False) -> Task:
    """Return the task with its data read.

    Args:
        app: an application's name, or module:name.
        options: any with some of the fields of `legw.apps.Options`, itself or in its `dataset`.
        made_up: noise in place of data.

    Raises:
        RunError: no such application, or it does not take an option that is given.
        DataError: its data are not found.
    """
    from legw import apps

    names = [each.name for each in fields(apps.Options)]
    parts = (options, getattr(options, "dataset", None))
    given = {name: getattr(part, name) for part in parts for name in names if hasattr(part, name)}
    return apps.find(app, apps.Options(**given | {"made_up": made_up}))
