"""The bare sums of a tensor in one sweep over it, as a CPU does it fast.

XLA makes a loop of each reduction, with one running sum that waits for itself, and each reads the
tensor from memory. A sweep goes over the tensor once, some thousands of elements at a time, which
stay in the cache for all its sums, and adds each part to running sums that lie side by side: four
times as fast. The squares cannot be taken around the mean of a tensor that was not yet read, so
they are around that of a sample.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

SMALLEST = 16384
"""Elements below which a sweep is not faster."""

_LANES = (1024, 65536)
"""Running sums side by side: as few as a loop needs, and at most as many as stay in the cache."""

_LONGEST = 8
"""How many parts are added to each other before they are added to the running sums."""


class Sums(NamedTuple):
    """What a sweep finds."""

    total: Any
    magnitudes: Any
    squares: Any
    nonzero: Any
    """As an integer."""
    least: Any
    """Of each unit, like those below."""
    greatest: Any
    inside: Sequence[Any]
    """Elements for which a condition holds; one array, or none."""


class Sweep(NamedTuple):
    """How a matrix of rows is gone over."""

    lanes: int
    parts: int
    turns: int


@functools.cache
def sweep_over(rows: int, units: int) -> Sweep | None:
    """How a sweep goes over a matrix; None where it would not be faster."""
    if rows * units < SMALLEST or units > _LANES[1]:
        return None
    fewest, wanted, most = (-(-lanes // units) for lanes in (_LANES[0] // 4, *_LANES))
    choice = (*range(wanted, most + 1), *range(wanted - 1, fewest - 1, -1))
    at_once = next((n for n in choice if rows % n == 0), None)
    if at_once is None:
        return None
    left = rows // at_once
    parts = next(n for n in range(_LONGEST, 0, -1) if left % n == 0)
    return Sweep(at_once * units, parts, left // parts)


def sums(
    rows: Any, sweep: Sweep, center: Any, scale: Any, inside: Callable[[Any], Any] | None
) -> Sums:
    """Go over a matrix of any float dtype.

    Args:
        rows: the matrix, one column per unit.
        sweep: how.
        center: what the squares are around.
        scale: what the distances from it are multiplied by before they are squared.
        inside: elementwise, 1 where an element counts and else 0; None where nothing is counted.
    """
    flat, units = rows.reshape(-1), rows.shape[1]
    lanes, parts, turns = sweep

    def turn(i: Any, running: Sequence[Any]) -> Sequence[Any]:
        # Slices of the flat tensor: XLA computes the place of each element anew in any other shape.
        start = i * (lanes * parts)
        some = [
            lax.dynamic_slice(flat, (start + part * lanes,), (lanes,)).astype(jnp.float32)
            for part in range(parts)
        ]
        return [
            join(old, functools.reduce(join, map(of, some)))
            for old, (join, of, _) in zip(running, terms, strict=True)
        ]

    terms: list[tuple[Any, Callable[[Any], Any], float]] = [
        (jnp.add, lambda x: x, 0.0),
        (jnp.add, jnp.abs, 0.0),
        (jnp.add, lambda x: jnp.square((x - center) * scale), 0.0),
        (jnp.add, lambda x: (x != 0).astype(jnp.float32), 0.0),
        (jnp.minimum, lambda x: x, jnp.inf),
        (jnp.maximum, lambda x: x, -jnp.inf),
    ]
    if inside is not None:
        terms.append((jnp.add, inside, 0.0))
    starts = [jnp.full(lanes, start, jnp.float32) for *_, start in terms]
    total, magnitudes, squares, nonzero, *of_units = lax.fori_loop(0, turns, turn, starts)
    least, greatest, *counted = (lane.reshape(-1, units) for lane in of_units)
    return Sums(
        total.sum(), magnitudes.sum(), squares.sum(), nonzero.astype(jnp.int32).sum(),
        least.min(0), greatest.max(0), [count.sum(0) for count in counted],
    )  # fmt: skip
