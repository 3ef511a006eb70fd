"""What an observed TensorFlow step computes; `tensorflow_rows` makes moments of it on the host.

Every operation costs about a tenth of a millisecond to trace, so each tensor gets only the bare
reductions, and what can be is done for all tensors at once. One branch goes over all tensors again
in float64, block by block, when a sum shows that something is not finite or out of range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fitscope.engine.vector import BINS, SAMPLES
from fitscope.statistics.activation import Zones

BLOCK = 16384
SLOW = 10
"""Numbers per tensor of the slow branch: whether it ran, nan, +inf, -inf, zeros, least, greatest,
and the sums of the finite elements, of their magnitudes and of their squares."""

_TINY = 2.0**-30
"""Mean magnitude below which squares of float32 numbers begin to vanish."""


AGAIN = 4
"""Numbers per tensor of the exact branch: whether it ran, and the sum of the magnitudes, the sum of
the squares around the mean and the nonzero elements as they are without shortcuts."""

_LARGE = 1024
"""Elements of one sample from which on a pass over the tensor is worth a shortcut."""

_SPREAD = 4.0
"""Mean square over variance up to which float32 sums of plain squares give the variance."""


@dataclasses.dataclass(frozen=True)
class Hints:
    """What a layer says of its output beforehand; a step in which it is not so is put right.

    Args:
        nonnegative: Whether no element is below zero.
        seldom_zero: Whether an element that is exactly zero would be a coincidence.
    """

    nonnegative: bool = False
    seldom_zero: bool = False


class Reduced:
    """The reductions of one tensor.

    Every temporary of a large tensor costs as much as several reductions, so its magnitudes, the
    distances from its mean and the marks of what is not zero are made only where no shortcut gives
    the sum. `checks` tell whether the shortcuts held.
    """

    def __init__(
        self, tensor: Any, zones: Zones, unit_axis: int, hints: Hints, *, compiled: bool
    ) -> None:
        x = tf.stop_gradient(tensor)  # also keeps the gradient tape from recording what follows
        self.flat = tf.reshape(x, [-1])
        self.size = tf.size(self.flat)
        rows = _rows(x, unit_axis)
        if rows.dtype != tf.float32:
            rows = tf.cast(rows, tf.float32)
        self.rows = rows
        self.units_known = rows.shape[1]
        self.checks: list[Any] = []
        large = _is_large(x)
        low, high = tf.reduce_min(rows, 0), tf.reduce_max(rows, 0)
        if compiled:
            # XLA's minimum on CPU passes over a NaN; a sum does not.
            columns = tf.reduce_sum(rows, 0)
            total = tf.reduce_sum(columns)
            low = tf.where(tf.math.is_finite(columns), low, float("nan"))
        else:
            total = tf.reduce_sum(rows)
        self.units = [low, high, *_saturated(rows, zones)]
        if hints.nonnegative and large:
            magnitudes, l1 = rows, total
            self.checks.append(tf.reduce_min(low) >= 0.0)
        else:
            magnitudes = tf.abs(rows)
            l1 = tf.reduce_sum(magnitudes)
        self.sums = [total, l1, self._squares(total, large=large and not compiled)]
        if hints.seldom_zero and large:
            self.nonzero = self.size
            self.checks.append(tf.reduce_min(magnitudes) > 0.0)
        else:
            self.nonzero = _nonzero(rows, compiled=compiled, large=large)

    def _squares(self, total: Any, *, large: bool) -> Any:
        """The sum of squares around the mean."""
        size = tf.cast(self.size, tf.float32)
        if not large:
            return tf.reduce_sum(tf.math.squared_difference(self.rows, total / size))
        # XLA would add the squares up one after the other, which loses digits.
        plain = 2.0 * tf.nn.l2_loss(self.rows)
        around = plain - total * (total / size)
        self.checks.append(plain <= _SPREAD * around)
        return around

    def exact(self) -> Any:
        """What the exact branch gives of this tensor; see `AGAIN`."""
        if not self.checks:
            return tf.zeros([AGAIN], tf.float64)
        mean = self.sums[0] / tf.cast(self.size, tf.float32)
        values = [
            tf.ones(()),
            tf.reduce_sum(tf.abs(self.rows)),
            tf.reduce_sum(tf.math.squared_difference(self.rows, mean)),
            tf.math.count_nonzero(self.rows, dtype=tf.int32),
        ]
        return tf.stack([tf.cast(v, tf.float64) for v in values])


def _is_large(x: Any) -> bool:
    sample = x.shape[1:] if x.shape.rank else None
    return bool(
        sample is not None and sample.is_fully_defined() and sample.num_elements() >= _LARGE
    )


def _nonzero(rows: Any, *, compiled: bool, large: bool) -> Any:
    if not large:
        return tf.math.count_nonzero(rows, dtype=tf.int32)
    if compiled:
        # By columns: each holds few enough for float32 to count, which XLA adds up faster.
        ones = tf.reduce_sum(tf.cast(tf.not_equal(rows, 0.0), tf.float32), 0)
        return tf.reduce_sum(tf.cast(ones, tf.int32))
    # A byte for each element, counted eight at a time: a quarter of the memory, half the time.
    marks = tf.reshape(tf.cast(tf.cast(rows, tf.bool), tf.uint8), [-1])
    whole = tf.size(marks) // 8 * 8
    words = tf.bitcast(tf.reshape(marks[:whole], [-1, 8]), tf.int64)
    counted = tf.reduce_sum(tf.cast(tf.raw_ops.PopulationCount(x=words), tf.int32))
    return counted + tf.reduce_sum(tf.cast(marks[whole:], tf.int32))


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    rank = x.shape.rank
    if rank is None or rank < 2:
        return tf.reshape(x, [-1, 1])
    if unit_axis not in (-1, rank - 1):
        x = tf.transpose(x, [i for i in range(rank) if i != unit_axis] + [unit_axis])
    # Where the width is not known before the step runs, all elements count as one unit.
    return tf.reshape(x, [-1, x.shape[-1] or 1])


def _saturated(rows: Any, zones: Zones) -> list[Any]:
    parts = []
    if zones.saturated_below is not None:
        parts.append(rows <= zones.saturated_below)
    if zones.saturated_above is not None:
        parts.append(rows >= zones.saturated_above)
    if not parts:
        return []
    inside = parts[0] if len(parts) == 1 else parts[0] | parts[1]
    return [tf.reduce_sum(tf.cast(inside, tf.float32), 0)]


def row(found: Sequence[Reduced]) -> dict[str, Any]:
    """Everything that leaves the step, in shapes that are known while it is traced."""
    count = len(found)
    length = sum(3 + len(r.units) * r.units_known for r in found)
    return {
        "floats": tf.reshape(_floats(found), [length]),
        "integers": tf.reshape(_integers(found), [2, count]),
        "again": tf.reshape(_again(found), [count, AGAIN]),
        "slow": tf.reshape(_slow(found), [count, SLOW]),
        "histograms": tf.reshape(_histograms(found), [count * BINS]),
    }


def _floats(found: Sequence[Reduced]) -> Any:
    """Sums of every tensor, then the units of every tensor, as one vector."""
    sums = tf.stack([value for r in found for value in r.sums])
    return tf.concat([sums, *(u for r in found for u in r.units)], 0)


def _integers(found: Sequence[Reduced]) -> Any:
    """`[2, tensors]`: sizes, and nonzero elements."""
    return tf.stack([tf.stack([r.size for r in found]), tf.stack([r.nonzero for r in found])])


def _again(found: Sequence[Reduced]) -> Any:
    """`[tensors, AGAIN]` in float64: zeros unless a shortcut did not hold in this step."""
    checks = [check for r in found for check in r.checks]
    nothing = tf.zeros([len(found), AGAIN], tf.float64)
    if not checks:
        return nothing
    held = tf.reduce_all(tf.stack(checks))
    return tf.cond(held, lambda: nothing, lambda: tf.stack([r.exact() for r in found]))


def _slow(found: Sequence[Reduced]) -> Any:
    """`[tensors, SLOW]` in float64: zeros unless a sum is not finite or out of range."""
    sums = tf.stack([tf.stack(r.sums) for r in found])
    sizes = tf.stack([r.size for r in found])
    l1, m2 = sums[:, 1], sums[:, 2]
    in_range = tf.equal(l1, 0.0) | (l1 > tf.cast(sizes, tf.float32) * _TINY) | tf.equal(sizes, 0)
    plain = ((tf.math.is_finite(l1) & tf.math.is_finite(m2)) | tf.equal(sizes, 0)) & in_range
    return tf.cond(
        tf.reduce_all(plain),
        lambda: tf.zeros([len(found), SLOW], tf.float64),
        lambda: _all_blocks([r.flat for r in found], sizes),
    )


def _all_blocks(flats: Sequence[Any], sizes: Any) -> Any:
    count = len(flats)
    padding = tf.zeros([BLOCK])
    values = tf.concat([*(tf.cast(f, tf.float32) for f in flats), padding], 0)
    firsts = tf.cumsum(sizes, exclusive=True)
    blocks = -(-sizes // BLOCK)
    ends = tf.cumsum(blocks)
    start = tf.tensor_scatter_nd_update(
        tf.zeros([count, SLOW], tf.float64),
        [[i, place] for i in range(count) for place in (5, 6)],
        tf.constant([float("inf"), float("-inf")] * count, tf.float64),
    )

    def body(block: Any, held: Any) -> Any:
        site = tf.reduce_sum(tf.cast(block >= ends, tf.int32))
        within = (block - (ends - blocks)[site]) * BLOCK
        part = tf.slice(values, [firsts[site] + within], [BLOCK])
        part = tf.cast(part, tf.float64)
        return block + 1, _add(held, site, _block(part, tf.range(BLOCK) < sizes[site] - within))

    _, held = tf.while_loop(lambda block, _: block < ends[-1], body, (0, start))
    return held


def _block(part: Any, valid: Any) -> tuple[Any, Any, Any]:
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
    zero = tf.zeros([2], tf.float64)
    return tf.concat([counts, zero, sums], 0), low, high


def _add(held: Any, site: Any, block: tuple[Any, Any, Any]) -> Any:
    added, low, high = block
    row = held[site] + added
    row = tf.concat(
        [row[:5], [tf.minimum(row[5], low), tf.maximum(row[6], high)], row[7:]],
        0,
    )
    return tf.tensor_scatter_nd_update(held, [[site]], [row])


def _histograms(found: Sequence[Reduced]) -> Any:
    """Counts in the universal magnitude bins, one tensor after the other, as float32."""
    count = len(found)
    sizes = tf.stack([r.size for r in found])
    steps = _strides(sizes)
    samples = [r.flat[:: steps[i]] for i, r in enumerate(found)]
    lengths = -(-sizes // steps)
    bits = tf.bitcast(tf.concat([tf.cast(s, tf.float32) for s in samples], 0), tf.int32)
    bins = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 21), BINS - 1)
    bins += tf.repeat(tf.range(count) * BINS, lengths)
    return tf.math.unsorted_segment_sum(tf.ones_like(bins, tf.float32), bins, count * BINS)


def _strides(sizes: Any) -> Any:
    """`vector.stride` for several sizes at once."""
    least = tf.maximum(-(-sizes // SAMPLES), 1)
    nearby = least[:, None] + tf.range(12)[None]
    coprime = tf.reduce_all(nearby[:, :, None] % tf.constant([2, 3, 5, 7]) != 0, 2)
    first = tf.argmax(tf.cast(coprime, tf.int32), 1, output_type=tf.int32)
    return tf.where(sizes <= SAMPLES, 1, least + first)
