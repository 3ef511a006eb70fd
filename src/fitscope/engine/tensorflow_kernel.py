"""What an observed TensorFlow step computes; `tensorflow_rows` makes moments of it on the host.

Every operation costs up to a millisecond to trace and to optimise, so what is done with one tensor
is a function of its own, traced once for all tensors of its kind, in any model. One branch goes
over all tensors again in float64, block by block, when a sum shows that something is not finite or
out of range.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fitscope.engine import tensorflow_sweep, whole_rows
from fitscope.engine.raw_rows import SUMS
from fitscope.engine.tensorflow_blocks import SLOW, all_blocks
from fitscope.engine.tensorflow_chain import Chain, chain_of
from fitscope.engine.tensorflow_early import compile_early
from fitscope.engine.vector import BINS, SAMPLES, stride
from fitscope.statistics.activation import Zones

_TINY = 2.0**-100
"""Mean magnitude below which elements that matter begin to vanish."""

_SMALL = 2.0**-30
"""Mean magnitude below which squares of float32 numbers begin to vanish."""

_LARGE_SAMPLE, _LARGE = 1024, 2**17
"""Elements of one sample, and of a tensor, from which on a CPU reduces it part by part."""

_PART = 65536
"""Elements of one part: what is read again for the next reduction is still in the cache."""

_UNKNOWN = 256
"""What a dimension that is not known before the step runs may well be."""

_FEWER = 8
"""Of so many elements of the histogram's sample, one goes into the mean of the sample."""

_INFINITY = float("inf")

_SPREAD = 4.0
"""Mean square over variance up to which float32 sums of plain squares give the variance."""


ROW = {"floats": tf.float32, "integers": tf.int32, "slow": tf.float64, "histograms": tf.float32}
"""What leaves a step."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is known of a tensor before it has values; tensors of one kind share their functions."""

    shape: tuple[int | None, ...] | None
    dtype: str
    zones: Zones
    unit_axis: int
    in_parts: bool
    """Whether the tensor is gone over part by part, which is faster where it is large."""
    chain: Chain | None = None
    """How its elements are made while it is swept; None where they are there."""

    @property
    def n_units(self) -> int:
        # Where the width is not known before the step runs, all elements count as one unit.
        if self.shape is None or len(self.shape) < 2:
            return 1
        return self.shape[self.unit_axis] or 1

    @property
    def travels(self) -> bool:
        """Whether a tensor leaves the step whole, to be reduced on the host."""
        if self.shape is None:
            return False
        known = math.prod(n or _UNKNOWN for n in self.shape)
        last = len(self.shape) < 2 or self.unit_axis in (-1, len(self.shape) - 1)
        return known <= whole_rows.LARGEST and last

    def length(self, size: int) -> int:
        """How many floats of a tensor of so many elements leave the step."""
        if self.travels:
            return size
        return SUMS + (3 if self.saturates else 2) * self.n_units

    @property
    def leaves(self) -> int:
        """Of how many tensors a tensor of this kind is made while it is gone over."""
        return 1 if self.chain is None else len(self.chain.whole)

    def flat(self, leaves: Sequence[Any]) -> Any:
        """All elements, as float32."""
        whole = leaves[0] if self.chain is None else self.chain(leaves)
        return tf.cast(tf.reshape(whole, [-1]), tf.float32)

    @property
    def lanes(self) -> int:
        """How wide a sweep over the tensor is."""
        return tensorflow_sweep.lanes(self.n_units)

    @property
    def sweeps(self) -> bool:
        """Whether the tensor is reduced in sweeps."""
        last = self.shape is not None and self.unit_axis in (-1, len(self.shape) - 1)
        return self.in_parts and last and self.lanes > 0 and tensorflow_sweep.available()

    @property
    def saturates(self) -> bool:
        return self.zones.saturated_below is not None or self.zones.saturated_above is not None


def is_large(shape: Sequence[int | None]) -> bool:
    """Whether a tensor of a shape, of which a part may be unknown, is to be reduced in parts."""
    of_sample = math.prod(n or 1 for n in shape[1:])
    return of_sample >= _LARGE_SAMPLE or of_sample * ((shape or [1])[0] or 1) >= _LARGE


class Reduced:
    """The reductions of one tensor, all of them bare but for the magnitudes.

    Args:
        tensor: of the kind.
        kind: what is known of it.
        place: its number among the tensors of the step that have `bins`.
        repeated: whether the tensor is computed for this alone, by elementwise operations.
    """

    def __init__(self, tensor: Any, kind: Kind, place: int, *, repeated: bool = False) -> None:
        self.histogram = self.bins = None
        leaves = [tensor]
        if repeated and kind.sweeps:
            found = chain_of(tensor, kind.n_units)
            if found is not None:
                chain, leaves = found
                kind = dataclasses.replace(kind, chain=chain)
        # Also keeps a gradient tape from recording what follows.
        self.leaves = [tf.stop_gradient(leaf) for leaf in leaves]
        self.kind = kind
        if kind.travels:
            self.floats = kind.flat(self.leaves)
            self.integers = tf.stack([tf.size(self.floats), 0])
        elif kind.sweeps:
            sweep = _function(_swept, kind)
            found = sweep(*self.leaves)
            compile_early(sweep, tuple((tuple(x.shape), x.dtype.name) for x in leaves))
            self.floats, self.integers, self.plain, self.histogram = found
        else:
            found = _function(_reduce, kind)(self.leaves[0], tf.constant(place * BINS))
            self.floats, self.integers, self.plain, self.bins = found


def reduced(tensors: Sequence[tuple[Any, Kind, bool]]) -> list[Reduced]:
    """Reduce tensors, each of its kind, and whether it is computed for this alone."""
    found: list[Reduced] = []
    known: dict[Any, Reduced] = {}
    """One tensor may be the output of several layers, or the gradient of several outputs."""
    for tensor, kind, repeated in tensors:
        key = tensor.ref(), kind, repeated
        if key not in known:
            place = sum(r.bins is not None for r in found)
            known[key] = Reduced(tensor, kind, place, repeated=repeated)
        found.append(known[key])
        if found[-1].bins is not None:  # which are numbered by their place
            del known[key]
    return found


@functools.lru_cache(maxsize=4096)
def _function(body: Callable[..., Any], kind: Kind) -> Callable[..., Any]:
    """`body` for tensors of one kind, as one operation of the step's graph."""

    def reduce(*args: Any) -> Any:
        return body(kind, *args)

    if body is _swept:
        return tf.function(reduce, autograph=False, jit_compile=True)
    # Inlined, it would be optimised once for each tensor.
    return tf.function(reduce, autograph=False, experimental_attributes={"_noinline": True})


def _reduce(kind: Kind, x: Any, first_bin: Any) -> tuple[Any, Any, Any, Any]:
    """The reductions of one tensor.

    Returns:
        The numbers of `raw_rows.bare` and the units, in one vector; size and nonzero elements;
        whether the sums are finite and in range; the bins of the elements sampled for the
        histogram.
    """
    rows = _rows(kind, x)
    sums, units = (_by_parts if kind.in_parts else _at_once)(kind, rows)
    total, l1, squares, nonzero = tf.unstack(sums)
    m2, scale = _around_mean(rows, total, l1, squares)
    moments = [tf.cast(total, tf.float32), tf.cast(l1, tf.float32), m2, scale]
    return (*_found(tf.size(rows), moments, nonzero, units), _bins(_sample(x)) + first_bin)


def _found(
    size: Any, moments: Sequence[Any], nonzero: Any, units: Sequence[Any]
) -> tuple[Any, Any, Any]:
    """What `_reduce` returns before the bins."""
    _, l1, m2, _ = moments
    in_range = tf.equal(l1, 0.0) | (l1 > tf.cast(size, tf.float32) * _TINY)
    plain = tf.math.is_finite(l1) & tf.math.is_finite(m2) & in_range
    return (
        tf.concat([tf.stack(moments), *units], 0),
        tf.stack([size, tf.cast(nonzero, tf.int32)]),
        plain | tf.equal(size, 0),
    )


def _swept(kind: Kind, *leaves: Any) -> tuple[Any, Any, Any, Any]:
    """The reductions in one sweep over the tensor, with the squares around the mean of a sample.

    Returns:
        What `_reduce` does, with the counts of the bins in place of the bins.
    """
    elements, sample = _elements(kind, leaves)
    size = tf.size(elements.flats[0])
    count = tf.maximum(tf.cast(size, tf.float32), 1.0)
    few = sample[::_FEWER]

    center, scale = tf.reduce_mean(few), _scale(tf.reduce_mean(tf.abs(few)))
    terms = [
        tensorflow_sweep.TOTAL,
        tensorflow_sweep.MAGNITUDES,
        tensorflow_sweep.counted(lambda x: x != 0),
        _squares(center, scale),
        tensorflow_sweep.LEAST,
        tensorflow_sweep.GREATEST,
    ]
    inside = _inside(kind.zones)
    if inside is not None:
        terms.append(tensorflow_sweep.counted(inside))
    found = tensorflow_sweep.sweep(elements, kind.lanes, terms)
    total, l1, _, squares = (tf.reduce_sum(sums) for sums in found[:4])
    aside = count * tf.square((total / count - center) * scale)

    def again() -> tuple[Any, Any]:
        # Gradients are small, and so are updates: unscaled, their squares would vanish.
        better = _scale(l1 / count)
        (around,) = tensorflow_sweep.sweep(elements, kind.lanes, [_squares(total / count, better)])
        return tf.reduce_sum(around), better

    m2, scale = tf.cond(
        _is_like_its_sample(l1 / count * scale, squares / count, aside / count),
        lambda: (tf.maximum(squares - aside, 0.0), scale),
        again,
    )
    nonzero = tf.reduce_sum(tf.cast(found[2], tf.int32))
    reduces = [tf.reduce_min, tf.reduce_max, tf.reduce_sum]
    units = [
        reduce(tf.reshape(sums, [-1, kind.n_units]), 0)
        for reduce, sums in zip(reduces, found[4:], strict=False)
    ]
    bins = _bins(sample)
    histogram = tf.math.unsorted_segment_sum(tf.ones_like(bins, tf.float32), bins, BINS)
    return *_found(size, [total, l1, m2, scale], nonzero, units), histogram


def _elements(kind: Kind, leaves: Sequence[Any]) -> tuple[tensorflow_sweep.Elements, Any]:
    """What is swept, and the elements that go into the histogram."""
    chain = kind.chain
    if chain is None:
        flat = tf.reshape(leaves[0], [-1])
        return tensorflow_sweep.Elements([flat], lambda x: x), _sample(flat)
    flats = [tf.reshape(x, [-1]) for x, whole in zip(leaves, chain.whole, strict=True) if whole]

    def of(which: Any) -> Callable[..., Any]:
        """The chain, for elements of these units."""
        units = [
            None if whole else tf.gather(tf.reshape(x, [-1]), which % tf.size(x))
            for x, whole in zip(leaves, chain.whole, strict=True)
        ]

        def made(*parts: Any) -> Any:
            rest = iter(parts)
            return chain([next(rest) if unit is None else unit for unit in units])

        return made

    samples = [_sample(flat) for flat in flats]
    step = _step(tf.size(flats[0]), flats[0].shape[0])
    sample = of(tf.range(tf.size(samples[0])) * step)(*samples)
    return tensorflow_sweep.Elements(flats, of(tf.range(kind.lanes))), sample


def _squares(center: Any, scale: Any) -> tensorflow_sweep.Term:
    return tensorflow_sweep.Term(lambda x: tf.square((x - center) * scale))


def _is_like_its_sample(magnitude: Any, squares: Any, aside: Any) -> Any:
    """Whether the center and the scale of a sample were good for the tensor.

    Args:
        magnitude: the mean one, scaled.
        squares: the mean square of the scaled distances from the center.
        aside: what of that is due to the center being off the mean.
    """
    # Squares of a constant are rounding alone.
    centered = (aside <= 0.5 * squares) | (squares <= tf.square(magnitude * 2.0**-18))
    scaled = (magnitude > 2.0**-40) & tf.math.is_finite(squares)
    return tf.equal(magnitude, 0.0) | ~tf.math.is_finite(magnitude) | (centered & scaled)


def _scale(magnitude: Any) -> Any:
    """A power of two that brings values of this mean magnitude near one."""
    exponent = tf.bitwise.right_shift(tf.bitcast(magnitude, tf.int32), 23)
    exponent = tf.clip_by_value(exponent - 127, -126, 126)
    return tf.bitcast(tf.bitwise.left_shift(127 - exponent, 23), tf.float32)


def _sums(part: Any) -> Any:
    """Of a matrix: its sum, that of the magnitudes and of the squares, and its nonzero elements."""
    magnitudes = tf.abs(part)
    # `count_nonzero` takes as long as all the others together.
    nonzero = tf.reduce_sum(tf.sign(magnitudes), 0)  # a unit's are counted exactly
    found = [tf.reduce_sum(part), tf.reduce_sum(magnitudes), 2.0 * tf.nn.l2_loss(part)]
    found = tf.cast(tf.stack(found), tf.float64)
    return tf.concat([found, [tf.reduce_sum(tf.cast(nonzero, tf.float64))]], 0)


def _at_once(kind: Kind, rows: Any) -> tuple[Any, list[Any]]:
    return _sums(rows), _units(kind, rows)


def _by_parts(kind: Kind, rows: Any) -> tuple[Any, list[Any]]:
    length = max(1, _PART // kind.n_units)
    count = tf.shape(rows)[0]

    def body(at: Any, sums: Any, *units: Any) -> Any:
        part = tf.slice(rows, [at, 0], [tf.minimum(length, count - at), kind.n_units])
        low, high, *saturated = _units(kind, part)
        joined = [tf.minimum(units[0], low), tf.maximum(units[1], high)]
        joined += [a + b for a, b in zip(units[2:], saturated, strict=True)]
        return at + length, sums + _sums(part), *joined

    none = [_INFINITY, -_INFINITY, 0.0] if kind.saturates else [_INFINITY, -_INFINITY]
    start = [tf.fill([kind.n_units], value) for value in none]
    zero = tf.zeros([4], tf.float64)
    loop = (0, zero, *start)
    shapes = tuple(tf.TensorShape(v.shape) for v in (tf.constant(0), zero, *start))
    _, sums, *units = tf.while_loop(
        lambda at, *_: at < count, body, loop, shape_invariants=shapes, parallel_iterations=1
    )
    return sums, units


def _around_mean(rows: Any, total: Any, l1: Any, squares: Any) -> tuple[Any, Any]:
    """The sum of squares around the mean of the scaled elements, and the scale.

    Unscaled it follows from the plain squares, unless those vanish or outweigh it.
    """
    size = tf.cast(tf.size(rows), tf.float64)
    around = squares - total * total / size
    in_range = tf.equal(l1, 0.0) | (l1 > size * _SMALL)

    def scaled() -> tuple[Any, Any]:
        # Gradients are small, and so are updates.
        scale = _scale(tf.cast(l1 / size, tf.float32))
        mean = tf.cast(total / size, tf.float32)
        return tf.reduce_sum(tf.square((rows - mean) * scale)), scale

    return tf.cond(
        in_range & (squares <= _SPREAD * around),
        lambda: (tf.cast(around, tf.float32), tf.ones(())),
        scaled,
    )


def _units(kind: Kind, rows: Any) -> list[Any]:
    """Least, greatest and, where the activation saturates, saturated elements of each unit."""
    found = [tf.reduce_min(rows, 0), tf.reduce_max(rows, 0)]
    inside = _inside(kind.zones)
    if inside is not None:
        found.append(tf.reduce_sum(tf.cast(inside(rows), tf.float32), 0))
    return found


def _inside(zones: Zones) -> Callable[[Any], Any] | None:
    """Tells by element whether it is saturated; None where nothing can be."""
    below, above = zones.saturated_below, zones.saturated_above
    if below is None and above is None:
        return None

    def inside(x: Any) -> Any:
        found = [x <= below] if below is not None else []
        found += [x >= above] if above is not None else []
        return functools.reduce(tf.logical_or, found)

    return inside


def _rows(kind: Kind, x: Any) -> Any:
    """As a matrix of float32, one column per unit."""
    if kind.shape is None or len(kind.shape) < 2:
        return tf.cast(tf.reshape(x, [-1, 1]), tf.float32)
    rank = len(kind.shape)
    if kind.unit_axis not in (-1, rank - 1):
        x = tf.transpose(x, [i for i in range(rank) if i != kind.unit_axis] + [kind.unit_axis])
    return tf.cast(tf.reshape(x, [-1, kind.n_units]), tf.float32)


def nothing() -> dict[str, Any]:
    """A row of no tensors."""
    return {name: tf.zeros([0], dtype) for name, dtype in ROW.items()}


def row(found: Sequence[Reduced], extra: Sequence[Any]) -> dict[str, Any]:
    """Everything that leaves the step, by the names of `ROW`.

    Args:
        found: the tensors.
        extra: states of user statistics, one vector each.
    """
    if not found:
        return nothing()
    here = [r for r in found if not r.kind.travels]
    integers = tf.stack([r.integers for r in found])
    slow = histograms = None
    if here:
        count = len(here)
        again = _slowly(tuple(r.kind for r in here))
        leaves = [leaf for r in here for leaf in r.leaves]
        slow = tf.cond(
            tf.reduce_all(tf.stack([r.plain for r in here])),
            lambda: tf.zeros([count, SLOW], tf.float64),
            lambda: again(*leaves),
        )
        histograms = _histograms(here)
    leaving = {
        "floats": tf.concat([*(r.floats for r in found), *extra], 0),
        "integers": integers,
        "slow": slow,
        "histograms": histograms,
    }
    return nothing() | {name: value for name, value in leaving.items() if value is not None}


@functools.lru_cache(maxsize=256)
def _slowly(kinds: tuple[Kind, ...]) -> Callable[..., Any]:
    """The slow branch for tensors of these kinds, made of their leaves; `[tensors, SLOW]`."""

    def slowly(*leaves: Any) -> Any:
        rest = iter(leaves)
        flats = [kind.flat([next(rest) for _ in range(kind.leaves)]) for kind in kinds]
        sizes = tf.stack([tf.size(flat) for flat in flats])
        return tf.ensure_shape(all_blocks(tf.concat(flats, 0), sizes), [len(kinds), SLOW])

    # Inlined, it would be optimised with each step, and it hardly ever runs.
    apart = {"_noinline": True}
    return tf.function(
        slowly, autograph=False, reduce_retracing=True, experimental_attributes=apart
    )


def _histograms(found: Sequence[Reduced]) -> Any:
    """The counts of tensors in their bins, one tensor after the other."""
    counted = [r.histogram for r in found if r.histogram is not None]
    bins = [r.bins for r in found if r.bins is not None]
    parts = [tf.reshape(tf.stack(counted), [-1])] if counted else []
    if bins:
        flat = tf.concat(bins, 0)
        ones = tf.ones_like(flat, tf.float32)
        parts.append(tf.math.unsorted_segment_sum(ones, flat, len(bins) * BINS))
    if len(parts) == 1:
        return parts[0]
    order = sorted(range(len(found)), key=lambda i: found[i].histogram is None)
    places = np.argsort(order)
    return tf.reshape(tf.gather(tf.reshape(tf.concat(parts, 0), [-1, BINS]), places), [-1])


def _sample(x: Any) -> Any:
    """The elements that go into the histogram, as float32."""
    flat = tf.reshape(x, [-1])
    return tf.cast(flat[:: _step(tf.size(flat), flat.shape[0])], tf.float32)


def _step(size: Any, known: int | None) -> Any:
    return _stride(size) if known is None else stride(known)[0]


def _bins(sample: Any) -> Any:
    """The universal magnitude bins of elements."""
    bits = tf.ensure_shape(tf.bitcast(sample, tf.int32), [None])
    return tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 21), BINS - 1)


def _stride(size: Any) -> Any:
    """`vector.stride` for a size that is known only when the step runs."""
    least = tf.maximum(-(-size // SAMPLES), 1)
    nearby = least + tf.range(12)
    coprime = tf.reduce_all(nearby[:, None] % tf.constant([2, 3, 5, 7]) != 0, 1)
    first = tf.argmax(tf.cast(coprime, tf.int32), output_type=tf.int32)
    return tf.where(size <= SAMPLES, 1, least + first)
