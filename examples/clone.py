"""A clone with identity taps that capture while it trains, and that is saved with them."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
model.compile("adam", "sparse_categorical_crossentropy")

tapped = fs.clone_with_taps(model, "hidden")
seen = []
scope = fs.Scope(fs.stream(fs.layers.Tap, seen.append))
tapped.fit(x / 16, y, epochs=2, verbose=0, callbacks=[scope])

print([layer.name for layer in tapped.layers])
for event in seen[::30]:
    value = event.values["hidden_tap"]
    print(f"step {event.step:3}  {value.shape}  mean {value.mean():.3f}")
