"""A loop with jax.value_and_grad: one forward pass gives loss, gradients and a layer's output."""

import jax
import keras
from sklearn.datasets import load_digits

import fitscope as fs

x, y = load_digits(return_X_y=True)
hidden = keras.layers.Dense(64, activation="relu", name="hidden")
digit = keras.layers.Dense(10, activation="softmax", name="digit")
model = keras.Sequential([keras.Input((64,)), hidden, digit])
loss_of = keras.losses.SparseCategoricalCrossentropy()
optimizer = keras.optimizers.Adam()


def loss_and_hidden(weights, x, y):
    y_pred, _, taps = fs.stateless_capture(model, weights, [], x, "hidden", training=True)
    return loss_of(y, y_pred), taps["hidden"]


gradients_of = jax.jit(jax.value_and_grad(loss_and_hidden, has_aux=True))


def train_step(x, y):
    weights = [v.value for v in model.trainable_variables]
    (loss, hidden), gradients = gradients_of(weights, x, y)
    optimizer.apply(gradients, model.trainable_variables)
    return loss, hidden


for step, i in enumerate(range(0, len(x), 128)):
    loss, value = train_step(x[i : i + 128] / 16, y[i : i + 128])
    shape, mean = tuple(value.shape), float(keras.ops.mean(value))
    print(f"step {step:2}  loss {float(loss):.2f}  {shape}  mean {mean:.3f}")
