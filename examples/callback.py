"""A callback that gets the values of a layer for every batch, inside `fit`."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
model.compile("adam", "sparse_categorical_crossentropy")


def look(event):
    right = (event.values["digit"].argmax(-1) == event.batch.y.ravel()).mean()
    active = (event.values["hidden"] > 0).mean()
    if event.step % 20 == 0:
        print(f"epoch {event.epoch}  step {event.step:3}  right {right:.0%}  active {active:.1%}")


scope = fs.Scope(fs.stream(["hidden", "digit"], look))  # every=20 would be cheaper
model.fit(x / 16, y, epochs=4, verbose=0, callbacks=[scope])
