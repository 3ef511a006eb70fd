"""What is computed of each tensor that an observed JAX step met; `raw_rows` makes moments of it.

On CPU a bare float reduction (sum, max, min, sum of squares or of absolute values) runs at memory
speed and compiles in two milliseconds, and every other loop costs five to ten milliseconds of
compilation. So only the bare reductions are taken, and the arithmetic that follows is left to the
host. A reduction over a `where(isfinite)` would be twenty to a hundred times slower: the tensor is
gone over again, block by block, when a sum shows that something is not finite or out of range. That
takes four times as long to compile as the rest. It is a branch of the rest only where the host
cannot look at the sums and then decide. Where it can, all sums of a large tensor are taken in one
sweep (`jax_sweep`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fitscope.engine import jax_sweep
from fitscope.engine.raw_rows import BLOCK, BLOCK_LENGTH, SUMS, Shape, blocks_of
from fitscope.engine.vector import BINS, stride
from fitscope.statistics.activation import Zones

_TINY = 2.0**-100
"""Mean magnitude below which elements that matter begin to vanish."""

Parts = tuple[Any, Any, Any]
"""Of one tensor: a float32 vector that `raw_rows` reads, its blocks or None, and a histogram."""


@functools.partial(jax.jit, static_argnames=("zones", "unit_axis", "with_blocks", "sweeps"))
def measured(
    tensor: Any, zones: Zones, unit_axis: int, with_blocks: bool, sweeps: bool = False
) -> Parts:
    """Reduce one tensor of any float dtype.

    Compiled once for all tensors of a shape, whatever the model; inside a step it becomes a part
    of the step's program.

    Args:
        tensor: the tensor.
        zones: of its activation.
        unit_axis: along which its units lie.
        with_blocks: False where `looked_at` puts them in.
        sweeps: Whether large tensors are gone over in one sweep; `looked_at` judges the result.
    """
    x = lax.stop_gradient(tensor)
    shape = shape_of(x, zones, unit_axis)
    flat = x.reshape(-1)
    if not shape.size:
        zeros = jnp.zeros(shape.length, jnp.float32).at[3].set(1)
        blocks = jnp.zeros((BLOCK_LENGTH, 0), jnp.float32) if with_blocks else None
        return zeros, blocks, jnp.zeros((BINS,), jnp.uint16)
    sample = lax.optimization_barrier(flat[:: stride(shape.size)[0]].astype(jnp.float32))
    rows = _rows(x, unit_axis)
    sweep = jax_sweep.sweep_over(*rows.shape) if sweeps else None
    sums, *arrays = _passes(rows, shape) if sweep is None else _swept(rows, shape, sweep, sample)
    vector = jnp.concatenate([jnp.stack(sums), *arrays])
    blocks = None
    if with_blocks:
        blocks = lax.cond(
            _is_plain(sums[1], sums[2], shape.size, jnp.isfinite),
            lambda: jnp.zeros((BLOCK_LENGTH, blocks_of(shape)), jnp.float32),
            lambda: _blocks(x),
        )
    return vector, blocks, _histogram(sample)


def _passes(rows: Any, shape: Shape) -> tuple[Any, ...]:
    """The bare sums, each by a reduction of its own."""
    rows = rows.astype(jnp.float32)
    total, l1 = rows.sum(), jnp.abs(rows).sum()
    # Gradients are small: unscaled, their squares would vanish.
    scale = _scale(l1 / shape.size)
    mean = total / shape.size
    m2 = jnp.square((rows - mean) * scale).sum()
    nonzero = _counted(jnp.square(jnp.sign(rows)), shape)
    sums = (total, l1, m2, scale, mean)
    arrays = [rows.min(0), rows.max(0)]
    inside = _inside(shape.zones)
    if inside is not None:
        arrays.append(inside(rows).sum(0))
    return sums, nonzero, *arrays


def _swept(rows: Any, shape: Shape, sweep: jax_sweep.Sweep, sample: Any) -> tuple[Any, ...]:
    """The same in one sweep, with the squares around the mean of the sample."""
    center, magnitude = sample.mean(), jnp.abs(sample).mean()
    scale = jnp.where(magnitude == 0, 1.0, _scale(magnitude))
    found = jax_sweep.sums(rows, sweep, center, scale, _inside(shape.zones))
    sums = (found.total, found.magnitudes, found.squares, scale, center)
    parts = [found.nonzero] if shape.parts == 1 else [found.nonzero // _HALF * _HALF]
    if shape.parts > 1:  # two that float32 holds exactly
        parts += [found.nonzero % _HALF, *[0] * (shape.parts - 2)]
    nonzero = jnp.stack(parts).astype(jnp.float32)
    return sums, nonzero, found.least, found.greatest, *found.inside


_HALF = 4096


def _is_plain(l1: Any, m2: Any, size: int, isfinite: Callable[[Any], Any]) -> Any:
    """Whether the bare sums of a tensor tell the truth."""
    return isfinite(l1) & isfinite(m2) & ((l1 == 0) | (l1 > size * _TINY))


def _is_like_its_sample(sums: Sequence[float], size: int) -> bool:
    """Whether the center and the scale of a sample were good for the tensor."""
    total, l1, m2, scale, center = sums
    if l1 == 0:
        return True
    aside = size * ((total / size - center) * scale) ** 2
    # Squares of a constant are rounding alone.
    alone = size * (l1 / size * scale * 2.0**-18) ** 2
    return math.isfinite(m2) and (aside <= 0.9 * m2 or m2 <= alone) and l1 / size * scale > 2.0**-40


def host_looks() -> bool:
    """Whether the host looks at sums before it asks for more: on a CPU it need not fetch them."""
    return jax.default_backend() == "cpu"


def looked_at(found: Parts, tensor: Any, shape: Shape, unit_axis: int) -> Parts:
    """The parts of a tensor, judged by its sums, once these are there; waits for them."""
    vector, _, histogram = found
    if not shape.size:
        return found
    vector = np.asarray(vector)
    sums = vector[: SUMS + 1].tolist()
    if math.isfinite(sums[1]) and not _is_like_its_sample(sums, shape.size):
        vector = np.asarray(measured(tensor, shape.zones, unit_axis, with_blocks=False)[0])
        sums = vector[: SUMS + 1].tolist()
    plain = _is_plain(sums[1], sums[2], shape.size, math.isfinite)
    return vector, None if plain else _blocks(tensor), histogram


class Reducers:
    """Reduces the tensors of one traced step, with functions compiled beside it.

    XLA compiles a step on one core; by the time it is done, the reductions are done beside it. A
    sweep takes three times as long to compile, so the first rows do without, while it is compiled
    in turn. After how many is fixed: equal trainings have equal records, to the last digit.

    Args:
        tensors: abstract ones, as they are met while the step is traced, each with what else
            `measured` is called with.
    """

    PASSES = 8
    """Rows before the first with sweeps."""

    def __init__(self, tensors: Sequence[tuple[Any, Zones, int]]) -> None:
        kinds = {
            (jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=x.aval.weak_type), *kind)
            for x, *kind in tensors
        }
        self._kinds = sorted(kinds, key=lambda kind: -math.prod(kind[0].shape))
        self._rows = 0
        self._thread = self._compiling(self._kinds, sweeps=False)

    def reduce(self, tensors: Sequence[tuple[Any, Zones, int]]) -> list[Parts]:
        """The parts of the tensors of one row."""
        looks = host_looks()
        self._rows += 1
        if looks and self._rows == 2:
            large = [kind for kind in self._kinds if _can_be_swept(kind[0].shape, kind[2])]
            self._thread = self._compiling(large, sweeps=True)
        if self._rows == 1 or self._rows == self.PASSES + 1:
            self._thread.join()
        swept = looks and self._rows > self.PASSES
        return [
            measured(
                x, zones, axis, with_blocks=not looks,
                sweeps=swept and _can_be_swept(x.shape, axis),
            )
            for x, zones, axis in tensors
        ]  # fmt: skip

    @staticmethod
    def _compiling(kinds: Sequence[Any], *, sweeps: bool) -> threading.Thread:
        def run() -> None:
            # What fails here fails again, and is told, where the result is wanted.
            with contextlib.suppress(Exception):
                for kind in kinds:
                    blocks = not host_looks()
                    measured.lower(*kind, with_blocks=blocks, sweeps=sweeps).compile()

        thread = threading.Thread(target=run, name="fitscope-compilation")
        thread.start()
        return thread


@functools.lru_cache(maxsize=1024)
def _can_be_swept(dims: tuple[int, ...], unit_axis: int) -> bool:
    units = dims[unit_axis] if len(dims) > 1 else 1
    size = math.prod(dims)
    return size > 0 and jax_sweep.sweep_over(size // units, units) is not None


def shape_of(tensor: Any, zones: Zones, unit_axis: int) -> Shape:
    """What the host must know to read the parts of a tensor."""
    dims = tuple(tensor.shape)
    return Shape(
        size=math.prod(dims),
        n_units=dims[unit_axis] if len(dims) > 1 else 1,
        zones=zones,
        sampled=stride(math.prod(dims))[1],
    )


@jax.jit
def joined(found: Sequence[Parts]) -> Parts:
    """All parts of a step as two flat arrays: on an accelerator each one is a transfer."""
    return (
        jnp.concatenate([part.reshape(-1) for *own, _ in found for part in own]),
        None,
        jnp.concatenate([counts.reshape(-1) for _, _, counts in found]),
    )


def _histogram(sample: Any) -> Any:
    """Counts in the universal magnitude bins, as uint16."""
    bins = (lax.bitcast_convert_type(sample, jnp.uint32) >> 21).astype(jnp.int32)
    return jnp.zeros(BINS, jnp.uint16).at[bins].add(jnp.uint16(1))


def _rows(x: Any, unit_axis: int) -> Any:
    """As a matrix, one column per unit."""
    if x.ndim < 2:
        return x.reshape(-1, 1)
    x = jnp.moveaxis(x, unit_axis, -1)
    return x.reshape(-1, x.shape[-1])


def _counted(indicator: Any, shape: Shape) -> Any:
    """Sums of a 0/1 matrix in parts that float32 counts exactly."""
    return indicator.reshape(shape.parts, -1).sum(1)


def _inside(zones: Zones) -> Callable[[Any], Any] | None:
    """Tells by element whether it is saturated, as 0 or 1; None where nothing can be."""
    below, above = zones.saturated_below, zones.saturated_above
    if below is None and above is None:
        return None

    def inside(x: Any) -> Any:
        low = x <= (-math.inf if below is None else below)
        high = x >= (math.inf if above is None else above)
        both = below is not None and above is not None
        return (low | high if both else low if above is None else high).astype(jnp.float32)

    return inside


@jax.jit
def _blocks(tensor: Any) -> Any:
    """Counts and scaled sums of the finite elements of each block, one column each."""
    values = tensor.reshape(-1).astype(jnp.float32)
    blocks = -(-values.size // BLOCK)
    missing = blocks * BLOCK - values.size
    values = jnp.pad(values, (0, missing), constant_values=jnp.nan).reshape(blocks, BLOCK)
    magnitude = lax.bitcast_convert_type(values, jnp.int32) & _MAGNITUDE
    finite = magnitude < _INFINITY
    masks = [
        magnitude > _INFINITY,
        values == jnp.inf,
        values == -jnp.inf,
        values == 0,
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
    exponent = _exponent(extent)
    half = exponent >> 1
    down = (_power_of_two(-half), _power_of_two(half - exponent))
    middle = (low * down[0] * down[1] + high * down[0] * down[1]) / 2
    scaled = values * down[0][:, None] * down[1][:, None]
    offset = jnp.where(finite, scaled - middle[:, None], 0.0)
    sums = _sums([offset, offset * offset, jnp.where(finite, jnp.abs(scaled), 0.0)])
    counts[0] = counts[0].at[-1].add(-missing)
    place = lax.broadcasted_iota(jnp.int32, values.shape, 1)
    first = jnp.where(finite, BLOCK, place).min(1).astype(jnp.float32)
    return jnp.stack([*counts, low, high, exponent.astype(jnp.float32), middle, *sums, first])


_MAGNITUDE, _INFINITY = 0x7FFFFFFF, 0x7F800000


def _scale(magnitude: Any) -> Any:
    """A power of two that brings values of this mean magnitude near one."""
    return _power_of_two(-_exponent(magnitude))


def _exponent(positive: Any) -> Any:
    """Of the power of two below a float, as far as that and its inverse are normal numbers."""
    return jnp.clip((lax.bitcast_convert_type(positive, jnp.int32) >> 23) - 127, -126, 126)


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

    return lax.reduce(operands, starts, both, (1,))
