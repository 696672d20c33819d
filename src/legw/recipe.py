"""A training recipe as a value: what is tuned once, at a small batch size.

    Recipe --rules.scale(batch)--> Recipe --schedule.in_steps--> lr(step)

Recipes are read from and written to TOML and JSON. A file looks like this:

    name = "my-lstm"
    batch_size = 128
    lr = 0.2
    epochs = 25
    warmup_epochs = 0.1
    num_examples = 60000

    [optimizer]
    kind = "sgd"
    momentum = 0.9

    [decay]
    kind = "polynomial"
    power = 2
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from legw.decays import Constant, Decay
from legw.errors import RecipeError, unknown_name
from legw.optimizers import SGD, Optimizer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything about a training that the batch size has a say in.

    Raises:
        RecipeError: a value is of the wrong type or out of its range.

    >>> base = Recipe(name="mine", batch_size=128, lr=0.2, epochs=25, warmup_epochs=0.1)
    >>> base.optimizer
    SGD(momentum=0.0, nesterov=False, weight_decay=0.0)
    """

    name: str = "recipe"
    """What errors, tables and run folders call it."""
    batch_size: int
    """Examples per optimizer update, over all devices and micro-batches; at least 1."""
    lr: float
    """Peak learning rate, reached at the end of the warmup; above 0."""
    epochs: float
    """Length of the run in passes over the data; above 0, may be fractional."""
    warmup_epochs: float = 0.0
    """Length of the linear ramp in epochs; at least 0, may be fractional."""
    warmup_from_lr: float = 0.0
    """Learning rate from which the ramp starts; at least 0, at most `lr`."""
    decay: Decay = field(default_factory=Constant)
    """How the rate falls after its peak."""
    optimizer: Optimizer = field(default_factory=SGD)
    """Which optimizer, with its settings."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient, above 0; None leaves it as it is."""
    norm_batch_size: int = 128
    """Examples over which batch normalisation takes its statistics; at least 1."""
    num_examples: int | None = None
    """Examples in one epoch; None where it is not known, or for streams."""
    num_tokens: int | None = None
    """Streams (truncated back-propagation): tokens in the training text."""
    window_tokens: int | None = None
    """Streams: tokens of one stream in one example (the truncation length)."""
    source: str = ""
    """Where the numbers come from."""

    def __post_init__(self) -> None:
        self._check_types()
        self._check_ranges()
        self._check_streams()

    def _check_types(self) -> None:
        for name in ("batch_size", "norm_batch_size"):
            self._check_int(name, getattr(self, name))
        for name in ("num_examples", "num_tokens", "window_tokens"):
            if getattr(self, name) is not None:
                self._check_int(name, getattr(self, name))
        for name in ("lr", "epochs", "warmup_epochs", "warmup_from_lr"):
            self._check_number(name, getattr(self, name))
        if self.clip_norm is not None:
            self._check_number("clip_norm", self.clip_norm)
        for name, kind in (("decay", Decay), ("optimizer", Optimizer)):
            if not isinstance(getattr(self, name), kind):
                raise self._fault(name, f"must be a legw {kind.__name__}")

    def _check_int(self, name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._fault(name, "must be a whole number, at least 1")

    def _check_number(self, name: str, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._fault(name, "must be a number")
        if not math.isfinite(value):
            raise self._fault(name, "must be a finite number")

    def _check_ranges(self) -> None:
        for name in ("lr", "epochs", "clip_norm"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise self._fault(name, "must be above 0")
        for name in ("warmup_epochs", "warmup_from_lr"):
            if getattr(self, name) < 0:
                raise self._fault(name, "must be at least 0")
        if self.warmup_from_lr > self.lr:
            raise self._fault("warmup_from_lr", f"must be at most lr={self.lr:g}")
        if self.warmup_epochs and self.warmup_epochs >= self.epochs:
            raise self._fault(
                "warmup_epochs", f"must end before the run does, at epoch {self.epochs:g}"
            )

    def _check_streams(self) -> None:
        if (self.num_tokens is None) != (self.window_tokens is None):
            raise self._fault("num_tokens", "goes with window_tokens; give both or neither")
        if self.num_tokens is not None and self.num_examples is not None:
            raise self._fault("num_examples", "follows from num_tokens; give one of the two")
        if self.num_tokens is not None and self.epoch_examples == 0:
            raise self._fault(
                "batch_size",
                f"leaves no whole window of {self.window_tokens} tokens in a stream; "
                f"at most {most_streams(self.num_tokens, self.window_tokens or 1)} streams fit",
            )

    def _fault(self, name: str, rule: str) -> RecipeError:
        return RecipeError(f"{self.name}: {name}={getattr(self, name)!r}: {rule}")

    @property
    def epoch_examples(self) -> int | None:
        """Examples in one epoch at this batch size; None where it is not known.

        For streams an epoch is ``((num_tokens // batch_size) - 1) // window_tokens``
        updates of `batch_size` windows each: the one number that depends on the batch.
        """
        if self.num_tokens is None or self.window_tokens is None:
            return self.num_examples
        return (self.num_tokens // self.batch_size - 1) // self.window_tokens * self.batch_size

    def with_num_examples(self, num_examples: int) -> Recipe:
        """Return the recipe for a data set of this many examples an epoch.

        >>> Recipe(batch_size=8, lr=1, epochs=2).with_num_examples(100).epoch_examples
        100
        """
        return replace(self, num_examples=num_examples, num_tokens=None, window_tokens=None)


def most_streams(num_tokens: int, window_tokens: int) -> int:
    """Return how many streams of at least one window fit into a text.

    >>> most_streams(num_tokens=100, window_tokens=9)
    10
    """
    return num_tokens // (window_tokens + 1)


# From and to plain values ---------------------------------------------------


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, `kind` naming the decay and the optimizer.

    Fields that are None are left out: TOML has no word for them.

    >>> to_dict(Recipe(batch_size=8, lr=1.0, epochs=2))["decay"]
    {'kind': 'constant', 'after_warmup': False}
    """
    plain = {name: value for name, value in asdict(recipe).items() if value is not None}
    for name in ("decay", "optimizer"):
        part = getattr(recipe, name)
        plain[name] = {"kind": part.kind, **asdict(part)}
    return plain


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain values describe.

    Raises:
        RecipeError: an unknown or missing field, a wrong type, a value out of range.

    >>> from_dict({"batch_size": 8, "lr": 1, "epochs": 2, "decay": {"kind": "cosine"}}).decay
    Cosine(after_warmup=True, end=0.0)
    """
    values = dict(data)
    for name, base in (("decay", Decay), ("optimizer", Optimizer)):
        if name in values and not isinstance(values[name], base):
            values[name] = _part(name, values[name], kinds(base))
    what = values.get("name", "recipe")
    for name in ("name", "source"):
        if not isinstance(values.get(name, ""), str):
            raise RecipeError(f"recipe: {name}={values[name]!r}: must be text in quotes")
    return _build(Recipe, values, str(what))


def kinds(base: type[Any]) -> dict[str, type[Any]]:
    """Return the decays or optimizers there are, by the `kind` that names them.

    >>> sorted(kinds(Optimizer))
    ['adam', 'adamw', 'lamb', 'lars', 'sgd']
    """
    found: dict[str, type[Any]] = {}
    for cls in base.__subclasses__():
        found |= {cls.kind: cls} | kinds(cls)
    return found


def _part(name: str, values: object, known: dict[str, type[Any]]) -> Any:
    if isinstance(values, str):
        values = {"kind": values}
    if not isinstance(values, Mapping) or "kind" not in values:
        raise RecipeError(f"{name}: must be a table with a kind, one of {', '.join(known)}")
    kind = str(values["kind"])
    if kind not in known:
        raise RecipeError(f"{name}: {unknown_name('kind', kind, known)}")
    return _build(known[kind], {k: v for k, v in values.items() if k != "kind"}, f"{name} {kind}")


def _build(cls: type[Any], values: dict[str, Any], what: str) -> Any:
    """Build a dataclass from plain values; msgspec checks and converts the types."""
    import msgspec

    known = [f.name for f in fields(cls) if f.init]
    for name in values:
        if name not in known:
            raise RecipeError(f"{what}: {unknown_name('field', name, known)}")
    if cls is Recipe:
        missing = [name for name in ("batch_size", "lr", "epochs") if name not in values]
        if missing:
            raise RecipeError(f"{what}: {missing[0]} is missing; a recipe needs it")
        return Recipe(**values)
    try:
        return msgspec.convert(values, type=cls)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at ")
        if not where:
            raise RecipeError(str(error)) from None
        name = where.strip("`").removeprefix("$.").partition("[")[0]
        raise RecipeError(f"{what}: {name}={values.get(name)!r}: {reason}") from None


# From and to files ----------------------------------------------------------


def read(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or from a JSON file if it ends in .json.

    A recipe without a name takes the file's.

    Raises:
        RecipeError: the file cannot be read, is not TOML or JSON, or a field is
            wrong; the line names the file, the field and the value.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: is not UTF-8 text") from None
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        language = "JSON" if path.suffix == ".json" else "TOML"
        raise RecipeError(f"{path}: is not {language}: {error}") from None
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: must be one JSON object with the recipe's fields")
    try:
        return from_dict({"name": path.stem, **data})
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML text, which `read` takes back unchanged.

    >>> print(to_toml(Recipe(batch_size=8, lr=1.0, epochs=2.0)).splitlines()[1])
    batch_size = 8
    """
    import tomli_w

    return tomli_w.dumps(to_dict(recipe))


def to_json(recipe: Recipe) -> str:
    """Return the recipe as JSON text, which `read` takes back unchanged.

    >>> json.loads(to_json(Recipe(batch_size=8, lr=1.0, epochs=2.0)))["lr"]
    1.0
    """
    return json.dumps(to_dict(recipe), indent=2)
