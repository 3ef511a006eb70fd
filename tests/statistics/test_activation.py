"""Zones, against numeric derivatives in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from fitscope.statistics.activation import FLAT, LINEAR, TAIL, ZONES, zones

X = np.linspace(-30, 30, 600_001)
STEP = 1e-6
erf = np.vectorize(math.erf)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def selu(x: np.ndarray) -> np.ndarray:
    return 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0)))


Function = Callable[[np.ndarray], np.ndarray]
SATURATING: dict[str, Function] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + np.abs(x)),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "celu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": selu,
    "log_sigmoid": lambda x: -softplus(-x),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "sparse_sigmoid": lambda x: np.clip(0.5 * (x + 1), 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
}
RECTIFIERS: dict[str, Function] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
    "silu": lambda x: x * sigmoid(x),
    "mish": lambda x: x * np.tanh(softplus(x)),
    "softplus": softplus,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_shrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "soft_shrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "sparse_plus": lambda x: np.where(x < -1, 0, np.where(x < 1, (x + 1) ** 2 / 4, x)),
}


def slope(f: Function, x: np.ndarray) -> np.ndarray:
    return np.abs(f(x + STEP) - f(x - STEP)) / (2 * STEP)


@pytest.mark.parametrize("name", SATURATING)
def test_saturated_is_where_the_derivative_is_small(name: str) -> None:
    f = SATURATING[name]
    flat = slope(f, X) < FLAT * slope(f, X).max()
    y, zone = f(X), zones(name)
    inside = np.zeros(X.shape, bool)
    if zone.saturated_below is not None:
        inside |= y <= zone.saturated_below
    if zone.saturated_above is not None:
        inside |= y >= zone.saturated_above
    # Apart from the grid points on the limit itself.
    assert (inside != flat).sum() <= 4
    assert inside.any()


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_dead_unit_passes_no_signal_and_no_gradient(name: str) -> None:
    f = RECTIFIERS[name]
    # gelu and its like also cross zero at the origin, where they are alive.
    x = X[np.abs(X) > 0.01] if name in ("gelu", "silu", "mish", "hard_silu") else X
    if name == "relu6":
        x = x[x < 6]
    low, high = zones(name).dead or (1, 0)
    y = f(x)
    dead = (low <= y) & (y <= high)
    assert dead[x < -29].all() or "shrink" in name
    assert np.abs(y[dead]).max() <= TAIL
    # The grid point on a kink sees half a slope.
    assert (slope(f, x[dead]) > FLAT * slope(f, x).max()).sum() <= 2


def test_tanh_shrink_is_dead_around_zero() -> None:
    low, high = zones("tanh_shrink").dead or (1, 0)
    x = np.linspace(-1, 1, 20001)
    y = x - np.tanh(x)
    assert ((np.tanh(x) ** 2 < FLAT) == ((low < y) & (y < high))).all()


def test_squareplus_is_dead_in_its_tail() -> None:
    x = np.linspace(-1e4, 0, 100_001)
    # The sum cancels far below zero; this is the same number.
    y = 2 / (np.sqrt(x**2 + 4) - x)
    dead = y <= (zones("squareplus").dead or (1, 0))[1]
    assert dead.any()
    assert ((1 + x / np.sqrt(x**2 + 4)) / 2)[dead].max() < FLAT


def test_softmax_is_saturated_when_it_is_sure() -> None:
    above = zones("softmax").saturated_above
    assert above is not None
    assert above * (1 - above) == pytest.approx(FLAT / 4)
    assert zones("softmax").saturated_below is None


def test_relu6_and_the_contract_of_flat_pieces() -> None:
    assert (zones("relu6").dead, zones("relu6").saturated_above) == ((0.0, 0.0), 6.0)
    assert zones("linear") == zones(None) == zones("my_own") == LINEAR
    assert "my_own" in zones("my_own").note
    assert zones("linear").note == ""


@pytest.mark.parametrize(
    ("alias", "name"),
    [("swish", "silu"), ("hard_swish", "hard_silu"), ("ReLU", "relu"), ("LeakyReLU", "leaky_relu"),
     ("Softmax", "softmax"), ("ELU", "elu")],
)  # fmt: skip
def test_aliases(alias: str, name: str) -> None:
    assert zones(alias) is ZONES[name]
