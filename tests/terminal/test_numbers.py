"""Numbers as short text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitscope.terminal.numbers import compact, count, duration, percent, shape


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (0.5, "0.5"),
        (0.123456, "0.123"),
        (12.3456, "12.3"),
        (999.4, "999"),
        (1234.5, "1234"),
        (9999.6, "1e4"),
        (123456, "1.23e5"),
        (-1.2345e-7, "-1.23e-7"),
        (0.00099999, "1e-3"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "-"),
        (None, "-"),
    ],
)
def test_compact(value, text):
    assert compact(value) == text


@given(st.floats(-1e300, 1e300))
def test_compact_is_short_and_right_to_three_digits(value):
    text = compact(value)
    assert len(text) <= 10
    assert float(text) == pytest.approx(value, rel=5.01e-3, abs=0)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, "0%"),
        (1e-12, "<0.1%"),
        (0.0011, "0.1%"),
        (0.01, "1%"),
        (0.0234, "2.3%"),
        (0.0994, "9.9%"),
        (0.0999, "10%"),
        (0.5, "50%"),
        (0.986, "98.6%"),
        (0.9989, "99.9%"),
        (0.99999, ">99.9%"),
        (1.0, "100%"),
        (math.nan, "-"),
        (None, "-"),
    ],
)
def test_percent(share, text):
    assert percent(share) == text


@given(st.floats(min_value=5e-324, max_value=1 - 2**-53, exclude_max=False))
def test_percent_never_rounds_to_none_or_all(share):
    assert percent(share) not in ("0%", "0.0%", "100%", "100.0%")


@given(st.floats(0.001, 0.999))
def test_percent_is_near(share):
    assert float(percent(share).rstrip("%")) == pytest.approx(share * 100, abs=0.51)


def test_count_duration_shape():
    assert count(1797) == "1,797"
    assert duration(0.0004) == "0.4 ms"
    assert duration(0.9999) == "1.0 s"
    assert duration(59.97) == "1 min 0 s"
    assert shape((32, None, 4)) == "32x?x4"
    assert shape(()) == "scalar"
