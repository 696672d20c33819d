"""Checks of numbers: the types of other libraries are refused, with the way to ours."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy
import pytest

from expect import error_line
from legw import RecipeError
from legw.errors import check_count, check_range


@pytest.mark.parametrize("value", [numpy.int64(3), numpy.float32(3), Decimal(3)])
def test_numbers_of_other_libraries(value: object) -> None:
    with pytest.raises(RecipeError, match=r"at least 1; give Python's own number, by int\(\)"):
        check_count("mine", "batch_size", value)
    with pytest.raises(RecipeError, match=r"finite; give Python's own number, by int\(\)"):
        check_range("mine", "lr", value, 0)


@pytest.mark.parametrize("value", [True, None, "3", float("nan"), [3], 10**400])
def test_what_is_no_number_has_no_such_advice(value: object) -> None:
    with pytest.raises(RecipeError, match=r"must be a number, at least 0 and finite$"):
        check_range("mine", "lr", value, 0)


def test_a_range_without_an_end_takes_infinity_and_does_not_say_finite() -> None:
    check_range("net", "bandwidth", math.inf, 0, math.inf, above=True, closed=True)
    line = error_line(check_range, "net", "bandwidth", 0, 0, math.inf, above=True, closed=True)
    assert line == "net: bandwidth=0: must be a number, above 0"
