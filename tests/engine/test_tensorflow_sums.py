"""The moments of one TensorFlow tensor on a CPU, in sweeps or not, against NumPy in float64."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from tests.engine.reference import bins_of
from tests.engine.sums import VALUES, check, made

from fitscope.statistics.activation import zones
from fitscope.statistics.moments import COLUMNS

SHAPES = ((7,), (5, 3), (128, 1024), (61, 127, 37), (16, 32, 32, 2), (2, 70000), (3, 1100))

pytestmark = pytest.mark.backends("tensorflow")


@functools.lru_cache(maxsize=8)
def observed(specs: tuple[tuple[tuple[int, ...], str], ...], name: str | None) -> Any:
    """A function that gives what the host reads of tensors, the length of a batch unknown."""
    import tensorflow as tf

    from fitscope.engine import tensorflow_kernel as kernel
    from fitscope.engine.layout import Layout
    from fitscope.engine.tensorflow_rows import SumsRow

    kinds = [
        kernel.Kind((None, *shape[1:]), dtype, zones(name), -1, kernel.is_large(shape))
        for shape, dtype in specs
    ]

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec((None, *shape[1:]), dtype) for shape, dtype in specs],
    )
    def step(*tensors: Any) -> Any:
        found = kernel.reduced(list(zip(tensors, kinds, strict=True)))
        return kernel.row(found, [])

    def read(*tensors: Any) -> Any:
        return SumsRow(Layout.of([], [], []), kinds, step(*tensors)).read()

    return read


def reading(*tensors: Any, name: str | None = None) -> Any:
    """What the host reads of a step that met these tensors."""
    import tensorflow as tf

    tensors = tuple(tf.convert_to_tensor(x) for x in tensors)
    return observed(tuple((tuple(x.shape), x.dtype.name) for x in tensors), name)(*tensors)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("values", VALUES)
def test_any_values(values: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    name = values if values in ("relu", "tanh") else None
    tensors = [made(values, shape, random) for shape in SHAPES]
    found = reading(*tensors, name=name)
    assert (found.first_bad == -1).all()
    for x, moments in zip(tensors, found.moments, strict=True):
        check(dict(zip(COLUMNS, moments, strict=True)), x, name, within=5e-6)


def test_large_and_small_tensors_beside_each_other() -> None:
    random = np.random.default_rng(0)
    tensors = [made("normal", shape, random) for shape in ((5, 3), (128, 1024), (7,), (64, 2048))]
    found = reading(*tensors)
    for x, moments, histogram in zip(tensors, found.moments, found.histograms, strict=True):
        check(dict(zip(COLUMNS, moments, strict=True)), x, None)
        step = -(-x.size // int(histogram.sum()))
        expected = np.bincount(bins_of(x.reshape(-1)[::step]), minlength=2048)
        np.testing.assert_array_equal(histogram, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    import tensorflow as tf

    x = tf.cast(made("far", (128, 2048), np.random.default_rng(0)), dtype)
    moments = reading(x).moments[0]
    check(dict(zip(COLUMNS, moments, strict=True)), tf.cast(x, tf.float32).numpy(), None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 131071])
def test_what_is_not_finite_is_found(bad: float, place: int) -> None:
    x = made("normal", (128, 1024), np.random.default_rng(0))
    x.reshape(-1)[place] = bad
    found = reading(x)
    got = dict(zip(COLUMNS, found.moments[0], strict=True))
    assert found.first_bad[0] == place
    assert got["nan"] + got["posinf"] + got["neginf"] == 1
    finite = x[np.isfinite(x)].astype(np.float64)
    assert got["mean"] == pytest.approx(finite.mean(), abs=1e-6)
    assert got["std"] == pytest.approx(finite.std(), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 127, 128])
def test_any_length_of_a_batch(rows: int) -> None:
    x = made("rows apart", (rows, 1100), np.random.default_rng(0))
    check(dict(zip(COLUMNS, reading(x).moments[0], strict=True)), x, None)
