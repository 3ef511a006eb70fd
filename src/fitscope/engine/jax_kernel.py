"""What an observed JAX step computes of each tensor; `raw_rows` makes moments of it on the host.

On CPU a bare float reduction (sum, max, min, sum of squares or of absolute values) runs at memory
speed and compiles in two milliseconds, and every other loop costs five to ten milliseconds of
compilation for each tensor. So a step takes only the bare reductions, and leaves the arithmetic
that follows to the host. A reduction over a `where(isfinite)` would be twenty to a hundred times
slower: one branch goes over all tensors again, block by block through one compiled loop, when a
sum shows that something is not finite or out of range.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from fitscope.engine.raw_rows import BLOCK, BLOCK_LENGTH, Shape, blocks_of
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.activation import Zones

_TINY = 2.0**-30
"""Mean magnitude below which squares of float32 numbers begin to vanish."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What is taken from one tensor where it is met."""

    shape: Shape
    tensor: Any
    total: Any
    l1: Any
    m2: Any
    nonzero: Any
    units: tuple[Any, ...]
    sample: Any


def reduce(tensor: Any, zones: Zones, unit_axis: int) -> Reduced:
    """Take the reductions of one tensor of any float dtype."""
    x = lax.stop_gradient(tensor)
    flat = x.reshape(-1)
    step, count = stride(flat.shape[0])
    sample = lax.optimization_barrier(flat[::step].astype(jnp.float32))
    rows = _rows(x, unit_axis).astype(jnp.float32)
    shape = Shape(flat.shape[0], rows.shape[1], zones, count)
    if not shape.size:
        zero = jnp.zeros((), jnp.float32)
        return Reduced(shape, x, zero, zero, zero, zero[None], (), sample)
    total = rows.sum()
    return Reduced(
        shape=shape,
        tensor=x,
        total=total,
        l1=jnp.abs(rows).sum(),
        m2=jnp.square(rows - total / shape.size).sum(),
        nonzero=_counted(jnp.square(jnp.sign(rows)), shape),
        units=(rows.min(0), rows.max(0), *_saturated(rows, zones)),
        sample=sample,
    )


def row(found: Sequence[Reduced], extra: Sequence[Any]) -> Any:
    """One flat float32 vector of everything a step measured; see `raw_rows.read_row`."""
    if not found:
        return jnp.zeros((0,), jnp.float32)
    sums = jnp.stack([jnp.stack([r.total, r.l1, r.m2]) for r in found])
    size = np.asarray([max(r.shape.size, 1) for r in found], np.float32)
    l1, m2 = sums[:, 1], sums[:, 2]
    plain = jnp.isfinite(l1) & jnp.isfinite(m2) & ((l1 == 0) | (l1 > size * _TINY))
    parts = [
        sums.reshape(-1),
        *[r.nonzero for r in found],
        *[u for r in found for u in r.units],
        *extra,
    ]
    length = sum(blocks_of(r.shape) for r in found) * BLOCK_LENGTH
    if length:
        nothing = jnp.zeros((length,), jnp.float32)
        parts.append(lax.cond(plain.all(), lambda: nothing, lambda: _all_blocks(found)))
    return jnp.concatenate(parts)


def histograms(found: Sequence[Reduced]) -> Any:
    """Counts in the universal magnitude bins, one tensor after the other, as uint16."""
    if not found:
        return jnp.zeros((0,), jnp.uint16)
    # One scatter for a whole step, on samples that lie there: many small scatters, and a loop with
    # a branch for every sample, compile slowly.
    samples = lax.optimization_barrier(jnp.concatenate([r.sample for r in found]))
    lengths = [r.shape.sampled for r in found]
    firsts = np.repeat(np.arange(len(found), dtype=np.int32) * BINS, lengths)
    bins = (lax.bitcast_convert_type(samples, jnp.uint32) >> 21).astype(jnp.int32) + firsts
    return jnp.zeros(len(found) * BINS, jnp.uint16).at[bins].add(jnp.uint16(1))


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    if x.ndim < 2:
        return x.reshape(-1, 1)
    x = jnp.moveaxis(x, unit_axis, -1)
    return x.reshape(-1, x.shape[-1])


def _counted(indicator: Any, shape: Shape) -> Any:
    """Sums of a 0/1 matrix in parts that float32 counts exactly."""
    return indicator.reshape(shape.parts, -1).sum(1)


def _saturated(rows: Any, zones: Zones) -> tuple[Any, ...]:
    below, above = zones.saturated_below, zones.saturated_above
    if below is None and above is None:
        return ()
    low = rows <= (-math.inf if below is None else below)
    high = rows >= (math.inf if above is None else above)
    inside = (
        low | high if below is not None and above is not None else low if above is None else high
    )
    return (inside.astype(jnp.float32).sum(0),)


def _all_blocks(found: Sequence[Reduced]) -> Any:
    """The vectors of all blocks of all tensors, through one loop.

    The loop fetches its block from the tensor it is of. Joining the tensors first would take the
    memory of all of them once more, in every observed step, since XLA plans for both branches.
    """
    blocks = [
        (which, *_place(first, r.shape.size))
        for which, r in enumerate(found)
        for first in range(0, r.shape.size, BLOCK)
    ]
    fetches = [_fetch(r.tensor) for r in found]

    def vector(block: Any) -> Any:
        which, start, begin, end = block
        return _block(lax.switch(which, fetches, start), begin, end)

    return lax.map(vector, jnp.asarray(blocks, jnp.int32)).reshape(-1)


def _place(first: int, size: int) -> tuple[int, int, int]:
    """Where the slice of a block starts, and which of its elements are the block's.

    The last slice of a tensor starts earlier than its block, or it would reach beyond the end.
    """
    start = max(min(first, size - BLOCK), 0)
    return start, first - start, min(size - start, BLOCK)


def _fetch(tensor: Any) -> Callable[[Any], Any]:
    def fetch(start: Any) -> Any:
        # Flattened here and not before the branch, or XLA would store it a second time for it.
        flat = tensor.reshape(-1)
        if flat.shape[0] < BLOCK:
            return jnp.pad(flat, (0, BLOCK - flat.shape[0])).astype(jnp.float32)
        return lax.dynamic_slice(flat, (start,), (BLOCK,)).astype(jnp.float32)

    return fetch


def _block(values: Any, begin: Any, end: Any) -> Any:
    """Counts and scaled sums of the finite elements of one block; see `raw_rows`."""
    place = lax.iota(jnp.int32, BLOCK)
    valid = (place >= begin) & (place < end)
    magnitude = lax.bitcast_convert_type(values, jnp.int32) & _MAGNITUDE
    finite = valid & (magnitude < _INFINITY)
    masks = [
        valid & (magnitude > _INFINITY),
        valid & (values == jnp.inf),
        valid & (values == -jnp.inf),
        valid & (values == 0),
        finite,
    ]
    *counts, low, high = _sums(
        [m.astype(jnp.float32) for m in masks],
        low=jnp.where(finite, values, jnp.inf),
        high=jnp.where(finite, values, -jnp.inf),
    )
    some = counts[-1] > 0
    low, high = jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
    # A power of two keeps the digits and brings the squares into range.
    extent = jnp.maximum(-low, high)
    exponent = jnp.clip((lax.bitcast_convert_type(extent, jnp.int32) >> 23) - 127, -126, 126)
    half = exponent >> 1
    down = (_power_of_two(-half), _power_of_two(half - exponent))
    middle = (low * down[0] * down[1] + high * down[0] * down[1]) / 2
    scaled = values * down[0] * down[1]
    offset = jnp.where(finite, scaled - middle, 0.0)
    sums = _sums([offset, offset * offset, jnp.where(finite, jnp.abs(scaled), 0.0)])
    first = jnp.where(valid & ~finite, place - begin, BLOCK).min().astype(jnp.float32)
    return jnp.stack([*counts, low, high, exponent.astype(jnp.float32), middle, *sums, first])


_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000


def _power_of_two(exponent: Any) -> Any:
    # Written into the bits of the float: `exp2` becomes dozens of instructions wherever it is used.
    return lax.bitcast_convert_type((exponent + 127) << 23, jnp.float32)


def _sums(terms: Sequence[Any], low: Any = None, high: Any = None) -> Sequence[Any]:
    """Several reductions in one loop, which compiles faster than one loop for each."""
    operands = [*terms, *(x for x in (low, high) if x is not None)]
    starts = [0.0] * len(terms) + ([] if low is None else [math.inf, -math.inf])

    def both(a: Sequence[Any], b: Sequence[Any]) -> Sequence[Any]:
        summed = [x + y for x, y in zip(a[: len(terms)], b[: len(terms)], strict=True)]
        if low is None:
            return summed
        return [*summed, jnp.minimum(a[-2], b[-2]), jnp.maximum(a[-1], b[-1])]

    return lax.reduce(operands, starts, both, (0,))
