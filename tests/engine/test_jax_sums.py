"""The moments of one JAX tensor on a CPU, in one sweep or not, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fitscope.statistics.activation import zones
from fitscope.statistics.moments import COLUMNS

pytestmark = pytest.mark.backends("jax")

SHAPES = (
    (7,), (16384,), (20000,), (16411,), (5, 3), (128, 128), (97, 1000), (61, 127, 37),
    (4, 64, 64, 2), (2, 70000), (8, 100, 33), (4096, 17),
)  # fmt: skip
VALUES = (
    "normal", "relu", "far", "negative", "sparse", "tanh", "huge", "tiny", "zero", "constant",
    "one outlier", "rows apart", "mostly zero", "sampled apart",
)  # fmt: skip


def made(values: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    from fitscope.engine.vector import stride

    x = random.standard_normal(shape)
    size = x.size
    if values == "sampled apart":  # the sample is far from the rest
        x.reshape(-1)[:: stride(size)[0]] += 1e4
    if values == "mostly zero":  # and so is all of the sample, where there is one
        x = np.where(random.random(shape) < 1e-4, x * 1e-20, 0)
    if values == "one outlier":
        x.reshape(-1)[size // 2] = 1e8
    return {
        "relu": np.maximum(x, 0) * (np.arange(shape[-1]) % 2),
        "far": 1000 + x,
        "negative": -np.abs(x),
        "sparse": np.where(x > 2, x, 0),
        "tanh": np.tanh(5 * x),
        "huge": 1e14 * x,
        "tiny": 1e-30 * x,
        "zero": 0 * x,
        "constant": 0 * x + 3.7,
        "rows apart": x + 100 * np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)),
    }.get(values, x).astype(np.float32)


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


def check(got: dict[str, float], x: np.ndarray, name: str | None) -> None:
    x = x.astype(np.float64)
    units = x.reshape(-1, 1) if x.ndim < 2 else x.reshape(-1, x.shape[-1])
    assert got["count"] == x.size
    assert got["zeros"] == (x == 0).sum()
    assert got["units"] == units.shape[1]
    assert got["nan"] == got["posinf"] == got["neginf"] == 0
    assert got["min"] == x.min()
    assert got["max"] == x.max()
    scale = np.abs(x).max() or 1
    rms = np.sqrt(np.square(x / scale).mean()) * scale
    for key, want in {"mean": x.mean(), "mean_abs": np.abs(x).mean()}.items():
        assert abs(got[key] - want) <= 1e-6 * rms, key
    std = (x / scale).std() * scale
    assert abs(got["std"] - std) <= 5e-6 * std + 1e-6 * rms
    if name == "relu":
        assert got["dead_units"] == (units == 0).all(0).sum()
    if name == "tanh":
        saturated = 1 - units * units <= 0.02
        at_the_edge = np.abs(1 - units * units - 0.02) < 1e-6
        assert abs(got["saturated"] - saturated.sum()) <= at_the_edge.sum()
        if not at_the_edge.any():
            assert got["saturated_units"] == saturated.all(0).sum()


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
