"""Domain adaptation by gradient reversal: features in which domains cannot be told apart."""

import keras
import numpy as np
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
x = np.concatenate([x / 16, 1 - x / 16])  # the same digits, white on black and black on white
y = {"digit": np.tile(y, 2), "domain": np.repeat([0.0, 1.0], len(y))}
weights = {"digit": 1 - y["domain"], "domain": np.ones(len(x))}  # dark digits have no labels

for reverses in (False, True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((64,))
    features = keras.layers.Dense(64, activation="relu")(inputs)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(features)
    to_domain = keras.layers.Identity(name="to_domain")(features)
    domain = keras.layers.Dense(1, activation="sigmoid", name="domain")(to_domain)
    model = keras.Model(inputs, {"digit": digit, "domain": domain})
    losses = {"digit": "sparse_categorical_crossentropy", "domain": "binary_crossentropy"}
    model.compile(keras.optimizers.Adam(0.01), losses)
    reversal = fs.edit("to_domain", fs.ReverseGradient(2), when=fs.ramp(0, 1, epochs=(0, 4)))
    callbacks = [fs.Scope(reversal)] if reverses else []
    settings = {"epochs": 8, "batch_size": 256, "verbose": 0, "callbacks": callbacks}
    model.fit(x, y, sample_weight=weights, **settings)
    told = (model.predict(x, verbose=0)["domain"].ravel() > 0.5) == y["domain"]
    print(
        "with reversal:" if reverses else "without:      ", f"domains told apart {told.mean():.0%}"
    )
