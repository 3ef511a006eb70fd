"""What of a batch beside the inputs was not finite: its targets and sample weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from fitscope.engine.layout import to_host
from fitscope.engine.leaves import leaves
from fitscope.rules.execution import Part

_NAMES = ("y", "sample_weight")


def bad_targets(data: Any) -> tuple[Part, ...]:
    """The targets and weights that hold NaN or an infinity.

    Args:
        data: what a step was given, as Keras' data adapters make it; None where it is not known.
    """
    given = data if isinstance(data, (tuple, list)) else (data,)
    found: list[Part] = []
    for name, tree in zip(_NAMES, given[1:], strict=False):
        for leaf, value in leaves(tree):
            array = None if value is None else to_host(value)
            if array is None or "float" not in array.dtype.name:
                continue
            bad = np.flatnonzero(~np.isfinite(array.astype(np.float64)))
            if len(bad):
                place = "".join(f"[{part}]" for part in leaf)
                index = tuple(int(i) for i in np.unravel_index(bad[0], array.shape))
                found.append(Part(f"{name}{place}", len(bad), array.size, index))
    return tuple(found)
