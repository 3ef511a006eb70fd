"""What an observed JAX step computes of each tensor; `jax_rows` makes moments of it on the host.

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
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from fitscope.engine.jax_rows import BLOCK, BLOCK_LENGTH, Shape, blocks_of
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.activation import Zones

_TINY = 2.0**-30
"""Mean magnitude below which squares of float32 numbers begin to vanish."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What is taken from one tensor where it is met."""

    shape: Shape
    flat: Any
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
    sample = flat[::step].astype(jnp.float32)
    rows = _rows(x, unit_axis).astype(jnp.float32)
    shape = Shape(flat.shape[0], rows.shape[1], zones, count)
    if not shape.size:
        zero = jnp.zeros((), jnp.float32)
        return Reduced(shape, flat, zero, zero, zero, zero[None], (), sample)
    total = rows.sum()
    return Reduced(
        shape=shape,
        flat=flat,
        total=total,
        l1=jnp.abs(rows).sum(),
        m2=jnp.square(rows - total / shape.size).sum(),
        nonzero=_counted(jnp.square(jnp.sign(rows)), shape),
        units=(rows.min(0), rows.max(0), *_saturated(rows, zones)),
        sample=sample,
    )


def segment(number: int, found: Sequence[Reduced], extra: Sequence[Any]) -> Any:
    """One flat float32 vector of everything a forward pass measured; see `jax_rows.decode`."""
    sums = jnp.stack([jnp.stack([r.total, r.l1, r.m2]) for r in found])
    size = np.asarray([max(r.shape.size, 1) for r in found], np.float32)
    l1, m2 = sums[:, 1], sums[:, 2]
    plain = jnp.isfinite(l1) & jnp.isfinite(m2) & ((l1 == 0) | (l1 > size * _TINY))
    parts = [
        jnp.full((1,), number, jnp.float32),
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
    # One scatter for a whole pass: many small ones compile slowly.
    bins = [
        (lax.bitcast_convert_type(r.sample, jnp.uint32) >> 21).astype(jnp.int32) + i * BINS
        for i, r in enumerate(found)
    ]
    return jnp.zeros(len(found) * BINS, jnp.uint16).at[jnp.concatenate(bins)].add(jnp.uint16(1))


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
    inside = low | high if below is not None and above is not None else low if above is None else high
    return (inside.astype(jnp.float32).sum(0),)


def _all_blocks(found: Sequence[Reduced]) -> Any:
    """The vectors of all blocks of all tensors, through one loop."""
    sites, starts, firsts, ends = [], [], [], []
    for index, r in enumerate(found):
        for b in range(blocks_of(r.shape)):
            # A tensor's last block is moved back to lie inside it, and skips what was seen.
            start = max(0, min(b * BLOCK, r.shape.size - BLOCK))
            sites.append(index)
            starts.append(start)
            firsts.append(b * BLOCK - start)
            ends.append(min(BLOCK, r.shape.size - start))
    tables = [jnp.asarray(t, jnp.int32) for t in (sites, starts, firsts, ends)]

    def block(i: Any) -> Any:
        site, start, first, end = (t[i] for t in tables)
        values = lax.switch(site, [_taker(r.flat) for r in found], start)
        return _block(values, first, end)

    return lax.map(block, jnp.arange(len(sites))).reshape(-1)


def _taker(flat: Any) -> Any:
    def take(start: Any) -> Any:
        if flat.shape[0] < BLOCK:
            return jnp.pad(flat, (0, BLOCK - flat.shape[0])).astype(jnp.float32)
        return lax.dynamic_slice(flat, (start,), (BLOCK,)).astype(jnp.float32)

    return take


def _block(values: Any, first: Any, end: Any) -> Any:
    """Counts and scaled moments of the finite elements of one block; see `jax_rows`."""
    place = jnp.arange(BLOCK)
    valid = (place >= first) & (place < end)
    finite = valid & jnp.isfinite(values)
    kept = jnp.where(finite, values, 0.0)
    n = finite.astype(jnp.float32).sum()
    low = jnp.where(finite, values, jnp.inf).min()
    high = jnp.where(finite, values, -jnp.inf).max()
    extent = jnp.where(n > 0, jnp.maximum(-low, high), 0.0)
    # A power of two keeps the digits and brings the squares into range.
    exponent = jnp.clip(jnp.floor(jnp.log2(jnp.where(extent > 0, extent, 1.0))), -126, 126)
    half = jnp.floor(exponent / 2)
    scaled = kept / jnp.exp2(half) / jnp.exp2(exponent - half)
    mean = scaled.sum() / jnp.maximum(n, 1)
    counts = [
        (valid & jnp.isnan(values)),
        (valid & jnp.isposinf(values)),
        (valid & jnp.isneginf(values)),
        (valid & (values == 0)),
    ]
    return jnp.stack(
        [
            *[c.astype(jnp.float32).sum() for c in counts],
            n,
            jnp.where(n > 0, low, 0.0),
            jnp.where(n > 0, high, 0.0),
            exponent,
            mean,
            jnp.where(finite, jnp.square(scaled - mean), 0.0).sum(),
            jnp.abs(scaled).sum(),
        ]
    )
