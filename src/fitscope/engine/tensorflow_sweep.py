"""The bare sums of a large tensor on a CPU, by a small program that XLA compiles.

TensorFlow's own reductions read the whole tensor, or a part of it, once each. XLA joins what is
done with an element, so a sweep over the tensor, some thousands of elements at a time, adds each
part to running sums that lie side by side; a part stays in the cache for all sums. The step itself
need not be compiled by XLA, and is not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

LANES, MOST_LANES = 1024, 65536
"""Running sums side by side: as few as a loop needs, and at most as many as stay in the cache."""

PARTS = 4
"""How many parts are added to each other before they are added to the running sums."""


class Term(NamedTuple):
    """One of the sums."""

    of: Callable[[Any], Any]
    """What of an element."""
    join: Callable[[Any, Any], Any] = tf.add
    reduce: Callable[..., Any] = tf.reduce_sum
    nothing: float = 0.0
    """What changes no sum."""


def counted(condition: Callable[[Any], Any]) -> Term:
    """How many elements there are for which a condition holds."""
    return Term(lambda x: tf.cast(condition(x), tf.float32))


def _same(x: Any) -> Any:
    return x


TOTAL = Term(_same)
MAGNITUDES = Term(tf.abs)
LEAST = Term(_same, tf.minimum, tf.reduce_min, float("inf"))
GREATEST = Term(_same, tf.maximum, tf.reduce_max, -float("inf"))


@functools.cache
def available() -> bool:
    """Whether XLA compiles for this machine's processor; not every build of TensorFlow can."""
    try:
        with tf.device("CPU:0"):
            tf.function(lambda x: x + 1, jit_compile=True, autograph=False)(tf.constant(1))
    except Exception:
        return False
    return True


def lanes(units: int) -> int:
    """How many running sums there are, each of one unit; 0 where they would be too many."""
    return -(-LANES // units) * units if units <= MOST_LANES else 0


class Elements(NamedTuple):
    """The elements of a flat tensor of any float dtype, or what they are made of."""

    flats: Sequence[Any]
    """Tensors of equal size; XLA knows it."""
    of: Callable[..., Any]
    """Makes elements of as many of each tensor as a sweep is wide, elementwise."""


def sweep(elements: Elements, width: int, terms: Sequence[Term]) -> list[Any]:
    """Go over a tensor, inside a function that XLA compiles.

    Args:
        elements: of the tensor.
        width: the number of running sums.
        terms: what is summed.

    Returns:
        For each term its running sums, `[width]`.
    """
    flats, of = elements
    at_once = width * PARTS
    size = tf.size(flats[0])
    turns = size // at_once
    left = size - turns * at_once
    rest = [
        tf.reshape(tf.pad(x[turns * at_once :], [[0, at_once - left]]), [PARTS, width])
        for x in flats
    ]
    rest = tf.cast(of(*rest), tf.float32)
    valid = tf.reshape(tf.range(at_once) < left, [PARTS, width])
    start = [t.reduce(tf.where(valid, t.of(rest), t.nothing), 0) for t in terms]
    # A slice may not be longer than the tensor, not even in a loop that never runs.
    flats = [tf.pad(x, [[0, tf.maximum(at_once - size, 0)]]) for x in flats]

    def turn(i: Any, *running: Any) -> tuple[Any, ...]:
        starts = [i * at_once + part * width for part in range(PARTS)]
        some = [
            tf.cast(of(*(tf.slice(x, [at], [width]) for x in flats)), tf.float32) for at in starts
        ]
        return i + 1, *(
            t.join(old, functools.reduce(t.join, map(t.of, some)))
            for old, t in zip(running, terms, strict=True)
        )

    return list(tf.while_loop(lambda i, *_: i < turns, turn, (0, *start))[1:])
