"""Recipes: what may be in one, the way to a file and back, and a line for every mistake."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given

from expect import error_line
from legw import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Decay,
    Exponential,
    Optimizer,
    Polynomial,
    Recipe,
    RecipeError,
    Step,
    in_steps,
)
from legw.errors import LegwError, one_line, shown, unknown_name
from legw.recipe import from_dict, kinds, most_streams, read, to_dict, to_json, to_toml
from strategies import full_recipes

MINE: dict[str, Any] = {"name": "mine", "batch_size": 8, "lr": 0.1, "epochs": 2}


def make(**fields: Any) -> Recipe:
    return Recipe(**(MINE | fields))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe file and return its path."""

    def write(content: str | bytes, name: str = "my.toml") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


# There and back --------------------------------------------------------------


@given(full_recipes())
def test_toml_comes_back_unchanged(folder: Path, recipe: Recipe) -> None:
    path = folder / "any.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert read(path) == recipe


@given(full_recipes())
def test_json_comes_back_unchanged(folder: Path, recipe: Recipe) -> None:
    path = folder / "any.json"
    path.write_text(to_json(recipe), encoding="utf-8")
    assert read(path) == recipe


@given(full_recipes())
def test_plain_values_are_plain_and_come_back_unchanged(recipe: Recipe) -> None:
    plain = to_dict(recipe)
    assert from_dict(plain) == recipe
    assert None not in plain.values()
    assert from_dict({**plain, "decay": recipe.decay, "optimizer": recipe.optimizer}) == recipe


def test_a_file_by_hand(written: Callable[..., Path]) -> None:
    path = written("""
        batch_size = 128
        lr = 1
        epochs = 25
        warmup_epochs = 0.1
        clip_norm = 1

        [optimizer]
        kind = "sgd"
        momentum = 0.9

        [decay]
        kind = "step"
        milestones_epochs = [10, 20.5]
    """)
    assert (
        read(path)
        == read(str(path))
        == Recipe(
            name="my",
            batch_size=128,
            lr=1,
            epochs=25,
            warmup_epochs=0.1,
            clip_norm=1,
            optimizer=SGD(momentum=0.9),
            decay=Step(milestones_epochs=(10, 20.5)),
        )
    )


def test_a_name_in_the_file_beats_the_files(written: Callable[..., Path]) -> None:
    path = written('name = "mine"\nbatch_size = 8\nlr = 0.1\nepochs = 2')
    assert read(path) == make()


def test_a_byte_order_mark_is_no_part_of_the_text(written: Callable[..., Path]) -> None:
    assert read(written("batch_size = 8\r\nlr = 0.1\r\nepochs = 2".encode("utf-8-sig"))).lr == 0.1


def test_a_kind_alone_stands_for_its_table() -> None:
    recipe = from_dict({**MINE, "decay": "cosine", "optimizer": "adam"})
    assert (recipe.decay, recipe.optimizer) == (Cosine(), Adam())


def test_what_is_left_out_takes_its_default() -> None:
    recipe = from_dict({"batch_size": 8, "lr": 0.1, "epochs": 2})
    assert recipe == Recipe(batch_size=8, lr=0.1, epochs=2)
    assert (recipe.name, recipe.decay, recipe.optimizer) == ("recipe", Constant(), SGD())
    assert (recipe.warmup_epochs, recipe.warmup_from_lr, recipe.clip_norm) == (0, 0, None)
    assert (recipe.norm_batch_size, recipe.num_examples, recipe.source) == (128, None, "")


def test_every_field_has_its_line_of_documentation() -> None:
    text = Path(str(inspect.getsourcefile(Recipe))).read_text("utf-8")
    for field in dataclasses.fields(Recipe):
        after = text.partition(f"\n    {field.name}: ")[2].partition("\n")[2]
        assert after.startswith('    """'), field.name


# Your own decay --------------------------------------------------------------


def test_a_decay_of_your_own_is_read_by_its_kind(written: Callable[..., Path]) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sawtooth(Decay):
        kind: ClassVar[str] = "sawtooth"
        teeth: int = 2

        def factor(self, epoch: float, epochs: float) -> float:
            return 1 - (epoch / epochs * self.teeth) % 1

    path = written('batch_size = 8\nlr = 1\nepochs = 4\ndecay = {kind = "sawtooth", teeth = 4}')
    recipe = read(path)
    assert recipe.decay == Sawtooth(teeth=4)
    assert from_dict(json.loads(to_json(recipe))) == recipe
    lr = in_steps(recipe, num_examples=16)
    assert [lr(s) for s in range(4)] == [1, 0.5, 1, 0.5]
    error_line(from_dict, {**to_dict(recipe), "decay": {"kind": "sawtooth", "tooth": 1}})
    del Sawtooth, recipe, lr
    gc.collect()
    assert "sawtooth" not in kinds(Decay), "registration is by being there, nothing else"


def test_a_decay_without_a_kind_of_its_own_is_not_taken_for_its_parent() -> None:
    class Nameless(Step):
        pass

    assert kinds(Decay)["step"] is Step
    error_line(make, decay=Nameless())
    del Nameless
    gc.collect()


def test_a_second_definition_replaces_the_first() -> None:
    """As when a cell of a notebook is run again."""

    class First(Decay):
        kind: ClassVar[str] = "twice"

    class Second(Decay):
        kind: ClassVar[str] = "twice"

    assert kinds(Decay)["twice"] is Second
    del First, Second
    gc.collect()


# Streams and sizes -----------------------------------------------------------


def test_epoch_examples() -> None:
    assert make().epoch_examples is None
    assert make(num_examples=100).epoch_examples == 100
    streams = make(num_tokens=1000, window_tokens=10)
    assert streams.epoch_examples == ((1000 // 8) - 1) // 10 * 8 == 96
    assert streams.with_num_examples(50).epoch_examples == 50


def test_most_streams_is_where_the_last_window_goes() -> None:
    most = most_streams(1000, 10)
    assert make(batch_size=most, num_tokens=1000, window_tokens=10).epoch_examples == most
    error_line(make, batch_size=most + 1, num_tokens=1000, window_tokens=10)


# Mistakes in the values ------------------------------------------------------

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("value", [0, -1, 1.0, NAN, "8", True, [8]])
@pytest.mark.parametrize(
    "field", ["batch_size", "norm_batch_size", "num_examples", "num_tokens", "window_tokens"]
)
def test_a_count_that_is_none(field: str, value: Any) -> None:
    error_line(make, **{field: value})


@pytest.mark.parametrize("field", ["batch_size", "norm_batch_size"])
def test_a_count_may_not_be_left_empty(field: str) -> None:
    error_line(make, **{field: None})


def test_a_count_out_of_this_world() -> None:
    assert make(num_examples=2**53).num_examples == 2**53
    error_line(make, num_examples=2**53 + 1)
    error_line(make, batch_size=10**400)


NUMBERS = ["lr", "epochs", "warmup_epochs", "warmup_from_lr", "clip_norm"]


@pytest.mark.parametrize("value", ["0.1", True, [1], {}, 1j])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_of_the_wrong_type(field: str, value: Any) -> None:
    error_line(make, **{field: value})


@pytest.mark.parametrize("field", ["lr", "warmup_from_lr"])
def test_a_number_may_not_be_left_empty(field: str) -> None:
    error_line(make, **{field: None})


@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e15, -1e300])
@pytest.mark.parametrize("field", NUMBERS)
def test_a_number_that_is_not_finite(field: str, value: float) -> None:
    error_line(make, **{field: value})


@pytest.mark.parametrize("field", NUMBERS)
def test_a_whole_number_that_no_float_holds(field: str) -> None:
    error_line(make, **{field: 10**400})


@pytest.mark.parametrize("value", [0, -0.1, -5])
@pytest.mark.parametrize("field", ["lr", "epochs", "clip_norm"])
def test_a_number_that_is_not_above_0(field: str, value: float) -> None:
    error_line(make, **{field: value})


@pytest.mark.parametrize("field", ["warmup_epochs", "warmup_from_lr"])
def test_a_number_below_0(field: str) -> None:
    error_line(make, **{field: -0.1})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"warmup_from_lr": 0.2}, "mine: warmup_from_lr=0.2: must be at most lr=0.1"),
        *(
            (
                {"warmup_epochs": warmup},
                f"mine: warmup_epochs={warmup}: must end before the run does, at epoch 2; "
                "shorten it or raise epochs",
            )
            for warmup in (2, 2.5)
        ),
        (
            {"decay": "cosine"},
            "mine: decay='cosine': must be a legw Decay; give an instance of one",
        ),
        ({"decay": None}, "mine: decay=None: must be a legw Decay; give an instance of one"),
        ({"decay": SGD()}, f"mine: decay={SGD()!r}: must be a legw Decay; give an instance of one"),
        (
            {"optimizer": "sgd"},
            "mine: optimizer='sgd': must be a legw Optimizer; give an instance of one",
        ),
        (
            {"decay": Decay()},
            "mine: decay=Decay(after_warmup=False): needs a kind to be read by; "
            'set kind = "..." in Decay',
        ),
        (
            {"optimizer": Optimizer()},
            "mine: optimizer=Optimizer(): needs a kind to be read by; "
            'set kind = "..." in Optimizer',
        ),
        (
            {"window_tokens": 10},
            "mine: num_tokens=None: goes with window_tokens; give both or neither",
        ),
        ({"num_tokens": 99}, "mine: num_tokens=99: goes with window_tokens; give both or neither"),
        (
            {"num_tokens": 99, "window_tokens": 2, "num_examples": 5},
            "mine: num_examples=5: follows from num_tokens; give one of the two",
        ),
        (
            {"num_tokens": 7, "window_tokens": 2},
            "mine: batch_size=8: leaves no whole window of 2 tokens in a stream; "
            "at most 2 streams fit",
        ),
        ({"source": 5}, "mine: source=5: must be text; put it in quotes"),
        ({"name": 5}, "recipe: name=5: must be text; put it in quotes"),
        ({"name": None}, "recipe: name=None: must be text; put it in quotes"),
        (
            {"name": ""},
            "recipe: name='': must be 1 to 100 printable characters; give another name",
        ),
        ({"ema_decay": 1}, "mine: ema_decay=1: must be at least 0 and below 1"),
        ({"ema_decay": -0.1}, "mine: ema_decay=-0.1: must be at least 0 and below 1"),
    ],
)
def test_every_line(fields: dict[str, Any], line: str) -> None:
    error_line(make, **fields)


def test_with_num_examples_checks_it() -> None:
    error_line(make().with_num_examples, 0)


def test_recipes_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().lr = 1  # type: ignore[misc]


HOSTILE = ["x" * 10_000, "two\nlines", "\x1b[31mred", "nul\0", "\u2028", "\u202etxt", "\ud800"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name(name: str) -> None:
    line = error_line(make, name=name)
    assert line.startswith("recipe: name='")
    assert line.endswith("must be 1 to 100 printable characters; give another name")
    error_line(from_dict, MINE | {"name": name})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_anywhere_else(text: str) -> None:
    for line in (
        error_line(from_dict, MINE | {"name": text, "lr": -1}),
        error_line(from_dict, {"name": text}),
        error_line(from_dict, MINE | {"name": text, text: 1}),
        error_line(from_dict, MINE | {"lr": text}),
        error_line(from_dict, MINE | {"decay": text}),
        error_line(from_dict, MINE | {"decay": {"kind": text}}),
        error_line(from_dict, MINE | {"decay": {"kind": "cosine", text: 1}}),
        error_line(from_dict, MINE | {"decay": {"kind": "cosine", "end": text}}),
        error_line(from_dict, MINE | {"decay": {"kind": "cosine", "end": [text] * 1000}}),
        error_line(from_dict, MINE | {"optimizer": [text] * 1000}),
        error_line(Step, milestones_epochs=text),
        error_line(Step, milestones_epochs=(9,) + (1,) * 10_000),
    ):
        assert ": " in line


# Mistakes in a file ----------------------------------------------------------

GOOD = "batch_size = 8\nlr = 0.1\nepochs = 2\n"


@pytest.mark.parametrize(
    "text",
    [
        "batch_size = 8\nlr = 0.1",
        "",
        "batch_size = 8\nlr = -1\nepochs = 2",
        "batch_size = 8\nlr = nan\nepochs = 2",
        'batch_size = 8\nlr = "fast"\nepochs = 2',
        "batch_size = 8\nlr = true\nepochs = 2",
        GOOD + "name = 5",
        GOOD + "[decay]\nrate = 0.5",
        GOOD + "decay = 5",
        GOOD + 'decay = "cosin"',
        GOOD + "decay = {kind = 5}",
        GOOD + '[optimizer]\nkind = "sdg"',
        GOOD + '[optimizer]\nkind = "sgd"\nmomentun = 0.9',
        GOOD + '[optimizer]\nkind = "sgd"\nmomentum = "0.9"',
        GOOD + '[optimizer]\nkind = "sgd"\nmomentum = 0.9\nnesterov = 1',
        GOOD + '[decay]\nkind = "step"\nmilestones_epochs = [1, "2"]',
        GOOD + '[decay]\nkind = "halving"\ntimes = 2.5',
        GOOD + '[decay]\nkind = "exponential"\nrate = 2',
        GOOD + '[decay]\nkind = "cosine"\nend = nan',
        "batch_size = ",
        "batch_size = 8\nlr = 0,1",
        "lr = " + "9" * 5000,
        "lr = " + "[" * 100_000,
    ],
    ids=lambda text: text[-30:].replace("\n", " "),
)
def test_a_file_with_a_mistake(written: Callable[..., Path], text: str) -> None:
    path = written(text)
    error_line(read, path)


def test_an_unknown_field(written: Callable[..., Path]) -> None:
    path = written(GOOD + "warmup_epoch = 1")
    error_line(read, path)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "",
        "[1, 2]",
        "null",
        '{"batch_size": 8, "lr": NaN, "epochs": 2}',
        '{"batch_size": 8, "lr": null, "epochs": 2}',
        "[" * 100_000,
        "9" * 5000,
    ],
    ids=lambda text: text[-30:],
)
def test_a_json_file_with_a_mistake(written: Callable[..., Path], text: str) -> None:
    path = written(text, "my.json")
    error_line(read, path)


def test_a_file_that_is_not_utf_8(written: Callable[..., Path]) -> None:
    for content in (b"\xff\xfe", 'name = "é"'.encode("latin-1")):
        path = written(content)
        error_line(read, path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    error_line(read, path)
    error_line(read, tmp_path)
    error_line(read, "nul\0.toml")
    error_line(read, tmp_path / ("x" * 5000))


def test_a_file_with_a_hostile_name(written: Callable[..., Path]) -> None:
    path = written(GOOD, "two\nlines.toml")
    error_line(read, path)
    assert read(written('name = "mine"\n' + GOOD, "two\nlines.toml")) == make()


def test_hostile_toml(written: Callable[..., Path]) -> None:
    key = '"' + "k\\n" * 5000 + '"'
    for text in (f"{key} = 1", f"[a.{key}]\n[a.{key}]", f"{key} = 1\n{key} = 1", "a = '\x1b'"):
        error_line(read, written(text))


# The lines themselves --------------------------------------------------------


def test_every_error_is_a_line_for_the_user() -> None:
    assert issubclass(RecipeError, LegwError)
    assert issubclass(RecipeError, ValueError)


def test_one_line() -> None:
    assert one_line("as it is") == "as it is"
    assert one_line("a\nb\x1b") == "a\\nb\\x1b"
    assert one_line("x" * 10_000) == "x" * 197 + "..."
    assert one_line("\n" * 10_000, limit=10) == "\\n\\n\\n\\..."
    assert one_line("x" * 10, limit=10) == "x" * 10


def test_shown() -> None:
    assert [shown(v) for v in (1, 0.1, "a", None, True)] == ["1", "0.1", "'a'", "None", "True"]
    assert len(shown("x" * 10_000)) == len(shown([1] * 1000)) == 80


def test_unknown_name() -> None:
    assert unknown_name("rule", "lgew", ["legw", "linear"]) == (
        "rule 'lgew' is unknown; did you mean 'legw'? (known: legw, linear)"
    )
    assert unknown_name("rule", "q", iter(["legw"])) == "rule 'q' is unknown (known: legw)"
    for said in ("AdamW", "ADAMW", "adamw"):  # letters' case comes before likeness
        assert "did you mean 'adamw'? (known: adam, adamw)" in unknown_name(
            "kind", said, ["adam", "adamw"]
        )
    assert "did you mean 'SGD'?" in unknown_name("optimizer", "sdg", ["SGD", "Adam"])
    assert unknown_name("rule", "a\n" * 99, ["legw"]).startswith("rule 'a\\na\\n")


def test_a_changed_recipe_is_checked_too() -> None:
    error_line(replace, make(), lr=-1)
    decayed = replace(make(), decay=Polynomial(), optimizer=Adam())
    assert (decayed.decay, decayed.optimizer) == (Polynomial(), Adam())
    assert replace(decayed, decay=Exponential()) != decayed
