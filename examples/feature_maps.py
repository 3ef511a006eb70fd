"""How the feature maps of a convolution change while it trains, as a picture."""

import keras
import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
conv = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")
head = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
model = keras.Sequential([keras.Input((8, 8, 1)), conv, *head])
model.compile("adam", "sparse_categorical_crossentropy")

# Without shuffling, the first sample of each epoch is the same digit.
scope = fs.Scope(fs.record("conv", samples=1, every=57))
model.fit(x.reshape(-1, 8, 8, 1) / 16, y, epochs=6, shuffle=False, verbose=0, callbacks=[scope])

found = scope.run.values("conv")
figure, grid = plt.subplots(len(found), 8, figsize=(8, len(found)))
for row, piece in zip(grid, found, strict=True):
    row[0].set_ylabel(f"step {piece.step}")
    for channel, place in enumerate(row):
        place.imshow(piece.array[0, :, :, channel], cmap="magma")
        place.set(xticks=[], yticks=[])
figure.savefig("feature_maps.png", bbox_inches="tight")
print(f"{len(found)} steps of {found[0].array.shape}: feature_maps.png")
