"""The handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fitscope.errors import FitscopeError

TRAINING_IMAGES = 1437
SHUFFLE_SEED = 0


class DemoError(FitscopeError):
    """The demo cannot run here."""


@dataclass(frozen=True, slots=True, eq=False)
class Digits:
    """1,797 images of 8x8 pixels, 1,437 to train on and 360 to check.

    Args:
        x: float32 `[1437, 8, 8, 1]`, from 0 to 1.
        y: int32 `[1437]`, 0 to 9.
        x_check: float32 `[360, 8, 8, 1]`.
        y_check: int32 `[360]`.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int32]
    x_check: NDArray[np.float32]
    y_check: NDArray[np.int32]


def load() -> Digits:
    """Load and split the digits; the split is the same every time.

    Raises:
        DemoError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DemoError(
            "The demo trains on the digits that ship with scikit-learn, which is not installed. "
            "Install it with `pip install 'fitscope[demo]'`."
        ) from error
    data: Any = load_digits(return_X_y=True)
    pixels, labels = data
    order = np.random.default_rng(SHUFFLE_SEED).permutation(len(pixels))
    x = (pixels[order].reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    y = labels[order].astype(np.int32)
    cut = TRAINING_IMAGES
    return Digits(x[:cut], y[:cut], x[cut:], y[cut:])
