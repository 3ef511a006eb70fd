"""How the feature maps of a convolution change while it trains, as a picture."""

import keras
import numpy as np
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
conv = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv")
head = [keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax")]
model = keras.Sequential([keras.Input((8, 8, 1)), conv, *head])
model.compile("adam", "sparse_categorical_crossentropy")

# 15 steps are an epoch: without shuffling, the first sample is the same digit each time.
scope = fs.Scope(fs.record("conv", samples=1, every=15))
images = x.reshape(-1, 8, 8, 1) / 16
model.fit(images, y, batch_size=128, epochs=4, shuffle=False, verbose=0, callbacks=[scope])

found = scope.run.values("conv")
maps = np.pad(found.rows().values, ((0, 0), (0, 1), (0, 1), (0, 0)))  # [step, y, x, channel]
picture = maps.transpose(0, 1, 3, 2).reshape(len(found) * 9, 8 * 9)  # a row of maps for each step
keras.utils.save_img("feature_maps.png", np.kron(picture, np.ones((8, 8)))[..., None])
print(f"steps {found.steps.tolist()}, maps of {found[0].array.shape}: feature_maps.png")
