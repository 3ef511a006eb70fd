"""What JAX alone has: steps that are traced as programs, and functions inside them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import fitscope as fs

pytestmark = pytest.mark.backends("jax")

if keras.backend.backend() == "jax":
    import jax
    import jax.numpy as jnp

    from fitscope.engine import jax_program

X = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")


def _through(how: str, forward: Any, weights: Any, x: Any) -> Any:
    """Call a model by way of a function that JAX traces for itself."""
    if how == "jit":
        return jax.jit(forward)(weights, x)
    if how == "vmap":
        return jax.vmap(lambda row: forward(weights, row[None])[0])(x)
    if how == "checkpoint":
        return jax.checkpoint(forward)(weights, x)
    if how == "cond":
        return jax.lax.cond(x.sum() > -1e9, forward, lambda w, x: forward(w, 2 * x), weights, x)
    _, rows = jax.lax.scan(lambda c, row: (c, forward(weights, row[None])[0]), 0, x)
    return rows


class Through(keras.Model):
    """A custom step that calls the inner model by way of a function of its own."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.inner = keras.Sequential(
            [keras.Input((4,)), layers.Dense(3, "relu", name="a"), layers.Dense(2, name="b")]
        )
        self.last = layers.Dense(1, name="last")
        self.last.build((None, 2))
        self.built = True

    def train_step(self, state: Any, data: Any) -> Any:
        tv, ntv, ov, mv = state
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)

        def forward(weights: Any, x: Any) -> Any:
            return self.inner.stateless_call(weights, [], x)[0]

        def loss_of(tv: Any) -> Any:
            middle = _through(self.how, forward, tv[:4], x)
            out, _ = self.last.stateless_call(tv[4:], [], middle)
            return ops.mean((out - y) ** 2)

        loss, grads = jax.value_and_grad(loss_of)(tv)
        tv, ov = self.optimizer.stateless_apply(ov, grads, tv)
        return {"loss": loss}, (tv, ntv, ov, mv)


@pytest.mark.parametrize("jit", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("how", ["jit", "vmap", "checkpoint", "cond", "scan"])
def test_a_model_called_in_a_function_of_its_own(how: str, jit: bool) -> None:
    """What is around it is seen; what is inside is reported; and training is the same."""

    def run(scope: Any | None) -> list[bytes]:
        keras.utils.set_random_seed(0)
        model = Through(how)
        model.compile("sgd", jit_compile=jit)
        model.fit(
            X, X[:, :1], batch_size=8, epochs=2, verbose=0, callbacks=[scope] if scope else None
        )
        return [np.asarray(v).tobytes() for v in model.variables]

    scope = fs.Scope(every=1)
    assert run(scope) == run(None)
    assert scope._session.broken is None
    assert "last" in {name.rpartition("/")[2] for name in scope.latest()}
    reported = {u.site: u for u in scope.unseen}
    for name in ("a", "b"):
        path = next(site for site in reported if site.endswith(name))
        assert "function" in reported[path].reason or "not called" in reported[path].reason
        assert reported[path].remedy


def test_a_program_gives_what_its_function_gives() -> None:
    def function(x: Any, weights: dict[str, Any]) -> Any:
        y = jax_program.tap(jnp.tanh(x @ weights["w"]), 3)
        grad = jax.grad(lambda w: jax_program.tap(jnp.tanh(x @ w), 7).sum())(weights["w"])
        return {"y": y, "grad": grad, "x": x, "one": 1.0}

    x, w = jnp.asarray(X), jnp.ones((4, 2))
    program = jax_program.Program(function, x, {"w": w})
    read: dict[int, Any] = {}
    found = program.run((x, {"w": w}), jnp.float32(1), lambda n, value: read.update({n: value}))
    expected = function(x, {"w": w})
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(a == b)), found, expected))
    assert sorted(read) == [3, 7]
    for value in read.values():
        np.testing.assert_array_equal(value, expected["y"])


def test_a_value_that_only_a_reduction_reads_is_computed_aside() -> None:
    def function(x: Any) -> Any:
        y = jax_program.tap(jnp.exp(x) + 1, 0)
        z = jax_program.tap(jnp.exp(x) - 1, 1)
        del y
        return jnp.sum(jnp.exp(x) + 1), jnp.sum(z, axis=0), z

    x = jnp.asarray(X)
    program = jax_program.Program(function, x)
    read: dict[int, Any] = {}

    def run(x: Any, one: Any) -> Any:
        program.run((x,), one, lambda n, value: read.update({n: value}))
        return read[0], read[1]

    text = str(jax.make_jaxpr(run)(x, jnp.float32(1)))
    assert text.count("exp") == 3
    np.testing.assert_allclose(jax.jit(run)(x, 1.0)[0], np.exp(X) + 1, rtol=1e-6)


def test_a_tap_that_stands_for_two_values_is_not_read() -> None:
    """In a function that is traced once, called twice and written out where it is called."""
    inner = jax.jit(lambda x: jax_program.tap(jnp.tanh(x), 5), inline=True)
    program = jax_program.Program(lambda x: inner(x) + inner(2 * x), jnp.asarray(X))
    assert str(program._jaxpr).count("fitscope:5") == 2
    assert not program.taps
    read: list[int] = []
    found = program.run((jnp.asarray(X),), jnp.float32(1), lambda n, _: read.append(n))
    assert not read
    np.testing.assert_array_equal(found, jnp.tanh(X) + jnp.tanh(2 * X))


@pytest.mark.parametrize("how", ["fit", "evaluate", "predict", "attach"])
def test_timed_executions_are_waited_for(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[list[Any]] = []
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waited.append(jax.tree.leaves(tree)))
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    model.compile("adam", "mse")
    y, scope = np.zeros((8, 2), "float32"), fs.Scope()
    if how == "fit":
        model.fit(X, y, batch_size=1, verbose="0", callbacks=[scope])
    elif how == "evaluate":
        model.evaluate(X, y, batch_size=1, verbose="0", callbacks=[scope])
    elif how == "predict":
        model.predict(X, batch_size=1, verbose="0", callbacks=[scope])
    else:
        with scope.attach(model):
            for _ in range(8):
                model.train_on_batch(X, y)
    assert len(waited) >= 5
    assert all(arrays and all(isinstance(a, jax.Array) for a in arrays) for arrays in waited[1:])
