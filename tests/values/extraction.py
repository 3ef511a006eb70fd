"""An extraction into a run, batch by batch; as a program, one to be killed.

extraction.py PATH  says each batch that it was asked for
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import fitscope as fs

SITES = ("a", "b")
BATCHES = 7


def extractor() -> Any:
    """The same in every process, weights included."""
    hidden, head = keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")
    model = keras.Sequential([keras.Input((4,)), hidden, head], name="net")
    random = np.random.default_rng(0)
    model.set_weights([random.standard_normal(w.shape) for w in model.get_weights()])
    return fs.extractor(model)


def batches(count: int = BATCHES, seconds: float = 0.0) -> Iterator[Any]:
    """Rows that carry their number, in batches of several sizes."""
    first = 0
    for number in range(count):
        size = 2 + number % 3
        x = np.zeros((size, 4), "float32")
        x[:, 0] = np.arange(first, first + size)
        if seconds:
            print(number, flush=True)
            time.sleep(seconds)
        yield x
        first += size


if __name__ == "__main__":
    extractor().to_run(sys.argv[1], batches(10**6, 0.01), verbose=0)
