"""A loop with loss.backward(): one forward pass gives loss, gradients and a layer's output."""

import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
loss_of = keras.losses.SparseCategoricalCrossentropy()
optimizer = keras.optimizers.Adam()


def train_step(x, y):
    y_pred, taps = fs.capture(model, x, "hidden", training=True)
    loss = loss_of(y, y_pred)
    model.zero_grad()
    loss.backward()
    weights = model.trainable_variables
    optimizer.apply([v.value.grad for v in weights], weights)
    return loss, taps["hidden"]


for step, i in enumerate(range(0, len(x), 128)):
    loss, value = train_step(x[i : i + 128] / 16, y[i : i + 128])
    shape, mean = tuple(value.shape), float(keras.ops.mean(value))
    print(f"step {step:2}  loss {float(loss):.2f}  {shape}  mean {mean:.3f}")
