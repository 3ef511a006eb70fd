"""The moments of one JAX tensor on a CPU, in one sweep or not, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.sums import SHAPES, VALUES, check, made

from fitscope.statistics.activation import zones
from fitscope.statistics.moments import COLUMNS

pytestmark = pytest.mark.backends("jax")


def moments(x: Any, name: str | None, axis: int = -1) -> tuple[dict[str, float], Any]:
    """By name, as the reader of an observed step gets them, and where what is bad begins."""
    import jax.numpy as jnp

    from fitscope.engine import jax_kernel, raw_rows

    tensor = jnp.asarray(x)
    shape = jax_kernel.shape_of(tensor, zones(name), axis)
    found = jax_kernel.measured(tensor, zones(name), axis, with_blocks=False, sweeps=True)
    vector, blocks, _ = jax_kernel.looked_at(found, tensor, shape, axis)
    blocks = None if blocks is None else np.asarray(blocks)
    values, places = raw_rows.read_tensors([np.asarray(vector)], [blocks], [shape])
    return dict(zip(COLUMNS, values[0], strict=True)), places[0]


@settings(max_examples=120)
@given(shape=st.sampled_from(SHAPES), values=st.sampled_from(VALUES), seed=st.integers(0, 999))
def test_any_values(shape: tuple[int, ...], values: str, seed: int) -> None:
    x = made(values, shape, np.random.default_rng(seed))
    name = values if values in ("relu", "tanh") else None
    got, place = moments(x, name)
    assert place == -1
    check(got, x, name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype: str) -> None:
    import jax.numpy as jnp

    x = jnp.asarray(made("far", (128, 256), np.random.default_rng(0)), dtype)
    check(moments(x, None)[0], np.asarray(x.astype(jnp.float32)), None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 1, 20001, 32767])
def test_what_is_not_finite_is_found(bad: float, place: int) -> None:
    x = made("normal", (128, 256), np.random.default_rng(0))
    x.reshape(-1)[place] = bad
    got, found = moments(x, None)
    assert found == place
    assert got["nan"] + got["posinf"] + got["neginf"] == 1
    finite = x[np.isfinite(x)].astype(np.float64)
    assert got["mean"] == pytest.approx(finite.mean(), abs=1e-6)
    assert got["std"] == pytest.approx(finite.std(), rel=1e-5)


def test_more_elements_than_a_float32_counts() -> None:
    x = np.ones((4099, 4100), np.float32)
    x[:7, :3] = 0
    got, _ = moments(x, None)
    assert got["zeros"] == 21


@pytest.mark.parametrize("shape", [(128, 1024), (97, 1000), (16384, 1), (2, 65536), (4096, 17)])
def test_a_sweep_meets_each_element_once(shape: tuple[int, int]) -> None:
    from fitscope.engine import jax_sweep

    sweep = jax_sweep.sweep_over(*shape)
    assert sweep is not None
    assert sweep.lanes * sweep.parts * sweep.turns == shape[0] * shape[1]
    assert sweep.lanes % shape[1] == 0


@pytest.mark.parametrize("shape", [(3, 5), (65537, 1), (2, 70000)])
def test_no_sweep_where_it_would_not_be_faster(shape: tuple[int, int]) -> None:
    from fitscope.engine import jax_sweep

    assert jax_sweep.sweep_over(*shape) is None


def test_the_rows_of_a_fit_are_swept_after_the_first() -> None:
    import keras

    import fitscope as fs
    from fitscope.engine import jax_kernel

    x = made("normal", (256, 20), np.random.default_rng(0))
    model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(300, "relu", name="wide")])
    model.compile(keras.optimizers.SGD(0.0), "mse")  # all steps are alike
    scope = fs.Scope(fs.watch("wide"), every=1)
    epochs = jax_kernel.Reducers.PASSES + 2
    y = np.zeros((256, 300), np.float32)
    model.fit(x, y, batch_size=256, epochs=epochs, shuffle=False, verbose=0, callbacks=[scope])
    kernel, bias = (np.asarray(w, np.float64) for w in model.get_weights())
    out = np.maximum(x.astype(np.float64) @ kernel + bias, 0)
    run = scope.run
    assert run is not None
    for name, want in {"mean": out.mean(), "std": out.std(), "max": out.max()}.items():
        found = run.stats("wide", name).to_arrow()["value"].to_numpy()
        assert len(found) == epochs
        np.testing.assert_allclose(found, want, rtol=1e-5)
    zeros = run.stats("wide", "zeros").to_arrow()["value"].to_numpy()
    assert set(zeros) == {float((out == 0).sum())}
