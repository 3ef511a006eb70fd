"""Histograms in a line."""

import numpy as np
import pytest

from fitscope.terminal.glyphs import ASCII, UNICODE, glyphs_for
from fitscope.terminal.sparkline import sparkline


def counts_of(values):
    bits = np.asarray(values, np.float32).view(np.uint32)
    return np.bincount(bits >> np.uint32(21), minlength=2048)


def test_a_symmetric_bump_is_high_in_the_middle():
    line = sparkline(counts_of(np.random.default_rng(0).normal(size=20000)), 12)
    heights = [UNICODE.blocks.index(char) for char in line]
    assert len(line) == 12
    assert max(heights[4:8]) == 8
    assert heights[0] <= 2
    assert heights[-1] <= 2


def test_zeros_are_left_out():
    values = np.abs(np.random.default_rng(0).normal(size=1000)) + 0.5
    plain = sparkline(counts_of(values))
    assert sparkline(counts_of(np.concatenate([values, np.zeros(10**6)]))) == plain


@pytest.mark.parametrize("values", [[], [0.0, -0.0], [np.nan, np.inf, -np.inf]])
def test_nothing_to_draw(values):
    assert sparkline(counts_of(values)) == ""
    assert sparkline(None) == ""


@pytest.mark.parametrize("value", [1e-38, 1.0, -3.4e38, 3.4e38])
def test_one_value_alone_is_drawn(value):
    line = sparkline(counts_of([value] * 5), 8)
    assert len(line) == 8
    assert "█" in line


def test_ascii():
    line = sparkline(counts_of(np.random.default_rng(0).normal(size=1000)), 8, ASCII)
    assert line.isascii()
    assert len(line) == 8


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="2048 bins"):
        sparkline(np.ones(10))


def test_glyphs_for_encodings():
    assert glyphs_for("utf-8") is UNICODE
    for encoding in ("ascii", "latin-1", "cp1252", None, "no-such-encoding"):
        assert glyphs_for(encoding) is ASCII
