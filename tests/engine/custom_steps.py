"""Models with a `train_step` of their own, each in its backend's own style."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers, ops

BACKEND = keras.backend.backend()


def gan_parts() -> tuple[Any, Any]:
    generator = keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(6, activation="relu", name="g_hidden"),
            layers.BatchNormalization(name="g_norm"),
            layers.Dense(4, name="g_out"),
        ],
        name="generator",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="tanh", name="d_hidden"),
            layers.Dropout(0.25, seed=5, name="d_drop"),
            layers.Dense(1, name="d_out"),
        ],
        name="discriminator",
    )
    return generator, discriminator


def real_loss(score: Any) -> Any:
    return ops.mean(ops.softplus(-score))


def fake_loss(score: Any) -> Any:
    return ops.mean(ops.softplus(score))


class _Pair:
    """Two optimizers where Keras' JAX trainer looks for the variables of one."""

    built = True

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second

    @property
    def variables(self) -> list[Any]:
        return [*self.first.variables, *self.second.variables]


class _GanBase(keras.Model):
    """Several calls of two sub-models in one step, two optimizers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator, self.discriminator = gan_parts()
        self.d_loss = keras.metrics.Mean(name="d_loss")
        self.g_loss = keras.metrics.Mean(name="g_loss")
        self.built = True

    def compile(self, **kwargs: Any) -> None:
        super().compile(**kwargs)
        self.g_optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
        self.d_optimizer = keras.optimizers.SGD(0.02)
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)
        if BACKEND == "jax":
            self.optimizer = _Pair(self.d_optimizer, self.g_optimizer)

    @property
    def metrics(self) -> list[Any]:
        return [self.d_loss, self.g_loss]


if BACKEND == "jax":
    import jax

    class CustomStep(keras.Model):
        def loss_and_updates(self, tv: Any, ntv: Any, x: Any, y: Any) -> Any:
            y_pred, ntv = self.stateless_call(tv, ntv, x, training=True)
            return self.compute_loss(x, y, y_pred), (y_pred, ntv)

        def train_step(self, state: Any, data: Any) -> Any:
            tv, ntv, ov, mv = state
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            grad = jax.value_and_grad(self.loss_and_updates, has_aux=True)
            (loss, (y_pred, ntv)), grads = grad(tv, ntv, x, y)
            tv, ov = self.optimizer.stateless_apply(ov, grads, tv)
            logs: dict[str, Any] = {}
            new: list[Any] = []
            for metric in self.metrics:
                own = mv[len(new) : len(new) + len(metric.variables)]
                if metric.name == "loss":
                    own = metric.stateless_update_state(own, loss)
                else:
                    own = metric.stateless_update_state(own, y, y_pred)
                result = metric.stateless_result(own)
                logs |= result if isinstance(result, dict) else {metric.name: result}
                new += own
            return logs, (tv, ntv, ov, new)

    class Gan(_GanBase):
        def train_step(self, state: Any, data: Any) -> Any:
            tv, ntv, ov, mv = state
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            n, m = (
                len(self.generator.trainable_variables),
                len(self.generator.non_trainable_variables),
            )
            g_tv, d_tv, g_ntv, d_ntv = tv[:n], tv[n:], ntv[:m], ntv[m:]
            split = len(self.d_optimizer.variables)
            d_ov, g_ov = ov[:split], ov[split:]
            fake, g_ntv = self.generator.stateless_call(g_tv, g_ntv, x["noise"], training=True)

            def discriminate(d_tv: Any, d_ntv: Any) -> Any:
                real, d_ntv = self.discriminator.stateless_call(
                    d_tv, d_ntv, x["real"], training=True
                )
                made, d_ntv = self.discriminator.stateless_call(d_tv, d_ntv, fake, training=True)
                return real_loss(real) + fake_loss(made), d_ntv

            (d_loss, d_ntv), grads = jax.value_and_grad(discriminate, has_aux=True)(d_tv, d_ntv)
            d_tv, d_ov = self.d_optimizer.stateless_apply(d_ov, grads, d_tv)

            def generate(g_tv: Any, g_ntv: Any, d_ntv: Any) -> Any:
                fake, g_ntv = self.generator.stateless_call(g_tv, g_ntv, x["noise"], training=True)
                score, d_ntv = self.discriminator.stateless_call(d_tv, d_ntv, fake, training=True)
                return real_loss(score), (g_ntv, d_ntv)

            (g_loss, (g_ntv, d_ntv)), grads = jax.value_and_grad(generate, has_aux=True)(
                g_tv, g_ntv, d_ntv
            )
            g_tv, g_ov = self.g_optimizer.stateless_apply(g_ov, grads, g_tv)
            k = len(self.d_loss.variables)
            d_mv = self.d_loss.stateless_update_state(mv[:k], d_loss)
            g_mv = self.g_loss.stateless_update_state(mv[k:], g_loss)
            logs = {
                "d_loss": self.d_loss.stateless_result(d_mv),
                "g_loss": self.g_loss.stateless_result(g_mv),
            }
            return logs, (
                [*g_tv, *d_tv],
                [*g_ntv, *d_ntv],
                [*d_ov, *g_ov],
                [*d_mv, *g_mv],
            )

elif BACKEND == "tensorflow":
    import tensorflow as tf

    class CustomStep(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True)
                loss = self.compute_loss(x, y, y_pred)
            grads = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(grads, self.trainable_variables)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return self.get_metrics_result()

    class InnerOptimizer(keras.Model):
        """Trains a model inside by the optimizer that one was compiled with."""

        def train_step(self, data: Any) -> Any:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            inner = self.get_layer("inner")
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            weights = inner.trainable_variables
            inner.optimizer.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    class Gan(_GanBase):
        def train_step(self, data: Any) -> Any:
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            fake = self.generator(x["noise"], training=True)
            with tf.GradientTape() as tape:
                real_score = self.discriminator(x["real"], training=True)
                fake_score = self.discriminator(fake, training=True)
                d_loss = real_loss(real_score) + fake_loss(fake_score)
            weights = self.discriminator.trainable_variables
            self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
            with tf.GradientTape() as tape:
                fake = self.generator(x["noise"], training=True)
                g_loss = real_loss(self.discriminator(fake, training=True))
            weights = self.generator.trainable_variables
            self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
            self.d_loss.update_state(d_loss)
            self.g_loss.update_state(g_loss)
            return {m.name: m.result() for m in self.metrics}

else:
    import torch

    class CustomStep(keras.Model):
        def train_step(self, data: Any) -> Any:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            self.zero_grad()
            y_pred = self(x, training=True)
            loss = self.compute_loss(x, y, y_pred)
            loss.backward()
            grads = [v.value.grad for v in self.trainable_weights]
            with torch.no_grad():
                self.optimizer.apply(grads, self.trainable_weights)
            for metric in self.metrics:
                if metric.name == "loss":
                    metric.update_state(loss)
                else:
                    metric.update_state(y, y_pred)
            return self.get_metrics_result()

    class InnerOptimizer(keras.Model):
        """Trains a model inside by the optimizer that one was compiled with."""

        def train_step(self, data: Any) -> Any:
            x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
            inner = self.get_layer("inner")
            self.zero_grad()
            loss = self.compute_loss(x, y, self(x, training=True))
            loss.backward()
            weights = inner.trainable_weights
            with torch.no_grad():
                inner.optimizer.apply([v.value.grad for v in weights], weights)
            return {"loss": loss}

    class Gan(_GanBase):
        def train_step(self, data: Any) -> Any:
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            self.zero_grad()
            fake = self.generator(x["noise"], training=True)
            real_score = self.discriminator(x["real"], training=True)
            fake_score = self.discriminator(fake.detach(), training=True)
            d_loss = real_loss(real_score) + fake_loss(fake_score)
            d_loss.backward()
            weights = self.discriminator.trainable_weights
            with torch.no_grad():
                self.d_optimizer.apply([v.value.grad for v in weights], weights)
            self.zero_grad()
            fake = self.generator(x["noise"], training=True)
            g_loss = real_loss(self.discriminator(fake, training=True))
            g_loss.backward()
            weights = self.generator.trainable_weights
            with torch.no_grad():
                self.g_optimizer.apply([v.value.grad for v in weights], weights)
            self.d_loss.update_state(d_loss)
            self.g_loss.update_state(g_loss)
            return {m.name: m.result() for m in self.metrics}
