"""How long it takes to look at a model of 500 layers before anything is run.

python -m benchmarks.preview --backend jax
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.cost import BACKENDS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.preview", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="jax")
    parser.add_argument("--layers", type=int, default=500)
    parser.add_argument("--kind", choices=tuple(MODELS), default="residual")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def deep(count: int) -> Any:
    """Residual blocks of five layers each, `count` layers in all, compiled."""
    import keras
    from keras import layers

    x = inputs = keras.Input((16,))
    for _ in range(count // 5):
        y = layers.LayerNormalization()(x)
        y = layers.Dense(32)(y)
        y = layers.Activation("relu")(y)
        y = layers.Dense(16)(y)
        x = layers.Add()([x, y])
    model = keras.Model(inputs, x)
    model.compile(optimizer="sgd", loss="mse")
    return model


def chain(count: int) -> Any:
    """A Sequential model of dense layers, compiled."""
    import keras
    from keras import layers

    model = keras.Sequential([keras.Input((16,)), *(layers.Dense(16) for _ in range(count))])
    model.compile(optimizer="sgd", loss="mse")
    return model


MODELS = {"residual": deep, "sequential": chain}


def seconds(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def measure(model: Any) -> dict[str, float]:
    """Seconds of one preview, of one attach, and of the plan that the first observed step makes."""
    import fitscope as fs

    scope = fs.Scope()
    found = {"preview": seconds(lambda: scope.preview(model))}
    block = scope.attach(model)
    found["attach"] = seconds(block.__enter__)
    try:
        session = scope._session
        assert session is not None
        found["plan, at the first observed step"] = seconds(session.plan)
    finally:
        block.__exit__(None, None, None)
    return {**found, "sum": sum(found.values())}


def main() -> None:
    options = arguments()
    os.environ["KERAS_BACKEND"] = options.backend

    from benchmarks import report

    model = MODELS[options.kind](options.layers)
    rounds = [measure(model) for _ in range(options.rounds)]
    rows = [
        [name, f"{rounds[0][name]:.3f} s", f"{median(r[name] for r in rounds):.3f} s"]
        for name in rounds[0]
    ]
    body = report.table(("what", "first time", "median"), rows)
    title = f"Preview and attach, {options.backend}, {options.layers} layers, {options.kind}"
    print(report.page(title, "preview", options.backend, body))


if __name__ == "__main__":
    main()
