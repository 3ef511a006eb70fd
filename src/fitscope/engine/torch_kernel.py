"""The moments of one tensor in torch.

On a CPU the bare reductions run at memory speed; `amin`/`amax` along few columns do not, and
`var_mean` and `aminmax(dim=)` are tens of times slower: hence the shapes below. Fresh memory for a
large temporary costs more than the reduction of it, so there is one buffer of bounded size. Looking
at a number costs nothing there, and each look decides what need not be computed. On an accelerator
looking would wait for the device, so there the masked form is the only one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from fitscope.engine.vector import BASE, BINS, stride
from fitscope.statistics.activation import Zones

_SMALL, _LARGE = 2.0**-40, 2.0**50
"""Largest magnitudes between which squares, and sums of them, neither vanish nor overflow."""
_WIDE = 512
"""Columns from which on `amax(0)` is vectorised."""

_PART = 2**18
"""Elements that are looked at at once: what was read stays in the cache for the next look."""

_ROW = 4096
"""Squares that are added up in float32; a longer sum would lose digits."""

_SPREAD = 4.0
"""Mean square over variance up to which float32 sums of plain squares give the variance."""


def moments(tensor: Any, zones: Zones, unit_axis: int, hist_count: int) -> Any:
    """The vector of `vector.py` for one tensor of any float dtype."""
    x = tensor.detach()
    if not x.is_cpu or not x.numel():
        return _anywhere(x.float(), zones, unit_axis, hist_count)
    parts = _parts(x, unit_axis)
    sums = _sums(parts)
    if sums is None:
        return _anywhere(x.float(), zones, unit_axis, hist_count)
    least, most = sums.least, sums.most
    saturated, saturated_units = _saturated(parts, zones)
    size, units = x.numel(), parts[0].shape[1]
    counts = [size, 0, 0, 0, size - sums.nonzero, saturated]
    scalars = [
        units,
        _dead(parts, zones, least, size - sums.nonzero >= size // units),
        saturated_units,
        sums.total / size,
        math.sqrt(sums.m2 / size),
        sums.l1 / size,
        least,
        most,
    ]
    return _pack(x, counts, scalars, hist_count)


def _parts(x: Any, unit_axis: int) -> list[Any]:
    """The tensor as it lies in memory, in parts `[n, units, m]` of float32.

    Where each unit's elements lie together, as with the channels first, moving the units to the end
    would cost a copy in the worst order there is.
    """
    if x.ndim < 2:
        return list(x.reshape(-1, 1, 1).float().split(_PART))
    order = sorted(range(x.ndim), key=lambda axis: -x.stride(axis))
    lying = x.permute(order)
    axis = order.index(unit_axis % x.ndim)
    if not lying.is_contiguous():
        lying, axis = x.contiguous(), unit_axis % x.ndim
    units, inner = lying.shape[axis], math.prod(lying.shape[axis + 1 :])
    lying = lying.view(-1, units, inner)
    return [part.float() for part in lying.split(max(1, _PART // (units * inner)))]


def _dead(parts: Sequence[Any], zones: Zones, least: float, zeros_for_a_unit: bool) -> int:
    """How many units lie in the dead zone; looks at them one by one only where some may."""
    if zones.dead is None:
        return 0
    first, last = zones.dead
    if first == last == 0.0 and not zeros_for_a_unit:
        return 0
    off: Any = True
    for part in parts:
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


@dataclasses.dataclass
class _Sums:
    """Sums over a whole tensor, added up in float64, and its ends."""

    least: float = math.inf
    most: float = -math.inf
    total: float = 0.0
    l1: float = 0.0
    m2: float = 0.0
    nonzero: int = 0


def _sums(parts: Sequence[Any]) -> _Sums | None:
    """What the least and the greatest value of each part leave to be computed, and its squares.

    None where something is not finite, or so large or so small that squares are not to be trusted.
    """
    found = _Sums()
    buffer = torch.empty(max(part.numel() for part in parts))
    norms: list[Any] = []
    for part in parts:
        flat = part.view(-1)
        # `aminmax` takes longer than both.
        high, low = torch.amax(flat).item(), torch.amin(flat).item()
        if not max(-low, high) < _LARGE:  # or not a number
            return None
        found.least, found.most = min(found.least, low), max(found.most, high)
        total = flat.sum().item()
        found.total += total
        norms += _norms(flat)
        if low > 0.0 or high < 0.0:
            found.l1 += abs(total)
            found.nonzero += len(flat)
        elif low == 0.0 == high:
            pass
        elif low == 0.0 or high == 0.0:
            found.l1 += abs(total)
            found.nonzero += _nonzero(flat, buffer)
        else:
            magnitudes = torch.abs(flat, out=buffer[: len(flat)])
            found.l1 += magnitudes.sum().item()
            # Among both signs there is seldom a zero: seeing that takes half as long as a count.
            some = torch.amin(magnitudes).item() == 0.0
            found.nonzero += _nonzero(magnitudes, buffer) if some else len(flat)
    if 0.0 < max(-found.least, found.most) <= _SMALL:
        return None
    size = sum(part.numel() for part in parts)
    mean = found.total / size
    squares = _squares(norms)
    found.m2 = squares - found.total * mean
    if squares > _SPREAD * found.m2:
        distances = []
        for part in parts:
            flat = part.view(-1)
            distances += _norms(torch.sub(flat, mean, out=buffer[: len(flat)]))
        found.m2 = _squares(distances)
    return found


def _nonzero(flat: Any, buffer: Any) -> int:
    """Elements that are not zero; a float32 counts those of one part exactly.

    `count_nonzero` takes a branch for each element: behind a ReLU it is ten times slower.
    """
    if len(flat) > 2**24:  # a sample wider than a part
        return int(torch.count_nonzero(flat))
    return int(torch.ne(flat, 0, out=buffer[: len(flat)]).sum().item())


def _norms(flat: Any) -> list[Any]:
    """Norms of pieces, whose squares float32 adds up without losing digits."""
    whole = len(flat) // _ROW * _ROW
    found = [torch.linalg.vector_norm(flat[:whole].view(-1, _ROW), dim=1)] if whole else []
    if whole < len(flat):
        found.append(torch.linalg.vector_norm(flat[whole:]).view(1))
    return found


def _squares(norms: Sequence[Any]) -> float:
    """The sum of the squares whose roots these are."""
    exact = torch.cat(list(norms)).double()
    return torch.dot(exact, exact).item()


def _saturated(parts: Sequence[Any], zones: Zones) -> tuple[int, int]:
    """Saturated elements and units."""
    if zones.saturated_below is None and zones.saturated_above is None:
        return 0, 0
    per_unit: Any = sum(_inside(part, zones).sum((0, 2)) for part in parts)
    whole = sum(part.shape[0] * part.shape[2] for part in parts)
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
        return torch.tensor(values, dtype=torch.float32)
    device = rows.device
    return torch.stack([torch.as_tensor(v, device=device).to(torch.float32) for v in values])


def sample(tensor: Any) -> tuple[Any, int]:
    """A copy of the elements that go into the histogram, as float32, and how many they are."""
    x = tensor.detach()
    step, count = stride(x.numel())
    if x.is_contiguous():
        chosen = x.view(-1)[::step]
    else:
        # Reshaped, all of it would be copied.
        places = torch.arange(0, x.numel(), step, device=x.device)
        chosen = x[torch.unravel_index(places, x.shape)]
    # Taken at once: later the tensor is out of the cache, and a layer may have worked in place.
    return chosen.to(torch.float32, memory_format=torch.contiguous_format, copy=True), count


def histograms(samples: Sequence[Any]) -> Any:
    """Counts `[len(samples), BINS]` in the universal magnitude bins."""
    bins = torch.cat(list(samples)).view(torch.int32)
    bins >>= 21
    bins &= BINS - 1
    for i, part in enumerate(bins.split([len(s) for s in samples])):
        part.add_(i * BINS)
    return torch.bincount(bins, minlength=len(samples) * BINS).reshape(len(samples), BINS)
