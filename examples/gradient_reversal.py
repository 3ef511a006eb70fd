"""Domain adaptation by gradient reversal: features from which domains are hard to tell apart."""

import keras
import numpy as np
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
x = np.concatenate([x / 16, 0.5 + 0.3 * x / 16])  # the same digits, clear and washed-out
y = {"digit": np.tile(y, 2), "domain": np.repeat([0.0, 1.0], len(y))}
weights = {"digit": 1 - y["domain"], "domain": np.ones(len(x))}  # only clear ones have labels

for reverses in (False, True):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((64,))
    features = keras.layers.Dense(64, activation="relu")(inputs)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(features)
    to_domain = keras.layers.Identity(name="to_domain")(features)
    domain = keras.layers.Dense(1, activation="sigmoid", name="domain")(to_domain)
    model = keras.Model(inputs, {"digit": digit, "domain": domain})
    losses = {"digit": "sparse_categorical_crossentropy", "domain": "binary_crossentropy"}
    model.compile(keras.optimizers.Adam(0.003), losses)
    reversal = fs.edit("to_domain", fs.ReverseGradient(), when=fs.ramp(0, 1, epochs=(0, 3)))
    settings = {"epochs": 6, "batch_size": 256, "callbacks": [fs.Scope(reversal)] * reverses}
    loss = model.fit(x, y, sample_weight=weights, verbose=0, **settings).history["domain_loss"]
    print("with reversal:" if reverses else "without:", f"domains told at a loss of {loss[-1]:.3f}")
