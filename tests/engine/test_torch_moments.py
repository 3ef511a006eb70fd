"""The moments of one torch tensor, however it lies in memory, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.engine.sums import check

from fitscope.engine.vector import decode, stride
from fitscope.statistics.activation import zones
from fitscope.statistics.moments import COLUMNS

pytestmark = pytest.mark.backends("torch")

SHAPES = ((7,), (5, 3), (4, 6, 5), (2, 3, 4, 5), (3, 1, 2), (64, 40, 33, 16), (1, 700), (2100, 513))


def laid_out(x: Any, layout: str, random: np.random.Generator) -> Any:
    """A tensor of the same shape whose memory is arranged otherwise."""
    import torch

    if layout == "permuted":
        order = [int(i) for i in random.permutation(x.ndim)]
        back = [order.index(i) for i in range(x.ndim)]
        return x.permute(order).contiguous().permute(back)
    if layout == "every second":
        wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
        wide[..., ::2] = x
        return wide[..., ::2]
    if layout == "repeated":
        return x[:1].expand(x.shape)
    return x


@settings(max_examples=150)
@given(
    shape=st.sampled_from(SHAPES),
    layout=st.sampled_from(("plain", "permuted", "every second", "repeated")),
    values=st.sampled_from(("normal", "relu", "far", "negative", "sparse", "tanh", "huge", "zero")),
    axis=st.integers(-1, 3),
    seed=st.integers(0, 999),
)
def test_any_layout(shape: tuple[int, ...], layout: str, values: str, axis: int, seed: int) -> None:
    import torch

    from fitscope.engine import torch_kernel

    random = np.random.default_rng(seed)
    made = random.standard_normal(shape).astype("float32")
    made = {
        "normal": made,
        "relu": np.maximum(made, 0) * (np.arange(shape[-1]) % 2),
        "far": 1000 + made,
        "negative": -np.abs(made),
        "sparse": np.where(made > 1, made, 0),
        "tanh": np.tanh(5 * made),
        "huge": 1e14 * made,
        "zero": 0 * made,
    }[values].astype("float32")
    tensor = laid_out(torch.from_numpy(made), layout, random)
    axis = axis if axis < tensor.ndim else -1
    x = tensor.numpy().astype(np.float64)
    name = values if values in ("relu", "tanh") else None
    vector, _ = torch_kernel.measured(tensor, zones(name), axis)
    got = dict(zip(COLUMNS, decode(vector.numpy()), strict=True))
    check(got, x, name, axis=axis)


@pytest.mark.parametrize("layout", ["plain", "permuted", "every second"])
def test_the_sample_is_the_same_however_a_tensor_lies(layout: str) -> None:
    import torch

    from fitscope.engine import torch_kernel

    x = torch.arange(30 * 20 * 50).float().reshape(30, 20, 50)
    laid = laid_out(x, layout, np.random.default_rng(0))
    vector, taken = torch_kernel.measured(laid, zones(None), -1)
    count = int(decode(vector.numpy())[COLUMNS.index("hist_count")])
    step, expected = stride(x.numel())
    assert count == expected == len(taken)
    assert torch.equal(taken, x.reshape(-1)[::step])


def test_squares_that_a_float32_could_not_hold() -> None:
    import torch

    from fitscope.engine import torch_kernel

    x = torch.full((1024, 1024), 2.0**55)
    x[::2] *= -1
    vector, _ = torch_kernel.measured(x, zones(None), -1)
    got = dict(zip(COLUMNS, decode(vector.numpy()), strict=True))
    assert got["std"] == pytest.approx(2.0**55, rel=1e-5)


def test_the_sample_stays_what_it_was_when_a_later_layer_works_in_place() -> None:
    import torch

    from fitscope.engine import torch_kernel

    x = torch.randn(40, 700)
    before = x.clone().reshape(-1)[:: stride(x.numel())[0]]
    _, taken = torch_kernel.measured(x, zones(None), -1)
    x.add_(1)
    assert torch.equal(taken, before)


def test_a_unit_is_off_only_where_it_is_off_in_all_parts() -> None:
    import torch

    from fitscope.engine import torch_kernel

    x = torch.randn(2100, 513)
    x[:, 1:4] = -1e-9  # in the tail of a GELU
    x[-1, 2] = 0.5
    x[-1, 3] = -0.1
    vector, _ = torch_kernel.measured(x, zones("gelu"), -1)
    assert dict(zip(COLUMNS, decode(vector.numpy()), strict=True))["dead_units"] == 1


def test_histograms_of_samples_of_different_lengths() -> None:
    import torch

    from fitscope.engine import torch_sample

    random = np.random.default_rng(0)
    samples = [random.standard_normal(n).astype("float32") for n in (7, 8192, 0, 100)]
    expected = [np.bincount((s.view(np.uint32) >> 21) % 2048, minlength=2048) for s in samples]
    got = torch_sample.histograms([torch.from_numpy(s) for s in samples])
    assert np.array_equal(got.numpy(), np.stack(expected))
