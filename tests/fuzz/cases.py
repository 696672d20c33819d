"""What is thrown at what: one class a kind of input, each of which runs one case at a time.

The rule that every case is held against: it ends well, or in one clear line (a `LegwError`, for
which the command line has exit code 2); nothing else comes out, nothing of the input is run,
nothing outside of the folder is opened or changed, and no file that was whole is lost.
"""

from __future__ import annotations

import contextlib
import copy
import io
import math
import os
import pickle
import random
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from adapters.their_configs import TABLE
from folders import BASE, write_run, write_study
from fuzz.mutate import (
    EXTREME,
    as_json,
    as_toml,
    changed_bytes,
    mutated,
    put_elsewhere,
    take_away,
)
from legw import cli, optimizers, recipe, rules, schedule
from legw.adapters.configs import from_config
from legw.analysis import evidence, summary
from legw.analysis.noise import read_noise
from legw.cli import tables
from legw.errors import LegwError, clean
from legw.recipe import Recipe
from legw.report import markdown, page
from legw.report.charts.schedule import points
from legw.report.charts.terminal import lr_text
from legw.runs import reading, records
from legw.runs.measurements import Noise, append
from legw.study import plan as study
from legw.study import watch
from legw.study.plan import Study
from legw.train import checkpoint, optim
from legw.train.checkpoint_content import Expected
from train.runs import train
from train.tasks import Lines

Case = Callable[[random.Random], str]
"""Runs one case; returns "ok", or "refused" where it ended in one clear line."""

RAN: list[str] = []
"""What an input has run: nothing, if all is well."""


def boom(what: str) -> str:
    """Be what a pickle would run."""
    RAN.append(what)
    return what


class Bomb:
    """An object that runs a function when it is unpickled."""

    def __reduce__(self) -> Any:
        return boom, ("a pickle",)


def line_of(error: LegwError) -> str:
    """Return an error's line, which must be one sane line once it is shown."""
    line = clean(str(error))
    assert line and "\n" not in line
    assert len(line) < 5000, "an error is a line that can be read"
    return "refused"


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Take what is printed, and let no warning become an error."""
    out = io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield out


# Recipes and configurations ------------------------------------------------------------------

TINY = (5e-324, 1e-300, 1e-100, 1e-13, 1e-9, 1e-3)
LARGE = (1e3, 1e6, 1e9, 1e12, 9e14)


def any_recipe(chance: random.Random) -> dict[str, Any]:
    """Return a recipe's plain values: mostly accepted ones, often extreme."""
    number = lambda *usual: chance.choice((*usual, *TINY, *LARGE))  # noqa: E731
    decays = (
        {"kind": "constant"}, {"kind": "cosine", "end": chance.choice((0, 0.5, 1e-300))},
        {"kind": "polynomial", "power": number(1, 2, 1e-6), "end": 0.1},
        {"kind": "step", "milestones_epochs": sorted((number(1), number(2))), "rate": number(0.1)},
        {"kind": "exponential", "rate": number(0.5, 1), "constant_epochs": number(0, 1),
         "every_epochs": number(1, 1e-6)},
        {"kind": "halving", "begin": chance.choice((0, 0.5, 1 - 1e-16, 0.999999)),
         "times": chance.choice((1, 4, 10**6, 10**14)), "rate": number(0.5, 1)},
        {"kind": "wsd", "tail": number(0.2, 1), "end": 0.1,
         "shape": chance.choice(("linear", "cosine", "1-sqrt"))},
        {"kind": "inverse-sqrt", "time_scale_epochs": number(1), "end": 0},
        {"kind": "cosine", "half_cycles": number(1, 3)},
    )  # fmt: skip
    found: dict[str, Any] = {
        "name": chance.choice(("mine", "中", "a b")),
        "batch_size": int(chance.choice((1, 8, 64, 2**20, 2**53))),
        "lr": number(0.1), "decay": dict(chance.choice(decays)),
        "optimizer": {"kind": chance.choice(("sgd", "adam", "adamw", "lars", "lamb", "muon"))},
    }  # fmt: skip
    unit = chance.choice(("epochs", "epochs", "epochs", "steps", "examples", "tokens"))
    found[unit] = number(1, 10, 90.5)
    if unit == "tokens":
        found["tokens_per_example"] = chance.choice((1, 512, 2**53))
    if unit != "epochs":
        for name in list(found["decay"]):
            if name.endswith("_epochs"):
                found["decay"][name.replace("epochs", unit)] = found["decay"].pop(name)
    if chance.random() < 0.5:
        found[f"warmup_{unit}"] = found[unit] * chance.choice((0.1, 0.5, 1e-9, 1 - 1e-16))
    if chance.random() < 0.3:
        found["warmup_from_lr"] = found["lr"] * chance.choice((0, 0.5, 1, 1e-300))
    if chance.random() < 0.8:
        found["num_examples"] = chance.choice((1, 7, 1000, 60_000, 2**40, 2**53))
    elif chance.random() < 0.5:
        found |= {"num_tokens": chance.choice((100, 10**6, 2**53)), "window_tokens": 20}
    if chance.random() < 0.3:
        found["decay"]["after_warmup"] = chance.random() < 0.5
    if chance.random() < 0.2 and found["batch_size"] > 1:
        sizes = sorted({chance.randrange(1, found["batch_size"]) for _ in range(3)})
        shares = sorted({chance.choice((1e-9, 0.1, 0.3, 0.7, 1 - 1e-16)) for _ in sizes})
        found["batch_schedule"] = {
            "sizes": sizes[: len(shares)], f"until_{unit}": [found[unit] * s for s in shares],
            "lr_power": chance.choice((0, 0.5, 1)),
        }  # fmt: skip
    if chance.random() < 0.2:
        found["noise_scales"] = [[found[unit] * s, number(64, 500)] for s in (1e-3, 0.2, 0.6)]
    if chance.random() < 0.2:
        found["noise_batch"] = number(64, 500)
    return found


def use(found: Recipe, chance: random.Random) -> None:
    """Do with a recipe whatever can be done with it."""
    back = recipe.from_dict(recipe.to_dict(found))
    assert back == found
    assert recipe.to_toml(found) and recipe.to_json(found)
    if found.epoch_examples is not None:
        count = schedule.updates(found)
        assert count >= 1, "there is always an update"
        run = schedule.Progress(found)
        assert run.seen(count) == sum(p.updates * p.batch_size for p in run.phases)
        assert run.updates_to(run.seen(count // 2)) == count // 2
        lr = schedule.in_steps(found)
        for update in (0, 1, count // 2, count - 1, count, 2 * count):
            assert 0 <= lr(update) <= found.lr * (1 + 1e-9), "a rate between 0 and the peak"
        if chance.random() < 0.02:
            lr_text({"a": points(found), "b": points(found)})
    rule = chance.choice(list(rules.RULES.values()))
    target = chance.choice((1, 3, 64, found.batch_size, 2 * found.batch_size, 2**53))
    with contextlib.suppress(LegwError):
        scaled = rules.apply(found, target, rule)
        rules.cautions(found, scaled, rule)
        if scaled.epoch_examples is not None:
            assert schedule.updates(scaled) >= 1


def recipe_case(chance: random.Random) -> str:
    """A recipe's values, extreme or mutated."""
    values = any_recipe(chance)
    if chance.random() < 0.4:
        values = mutated(values, chance)
    try:
        if isinstance(values, dict):
            use(recipe.from_dict(values), chance)
    except LegwError as error:
        return line_of(error)
    return "ok"


class RecipeFiles:
    """A recipe's file, mutated as values or as bytes; nested without end."""

    def __init__(self, folder: Path) -> None:
        self.paths = (folder / "mine.toml", folder / "mine.json")

    def __call__(self, chance: random.Random) -> str:
        path = chance.choice(self.paths)
        values = any_recipe(chance)
        if chance.random() < 0.5:
            values = mutated(values, chance)
        content = as_json(values) if path.suffix == ".json" else as_toml(values)
        if chance.random() < 0.4:
            content = changed_bytes(content, chance)
        if chance.random() < 0.05:
            key = b".".join([b"lr", *[b"a"] * chance.choice((10, 100, 1000, 5000))])
            content = content + b"\n" + key + b" = 1\n"
        path.write_bytes(content)
        try:
            use(recipe.read(path), chance)
        except LegwError as error:
            return line_of(error)
        return "ok"


CONFIGS: tuple[dict[str, Any], ...] = (
    {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 1e-4,
     "num_train_epochs": 3.0, "warmup_ratio": 0.01, "lr_scheduler_type": "cosine",
     "weight_decay": 0.1, "adam_beta2": 0.98, "max_grad_norm": 1.0, "output_dir": "out",
     "lr_scheduler_kwargs": {"power": 2}, "optim": "adamw_torch"},
    {"model": "resnet50", "batch_size": 128, "opt": "sgd", "lr": 0.1, "momentum": 0.9,
     "weight_decay": 1e-4, "sched": "step", "decay_milestones": [30, 60], "decay_rate": 0.1,
     "epochs": 90, "warmup_epochs": 1, "warmup_lr": 0.01, "min_lr": 0.001, "amp": True},
    {"opt": "adamw", "batch_size": 64, "lr": 0.004, "sched": "wsd", "decay_epochs": 0.2,
     "lr_decay_fn": "linear", "epochs": 50, "warmup_epochs": 2, "sched_on_updates": True},
    {"per_device_train_batch_size": 4, "max_steps": 5000, "warmup_steps": 100, "optim": "adafactor",
     "lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 500},
     "accelerator_config": {"gradient_accumulation_kwargs": {"num_steps": 4}}},
    *(theirs.values for theirs in TABLE if not theirs.refused),
)  # fmt: skip


class Configurations:
    """A configuration of any form that is read, as values and as a file, and its scaled one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "config.json"

    def __call__(self, chance: random.Random) -> str:
        values = mutated(chance.choice(CONFIGS), chance)
        source: Any = values
        if chance.random() < 0.5:
            content = as_json(values)
            self.path.write_bytes(
                changed_bytes(content, chance) if chance.random() < 0.4 else content
            )
            source = self.path
        elif not isinstance(values, dict):
            return "ok"
        examples = chance.choice((None, 1000, 10**6))
        try:
            with quiet():
                config = from_config(source, num_examples=examples)
                big = config.scaled(
                    chance.choice((1, 64, 4096)), processes=chance.choice((None, None, 4))
                )
                assert from_config(big.values, num_examples=examples, processes=big.processes)
                if config.recipe.optimizer.kind in KINDS:
                    use(config.recipe, chance)
        except LegwError as error:
            return line_of(error)
        return "ok"


# Folders of runs -----------------------------------------------------------------------------


class Folders:
    """A study's folder with three runs, any file of which is mutated, and put right again."""

    files = ("study.json", "table.json", "runs/{}/manifest.json", "runs/{}/metrics.jsonl",
             "runs/{}/summary.json", "runs/{}/noise.jsonl")  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder, self.outside = folder / "study", folder / "outside"
        self.outside.write_bytes(b"precious\n")
        asked = Study(
            task="mine", base=replace(BASE, epochs=1.0), batch_sizes=(16, 64), rules=("legw",),
            seeds=(0,), grid={"lr": (0.1, 0.2)}, command="legw study mine",
        )  # fmt: skip
        lost: dict[str, Any] = {"lr=0.2_legw_b64_s0": {"status": "diverged", "losses": [2.3, 9.0]}}
        runs = write_study(self.folder, asked, **lost)
        write_run(self.folder / "runs" / "other", recipe=replace(BASE, lr=0.5), status=None)
        names = [*[run.name for run in runs][-3:], "other"]
        for name in names:
            row = Noise(update=1, epoch=0.5, trace=2.0, squared_norm=1.0, examples=8)
            append(self.folder / "runs" / name, [replace(row, update=u) for u in range(30)])
        (self.folder / "table.json").write_bytes(b"[]")
        self.paths = [
            self.folder / file.format(name)
            for file in self.files for name in (names if "{}" in file else names[:1])
        ]  # fmt: skip
        self.paths = [path for path in self.paths if path.exists()]
        self.whole = {path: path.read_bytes() for path in self.paths}
        self.values = {
            path: reading.json_value(content) for path, content in self.whole.items()
            if path.suffix == ".json"
        }  # fmt: skip
        self.rows = {
            path: [reading.json_value(line) for line in content.splitlines()]
            for path, content in self.whole.items() if path.suffix == ".jsonl"
        }  # fmt: skip

    def __call__(self, chance: random.Random) -> str:
        touched = chance.sample(self.paths, chance.choice((1, 1, 1, 2, 3)))
        said = [self._mutate(path, chance) for path in touched]
        links = [path for path in touched if path.is_symlink()]
        try:
            return self._look(chance)
        finally:
            assert self.outside.read_bytes() == b"precious\n", said
            for path, content in self.whole.items():
                if path not in touched:
                    continue
                assert (path in links) == path.is_symlink(), "a link was written through"
                take_away(path)
                path.write_bytes(content)

    def _mutate(self, path: Path, chance: random.Random) -> str:
        what = chance.random()
        if what < 0.2:
            return put_elsewhere(path, self.outside, chance)
        if what < 0.4:
            path.write_bytes(changed_bytes(self.whole[path], chance))
            return "bytes"
        if path in self.rows:
            rows = list(self.rows[path])
            for _ in range(chance.choice((1, 3, len(rows)))):
                place = chance.randrange(len(rows))
                rows[place] = mutated(rows[place], chance)
            if chance.random() < 0.2:
                chance.shuffle(rows)
            path.write_bytes(b"\n".join(map(as_json, rows)) + b"\n")
        else:
            path.write_bytes(as_json(mutated(self.values[path], chance)))
        return "values"

    def _look(self, chance: random.Random) -> str:
        what, folder = chance.random(), self.folder
        one = chance.choice([path.parent for path in self.paths if path.name == "manifest.json"])
        try:
            if what < 0.35:
                found = evidence.read(folder)
                text = markdown.text(found)
                for each in found:
                    assert not each.rows or summary.sentence(each.table)
                    if chance.random() < 0.1:
                        tables.results(each.table)
                if chance.random() < 0.004:  # it costs as much as a hundred other cases
                    text += page.text(found)
                text.encode()
            elif what < 0.6:
                view = watch.look(folder)
                assert all(0 <= run.share <= 1 for run in view.runs)
            elif what < 0.75:
                records.load(one)
            elif what < 0.85:
                read_noise(str(one))
            else:
                asked = study.read(folder)
                if asked is not None:
                    runs = study.plan(asked).runs
                    study.rows(runs, folder)
                    study.other_rows(asked, runs, folder)
                    study.pending(runs, folder)
        except LegwError as error:
            return line_of(error)
        return "ok"


# Checkpoints ---------------------------------------------------------------------------------

KINDS: dict[str, optimizers.Optimizer] = {
    "sgd": optimizers.SGD(momentum=0.9), "adam": optimizers.Adam(), "lars": optimizers.LARS(),
    "lamb": optimizers.LAMB(), "muon": optimizers.Muon(),
}  # fmt: skip


def tensors(chance: random.Random) -> Any:
    """Return a tensor, or nearly one, that nobody expects."""
    return chance.choice(
        (lambda: torch.zeros(2), lambda: torch.zeros(()), lambda: torch.zeros(0),
         lambda: torch.zeros(8, 6).double(), lambda: torch.zeros(8, 6).half(),
         lambda: torch.zeros(8, 6).double().to_sparse(), lambda: torch.full((8,), math.nan),
         lambda: torch.zeros(1).double().expand(8, 6), lambda: torch.ones(8, 6).double().t(),
         lambda: torch.tensor(1e30), lambda: torch.tensor(-1.0), lambda: torch.tensor(True),
         lambda: torch.zeros(6, 8).double().t(), lambda: torch.zeros(8, 6, device="meta"),
         lambda: torch.zeros(64, 1, 3), lambda: torch.zeros(8, 6, dtype=torch.complex64))
    )()  # fmt: skip


class Checkpoints:
    """What a checkpoint holds, mutated in memory; what passes is loaded and steps once."""

    def __init__(self, folder: Path) -> None:
        self.made: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
        for kind, data in KINDS.items():
            out = folder / kind
            with quiet():
                train("lines", out, updates=3, changes={"optimizer": data, "ema_decay": 0.9})
            model = Lines().model()
            optimizer = optim.build(data, model, 0.1)
            content = torch.load(checkpoint.paths(out)[-1], weights_only=True)
            self.made[kind] = (model, optimizer, content)

    def __call__(self, chance: random.Random) -> str:
        kind = chance.choice(list(KINDS))
        model, optimizer, whole = self.made[kind]
        content = self._mutated(whole, chance)
        expected = Expected(
            model=model, optimizer=optimizer, batch_size=64, most_updates=3, steering=None,
            carried=lambda: (torch.zeros(64, 1, 7),), averaged=True,
        )  # fmt: skip
        try:
            found = checkpoint.check(content, 3, expected)
        except (checkpoint.DamagedError, checkpoint.OtherModelError) as error:
            assert str(error)
            return "refused"
        checkpoint.Position.from_dict(found["position"])
        checkpoint.load_into(model, optimizer, found)
        Lines().model().load_state_dict(found["average"])
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return "ok"

    def _mutated(self, whole: dict[str, Any], chance: random.Random) -> Any:
        content = _copied(whole)
        if chance.random() < 0.02:
            return chance.choice((*EXTREME, torch.zeros(1)))
        for _ in range(chance.choice((1, 1, 2))):
            way: list[Any] = []
            holder: Any = content
            while isinstance(holder, dict | list) and holder:
                keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
                way.append((holder, chance.choice(keys)))
                holder = holder[way[-1][1]]
                if chance.random() < 0.25:
                    break
            if not way:
                continue
            place, key = way[-1]
            what = chance.random()
            if what < 0.2:
                del place[key]
            elif what < 0.6:
                place[key] = tensors(chance)
            elif what < 0.9:
                place[key] = copy.deepcopy(chance.choice(EXTREME))
            elif isinstance(place, dict):
                place[chance.choice(("more", 99, -1, None, "x" * 300))] = tensors(chance)
        return content


def _copied(value: Any) -> Any:
    """Return a copy down to the tensors."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value.clone() if isinstance(value, torch.Tensor) else value


class CheckpointFiles:
    """A checkpoint's file: other bytes, a pickle that runs something, no file at all."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.outside = folder / "files", folder / "outside.pt"
        with quiet():
            train("lines", self.folder, updates=3)
        (self.newest,) = checkpoint.paths(self.folder)
        self.content = self.newest.read_bytes()
        self.outside.write_bytes(self.content)

    def __call__(self, chance: random.Random) -> str:
        what = chance.random()
        if what < 0.7:
            self.newest.write_bytes(changed_bytes(self.content, chance))
        elif what < 0.8:
            bomb: Any = {"model": Bomb(), "position": Bomb()}
            if chance.random() < 0.5:
                torch.save(bomb, self.newest)
            else:
                self.newest.write_bytes(pickle.dumps(bomb))
        else:
            put_elsewhere(self.newest, self.outside, chance)
        try:
            with quiet():
                found = checkpoint.load_newest(self.folder, lambda line: None)
            assert found is None or found["position"]["updates"] == 3
        except LegwError as error:
            return line_of(error)
        finally:
            assert not RAN, "a checkpoint has run something"
            assert self.outside.read_bytes() == self.content
            take_away(self.newest)
        return "ok"


class Resumes:
    """A run that goes on in a folder of which any file is mutated."""

    def __init__(self, folder: Path) -> None:
        self.whole, self.out = folder / "resume", folder / "resumed"
        self.outside = folder / "outside.txt"
        self.outside.write_bytes(b"precious\n")
        with quiet():
            train("lines", self.whole, updates=4, checkpoint_epochs=0.5)
        (self.whole / "summary.json").unlink()
        checkpoint.paths(self.whole)[-1].unlink()

    def __call__(self, chance: random.Random) -> str:
        shutil.copytree(self.whole, self.out)
        path = chance.choice(sorted(self.out.iterdir()))
        if chance.random() < 0.4:
            put_elsewhere(path, self.outside, chance)
        else:
            path.write_bytes(changed_bytes(path.read_bytes(), chance))
        kept = {
            each: each.read_bytes() for each in self.out.iterdir() if each.name.endswith(".pt")
            and each != path
        }  # fmt: skip
        try:
            with quiet():
                end = train("lines", self.out, updates=4, resume=True)
            assert end.status == "finished"
            metrics = self.out / "metrics.jsonl"
            assert b"\0" not in metrics.read_bytes() or path == metrics
            return "ok"
        except LegwError as error:
            assert all(each.read_bytes() == content for each, content in kept.items())
            return line_of(error)
        finally:
            assert self.outside.read_bytes() == b"precious\n"
            for each in self.out.iterdir():
                take_away(each)
            self.out.rmdir()


# The command line ----------------------------------------------------------------------------


class Commands:
    """Words of the command line, some of them others; the whole way, with its exit code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_run(folder / "run")
        self.lines = (
            "scale mnist-lstm -b 8192", "scale mnist-lstm --ladder 128:8192 --rule legw",
            "schedule mnist-lstm -b 512", "recipes", f"watch {folder} --once", "study digits-lstm "
            f"--batch-sizes 16,64 --rules legw --seeds 2 --dry-run --out {folder}/none",
            f"report {folder}/run --format md --out {folder}/page.md", "nothing", "",
            "train digits-lstm -b 64 --rule legw --seed -1 --micro-batch-size none",
        )  # fmt: skip

    def __call__(self, chance: random.Random) -> str:
        words = chance.choice(self.lines).split()
        for _ in range(chance.choice((0, 1, 1, 2))):
            place = chance.randrange(len(words) + 1)
            other = str(chance.choice(EXTREME))[:200].replace("\ud800", "?").replace("\0", "?")
            if words[:1] == ["train"] and place == 0:
                continue
            words[place : place + chance.randrange(2)] = [chance.choice((other, "--json", "-b"))]
        if words[:1] == ["train"] and "--micro-batch-size" not in words:
            return "ok"  # it would train
        before = sys.stdout
        with quiet() as out:
            code = cli.main(words)
        assert sys.stdout is before
        assert code in (0, 2, 3, 130), (words, code)
        assert "Traceback" not in out.getvalue(), words
        return "ok" if code == 0 else "refused"


KINDS_OF_CASES: dict[str, tuple[Callable[[Path], Case], int]] = {
    "recipes": (lambda _: recipe_case, 250),
    "recipe files": (RecipeFiles, 190),
    "configurations": (Configurations, 150),
    "run and study folders": (Folders, 200),
    "checkpoint contents": (Checkpoints, 150),
    "checkpoint files": (CheckpointFiles, 45),
    "resumed runs": (Resumes, 10),
    "command lines": (Commands, 5),
}
"""Every kind, with its share of a thousand cases."""


def make(kind: str, folder: Path) -> Case:
    """Return what runs the cases of a kind, with an empty folder of its own."""
    place = folder / kind.replace(" ", "-")
    place.mkdir()
    os.chdir(place)
    return KINDS_OF_CASES[kind][0](place)
