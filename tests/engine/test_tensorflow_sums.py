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
        found = kernel.reduced([(x, kind, False) for x, kind in zip(tensors, kinds, strict=True)])
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


def chained(x: np.ndarray, *, bad: bool = False) -> tuple[Any, np.ndarray]:
    """The reading of what batch normalization, a sum and a ReLU make of `x`, and their result."""
    import tensorflow as tf

    from fitscope.engine import tensorflow_kernel as kernel
    from fitscope.engine.layout import Layout
    from fitscope.engine.tensorflow_rows import SumsRow

    units = x.shape[-1]
    scale = np.linspace(0.5, 2, units, dtype=np.float32).reshape([1] * (x.ndim - 1) + [units])
    shift = np.linspace(-1, 1, units, dtype=np.float32)
    if bad:
        shift[1] = np.inf
    kind = kernel.Kind((None, *x.shape[1:]), "float32", zones("relu"), -1, True)
    kinds: list[Any] = []

    def made_of(a: Any, b: Any, c: Any, d: Any) -> Any:
        return tf.nn.relu(a * b + c * 2.0 + d)

    @tf.function(input_signature=[tf.TensorSpec((None, *x.shape[1:]), tf.float32)] * 2)
    def step(a: Any, d: Any) -> Any:
        found = kernel.reduced([(made_of(a, scale, shift, d), kind, True)])
        kinds.extend(r.kind for r in found)
        return kernel.row(found, [])

    row = step(x, x[::-1])
    assert kinds[0].chain is not None
    whole = made_of(x, scale, shift, x[::-1]).numpy()
    return SumsRow(Layout.of([], [], []), kinds, row).read(), whole


@pytest.mark.parametrize("shape", [(128, 1024), (16, 32, 32, 5), (61, 1111), (3, 1100)])
def test_what_is_made_while_it_is_swept(shape: tuple[int, ...]) -> None:
    found, whole = chained(made("normal", shape, np.random.default_rng(3)))
    got = dict(zip(COLUMNS, found.moments[0], strict=True))
    assert got["max"] == pytest.approx(whole.max(), rel=1e-6)
    got["max"] = whole.max()  # one operation may be rounded once where two are twice
    check(got, whole, "relu")
    step = -(-whole.size // int(found.histograms.sum()))
    expected = np.bincount(bins_of(whole.reshape(-1)[::step]), minlength=2048)
    assert np.abs(found.histograms[0] - expected).sum() <= 4


def test_what_is_made_and_is_not_finite() -> None:
    found, whole = chained(made("normal", (128, 1024), np.random.default_rng(3)), bad=True)
    got = dict(zip(COLUMNS, found.moments[0], strict=True))
    assert got["posinf"] == np.isposinf(whole).sum() == 128
    assert found.first_bad[0] == 1
    finite = whole[np.isfinite(whole)].astype(np.float64)
    assert got["mean"] == pytest.approx(finite.mean(), rel=1e-6)


def test_chains_end_where_an_operation_is_not_elementwise() -> None:
    import tensorflow as tf

    from fitscope.engine.tensorflow_chain import chain_of

    @tf.function(autograph=False)
    def step(a: Any, b: Any) -> Any:
        found = chain_of(tf.nn.relu(tf.transpose(a)) + b, 7)
        assert found is not None
        assert [leaf.op.type for leaf in found[1]] == ["Transpose", "Placeholder"]
        assert (
            chain_of(a + b[:1, :1] + a[:, :1], 5) is None
        )  # neither for each element nor each unit
        assert chain_of(tf.transpose(a), 7) is None
        assert chain_of(a + b[0, 0], 7) is not None  # a single number
        return a

    step(tf.zeros((7, 5)), tf.zeros((5, 7)))


@pytest.mark.parametrize("rows", [100, 2048])
def test_a_narrow_tensor_of_any_length(rows: int) -> None:
    """Small by what is known of it, and large when a batch is."""
    x = made("normal", (rows, 10), np.random.default_rng(0))
    found = reading(x)
    got = dict(zip(COLUMNS, found.moments[0], strict=True))
    check(got, x, None)
    assert got["hist_count"] == found.histograms[0].sum()
