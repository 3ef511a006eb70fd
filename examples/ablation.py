"""Half of a layer's units are switched off for two epochs of `fit`, and the effect is read."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
model.compile("adam", "sparse_categorical_crossentropy")

ablation = fs.edit("hidden", fs.Zero(units=range(32)), when=fs.epochs(2, 4), name="ablation")
scope = fs.Scope(ablation, fs.watch("hidden"), every=20)
loss = model.fit(x / 16, y, epochs=6, verbose=0, callbacks=[scope]).history["loss"]

zeros = scope.run.stats("hidden", "zero_fraction").to_pandas().groupby("epoch")["value"].mean()
for epoch in range(6):
    print(f"epoch {epoch}  loss {loss[epoch]:.3f}  zeros in hidden {zeros[epoch]:.0%}")
for record in scope.run.history:
    if record["event"] == "edited":
        print("edited by", record["edit"], "in steps", record["ranges"])
