"""What the model predicts, batch by batch, while it trains: the digits it finds hardest."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, activation="softmax")])
model.compile("adam", "sparse_categorical_crossentropy")

scope = fs.Scope(fs.record(fs.BATCH, every=20), run="runs/predictions")
model.fit(x / 16, y, epochs=4, verbose=0, callbacks=[scope])

found = fs.open_run("runs/predictions").join(["@batch/y", "@batch/y_pred", "@batch/loss"])
for step in sorted(set(found["step"])):
    rows = {name: values[found["step"] == step] for name, values in found.items()}
    hardest = rows["@batch/loss"].argmax()
    truth, guess = rows["@batch/y"].ravel()[hardest], rows["@batch/y_pred"][hardest].argmax()
    mean = rows["@batch/loss"].mean()
    print(
        f"step {step:3}  mean loss {mean:.2f}  hardest: sample {hardest:2}, a {truth:.0f}", end=""
    )
    print(f" seen as {guess}, loss {rows['@batch/loss'][hardest]:.2f}")
