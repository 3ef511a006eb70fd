"""Tensors whose sums are not easy, and what NumPy makes of them in float64."""

from __future__ import annotations

import numpy as np

from fitscope.engine.vector import stride

SHAPES = (
    (7,), (16384,), (20000,), (16411,), (5, 3), (128, 128), (97, 1000), (61, 127, 37),
    (4, 64, 64, 2), (2, 70000), (8, 100, 33), (4096, 17),
)  # fmt: skip
VALUES = (
    "normal", "relu", "far", "negative", "sparse", "tanh", "huge", "tiny", "zero", "constant",
    "one outlier", "rows apart", "mostly zero", "sampled apart",
)  # fmt: skip


def made(values: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
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


def check(
    got: dict[str, float], x: np.ndarray, name: str | None, within: float = 1e-6, axis: int = -1
) -> None:
    """Compare moments; `within` is relative to the root mean square."""
    x = x.astype(np.float64)
    units = x.reshape(-1, 1) if x.ndim < 2 else np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    assert got["count"] == x.size
    assert got["zeros"] == (x == 0).sum()
    assert got["units"] == units.shape[1]
    assert got["nan"] == got["posinf"] == got["neginf"] == 0
    assert got["min"] == x.min()
    assert got["max"] == x.max()
    scale = np.abs(x).max() or 1
    rms = np.sqrt(np.square(x / scale).mean()) * scale
    for key, want in {"mean": x.mean(), "mean_abs": np.abs(x).mean()}.items():
        assert abs(got[key] - want) <= within * rms, key
    std = (x / scale).std() * scale
    assert abs(got["std"] - std) <= 5e-6 * std + within * rms
    if name == "relu":
        assert got["dead_units"] == (units == 0).all(0).sum()
    if name == "tanh":
        saturated = 1 - units * units <= 0.02
        at_the_edge = np.abs(1 - units * units - 0.02) < 1e-6
        assert abs(got["saturated"] - saturated.sum()) <= at_the_edge.sum()
        if not at_the_edge.any():
            assert got["saturated_units"] == saturated.all(0).sum()
