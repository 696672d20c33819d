"""Optimizer names in other libraries, and the recipe's optimizer for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from legw.errors import shown
from legw.optimizers import Muon, Optimizer


@dataclass(frozen=True, kw_only=True)
class OtherOptimizer(Optimizer):
    """An optimizer of another library's that is none of ours, and stays as it is there.

    >>> OtherOptimizer(name="adafactor").kind
    'other'
    """

    kind: ClassVar[str] = "other"
    elsewhere: ClassVar[bool] = True

    name: str
    """What the other library calls it."""


def other(setting: str, name: object) -> tuple[Optimizer, str]:
    """Return an optimizer whose settings are not carried, and the line that says so.

    That is `Muon` where it is one, with our settings; else one that is none of ours.

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
    """Say whether a name means AdamW, however it is computed or stored.

    >>> is_adamw("adamw_bnb_8bit"), is_adamw("paged_adamw_32bit"), is_adamw("galore_adamw")
    (True, True, False)
    """
    plain = name.removeprefix("paged_").removeprefix("ao_")
    return plain == "adamw" or plain.startswith("adamw_")
