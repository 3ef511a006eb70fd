"""Feature matching as an objective, and by Keras' Distiller: the time of twenty epochs of each.

The distiller runs the student twice in each step, for its prediction and for its features, with two
dropout masks. An objective takes the features from the pass that the prediction came from.
"""

import time

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)


def network():
    hidden = [keras.layers.Dense(n, activation="relu", name=f"dense_{n}") for n in (512, 64)]
    parts = [hidden[0], keras.layers.Dropout(0.2), hidden[1], keras.layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((64,)), *parts])


def trained(name, model, *callbacks):
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    for epochs in (1, 20):  # the first fit compiles
        began = time.perf_counter()
        model.fit(x / 16, y, epochs=epochs, batch_size=599, verbose=0, callbacks=callbacks)
    print(f"{name:10} {time.perf_counter() - began:.2f} s")


trained("teacher", teacher := network())
match = fs.objective(
    "dense_64", lambda a, b: keras.ops.mean((a - b) ** 2), teacher=teacher, teacher_sites="dense_64"
)
trained("objective", network(), fs.Scope(match))
losses = keras.distillation.FeatureDistillation("mse", "dense_64", "dense_64")
trained("Distiller", keras.distillation.Distiller(teacher, network(), losses))
