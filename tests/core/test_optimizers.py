"""Optimizers as data: their settings' ranges, defaults and families."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from expect import error_line
from legw.errors import check_range
from legw.optimizers import LAMB, LARS, SGD, Adam, AdamW, Optimizer
from legw.recipe import kinds

SHIPPED = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "lars": LARS, "lamb": LAMB}
UNIT = "must be a number, at least 0 and below 1"
POSITIVE = "must be a number, at least 0 and finite"


def test_the_shipped_kinds() -> None:
    assert kinds(Optimizer) | SHIPPED == kinds(Optimizer)


def test_defaults_are_the_published_ones() -> None:
    assert SGD() == SGD(momentum=0.0, nesterov=False, weight_decay=0.0)
    assert Adam() == Adam(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.0)
    assert AdamW() == AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=0.01)
    assert LARS() == LARS(momentum=0.9, weight_decay=0.0, trust_coefficient=1e-3, epsilon=1e-8)
    assert LAMB() == LAMB(beta1=0.9, beta2=0.999, epsilon=1e-6, weight_decay=0.01)


def test_the_adaptive_ones_are_adams_family() -> None:
    adaptive = {kind for kind, cls in SHIPPED.items() if cls.adaptive}
    assert adaptive == {kind for kind, cls in SHIPPED.items() if issubclass(cls, Adam)}
    assert adaptive == {"adam", "adamw", "lamb"}


@pytest.mark.parametrize(
    ("cls", "field", "rule"),
    [
        (SGD, "momentum", UNIT),
        (SGD, "weight_decay", POSITIVE),
        (LARS, "momentum", UNIT),
        (LARS, "weight_decay", POSITIVE),
        (LARS, "epsilon", POSITIVE),
        *(
            (cls, field, rule)
            for cls in (Adam, AdamW, LAMB)
            for field, rule in [
                ("beta1", UNIT),
                ("beta2", UNIT),
                ("epsilon", POSITIVE),
                ("weight_decay", POSITIVE),
            ]
        ),
    ],
)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), True, "0.9", None, 10**400])
def test_a_setting_out_of_range(cls: type[Any], field: str, rule: str, value: object) -> None:
    error_line(cls, **{field: value})


def test_the_lines_name_the_value() -> None:
    error_line(SGD, momentum=1.0)
    error_line(LARS, trust_coefficient=0)
    error_line(Adam, beta1="x" * 10_000)


def test_nesterov_needs_momentum() -> None:
    error_line(SGD, nesterov=True)
    assert SGD(momentum=0.9, nesterov=True).nesterov


def test_check_range_takes_its_lower_bound_and_refuses_its_upper() -> None:
    check_range("mine", "share", 0, 0, 1)
    error_line(check_range, "mine", "share", 1, 0, 1)


@pytest.mark.parametrize("cls", SHIPPED.values())
def test_values_are_frozen(cls: type[Any]) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().weight_decay = 1.0
