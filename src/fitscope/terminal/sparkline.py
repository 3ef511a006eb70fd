"""A magnitude histogram as a few characters, on a linear axis.

Exact zeros are left out: after a ReLU nothing else would be visible, and the table gives their
share in a column of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fitscope.statistics.bars import bars
from fitscope.statistics.bins import BINS, ZERO_BINS
from fitscope.terminal.glyphs import UNICODE, Glyphs


def sparkline(counts: ArrayLike | None, width: int = 12, glyphs: Glyphs = UNICODE) -> str:
    """Draw a histogram in one line, from its 0.5% to its 99.5% quantile.

    Args:
        counts: Counts of the 2048 magnitude bins, or `None`.
        width: Number of characters.
        glyphs: The characters to draw with.

    Returns:
        `width` characters; an empty text when there is no finite non-zero value.

    Raises:
        ValueError: It is no magnitude histogram.

    Example:
        >>> from fitscope.statistics.histogram import Histogram
        >>> values = np.abs(np.random.default_rng(0).normal(size=9999))
        >>> sparkline(Histogram.of(values).counts, 10)
        '██▇▅▄▂▂▁▁▁'
    """
    if counts is None:
        return ""
    nonzero = np.array(counts, np.float64)
    if nonzero.shape != (BINS,):
        raise ValueError(f"a magnitude histogram has {BINS} bins; received shape {nonzero.shape}")
    nonzero[list(ZERO_BINS)] = 0.0
    heights = bars(nonzero, width)
    if not heights.any():
        return ""
    levels = len(glyphs.blocks) - 1
    # Rounded up: what is there is drawn. The allowance keeps rounding noise from drawing.
    return "".join(glyphs.blocks[int(np.ceil(height * levels - 1e-6))] for height in heights)
