"""The moments of one tensor in TensorFlow, in a graph with or without XLA.

The bare reductions run at memory speed in both; masked ones do not under XLA on CPU. As in
`jax_kernel`, masks are used only when a bare sum shows that something is not finite or out of
range. A `tf.cond` per tensor would take long to trace, so one branch serves a whole step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from fitscope.engine.vector import BASE, BINS, COUNTS, LENGTH, SAMPLES, SCALARS
from fitscope.statistics.activation import Zones

_SMALL, _LARGE = 2.0**-40, 2.0**60


def as_rows(tensor: Any, unit_axis: int) -> Any:
    """The tensor as a float32 matrix, one column per unit."""
    x = tf.cast(tf.stop_gradient(tensor), tf.float32)
    rank = x.shape.rank
    if rank is None or rank < 2:
        return tf.reshape(x, [-1, 1])
    if unit_axis not in (-1, rank - 1):
        order = [i for i in range(rank) if i != unit_axis] + [unit_axis]
        x = tf.transpose(x, order)
    units = x.shape[-1] if x.shape[-1] is not None else tf.shape(x)[-1]
    return tf.reshape(x, [-1, units])


def bare(rows: Any, zones: Zones, hist_count: Any) -> tuple[Any, Any]:
    """The vector of `vector.py` without masks, and whether it holds."""
    size = _float(tf.size(rows))
    l1 = tf.reduce_sum(tf.abs(rows))
    mean = tf.reduce_sum(rows) / size
    m2 = tf.reduce_sum(tf.square(rows - mean))
    low, high = tf.reduce_min(rows, 0), tf.reduce_max(rows, 0)
    least, most = tf.reduce_min(low), tf.reduce_max(high)
    extent = tf.maximum(-least, most)
    in_range = (extent < _LARGE) & ((extent > _SMALL) | tf.equal(extent, 0.0))
    saturated, dead_units, saturated_units = _zones(rows, zones, low, high, None)
    values = {
        "count": tf.size(rows),
        "zeros": tf.size(rows) - _total(tf.square(tf.sign(rows))),
        "saturated": saturated,
        "units": tf.shape(rows)[1],
        "dead_units": dead_units,
        "saturated_units": saturated_units,
        "mean": mean,
        "std": tf.sqrt(m2 / size),
        "mean_abs": l1 / size,
        "min": least,
        "max": most,
        "hist_count": hist_count,
    }
    return _pack(values), tf.math.is_finite(l1) & in_range & (tf.size(rows) > 0)


def masked(rows: Any, zones: Zones, hist_count: Any) -> Any:
    """The vector of `vector.py` over the finite elements, whatever their scale."""
    finite = tf.math.is_finite(rows)
    infinity = tf.constant(float("inf"))
    n = _float(tf.maximum(_total(_float(finite)), 1))
    low = tf.reduce_min(tf.where(finite, rows, infinity), 0)
    high = tf.reduce_max(tf.where(finite, rows, -infinity), 0)
    least, most = tf.reduce_min(low), tf.reduce_max(high)
    any_finite = (most >= least) & (tf.size(rows) > 0)
    extent = tf.where(any_finite, tf.maximum(-least, most), 0.0)
    # A power of two keeps the digits and brings the squares into range.
    log2 = tf.math.log(tf.where(extent > 0, extent, 1.0)) / tf.math.log(2.0)
    exponent = tf.clip_by_value(tf.floor(log2), -126.0, 126.0)
    half = tf.floor(exponent / 2)
    up, rest = tf.pow(2.0, half), tf.pow(2.0, exponent - half)
    scaled = tf.where(finite, rows, 0.0) / up / rest
    mean = tf.reduce_sum(scaled) / n
    m2 = tf.reduce_sum(tf.where(finite, tf.square(scaled - mean), 0.0))
    saturated, dead_units, saturated_units = _zones(rows, zones, low, high, finite)
    values = {
        "count": tf.size(rows),
        "nan": _total(_float(tf.math.is_nan(rows))),
        "posinf": _total(_float(tf.equal(rows, infinity))),
        "neginf": _total(_float(tf.equal(rows, -infinity))),
        "zeros": _total(_float(tf.equal(rows, 0.0))),
        "saturated": saturated,
        "units": tf.shape(rows)[1],
        "dead_units": dead_units,
        "saturated_units": saturated_units,
        "mean": mean * up * rest,
        "std": tf.sqrt(m2 / n) * up * rest,
        "mean_abs": tf.reduce_sum(tf.abs(scaled)) / n * up * rest,
        "min": tf.where(any_finite, least, 0.0),
        "max": tf.where(any_finite, most, 0.0),
        "hist_count": hist_count,
    }
    return _pack(values)


def _float(x: Any) -> Any:
    return tf.cast(x, tf.float32)


def _total(indicator: Any) -> Any:
    """An exact sum of a 0/1 matrix, as int32: no column is long enough to lose a count."""
    return tf.reduce_sum(tf.cast(tf.reduce_sum(indicator, 0), tf.int32))


def _zones(rows: Any, zones: Zones, low: Any, high: Any, finite: Any) -> tuple[Any, Any, Any]:
    """Saturated elements, dead units, saturated units."""
    dead: Any = 0
    if zones.dead is not None:
        first, last = zones.dead
        dead = tf.reduce_sum(tf.cast((low >= first) & (high <= last), tf.int32))
    if zones.saturated_below is None and zones.saturated_above is None:
        return 0, dead, 0
    parts = []
    if zones.saturated_below is not None:
        parts.append(rows <= zones.saturated_below)
    if zones.saturated_above is not None:
        parts.append(rows >= zones.saturated_above)
    inside = parts[0] if len(parts) == 1 else parts[0] | parts[1]
    whole = _float(tf.shape(rows)[0])
    if finite is not None:
        inside &= finite
        whole = tf.maximum(tf.reduce_sum(_float(finite), 0), 1.0)
    per_unit = tf.reduce_sum(_float(inside), 0)
    return (
        tf.reduce_sum(tf.cast(per_unit, tf.int32)),
        dead,
        tf.reduce_sum(tf.cast(per_unit >= whole, tf.int32)),
    )


def _pack(values: dict[str, Any]) -> Any:
    packed: list[Any] = [tf.constant(1.0)]
    for name in COUNTS:
        n = tf.convert_to_tensor(values.get(name, 0), tf.int32)
        packed += [_float(n // BASE), _float(n % BASE)]
    packed += [_float(values[name]) for name in SCALARS]
    return tf.ensure_shape(tf.stack(packed), [LENGTH])


def sample(tensor: Any) -> tuple[Any, Any, Any]:
    """Elements for the histogram at the stride of `vector.stride`.

    Returns:
        `(values, valid, count)`: always `SAMPLES` float32 values, which of them count, how many.
    """
    flat = tf.reshape(tf.stop_gradient(tensor), [-1])
    size = tf.size(flat)
    least = tf.maximum(-(-size // SAMPLES), 1)
    nearby = least + tf.range(12)
    free = tf.reduce_all(nearby[:, None] % tf.constant([2, 3, 5, 7])[None] != 0, 1)
    step = tf.where(size <= SAMPLES, 1, nearby[tf.argmax(tf.cast(free, tf.int32))])
    places = tf.range(SAMPLES) * step
    valid = places < size
    values = tf.gather(flat, tf.where(valid, places, 0))
    return tf.cast(values, tf.float32), valid, -(-size // step)


def histograms(samples: Sequence[tuple[Any, Any, Any]]) -> Any:
    """Counts `[len(samples), BINS]` in the universal magnitude bins, as float32."""
    values = tf.stack([values for values, _, _ in samples])
    valid = tf.stack([valid for _, valid, _ in samples])
    bits = tf.bitcast(values, tf.int32)
    bins = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 21), BINS - 1)
    bins += tf.range(len(samples))[:, None] * BINS
    bins = tf.reshape(tf.where(valid, bins, -1), [-1])  # a negative segment is left out
    counts = tf.math.unsorted_segment_sum(tf.ones_like(bins, tf.float32), bins, len(samples) * BINS)
    return tf.reshape(counts, [len(samples), BINS])
