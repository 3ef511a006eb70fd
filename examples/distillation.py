"""A student learns the features of a teacher in the same forward pass that trains it."""

import keras
from keras import ops
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)


def network(name):
    features = keras.layers.Dense(64, activation="relu", name="features")
    parts = [features, keras.layers.Dropout(0.2), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential([keras.Input((64,)), *parts], name=name)
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    return model


teacher, student = network("teacher"), network("student")
teacher.fit(x / 16, y, epochs=8, batch_size=128, verbose=0)
match = fs.objective(
    "features", lambda a, b: ops.mean((a - b) ** 2), 3.0, name="match",
    teacher=teacher, teacher_sites="features",
)  # fmt: skip
scope = fs.Scope(match, every=50)
student.fit(x[:300] / 16, y[:300], epochs=20, verbose=0, callbacks=[scope])
for row in scope.run.stats("@objective/match", "mean").to_pandas().itertuples():
    print(f"step {row.step:3}  features apart by {row.value:.3f}")
