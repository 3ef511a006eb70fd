"""The moments of one tensor in torch.

On a CPU looking at a number costs nothing, and each look decides what need not be computed: see
`torch_sums.py`. `amax` along few columns is slow there, and `var_mean` and `aminmax(dim=)` are tens
of times slower: hence the shapes below. On an accelerator looking would wait for the device, so
there the masked form is the only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from fitscope.engine.torch_sample import sample
from fitscope.engine.torch_sums import sums
from fitscope.engine.vector import BASE, stride
from fitscope.statistics.activation import Zones

_WIDE = 512
"""Columns from which on `amax(0)` is vectorised."""

_PART = 2**18
"""Elements that are looked at at once: what was read stays in the cache for the next look."""

_FEW = 2**13
"""Elements that mostly show that every unit is alive; a look at a part takes three times longer."""


def measured(tensor: Any, zones: Zones, unit_axis: int) -> tuple[Any, Any]:
    """The vector of `vector.py` for one tensor of any float dtype, and its histogram's sample."""
    x = tensor.detach()
    _, count = stride(x.numel())
    vector = _looking(x, zones, unit_axis, count) if x.is_cpu and x.numel() else None
    if vector is None:
        vector = _anywhere(x.float(), zones, unit_axis, count)
    return vector, sample(x)


def _looking(x: Any, zones: Zones, unit_axis: int, hist_count: int) -> Any:
    """None where something is not finite or very large or small."""
    lying = _lying(x, unit_axis)
    found = sums(lying.view(-1))
    if found is None:
        return None
    units = lying.shape[1]
    zeros = found.size - found.nonzero
    saturated, saturated_units = _saturated(lying, zones)
    dead = _dead(lying, zones, found.least, zeros >= found.size // units)
    counts = [found.size, 0, 0, 0, zeros, saturated]
    scalars = [
        units,
        dead,
        saturated_units,
        found.total / found.size,
        math.sqrt(max(found.m2, 0.0) / found.size),
        found.l1 / found.size,
        found.least,
        found.most,
    ]
    return _pack(x, counts, scalars, hist_count)


def _lying(x: Any, unit_axis: int) -> Any:
    """The tensor as it lies in memory, `[n, units, m]`.

    Where each unit's elements lie together, as with the channels first, moving the units to the end
    would cost a copy in the worst order there is.
    """
    if x.ndim < 2:
        return x.reshape(-1, 1, 1)
    lying, axis = x, unit_axis % x.ndim
    if not x.is_contiguous():
        order = sorted(range(x.ndim), key=lambda a: -x.stride(a))
        lying = x.permute(order)
        if lying.is_contiguous():
            axis = order.index(axis)
        else:
            lying = x.contiguous()
    return lying.view(-1, lying.shape[axis], math.prod(lying.shape[axis + 1 :]))


def _parts(lying: Any) -> Iterator[Any]:
    """In float32, some that are looked at together."""
    for part in lying.split(max(1, _PART // (lying.shape[1] * lying.shape[2]))):
        yield part.float()


def _dead(lying: Any, zones: Zones, least: float, zeros_for_a_unit: bool) -> int:
    """How many units lie in the dead zone; looks at them one by one only where some may."""
    if zones.dead is None:
        return 0
    first, last = zones.dead
    if first == last == 0.0 and not zeros_for_a_unit:
        return 0
    few = lying[: max(1, _FEW // (lying.shape[1] * lying.shape[2]))].float()
    if torch.amin(torch.amax(few, (0, 2))).item() > last:
        return 0
    off: Any = True
    for part in _parts(lying):
        off = off & (_per_unit(part, torch.amax) <= last)
        if least < first:
            off &= _per_unit(part, torch.amin) >= first
        if not off.any():  # mostly after the first part
            return 0
    return int(off.sum())


def _per_unit(part: Any, reduce: Callable[..., Any]) -> Any:
    n, units, inner = part.shape
    if inner > 1:
        return reduce(reduce(part, 2), 0)
    rows = part.view(n, units)
    fold = -(-_WIDE // units)
    if fold > 1 and n > fold:
        whole = n // fold * fold
        wide = reduce(rows[:whole].view(n // fold, fold * units), 0).view(fold, units)
        rows = torch.cat([wide, rows[whole:]])
    return reduce(rows, 0)


def _saturated(lying: Any, zones: Zones) -> tuple[int, int]:
    """Saturated elements and units."""
    if zones.saturated_below is None and zones.saturated_above is None:
        return 0, 0
    per_unit: Any = sum(_inside(part, zones).sum((0, 2)) for part in _parts(lying))
    whole = lying.shape[0] * lying.shape[2]
    return int(per_unit.sum()), int((per_unit >= whole).sum())


def _inside(x: Any, zones: Zones) -> Any:
    """Which elements are saturated."""
    below = None if zones.saturated_below is None else x <= zones.saturated_below
    above = None if zones.saturated_above is None else x >= zones.saturated_above
    if below is None or above is None:
        return above if below is None else below
    return below | above


def _anywhere(x: Any, zones: Zones, unit_axis: int, hist_count: int) -> Any:
    """For any values on any device."""
    rows = _rows(x, unit_axis)
    if rows.numel() == 0:
        return _pack(rows, [0] * 6, [0.0] * 8, hist_count)
    bad = ~torch.isfinite(x.reshape(-1))
    first = torch.where(bad.any(), bad.to(torch.uint8).argmax() + 1, 0)
    return _masked(rows, zones, hist_count, first)


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    if x.ndim < 2:
        return x.reshape(-1, 1)
    x = x.movedim(unit_axis, -1)
    return x.reshape(-1, x.shape[-1])


def _masked(rows: Any, zones: Zones, hist_count: int, first_bad: Any) -> Any:
    finite = torch.isfinite(rows)
    n = finite.sum().clamp(min=1)
    infinity = torch.tensor(float("inf"), device=rows.device)
    low = torch.where(finite, rows, infinity).amin(0)
    high = torch.where(finite, rows, -infinity).amax(0)
    least, most = low.amin(), high.amax()
    any_finite = most >= least
    zero = torch.zeros((), device=rows.device)
    extent = torch.where(any_finite, torch.maximum(-least, most), zero)
    # A power of two keeps the digits and brings the squares into range.
    _, exponent = torch.frexp(torch.where(extent > 0, extent, zero + 1))
    half = torch.div(exponent, 2, rounding_mode="floor")
    rest = exponent - half
    scaled = torch.ldexp(torch.ldexp(torch.where(finite, rows, zero), -half), -rest)
    mean = scaled.sum() / n
    m2 = torch.where(finite, (scaled - mean).square(), zero).sum()
    saturated, dead_units, saturated_units = _zones(rows, zones, low, high, finite)

    def back(value: Any) -> Any:
        return torch.ldexp(torch.ldexp(value, half), rest)

    counts = [
        rows.numel(),
        torch.isnan(rows).sum(),
        torch.isposinf(rows).sum(),
        torch.isneginf(rows).sum(),
        (rows == 0).sum(),
        saturated,
    ]
    scalars = [
        rows.shape[1],
        dead_units,
        saturated_units,
        back(mean),
        back((m2 / n).sqrt()),
        back(scaled.abs().sum() / n),
        torch.where(any_finite, least, zero),
        torch.where(any_finite, most, zero),
    ]
    return _pack(rows, counts, scalars, hist_count, first_bad)


def _zones(rows: Any, zones: Zones, low: Any, high: Any, finite: Any) -> tuple[Any, Any, Any]:
    """Saturated elements, dead units, saturated units; what is not finite is neither."""
    dead: Any = 0
    if zones.dead is not None:
        first, last = zones.dead
        dead = torch.count_nonzero((low >= first) & (high <= last) & finite.all(0))
    if zones.saturated_below is None and zones.saturated_above is None:
        return 0, dead, 0
    per_unit = (_inside(rows, zones) & finite).sum(0)
    return per_unit.sum(), dead, (per_unit >= rows.shape[0]).sum()


def _pack(
    rows: Any,
    counts: Sequence[Any],
    scalars: Sequence[Any],
    hist_count: int,
    first_bad: Any = 0,
) -> Any:
    if rows.is_cpu:
        plain = [v.item() if isinstance(v, torch.Tensor) else v for v in (*counts, *scalars)]
        counts, scalars = plain[: len(counts)], plain[len(counts) :]
        first_bad = int(first_bad)
    values: list[Any] = []
    for n in counts:
        values += [n // BASE, n % BASE]
    values += [*scalars, float(hist_count), first_bad // BASE, first_bad % BASE]
    if rows.is_cpu:
        return torch.from_numpy(np.asarray(values, np.float32))  # `torch.tensor` takes 5 us longer
    device = rows.device
    return torch.stack([torch.as_tensor(v, device=device).to(torch.float32) for v in values])
