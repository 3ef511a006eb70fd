"""The sums of one tensor on a CPU, part by part, each part read while it is in the cache.

What a look at a part costs is reading it (2**18 elements out of the cache: about 10 us on two
cores), so what counts is how few looks there are and how fast each is. As 32-bit integers, floats
without a sign are in the order of their values: least and greatest together take 10 us that way,
25 us as floats, where `amin` and `amax` have to watch for what is not a number.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import threading
from collections.abc import Sequence
from typing import Any

import torch

_SMALL, _LARGE = 2.0**-40, 2.0**50
"""Largest magnitudes between which squares, and sums of them, neither vanish nor overflow."""

_PART = 2**18
"""Elements that are looked at at once: what was read stays in the cache for the next look."""

_ROW = 4096
"""Squares that are added up in float32; a longer sum would lose digits."""

_SPREAD = 4.0
"""Mean square over variance up to which float32 sums of plain squares give the variance."""


@dataclasses.dataclass
class Sums:
    """Sums over a whole tensor, added up in float64 part by part, and its ends."""

    size: int
    least: float = math.inf
    most: float = -math.inf
    total: float = 0.0
    l1: float = 0.0
    squares: float = 0.0
    nonzero: int = 0
    m2: float = 0.0
    """Of the distances from the mean."""

    def reach(self, x: Any, extent: float, most: float | None = None) -> None:
        """Take in the ends of a part whose extent is known, and maybe its greatest value.

        Of most parts nothing is read: they reach no further than those before.
        """
        if extent > self.most:
            high = _greatest(x) if most is None else most
            self.most = max(self.most, high)
            if high < extent:
                self.least = min(self.least, -extent)
        if -extent < self.least:
            self.least = min(self.least, torch.amin(x).item())


def sums(flat: Any) -> Sums | None:
    """Sums over a flat tensor of any float dtype whose elements lie together.

    None where something is not finite, or so large or so small that squares are not to be trusted.
    """
    found = Sums(len(flat))
    parts = _parts(flat)
    signs = False
    for part in parts:
        x = part.float()
        total = x.sum().item()
        found.total += total
        found.squares += _squares(x)
        magnitudes, most = x, None
        low, high = (-1, -1) if signs else _as_integers(x)
        if low < 0:
            signs, most = True, _as_float(high) if high >= 0 else None
            magnitudes = torch.abs(x, out=_scratch(x))
            low, high = _as_integers(magnitudes)
        if high >= _LARGE_AS_INTEGER:  # or not a number
            return None
        if signs:
            found.l1 += magnitudes.sum().item()
            found.reach(x, _as_float(high), most)
        else:
            found.l1 += total
            found.least = min(found.least, _as_float(low))
            found.most = max(found.most, _as_float(high))
        if low > 0:
            found.nonzero += x.numel()
        elif high > 0:
            found.nonzero += int(torch.count_nonzero(magnitudes.view(torch.int32)))
    if 0.0 < max(-found.least, found.most) <= _SMALL:
        return None
    mean = found.total / found.size
    found.m2 = found.squares - found.total * mean
    if found.squares > _SPREAD * found.m2:
        distances = (torch.sub(part.float(), mean, out=_scratch(part)) for part in parts)
        found.m2 = sum(_squares(x) for x in distances)
    return found


def _parts(flat: Any) -> Sequence[Any]:
    """As matrices whose rows are short enough for a sum of squares; the last may be shorter."""
    size = len(flat)
    whole = size - size % _ROW
    if whole < size:
        return [*(_parts(flat[:whole]) if whole else ()), flat[whole:].view(1, -1)]
    rows = flat.view(-1, _ROW)
    return [rows] if size <= _PART else rows.split(_PART // _ROW)


_memory = threading.local()


def _scratch(x: Any) -> Any:
    """Memory of the shape of a part, the same each time.

    What is fresh is faulted in page by page: for the 1 MB of a part, 40 us a tensor.
    """
    whole = getattr(_memory, "whole", None)
    if whole is None:
        whole = _memory.whole = torch.empty(_PART // _ROW, _ROW)
    if x.shape == whole.shape:
        return whole
    return whole[: x.shape[0], : x.shape[1]] if x.shape[0] == 1 else whole[: x.shape[0]]


def _as_integers(x: Any) -> tuple[int, int]:
    """Least and greatest bits; negative where there is a sign, if only that of a zero."""
    low, high = torch.aminmax(x.view(torch.int32))
    return int(low), int(high)


def _greatest(x: Any) -> float:
    bits = int(torch.amax(x.view(torch.int32)))
    return _as_float(bits) if bits >= 0 else torch.amax(x).item()


def _as_float(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<i", bits))[0]


_LARGE_AS_INTEGER = struct.unpack("<i", struct.pack("<f", _LARGE))[0]


def _squares(x: Any) -> float:
    norms = torch.linalg.vector_norm(x, dim=1)
    return torch.dot(norms, norms).item()
