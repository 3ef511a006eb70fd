"""The moments of one tensor in torch.

On CPU the bare reductions run at memory speed, `amin`/`amax` along few columns do not, and
`var_mean` and `aminmax(dim=)` are tens of times slower: hence the shapes below. Looking at one
number costs nothing there, so masks are taken only when something is not finite or out of range.
On an accelerator looking would wait for the device, so there the masked form is the only one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fitscope.engine.vector import BASE, BINS, stride
from fitscope.statistics.activation import Zones

_SMALL, _LARGE = 2.0**-40, 2.0**60
_WIDE = 512
"""Columns from which on `amax(0)` is vectorised."""


def moments(tensor: Any, zones: Zones, unit_axis: int, hist_count: int) -> Any:
    """The vector of `vector.py` for one tensor of any float dtype."""
    x = tensor.detach().float()
    rows = _rows(x, unit_axis)
    if rows.numel() == 0:
        return _pack(rows, [0] * 6, [0.0] * 8, hist_count)
    if not rows.is_cpu:
        return _masked(rows, zones, hist_count)
    size = rows.numel()
    l1 = rows.abs().sum()
    low, high = _per_unit(rows, torch.amin), _per_unit(rows, torch.amax)
    least, most = low.amin(), high.amax()
    extent = max(-least.item(), most.item())
    if not (torch.isfinite(l1) and extent < _LARGE and (extent > _SMALL or extent == 0)):
        return _masked(rows, zones, hist_count)
    mean = rows.sum() / size
    m2 = (rows - mean).square_().sum()
    saturated, dead_units, saturated_units = _zones(rows, zones, low, high, None)
    counts = [size, 0, 0, 0, size - torch.count_nonzero(rows), saturated]
    scalars = [
        rows.shape[1],
        dead_units,
        saturated_units,
        mean,
        (m2 / size).sqrt(),
        l1 / size,
        least,
        most,
    ]
    return _pack(rows, counts, scalars, hist_count)


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    if x.ndim < 2:
        return x.reshape(-1, 1)
    x = x.movedim(unit_axis, -1)
    return x.reshape(-1, x.shape[-1])


def _per_unit(rows: Any, reduce: Any) -> Any:
    n, units = rows.shape
    fold = -(-_WIDE // units)
    if fold > 1 and n % fold == 0 and n > fold:
        return reduce(reduce(rows.view(n // fold, fold * units), 0).view(fold, units), 0)
    return reduce(rows, 0)


def _masked(rows: Any, zones: Zones, hist_count: int) -> Any:
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
    return _pack(rows, counts, scalars, hist_count)


def _zones(rows: Any, zones: Zones, low: Any, high: Any, finite: Any) -> tuple[Any, Any, Any]:
    """Saturated elements, dead units, saturated units."""
    dead: Any = 0
    if zones.dead is not None:
        first, last = zones.dead
        off = (low >= first) & (high <= last)
        if finite is not None:  # a unit that puts out a NaN or an infinity is not dead
            off &= finite.all(0)
        dead = torch.count_nonzero(off)
    if zones.saturated_below is None and zones.saturated_above is None:
        return 0, dead, 0
    inside = torch.zeros_like(rows, dtype=torch.bool)
    if zones.saturated_below is not None:
        inside |= rows <= zones.saturated_below
    if zones.saturated_above is not None:
        inside |= rows >= zones.saturated_above
    whole: Any = rows.shape[0]
    if finite is not None:
        inside &= finite
    per_unit = inside.sum(0)
    return per_unit.sum(), dead, (per_unit >= whole).sum()


def _pack(rows: Any, counts: Sequence[Any], scalars: Sequence[Any], hist_count: int) -> Any:
    if rows.is_cpu:
        plain = [v.item() if isinstance(v, torch.Tensor) else v for v in (*counts, *scalars)]
        counts, scalars = plain[: len(counts)], plain[len(counts) :]
    values: list[Any] = [1.0]
    for n in counts:
        values += [n // BASE, n % BASE]
    values += [*scalars, float(hist_count)]
    if rows.is_cpu:
        return torch.tensor(values, dtype=torch.float32)
    device = rows.device
    return torch.stack([torch.as_tensor(v, device=device).to(torch.float32) for v in values])


def sample(tensor: Any) -> tuple[Any, int]:
    """The elements that go into the histogram, as float32, and how many they are."""
    flat = tensor.detach().reshape(-1)
    step, count = stride(flat.shape[0])
    return flat[::step].float(), count


def histograms(samples: Sequence[Any]) -> Any:
    """Counts `[len(samples), BINS]` in the universal magnitude bins."""
    shifted = [
        ((s.contiguous().view(torch.int32) >> 21) & (BINS - 1)) + i * BINS
        for i, s in enumerate(samples)
    ]
    flat = torch.cat(shifted)
    return torch.bincount(flat, minlength=len(samples) * BINS).reshape(len(samples), BINS)
