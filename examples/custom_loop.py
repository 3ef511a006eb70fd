"""A training loop of one's own that gets a layer's output from the step that trains."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
x = x / 16
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
model.compile("adam", "sparse_categorical_crossentropy")

seen = []
with fs.Scope(fs.stream("hidden", seen.append)).attach(model):
    for _ in range(2):
        for i in range(0, len(x), 128):
            model.train_on_batch(x[i : i + 128], y[i : i + 128])

for event in seen[::6]:
    value = event.values["hidden"]
    print(f"step {event.step:2}  {value.shape}  active {(value > 0).mean():.1%}")
