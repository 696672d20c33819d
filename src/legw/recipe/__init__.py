"""Recipe as a value: the settings that are tuned once, at a small batch size.

    Recipe --rules.scale(batch)--> Recipe --schedule.in_steps--> lr(step)

Its lengths are in one unit: epochs, steps (optimizer updates), examples or tokens. Recipes are
read from and written to TOML and JSON. A file looks like this:

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

or, counted in updates, and without a number of examples:

    name = "my-gpt"
    batch_size = 480
    lr = 6e-4
    steps = 100000
    warmup_steps = 2000
    optimizer = {kind = "adamw", weight_decay = 0.1, betas = [0.9, 0.95]}
    decay = {kind = "cosine", min_lr = 6e-5}
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from legw.decays import UNITS, Constant, Decay, Unit
from legw.errors import (
    MAX_NUMBER,
    RecipeError,
    check_count,
    check_name,
    is_number,
    one_line,
    shown,
    too_deep,
    unknown_name,
)
from legw.optimizers import SGD, Optimizer
from legw.recipe import words
from legw.recipe.batch_schedule import MAX_PHASES, BatchSchedule
from legw.recipe.files import read_mapping

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: the settings that depend on the batch size.

    Its length is one of `epochs`, `steps`, `examples` and `tokens`, its warmup the field of
    the same unit; the fields of the other units are None, and stay so when it is scaled or
    written. The lengths of the decay are in that unit too.

    Raises:
        RecipeError: a value is of the wrong type or out of its range, or lengths are in two
            units.

    >>> base = Recipe(name="mine", batch_size=128, lr=0.2, epochs=25, warmup_epochs=0.1)
    >>> base.optimizer
    SGD(momentum=0.0, nesterov=False, weight_decay=0.0)
    >>> Recipe(batch_size=480, lr=6e-4, steps=100_000, warmup_steps=2000).unit
    'steps'
    """

    name: str = "recipe"
    """Name in errors, tables and run folders; 1 to 100 printable characters."""
    batch_size: int
    """Examples per optimizer update, over all devices and micro-batches; at least 1."""
    lr: float
    """Peak learning rate, reached at the end of the warmup; above 0."""
    epochs: float | None = None
    """Length of the run in passes over the data; above 0, may be fractional."""
    warmup_epochs: float | None = None
    """Length of the linear ramp in epochs; at least 0, below `epochs`, may be fractional."""
    steps: float | None = None
    """Length of the run in optimizer updates, above 0: in place of epochs. A scaled recipe
    may have a fraction, 100000/3; the run makes the next whole number of updates."""
    warmup_steps: float | None = None
    """Length of the linear ramp in updates; at least 0, below `steps`."""
    examples: float | None = None
    """Length of the run in examples seen, above 0: in place of epochs."""
    warmup_examples: float | None = None
    """Length of the linear ramp in examples; at least 0, below `examples`."""
    tokens: float | None = None
    """Length of the run in tokens seen, above 0: in place of epochs. Needs
    `tokens_per_example`, or for streams `window_tokens`."""
    warmup_tokens: float | None = None
    """Length of the linear ramp in tokens; at least 0, below `tokens`."""
    warmup_from_lr: float = 0.0
    """Learning rate from which the ramp starts; at least 0, at most `lr`."""
    decay: Decay = field(default_factory=Constant)
    """Fall of the learning rate after its peak."""
    batch_schedule: BatchSchedule | None = None
    """Smaller batch sizes before `batch_size`, and the ends of each; None keeps it constant.
    The rate follows the batch."""
    optimizer: Optimizer = field(default_factory=SGD)
    """Optimizer, with its settings."""
    clip_norm: float | None = None
    """Largest norm of the whole gradient, above 0; None leaves it as it is."""
    ema_decay: float | None = None
    """Decay per update of an average of the weights (EMA), at least 0 and below 1; evaluations
    then measure the average. None keeps none."""
    norm_batch_size: int = 128
    """Examples over which batch normalisation takes its statistics; at least 1."""
    num_examples: int | None = None
    """Examples in one epoch, at least 1; None where it is not known, or for streams."""
    num_tokens: int | None = None
    """Streams (truncated back-propagation): tokens in the training text, at least 1."""
    window_tokens: int | None = None
    """Streams: tokens of one stream in one example (the truncation length), at least 1."""
    tokens_per_example: int | None = None
    """Tokens in one example (the sequence length), at least 1; None where it is not known."""
    noise_scale: float | None = None
    """Simple noise scale of the gradient as measured, in examples, above 0; None is not known."""
    noise_scales: tuple[tuple[float, float], ...] | None = None
    """The same along the run: pairs of a position, in the unit of the lengths, and the examples
    there; positions ascend. None is not known."""
    noise_batch: float | None = None
    """Batch size of which a run needs twice the examples of a very small one, as fitted to branches
    of the base, in examples, above 0. None is not known."""
    source: str = ""
    """Source of the numbers."""

    def __post_init__(self) -> None:
        self._check_unit()
        self._check_types()
        self._check_ranges()
        self._check_streams()
        self._check_batch_schedule()

    def _check_unit(self) -> None:
        """Find the unit of all lengths, and set a missing warmup to 0."""
        check_name("recipe", self.name)
        runs = [unit for unit in UNITS if getattr(self, unit) is not None]
        if not runs:
            raise self._fault("epochs", f"must be a number; or give {_choice(UNITS[1:])}")
        if len(runs) > 1:
            raise self._fault(
                runs[1], f"the run has {runs[0]}={shown(getattr(self, runs[0]))} already; "
                "give one of the two",
            )  # fmt: skip
        for unit in UNITS:
            if unit != runs[0] and getattr(self, f"warmup_{unit}") is not None:
                raise self._fault(
                    f"warmup_{unit}",
                    f"the run is counted in {runs[0]}, and so is all of it; give warmup_{runs[0]}",
                )
        if getattr(self, f"warmup_{runs[0]}") is None:
            object.__setattr__(self, f"warmup_{runs[0]}", 0.0)

    def _check_types(self) -> None:
        if not isinstance(self.source, str):
            raise self._fault("source", "must be text; put it in quotes")
        for name in ("batch_size", "norm_batch_size"):
            check_count(self.name, name, getattr(self, name))
        for name in ("num_examples", "num_tokens", "window_tokens", "tokens_per_example"):
            if getattr(self, name) is not None:
                check_count(self.name, name, getattr(self, name))
        for name in ("lr", self.unit, f"warmup_{self.unit}", "warmup_from_lr"):
            self._check_number(name, getattr(self, name))
        for name in ("clip_norm", "ema_decay", "noise_scale", "noise_batch"):
            if getattr(self, name) is not None:
                self._check_number(name, getattr(self, name))
        self._settle_noise_scales()
        for name, kind in (("decay", Decay), ("optimizer", Optimizer)):
            part = getattr(self, name)
            if not isinstance(part, kind):
                raise self._fault(name, f"must be a legw {kind.__name__}; give an instance of one")
            if not vars(type(part)).get("kind"):
                raise self._fault(
                    name, f'needs a kind to be read by; set kind = "..." in {type(part).__name__}'
                )

    def _settle_noise_scales(self) -> None:
        """Check the measured noise scales, which files write as lists."""
        if self.noise_scales is None:
            return
        rule = "must be pairs of a position and examples above 0, the positions ascending"
        pairs = self.noise_scales
        if not isinstance(pairs, tuple | list) or not 1 <= len(pairs) <= MAX_PHASES:
            raise self._fault("noise_scales", rule)
        for pair in pairs:
            if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(is_number, pair))
                    and 0 <= pair[0] < MAX_NUMBER and 0 < pair[1] < MAX_NUMBER):  # fmt: skip
                raise self._fault("noise_scales", rule)
        if any(b[0] <= a[0] for a, b in itertools.pairwise(pairs)):
            raise self._fault("noise_scales", rule)
        object.__setattr__(self, "noise_scales", tuple((at, scale) for at, scale in pairs))

    def _check_number(self, name: str, value: object) -> None:
        if not is_number(value):
            raise self._fault(name, "must be a number")
        if not abs(value) < MAX_NUMBER:
            raise self._fault(name, f"must be a finite number, below {MAX_NUMBER:g}")

    def _check_ranges(self) -> None:
        for name in ("lr", self.unit, "clip_norm", "noise_scale", "noise_batch"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise self._fault(name, "must be above 0")
        for name in (f"warmup_{self.unit}", "warmup_from_lr"):
            if getattr(self, name) < 0:
                raise self._fault(name, "must be at least 0")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise self._fault("ema_decay", "must be at least 0 and below 1")
        if self.warmup_from_lr > self.lr:
            raise self._fault("warmup_from_lr", f"must be at most lr={self.lr:g}")
        if self.warmup and self.warmup >= self.length:
            raise self._fault(
                f"warmup_{self.unit}",
                f"must end before the run does, at {self.unit[:-1]} {self.length:.15g}; "
                f"shorten it or raise {self.unit}",
            )
        if self.decay.unit not in (None, self.unit):
            raise RecipeError(
                f"{self.name}: decay={shown(self.decay)}: has its lengths in {self.decay.unit}, "
                f"the run in {self.unit}; give both in one unit"
            )
        if self.unit == "tokens" and self.example_tokens is None:
            raise self._fault("tokens", "needs tokens_per_example; give it")

    def _check_streams(self) -> None:
        if (self.num_tokens is None) != (self.window_tokens is None):
            raise self._fault("num_tokens", "goes with window_tokens; give both or neither")
        if self.window_tokens is not None and self.tokens_per_example is not None:
            raise self._fault("tokens_per_example", "is window_tokens here; give one of the two")
        if self.num_tokens is not None and self.num_examples is not None:
            raise self._fault("num_examples", "follows from num_tokens; give one of the two")
        if self.num_tokens is not None and (self.epoch_examples or 0) < 1:
            raise self._fault(
                "batch_size",
                f"leaves no whole window of {self.window_tokens} tokens in a stream; "
                f"at most {most_streams(self.num_tokens, self.window_tokens or 1)} streams fit",
            )

    def _check_batch_schedule(self) -> None:
        plan = self.batch_schedule
        if plan is None:
            return
        if not isinstance(plan, BatchSchedule):
            raise self._fault("batch_schedule", "must be a legw BatchSchedule; give one")
        here = f"{self.name}: batch_schedule"
        if self.unit == "steps":
            raise RecipeError(
                f"{here}: the run is counted in steps, and their number of examples changes with "
                "the batch; give its lengths in epochs, examples or tokens"
            )
        if plan.sizes[-1] >= self.batch_size:
            raise RecipeError(
                f"{here}: sizes={shown(plan.sizes)}: must be below "
                f"batch_size={self.batch_size}, which comes last; leave the others out"
            )
        if plan.until[-1] >= self.length:
            raise RecipeError(
                f"{here}: until_{self.unit}={shown(plan.until)}: must end before the run does, at "
                f"{self.unit[:-1]} {self.length:.15g}; shorten them or raise {self.unit}"
            )
        whole = self.unit == "epochs" and all(end == int(end) for end in plan.until)
        if self.num_tokens is not None and not whole:
            raise RecipeError(
                f"{here}: until_{self.unit}={shown(plan.until)}: streams are cut anew for another "
                "batch, which only a new epoch can do; give whole epochs"
            )

    def _fault(self, name: str, rule: str) -> RecipeError:
        return RecipeError(f"{self.name}: {name}={shown(getattr(self, name))}: {rule}")

    _base: ClassVar[Recipe | None] = None
    """The recipe that was scaled, for display in a notebook; it is not part of the value."""

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows, beside the base where there is one."""
        from legw.recipe.notebook import table

        return table(to_dict(self), None if self._base is None else to_dict(self._base))

    @property
    def unit(self) -> Unit:
        """Unit of the lengths: "epochs", "steps", "examples" or "tokens"."""
        return next(unit for unit in UNITS if getattr(self, unit) is not None)

    @property
    def length(self) -> float:
        """The length of the run, in the recipe's unit."""
        value: float = getattr(self, self.unit)
        return value

    @property
    def warmup(self) -> float:
        """The length of the warmup, in the recipe's unit."""
        value: float = getattr(self, f"warmup_{self.unit}")
        return value

    def with_lengths(self, length: float, warmup: float) -> Recipe:
        """Return the recipe with another length and warmup, both in its unit.

        Raises:
            RecipeError: a length is out of its range.

        >>> Recipe(batch_size=8, lr=1, steps=100).with_lengths(50, 2).warmup_steps
        2
        """
        return replace(self, **{self.unit: length, f"warmup_{self.unit}": warmup})  # type: ignore[arg-type]

    @property
    def min_lr(self) -> float | None:
        """The rate below which the decay does not fall; None where it has no such floor."""
        end = getattr(self.decay, "end", 0.0)
        return end * self.lr if end else None

    @property
    def example_tokens(self) -> int | None:
        """Tokens in one example; None where it is not known."""
        return self.window_tokens if self.tokens_per_example is None else self.tokens_per_example

    @property
    def epoch_examples(self) -> int | None:
        """Examples in one epoch at this batch size; None where it is not known.

        For streams an epoch is ``((num_tokens // batch_size) - 1) // window_tokens``
        updates of `batch_size` windows each: the one number that depends on the batch.
        """
        return self.epoch_examples_at(self.batch_size)

    def epoch_examples_at(self, batch_size: int) -> int | None:
        """Return the examples in one epoch at a batch size; None where it is not known.

        Args:
            batch_size: in examples per update, at least 1; only for streams it matters.

        >>> stream = Recipe(batch_size=640, lr=1, epochs=1, num_tokens=929589, window_tokens=20)
        >>> stream.epoch_examples_at(20), stream.epoch_examples
        (46460, 46080)
        """
        if self.num_tokens is None or self.window_tokens is None:
            return self.num_examples
        return (self.num_tokens // batch_size - 1) // self.window_tokens * batch_size

    def with_num_examples(self, num_examples: int) -> Recipe:
        """Return the recipe for a data set of this many examples an epoch, at least 1.

        Raises:
            RecipeError: it is not a whole number of at least 1.

        >>> Recipe(batch_size=8, lr=1, epochs=2).with_num_examples(100).epoch_examples
        100
        """
        each = self.example_tokens if self.unit == "tokens" else self.tokens_per_example
        return replace(
            self,
            num_examples=num_examples,
            num_tokens=None,
            window_tokens=None,
            tokens_per_example=each,
        )


def _choice(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def most_streams(num_tokens: int, window_tokens: int) -> int:
    """Return how many streams of at least one window (and the token after it) fit into a text.

    Args:
        num_tokens: tokens in the text, at least 1.
        window_tokens: tokens of one stream in one example, at least 1.

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
    if recipe.batch_schedule is not None:
        plain["batch_schedule"] = recipe.batch_schedule.to_dict(recipe.unit)
    if recipe.decay.unit not in (None, "epochs"):  # an empty list of epochs is no length
        plain["decay"] = {n: v for n, v in plain["decay"].items() if v not in ((), [])}
    for name in ("decay", "optimizer"):
        settings = {key: value for key, value in plain[name].items() if value is not None}
        plain[name] = {"kind": getattr(recipe, name).kind, **settings}
    return plain


def from_dict(data: Mapping[str, Any]) -> Recipe:
    """Return the recipe that plain values describe.

    Args:
        data: values by field name, as `to_dict` gives them; `decay` and `optimizer`
            may be a table with a `kind`, or the kind alone.

    Raises:
        RecipeError: an unknown or missing field, a wrong type, a value out of range.

    >>> from_dict({"batch_size": 8, "lr": 1, "epochs": 2, "decay": {"kind": "cosine"}}).decay
    Cosine(after_warmup=True, end=0.0, half_cycles=1.0)
    """
    what = one_line(str(data.get("name", "recipe")), 100)
    values = words.of_recipe(what, data)
    parts: dict[str, tuple[str, type[Any], dict[str, Any]]] = {}
    for name, base in (("decay", Decay), ("optimizer", Optimizer)):
        if name in values and not isinstance(values[name], base):
            kind, settings = _settings(what, name, values[name], kinds(base))
            where, cls = f"{name} {kind}", kinds(base)[kind]
            if base is Decay:
                settings = words.of_decay(f"{what}: {where}", settings, cls.lengths, values)
            else:
                settings = words.of_optimizer(f"{what}: {where}", settings)
            parts[name] = where, cls, settings
    if isinstance(values.get("batch_schedule"), Mapping):
        settings = words.of_batch_schedule(what, values["batch_schedule"], values)
        parts["batch_schedule"] = "batch_schedule", BatchSchedule, settings
    places = [words.Place("", values, _names(Recipe))]
    places += [
        words.Place(where, given, (*getattr(cls, "lengths", ()), *_names(cls)))  # unit left out
        for where, cls, given in parts.values()
    ]
    words.check_known(what, places, _elsewhere)
    for name in ("batch_size", "lr", "epochs"):
        if name not in values and not (name == "epochs" and any(u in values for u in UNITS)):
            raise RecipeError(
                f"{what}: {name} is missing; a recipe needs batch_size, lr, epochs "
                f"(or {_choice(UNITS[1:])})"
            )
    values |= {name: _part(f"{what}: {where}", what, cls, given)
               for name, (where, cls, given) in parts.items()}  # fmt: skip
    return Recipe(**values)


def kinds(base: type[Any]) -> dict[str, type[Any]]:
    """Return the decays or optimizers there are, by the `kind` that names them.

    A dataclass of yours that derives from one of them is found once it is defined.

    Args:
        base: `Decay` or `Optimizer`.

    >>> sorted(kinds(Optimizer))
    ['adam', 'adamw', 'lamb', 'lars', 'muon', 'sgd']
    """
    found: dict[str, type[Any]] = {}
    for cls in base.__subclasses__():
        named = vars(cls).get("kind") and not getattr(cls, "elsewhere", False)
        own = {cls.kind: cls} if named else {}
        found |= own | kinds(cls)
    return found


def usual(part: Decay | Optimizer) -> dict[str, Any]:
    """Return the default settings of a decay or an optimizer.

    >>> usual(SGD(momentum=0.9))["momentum"]
    0.0
    """
    if isinstance(part, Decay):
        return part.usual()
    return {f.name: f.default for f in fields(part)}


def _settings(
    what: str, name: str, values: object, known: dict[str, type[Any]]
) -> tuple[str, dict[str, Any]]:
    """Return the kind that a table names, and its settings."""
    if isinstance(values, str):
        values = {"kind": values}
    if not isinstance(values, Mapping) or "kind" not in values:
        raise RecipeError(
            f"{what}: {name}={shown(values)}: must be a table with a kind, "
            f"one of {', '.join(known)}"
        )
    kind = str(values["kind"])
    if name == "decay" and kind not in known:
        kind = words.KINDS.get(kind, kind)
    if kind not in known:
        raise RecipeError(f"{what}: {name}: {unknown_name('kind', kind, known)}")
    return kind, {key: value for key, value in values.items() if key != "kind"}


def _part(where: str, what: str, cls: type[Any], settings: dict[str, Any]) -> Any:
    """Build a decay or an optimizer from its settings; msgspec checks and converts the types."""
    import msgspec

    try:
        return msgspec.convert(settings, type=cls)
    except UnicodeEncodeError:
        raise RecipeError(f"{where}: is not Unicode text; correct it") from None
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        if not path:  # the class's own check has spoken
            raise RecipeError(f"{what}: {error}") from None
        key = path.strip("`").removeprefix("$.").partition("[")[0]
        value = shown(settings.get(key))
        raise RecipeError(f"{where}: {key}={value}: {one_line(reason)}") from None


def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls) if f.init)


def _elsewhere(name: str) -> str:
    """Return a hint to the table in which an unknown name belongs; empty without one."""
    optimizer = {n for cls in kinds(Optimizer).values() for n in _names(cls)}
    if name in optimizer | set(words.OPTIMIZER) | {"betas"}:
        return "it belongs to the optimizer: [optimizer]"
    decay = {n for cls in kinds(Decay).values() for n in (*_names(cls), *cls.lengths)}
    if name in decay | set(words.DECAY) | {"num_cycles"}:
        return "it belongs to the decay: [decay]"
    if name in _names(BatchSchedule) or name.startswith("until_"):
        return "it belongs to the batch schedule: [batch_schedule]"
    return ""


# From and to files ----------------------------------------------------------


def read(path: str | Path) -> Recipe:
    """Read a recipe from a TOML file, or from a JSON file if it ends in .json.

    A recipe without a name takes the file's.

    Args:
        path: the file, UTF-8 text.

    Raises:
        RecipeError: the file cannot be read, is not TOML or JSON, or a field is
            wrong; the line names the file, the field and the value.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file = Path(folder, "mine.toml")
    ...     _ = file.write_text("batch_size = 8\\nlr = 0.1\\nepochs = 2")
    ...     read(file).name
    'mine'
    """
    import json
    import tomllib
    from pathlib import Path

    path = Path(path)
    language, parse = ("JSON", json.loads) if path.suffix == ".json" else ("TOML", tomllib.loads)
    data = read_mapping(path, language, parse)
    here = one_line(str(path))
    if too_deep(data):
        raise RecipeError(f"{here}: is nested too deeply; a recipe is a few flat tables")
    try:
        return from_dict({"name": path.stem, **data})
    except RecipeError as error:
        raise RecipeError(f"{here}: {error}") from None


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML text, which `read` takes back unchanged.

    >>> print(to_toml(Recipe(batch_size=8, lr=1.0, epochs=2.0)).splitlines()[1])
    batch_size = 8
    """
    import tomli_w

    return tomli_w.dumps(to_dict(recipe))


def to_json(recipe: Recipe) -> str:
    """Return the recipe as JSON text, which `read` takes back unchanged.

    >>> import json
    >>> json.loads(to_json(Recipe(batch_size=8, lr=1.0, epochs=2.0)))["lr"]
    1.0
    """
    import json

    return json.dumps(to_dict(recipe), indent=2)
