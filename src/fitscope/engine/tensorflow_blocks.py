"""The slow branch of an observed TensorFlow step: sums over the finite elements, block by block.

It runs when a bare sum shows that something is not finite or out of range.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

BLOCK = 16384
SLOW = 11
"""Numbers per tensor of the slow branch: whether it ran, nan, +inf, -inf, zeros, least, greatest,
the sums of the finite elements, of their magnitudes and of their squares, and the place of the
first element that is not finite (infinity for none)."""


@functools.lru_cache(maxsize=1)
def _blocks_function() -> Callable[..., Any]:
    signature = [tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)]
    # Inlined, it would be optimised with each step, and it hardly ever runs.
    apart = {"_noinline": True}
    return tf.function(
        _blocks, input_signature=signature, autograph=False, experimental_attributes=apart
    )


def all_blocks(values: Any, sizes: Any) -> Any:
    """`[tensors, SLOW]` of tensors that lie one after the other."""
    return _blocks_function()(values, sizes)


def _blocks(values: Any, sizes: Any) -> Any:
    count = tf.size(sizes)
    values = tf.concat([values, tf.zeros([BLOCK])], 0)
    firsts = tf.cumsum(sizes, exclusive=True)
    blocks = -(-sizes // BLOCK)
    ends = tf.cumsum(blocks)
    infinity = float("inf")
    none = tf.constant([[0.0] * 5 + [infinity, -infinity] + [0.0] * 3 + [infinity]], tf.float64)
    start = tf.tile(none, [count, 1])

    def body(block: Any, held: Any) -> Any:
        site = tf.reduce_sum(tf.cast(block >= ends, tf.int32))
        within = (block - (ends - blocks)[site]) * BLOCK
        part = tf.slice(values, [firsts[site] + within], [BLOCK])
        part = tf.cast(part, tf.float64)
        added, low, high, first = _block(part, tf.range(BLOCK) < sizes[site] - within)
        first += tf.cast(within, tf.float64)
        return block + 1, _add(held, site, (added, low, high, first))

    shapes = (tf.TensorShape([]), tf.TensorShape([None, SLOW]))
    _, held = tf.while_loop(
        lambda block, _: block < ends[-1], body, (0, start), shape_invariants=shapes
    )
    return held


def _block(part: Any, valid: Any) -> tuple[Any, Any, Any, Any]:
    finite = valid & tf.math.is_finite(part)
    infinity = tf.constant(float("inf"), tf.float64)
    kept = tf.where(finite, part, 0.0)
    masks = [
        valid,
        valid & tf.math.is_nan(part),
        valid & tf.equal(part, infinity),
        valid & tf.equal(part, -infinity),
        valid & tf.equal(part, 0.0),
    ]
    counts = tf.reduce_sum(tf.cast(tf.stack(masks), tf.float64), 1)
    low = tf.reduce_min(tf.where(finite, part, infinity))
    high = tf.reduce_max(tf.where(finite, part, -infinity))
    sums = tf.reduce_sum(tf.stack([kept, tf.abs(kept), tf.square(kept)]), 1)
    two, one = tf.zeros([2], tf.float64), tf.zeros([1], tf.float64)
    places = tf.range(BLOCK, dtype=tf.float64)
    first = tf.reduce_min(tf.where(valid & ~finite, places, infinity))
    return tf.concat([counts, two, sums, one], 0), low, high, first


def _add(held: Any, site: Any, block: tuple[Any, Any, Any, Any]) -> Any:
    added, low, high, first = block
    row = held[site] + added
    row = tf.concat(
        [
            row[:5],
            [tf.minimum(row[5], low), tf.maximum(row[6], high)],
            row[7:10],
            [tf.minimum(row[10], first)],
        ],
        0,
    )
    return tf.tensor_scatter_nd_update(held, [[site]], [row])
