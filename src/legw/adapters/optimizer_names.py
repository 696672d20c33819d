"""Optimizer names in other libraries, and the recipe's optimizer for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from legw.errors import shown
from legw.optimizers import Muon, Optimizer


@dataclass(frozen=True, kw_only=True)
class OtherOptimizer(Optimizer):
    """An optimizer of another library that legw does not have, kept unchanged.

    >>> OtherOptimizer(name="adafactor").kind
    'other'
    """

    kind: ClassVar[str] = "other"
    elsewhere: ClassVar[bool] = True

    name: str
    """The other library's name for it."""


def other(setting: str, name: object) -> tuple[Optimizer, str]:
    """Return an optimizer whose settings are not carried, and the line that says so.

    That is our `Muon` for any Muon; otherwise an `OtherOptimizer`.

    >>> other("optim", "adafactor")[1].partition(";")[0]
    "optim='adafactor': is none of legw's optimizers"
    """
    if str(name).lower() == "muon":
        return Muon(), (
            f"{setting}={shown(name)}: measures its step by lr in its own way, and its settings "
            "stay; the recipe's lr is that one"
        )
    return OtherOptimizer(name=str(name)), (
        f"{setting}={shown(name)}: is none of legw's optimizers; it stays as it is, and whether a "
        "rule fits it is not known"
    )


def is_adamw(name: str) -> bool:
    """Say whether a name means AdamW, in any implementation.

    >>> is_adamw("adamw_bnb_8bit"), is_adamw("paged_adamw_32bit"), is_adamw("galore_adamw")
    (True, True, False)
    """
    plain = name.removeprefix("paged_").removeprefix("ao_")
    return plain == "adamw" or plain.startswith("adamw_")
