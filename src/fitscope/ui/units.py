"""Which units of a layer are on, step by step: of its recorded tensors.

Statistics count dead units and do not say which. Where the tensors themselves were recorded, they
do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.run.recorded import Piece
from fitscope.statistics.activation import zones

MOST_STEPS = 160
MOST_UNITS = 2048
MOST_ELEMENTS = 24_000_000
"""Elements read for one picture; of a larger recording fewer steps are looked at."""


@dataclass(slots=True, eq=False)
class Units:
    """How much of each unit is on.

    Args:
        steps: int64 `[steps]`, recorded steps, ascending; of many an even choice with the last one.
        on: float32 `[units, steps]`, share of the recorded elements of a unit outside the dead
            zone of the layer's activation; 0 is off for every sample and place.
        since: int64 `[units]`, the first of the steps from which on the unit was off in all of
            them, up to the last one; -1 where it is on in the last one.
        rows: Samples in the recording of the last step.
        recorded: How many steps were recorded in all.
        units: How many units the layer has; those beyond `MOST_UNITS` are left out.
    """

    steps: NDArray[np.int64]
    on: NDArray[np.float32]
    since: NDArray[np.int64]
    rows: int
    recorded: int
    units: int


def units(
    pieces: Sequence[Piece],
    activation: str | None,
    cached: Callable[[Piece, Callable[[], Any]], Any] | None = None,
) -> Units | None:
    """Units of one layer over its recorded steps.

    The last axis holds the units, as everywhere in Keras but with `channels_first`.

    Args:
        pieces: Its recordings in one phase, in the order of writing.
        activation: The name of its activation.
        cached: Gives what was made of a recording before, or makes it.

    Returns:
        The units; None where no tensor with units was recorded, or where "off" means nothing for
        the activation.
    """
    dead = zones(activation).dead
    fitting = [piece for piece in pieces if piece.has_rows and piece.rows and piece.tail]
    if dead is None or not fitting:
        return None
    # A later `fit` may begin at step 0 again: the newest recording of a step counts.
    newest = {piece.step: piece for piece in fitting if piece.tail[-1] == fitting[-1].tail[-1]}
    ordered = [newest[step] for step in sorted(newest)]
    chosen = _even(ordered, _affordable(ordered))
    count = min(ordered[-1].tail[-1], MOST_UNITS)

    def share(piece: Piece) -> NDArray[np.float32]:
        return _on(piece, dead, count)

    columns = [share(p) if cached is None else cached(p, lambda p=p: share(p)) for p in chosen]
    steps = np.array([piece.step for piece in chosen], np.int64)
    on = np.stack(columns, axis=1)
    return Units(steps, on, _since(on, steps), chosen[-1].rows, len(ordered), ordered[-1].tail[-1])


def _on(piece: Piece, dead: tuple[float, float], count: int) -> NDArray[np.float32]:
    values = np.asarray(piece.array)[..., :count].reshape(-1, count)
    # As in the statistics: what is not finite compares false, and is not off.
    off = (values >= dead[0]) & (values <= dead[1])
    return (1 - off.mean(0)).astype(np.float32)


def _since(on: NDArray[np.float32], steps: NDArray[np.int64]) -> NDArray[np.int64]:
    off_from_here = np.flip(np.logical_and.accumulate(np.flip(on == 0, 1), axis=1), 1)
    first = off_from_here.argmax(1)
    return np.where(off_from_here.any(1), steps[first], -1)


def _affordable(pieces: Sequence[Piece]) -> int:
    each = max(piece.rows * math.prod(piece.tail) for piece in pieces)
    return max(2, min(MOST_STEPS, MOST_ELEMENTS // max(each, 1)))


def _even(pieces: Sequence[Piece], most: int) -> list[Piece]:
    if len(pieces) <= most:
        return list(pieces)
    places = np.unique(np.linspace(0, len(pieces) - 1, most).round().astype(int))
    return [pieces[place] for place in places]
