"""The moments of the tensors of one forward pass in JAX, written for what XLA makes fast.

On CPU a bare float reduction (sum, max, min, sum of squares or of absolute values) runs at memory
speed and compiles in two milliseconds; the same reduction over a `where(isfinite)` is twenty to a
hundred times slower, and every fused loop costs compilation. So the large reductions are taken
bare, everything after them is done for all tensors at once, and one branch repeats the pass with
masks when a sum shows that something is not finite or out of range; there, tensors of one shape
share a loop. On accelerators masks cost nothing and a branch would, so there they are always on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fitscope.engine.vector import BASE, BINS, COUNTS, LENGTH, SCALARS, stride
from fitscope.statistics.activation import Zones

_SMALL, _LARGE = 2.0**-40, 2.0**60
"""Between these the squares of float32 numbers neither vanish nor overflow."""


@dataclasses.dataclass(frozen=True)
class Reduced:
    """What is taken from one tensor before the forward pass goes on."""

    rows: Any
    zones: Zones
    sums: dict[str, Any]
    low: Any
    high: Any
    sample: Any


def reduce(tensor: Any, zones: Zones, unit_axis: int) -> Reduced:
    """Take the large reductions of one tensor of any float dtype."""
    x = lax.stop_gradient(tensor)
    rows = _rows(x, unit_axis)
    flat = x.reshape(-1)
    step, _ = stride(flat.shape[0])
    sample = flat[::step].astype(jnp.float32)
    if rows.size == 0 or jax.default_backend() != "cpu":
        nothing = jnp.zeros((0,), jnp.float32)
        return Reduced(rows, zones, {}, nothing, nothing, sample)
    f = rows.astype(jnp.float32)
    total = f.sum()
    sums = {
        "total": total,
        "l1": jnp.abs(f).sum(),
        "m2": jnp.square(f - total / f.size).sum(),
        "nonzero": _total(jnp.square(jnp.sign(f))),
        **_saturation(f, zones),
    }
    return Reduced(rows, zones, sums, f.min(0), f.max(0), sample)


def moments(found: Sequence[Reduced]) -> Any:
    """The vectors of `vector.py`, `[len(found), LENGTH]`."""
    if jax.default_backend() != "cpu":
        return jnp.stack([_masked(r.rows, *_bounds(r.zones)) for r in found])
    full = [i for i, r in enumerate(found) if r.sums]
    vectors = jnp.zeros((len(found), LENGTH), jnp.float32)
    vectors = vectors.at[:, 0].set(1.0)
    if not full:
        return vectors
    bare, plain = _bare([found[i] for i in full])
    kept = lax.cond(
        plain.all(), lambda: bare, lambda: jnp.where(plain[:, None], bare, _all_masked(found, full))
    )
    return vectors.at[np.asarray(full)].set(kept)


def histograms(found: Sequence[Reduced]) -> Any:
    """Counts `[len(found), BINS]` in the universal magnitude bins, as uint16."""
    # One scatter for a whole pass: many small ones compile slowly.
    bins = [
        (lax.bitcast_convert_type(r.sample, jnp.uint32) >> 21).astype(jnp.int32) + i * BINS
        for i, r in enumerate(found)
    ]
    flat = jnp.zeros(len(found) * BINS, jnp.uint16)
    return flat.at[jnp.concatenate(bins)].add(jnp.uint16(1)).reshape(len(found), BINS)


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    if x.ndim < 2:
        return x.reshape(-1, 1)
    x = jnp.moveaxis(x, unit_axis, -1)
    return x.reshape(-1, x.shape[-1])


def _total(indicator: Any) -> Any:
    """An exact sum of a 0/1 matrix, as int32."""
    needed = max(1, math.ceil(indicator.size / 2**24))  # float32 counts no further
    groups = next(g for g in range(needed, indicator.size + 1) if indicator.size % g == 0)
    if groups == 1:
        return indicator.sum().astype(jnp.int32)
    return indicator.reshape(groups, -1).sum(1).astype(jnp.int32).sum()


def _saturation(f: Any, zones: Zones) -> dict[str, Any]:
    below, above = zones.saturated_below, zones.saturated_above
    if below is None and above is None:
        return {"saturated": jnp.int32(0), "saturated_units": jnp.int32(0)}
    inside = jnp.zeros(f.shape, bool)
    if below is not None:
        inside |= f <= below
    if above is not None:
        inside |= f >= above
    per_unit = inside.astype(jnp.float32).sum(0)
    return {
        "saturated": per_unit.astype(jnp.int32).sum(),
        "saturated_units": (per_unit >= f.shape[0]).sum(),
    }


def _bare(found: Sequence[Reduced]) -> tuple[Any, Any]:
    """Vectors from the bare sums, and for which tensors they hold."""
    units = np.asarray([r.low.shape[0] for r in found])
    owner = np.repeat(np.arange(len(found)), units)
    low, high = (jnp.concatenate([getattr(r, side) for r in found]) for side in ("low", "high"))
    bounds = np.asarray([_bounds(r.zones) for r in found], np.float32)
    dead = (low >= bounds[owner, 0]) & (high <= bounds[owner, 1])
    least = jnp.full(len(found), jnp.inf).at[owner].min(low)
    most = jnp.full(len(found), -jnp.inf).at[owner].max(high)
    sums = {key: jnp.stack([r.sums[key] for r in found]) for key in found[0].sums}
    size = np.asarray([r.rows.size for r in found])
    extent = jnp.maximum(-least, most)
    in_range = (extent < _LARGE) & ((extent > _SMALL) | (extent == 0))
    values = {
        "count": size,
        "zeros": size - sums["nonzero"],
        "saturated": sums["saturated"],
        "units": units,
        "dead_units": jnp.zeros(len(found), jnp.int32).at[owner].add(dead.astype(jnp.int32)),
        "saturated_units": sums["saturated_units"],
        "mean": sums["total"] / size,
        "std": jnp.sqrt(sums["m2"] / size),
        "mean_abs": sums["l1"] / size,
        "min": least,
        "max": most,
        "hist_count": np.asarray([r.sample.shape[0] for r in found]),
    }
    return _pack(values, (len(found),)), jnp.isfinite(sums["l1"]) & in_range


def _bounds(zones: Zones) -> tuple[float, float, float, float]:
    """Dead from, dead to, saturated below, saturated above; empty where there is no such zone."""
    dead = (math.inf, -math.inf) if zones.dead is None else zones.dead
    below = -math.inf if zones.saturated_below is None else zones.saturated_below
    above = math.inf if zones.saturated_above is None else zones.saturated_above
    return (*dead, below, above)


def _all_masked(found: Sequence[Reduced], which: Sequence[int]) -> Any:
    """Masked vectors of all tensors; those of one shape go through one compiled loop."""
    out = jnp.zeros((len(which), LENGTH), jnp.float32)
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, index in enumerate(which):
        groups.setdefault(found[index].rows.shape, []).append(place)
    for places in groups.values():
        members = [found[which[p]] for p in places]
        bounds = jnp.asarray([_bounds(m.zones) for m in members], jnp.float32)
        counts = jnp.asarray([m.sample.shape[0] for m in members], jnp.float32)

        def one(i: Any, members: Any = members, bounds: Any = bounds, counts: Any = counts) -> Any:
            rows = lax.switch(i, [lambda m=m: m.rows.astype(jnp.float32) for m in members])
            return _masked(rows, *bounds[i]).at[-1].set(counts[i])

        vectors = lax.map(one, jnp.arange(len(members))) if len(members) > 1 else one(0)[None]
        out = out.at[np.asarray(places)].set(vectors)
    return out


def _masked(rows: Any, dead_from: Any, dead_to: Any, below: Any, above: Any) -> Any:
    """The vector over the finite elements, whatever their scale."""
    rows = rows.astype(jnp.float32)
    finite = jnp.isfinite(rows)
    n = jnp.maximum(_total(finite.astype(jnp.float32)), 1).astype(jnp.float32)
    low = jnp.where(finite, rows, jnp.inf).min(0)
    high = jnp.where(finite, rows, -jnp.inf).max(0)
    least, most = low.min(), high.max()
    any_finite = most >= least
    extent = jnp.where(any_finite, jnp.maximum(-least, most), 0.0)
    # A power of two keeps the digits and brings the squares into range.
    exponent = jnp.clip(jnp.floor(jnp.log2(jnp.where(extent > 0, extent, 1.0))), -126, 126)
    half = jnp.floor(exponent / 2)
    up, rest = jnp.exp2(half), jnp.exp2(exponent - half)
    scaled = jnp.where(finite, rows, 0.0) / up / rest
    mean = scaled.sum() / n
    m2 = jnp.where(finite, jnp.square(scaled - mean), 0.0).sum()
    inside = finite & ((rows <= below) | (rows >= above))
    per_unit = inside.astype(jnp.float32).sum(0)
    whole = jnp.maximum(finite.astype(jnp.float32).sum(0), 1)
    values = {
        "count": rows.size,
        "nan": _total(jnp.isnan(rows).astype(jnp.float32)),
        "posinf": _total(jnp.isposinf(rows).astype(jnp.float32)),
        "neginf": _total(jnp.isneginf(rows).astype(jnp.float32)),
        "zeros": _total((rows == 0).astype(jnp.float32)),
        "saturated": per_unit.astype(jnp.int32).sum(),
        "units": rows.shape[1],
        "dead_units": ((low >= dead_from) & (high <= dead_to)).sum(),
        "saturated_units": (per_unit >= whole).sum(),
        "mean": mean * up * rest,
        "std": jnp.sqrt(m2 / n) * up * rest,
        "mean_abs": jnp.abs(scaled).sum() / n * up * rest,
        "min": jnp.where(any_finite, least, 0.0),
        "max": jnp.where(any_finite, most, 0.0),
        "hist_count": stride(rows.size)[1],
    }
    return _pack(values, ())


def _pack(values: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """The vectors of `vector.py` from named values of one shape."""
    packed: list[Any] = [1.0]
    for name in COUNTS:
        n = values.get(name, 0)
        packed += [n // BASE, n % BASE]
    packed += [values[name] for name in SCALARS]
    columns = [jnp.broadcast_to(jnp.asarray(v).astype(jnp.float32), shape) for v in packed]
    return jnp.stack(columns, -1)
