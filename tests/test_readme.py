"""The README's example runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import keras

    monkeypatch.chdir(tmp_path)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv_1"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(3, name="dense"),
        ]
    )
    model.compile("adam", "mse")
    # Keras warns on loading a model whose optimizer was saved without its variables.
    model.optimizer.build(model.trainable_variables)
    model.save("model.keras")

    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    random = np.random.default_rng(0)
    names = {
        "x": random.normal(size=(64, 8, 8, 1)).astype("float32"),
        "y": random.normal(size=(64, 3)).astype("float32"),
    }
    exec(compile(example, str(README), "exec"), names)

    table = names["run"].stats("conv*", ["rms", "dead_fraction", "q99"]).to_pandas()
    assert set(table["site"]) == {"conv_1"}
    assert set(table["statistic"]) == {"rms", "dead_fraction", "q99"}
    assert np.isfinite(table["value"]).all()
