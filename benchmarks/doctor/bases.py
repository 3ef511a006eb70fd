"""Healthy trainings: data of scikit-learn, or generated."""

from __future__ import annotations

import numpy as np

from benchmarks.doctor.program import Program


def _scaled(x: np.ndarray) -> np.ndarray:
    deviation = x.std(0)
    return ((x - x.mean(0)) / np.where(deviation > 0, deviation, 1)).astype("float32")


def _mixed(seed: int, *arrays: np.ndarray) -> list[np.ndarray]:
    order = np.random.default_rng(seed).permutation(len(arrays[0]))
    return [array[order] for array in arrays]


def wine(seed: int) -> Program:
    from sklearn.datasets import load_wine

    data = load_wine()
    x, y = _mixed(seed, _scaled(data.data), data.target)
    return Program(
        "wine", x, y, "classes",
        [("Dense", {"units": 16, "activation": "relu"}),
         ("Dense", {"units": 16, "activation": "relu"})],
        "sparse_categorical_crossentropy", 3, "softmax", metrics=["accuracy"], batch_size=16,
        epochs=15,
    )  # fmt: skip


def digits(seed: int) -> Program:
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = _mixed(seed, (data.data / 16).astype("float32"), data.target)
    x, y = x[:800], y[:800]
    return Program(
        "digits", x, np.eye(10, dtype="float32")[y], "classes",
        [("Dense", {"units": 32, "activation": "relu"}), ("Dropout", {"rate": 0.2}),
         ("Dense", {"units": 32, "activation": "relu"})],
        "categorical_crossentropy", 10, "softmax", metrics=["accuracy"], epochs=10,
    )  # fmt: skip


def images(seed: int) -> Program:
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = _mixed(seed, (data.images / 16).astype("float32")[..., None], data.target)
    return Program(
        "images", x[:600], y[:600], "classes",
        [("Conv2D", {"filters": 8, "kernel_size": 3, "activation": "relu"}),
         ("MaxPooling2D", {}), ("Flatten", {}), ("Dense", {"units": 32, "activation": "relu"})],
        "sparse_categorical_crossentropy", 10, "softmax", metrics=["accuracy"], epochs=10,
    )  # fmt: skip


def cancer(seed: int) -> Program:
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    x, y = _mixed(seed, _scaled(data.data), data.target)
    return Program(
        "cancer", x, y, "binary",
        [("Dense", {"units": 16, "activation": "relu"}),
         ("Dense", {"units": 8, "activation": "relu"})],
        "binary_crossentropy", 1, "sigmoid", metrics=["accuracy"], epochs=10,
    )  # fmt: skip


def moons(seed: int) -> Program:
    from sklearn.datasets import make_moons

    x, y = make_moons(400, noise=0.15, random_state=seed)
    return Program(
        "moons", _scaled(x), y, "binary",
        [("Dense", {"units": 24, "activation": "tanh"}),
         ("Dense", {"units": 24, "activation": "tanh"})],
        "binary_crossentropy", 1, "sigmoid", optimizer="SGD",
        settings={"learning_rate": 0.1, "momentum": 0.9}, metrics=["accuracy"], epochs=15,
    )  # fmt: skip


def diabetes(seed: int) -> Program:
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    x, y = _mixed(seed, _scaled(data.data), _scaled(data.target[:, None])[:, 0])
    return Program(
        "diabetes", x, y, "quantity",
        [("Dense", {"units": 16, "activation": "relu"}),
         ("Dense", {"units": 16, "activation": "relu"})],
        "mean_squared_error", 1, None, metrics=["mae"], epochs=12,
        settings={"learning_rate": 1e-3},
    )  # fmt: skip


def friedman(seed: int) -> Program:
    from sklearn.datasets import make_friedman1

    x, y = make_friedman1(500, noise=0.5, random_state=seed)
    return Program(
        "friedman", _scaled(x), _scaled(y[:, None])[:, 0], "quantity",
        [("Dense", {"units": 32, "activation": "relu"}), ("BatchNormalization", {}),
         ("Dense", {"units": 16, "activation": "relu"})],
        "mean_squared_error", 1, None, metrics=["mae"], epochs=12,
    )  # fmt: skip


def tokens(seed: int) -> Program:
    random = np.random.default_rng(seed)
    x = random.integers(1, 20, (400, 10))
    y = ((x == 3).sum(1) > (x == 7).sum(1)).astype(int)
    return Program(
        "tokens", x, y, "tokens",
        [("Embedding", {"input_dim": 20, "output_dim": 8}), ("GRU", {"units": 12})],
        "binary_crossentropy", 1, "sigmoid", metrics=["accuracy"], epochs=10,
        settings={"learning_rate": 1e-2},
    )  # fmt: skip


def waves(seed: int) -> Program:
    random = np.random.default_rng(seed)
    begin = random.uniform(0, 2 * np.pi, 400)
    times = begin[:, None] + 0.4 * np.arange(13)
    series = (np.sin(times) + 0.05 * random.normal(size=times.shape)).astype("float32")
    return Program(
        "waves", series[:, :12, None], series[:, 12:], "quantity",
        [("LSTM", {"units": 12})], "mean_squared_error", 1, None, metrics=["mae"], epochs=10,
        settings={"learning_rate": 1e-2},
    )  # fmt: skip


def pointer(seed: int) -> Program:
    """The value of the one row that is marked, which only attention can pick out."""
    random = np.random.default_rng(seed)
    marked = random.integers(0, 8, 600)
    x = random.normal(size=(600, 8, 4)).astype("float32")
    x[..., 0] = np.where(np.arange(8) == marked[:, None], 3.0, 0.0)
    y = (x[np.arange(600), marked, 1] > 0).astype(int)
    return Program(
        "pointer", x, y, "binary",
        # With a dropout Keras computes the probabilities in a layer of their own.
        [("SelfAttention", {"num_heads": 2, "key_dim": 8, "dropout": 0.05}),
         ("GlobalAveragePooling1D", {})],
        "binary_crossentropy", 1, "sigmoid", metrics=["accuracy"], epochs=12,
        settings={"learning_rate": 1e-2},
    )  # fmt: skip


BASES = (wine, digits, images, cancer, moons, diabetes, friedman, tokens, waves, pointer)
