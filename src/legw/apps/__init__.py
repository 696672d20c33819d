"""Applications: each is a `Task`, found by its name; a user's own task is found as well."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from legw.errors import LegwError, RunError, one_line, unknown_name
from legw.train.task import Task

Holdout = Literal["test", "validation"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an application."""

    data: Path | None = None
    """Folder with the data; None looks in $LEGW_DATA, then in the cache, then downloads."""
    holdout: Holdout = "test"
    """Data for the metric: test, or validation. Validation holds out part of the training data
    where the data have no validation part of their own."""
    vocabulary: int | None = None
    """Most words of a language model's vocabulary, `<eos>` and `<unk>` among them, at least
    3; rarer words become `<unk>`. None takes all that the training text has. Of translation
    the number of subwords, both languages together; None takes the application's own."""
    subwords: int | None = None
    """Subwords of a language model, at least 8, which are learned on the training text; None
    reads words."""
    source: str | None = None
    """Language that is translated, as the files' names end; None is en."""
    target: str | None = None
    """Language that is translated into, as the files' names end; None is de."""
    skip_broken: bool = False
    """Leave broken image files out, and say how many, in place of an error."""
    workers: int | None = None
    """Processes that decode ImageNet's images, at least 0 (none: the one that trains); None
    is one for each core, less one."""
    made_up: bool = False
    """ImageNet: noise in place of images, to measure the cost of training."""


APPS = {
    "digits-lstm": "legw.apps.digits",
    "digits-lstm-muon": "legw.apps.digits",
    "mnist-lstm": "legw.apps.mnist",
    "mnist-lstm-muon": "legw.apps.mnist",
    "ptb-small": "legw.apps.ptb",
    "ptb-small-muon": "legw.apps.ptb",
    "ptb-medium": "legw.apps.ptb",
    "ptb-large": "legw.apps.ptb",
    "cifar10": "legw.apps.images",
    "cifar10-small": "legw.apps.images",
    "cifar10-small-muon": "legw.apps.images",
    "resnet50-imagenet": "legw.apps.images",
    "gnmt": "legw.apps.translation",
    "gnmt-small": "legw.apps.translation",
    "gnmt-small-muon": "legw.apps.translation",
    "gpt-small": "legw.apps.gpt",
    "gpt-small-muon": "legw.apps.gpt",
}
"""The applications that ship: name -> module with a function `task(name, options)`, and with
`TAKES`, the names of its own options, where it has some."""

SHARED = ("data", "holdout", "made_up")
"""Options that every application takes; its module names the others in `TAKES`."""


def measured_on(holdout: str, fingerprint: str) -> str:
    """Return the fingerprint of data together with the part on which the metric is measured.

    Metrics of two parts must not be mixed in one table.
    """
    return fingerprint if holdout == "test" else f"{fingerprint}-{holdout}"


def find(name: str, options: Options | None = None) -> Task:
    """Return an application by its name, or a user's task by ``module:attribute``.

    The attribute is a task, or a function of no arguments that returns one; modules
    are looked up in the current folder too.

    Raises:
        RunError: there is no such application, module or attribute, or it is no task.
        DataError: its data are not found.
    """
    options = options or Options()
    if ":" not in name and name not in APPS:
        raise RunError(unknown_name("application", name, APPS) + "; your own task is module:name")
    module = importlib.import_module(APPS[name]) if name in APPS else None
    taken = {*SHARED, *getattr(module, "TAKES", ())}
    for each in fields(options):
        value = getattr(options, each.name)
        if value != each.default and each.name not in taken:
            raise RunError(
                f"{name}: {each.name}={one_line(str(value), 60)}: is for {_takers(each.name)} "
                "alone; leave it out"
            )
    if module is None:
        return _users_own(name)
    task: Task = module.task(name, options)
    task.holdout = options.holdout  # type: ignore[attr-defined] # optional in the protocol
    return task


def _takers(option: str) -> str:
    """Return the names of the applications that take an option."""
    modules = {path: importlib.import_module(path) for path in set(APPS.values())}
    takes = [name for name, path in APPS.items() if option in getattr(modules[path], "TAKES", ())]
    return ", ".join(takes)


def _users_own(name: str) -> Task:
    import sys

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        made = isinstance(found, Task) and not isinstance(found, type)  # a class has its members
        task = found if made or not callable(found) else _called(name, found)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise RunError(f"task {name!r}: there is no module {module_name!r} here") from None
    except AttributeError:
        raise RunError(f"task {name!r}: {module_name} has no {attribute!r}") from None
    except LegwError:
        raise
    finally:
        sys.path.remove(str(Path.cwd()))
    if not isinstance(task, Task):
        missing = [m for m in _MEMBERS if not hasattr(task, m)]
        raise RunError(f"task {name!r}: is no legw Task: {', '.join(missing)} missing")
    return task


def _called(name: str, function: Any) -> Any:
    """Call a user's function or class, which must need no arguments."""
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        raise RunError(
            f"task {name!r}: needs arguments; give a task, or a function of none"
        ) from None
    return function()


_MEMBERS = ("name", "metric", "num_examples", "model", "order", "batch", "loss", "evaluate")
