"""Outputs out of a forward pass of one's own: the very tensors, and nothing left behind."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from replay import Recorder, flatten, resolve
from zoo import ALL, BACKEND, BATCH, BY_NAME, Case

import fitscope as fs
from fitscope.select.naming import SiteName

CASES = [case for case in ALL if case.name not in ("gan", "channels_first")]


def _ready(name: str) -> tuple[Any, Any]:
    model, (x, _) = BY_NAME[name].make(), BY_NAME[name].data(BATCH)
    return model, keras.tree.map_structure(ops.convert_to_tensor, x)


def _array(value: Any) -> np.ndarray[Any, Any]:
    return np.asarray(ops.convert_to_numpy(ops.cast(value, "float32")))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_tensors_are_those_of_the_pass(case: Case, training: bool) -> None:
    model, x = _ready(case.name)
    recorder = Recorder(lambda tensor: tensor if hasattr(tensor, "dtype") else None)
    with recorder.installed():
        outputs, taps = fs.capture(model, x, training=training)
    assert taps
    for name, tensor in taps.items():
        site = SiteName.parse(name)
        kept = recorder.calls[id(resolve(model, site.path))][site.call or 0]
        # Keras' __call__ around a layer may hand on the same tensor under another object.
        place = {tuple(map(str, leaf)): value for leaf, value in kept.items()}
        expected = place[tuple(map(str, site.leaf))]
        np.testing.assert_array_equal(_array(tensor), _array(expected), err_msg=name)
    known = {str(SiteName.parse(n).path) for n in taps}
    runs_apart = {u.site for u in fs.preview(model).unseen}
    for target, calls in recorder.calls.items():
        layer = recorder.targets[target]
        if layer is not model and calls[0]:
            assert any(p.endswith(layer.name) for p in known) or any(
                layer.name in site for site in runs_apart
            ), layer.name
    assert [tuple(t.shape) for _, t in flatten(outputs)]
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


def test_a_pass_is_the_same_with_and_without_capture() -> None:
    def run(capture: bool) -> list[bytes]:
        model, x = _ready("noisy")
        seen = []
        for _ in range(2):
            y = fs.capture(model, x, training=True)[0] if capture else model(x, training=True)
            seen.append(_array(y).tobytes())
        return seen + [_array(v).tobytes() for v in model.variables]

    if BACKEND == "torch":  # Dropout without a seed draws from the global generator
        import torch

        torch.manual_seed(0)
        first = run(True)
        torch.manual_seed(0)
        assert first == run(False)
    else:
        assert run(True) == run(False)


def test_a_loop_of_ones_own_trains_as_it_would_without() -> None:
    """One step of SGD on a loss of the prediction and of a hidden layer, by two ways."""
    case = BY_NAME["sequential"]
    x, y = (ops.convert_to_tensor(a) for a in case.data(BATCH))

    def loss_of(prediction: Any, hidden: Any) -> Any:
        return ops.mean((prediction - y) ** 2) + 0.1 * ops.mean(hidden**2)

    watched, plain = case.make(), case.make()
    inner = keras.Model(plain.inputs[0], [plain.outputs[0], plain.get_layer("second").output])
    for found, expected in zip(
        _gradients(watched, lambda tv: _captured(watched, tv, x, loss_of)),
        _gradients(plain, lambda tv: _called(inner, tv, x, loss_of)),
        strict=True,
    ):
        np.testing.assert_allclose(_array(found), _array(expected), rtol=1e-6, atol=1e-8)


def _captured(model: Any, tv: Any, x: Any, loss_of: Any) -> Any:
    if tv is None:
        prediction, taps = fs.capture(model, x, "second", training=True)
    else:
        prediction, _, taps = fs.stateless_capture(
            model, tv, [v.value for v in model.non_trainable_variables], x, "second", training=True
        )
    return loss_of(prediction, taps["second"])


def _called(model: Any, tv: Any, x: Any, loss_of: Any) -> Any:
    if tv is None:
        return loss_of(*model(x, training=True))
    found, _ = model.stateless_call(
        tv, [v.value for v in model.non_trainable_variables], x, training=True
    )
    return loss_of(*found)


def _gradients(model: Any, loss: Any) -> list[Any]:
    if BACKEND == "jax":
        import jax

        return jax.jit(jax.grad(loss))([v.value for v in model.trainable_variables])
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=True)
        def step() -> Any:
            with tf.GradientTape() as tape:
                value = loss(None)
            return tape.gradient(value, [v.value for v in model.trainable_variables])

        return list(step())
    weights = [v.value for v in model.trainable_variables]
    for w in weights:
        w.grad = None
    loss(None).backward()
    return [w.grad for w in weights]


@pytest.mark.backends("tensorflow")
@pytest.mark.parametrize("jit", [True, False])
def test_inside_a_tf_function(jit: bool) -> None:
    import tensorflow as tf

    model, x = _ready("convolutions")

    @tf.function(jit_compile=jit)
    def step(x: Any) -> Any:
        return fs.capture(model, x, ["conv", "act"], training=False)

    y, taps = step(x)
    expected, direct = fs.capture(model, x, ["conv", "act"], training=False)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    assert list(taps) == ["conv", "act"]
    for name in taps:
        np.testing.assert_allclose(taps[name], direct[name], rtol=1e-5, atol=1e-6)


@pytest.mark.backends("jax")
def test_inside_value_and_grad() -> None:
    import jax

    model, x = _ready("recurrent")
    tv = [v.value for v in model.trainable_variables]
    ntv = [v.value for v in model.non_trainable_variables]

    def loss(tv: Any, x: Any) -> Any:
        y, fixed, taps = fs.stateless_capture(model, tv, ntv, x, "**", training=True)
        return y.sum(), (fixed, taps)

    (_, (_, taps)), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(tv, x)
    direct = fs.stateless_capture(model, tv, ntv, x, training=True)[-1]
    # A dict that leaves a compiled JAX function comes back in the order of its keys.
    assert list(taps) == sorted(direct)
    for name in taps:
        np.testing.assert_allclose(taps[name], direct[name], rtol=1e-5, atol=1e-6)


@pytest.mark.backends("jax")
def test_losses_are_returned_when_asked_for() -> None:
    model, x = _ready("regularized")
    state = [
        [v.value for v in g] for g in (model.trainable_variables, model.non_trainable_variables)
    ]
    _, _, losses, taps = fs.stateless_capture(
        model, *state, x, "active", training=True, return_losses=True
    )
    assert len(losses) == len(model.stateless_call(*state, x, return_losses=True)[2])
    assert list(taps) == ["active"]


@pytest.mark.oldest_keras
def test_inputs_and_preactivations() -> None:
    model, x = _ready("sequential")
    _, taps = fs.capture(model, x, "second", of=["input", "preactivation", "output"])
    assert list(taps) == ["second:input", "second:preactivation", "second"]
    np.testing.assert_allclose(
        np.tanh(_array(taps["second:preactivation"])), _array(taps["second"]), rtol=1e-5, atol=1e-6
    )


def test_whole_numbers_are_given() -> None:
    model, x = _ready("integers")
    _, taps = fs.capture(model, x, "strongest")
    np.testing.assert_array_equal(_array(taps["strongest"]), _array(x).argmax(-1))


def test_calls_of_a_reused_layer_are_told_apart() -> None:
    model, x = _ready("siamese")
    _, taps = fs.capture(model, x, "shared")
    assert list(taps) == ["shared#0", "shared#1"]
    _, taps = fs.capture(model, x, "shared#1")
    assert list(taps) == ["shared#1"]


@contextlib.contextmanager
def _raises(error: type[Exception], *parts: str) -> Iterator[None]:
    with pytest.raises(error) as caught:
        yield
    for part in parts:
        assert part in str(caught.value)


def test_errors_say_what_to_do() -> None:
    model, x = _ready("recurrent")
    with _raises(fs.SelectionError, "lsmt", "lstm"):
        fs.capture(model, x, "lsmt")
    with _raises(fs.SelectionError, "time loop", "watch the output"):
        fs.capture(model, x, "lstm/*")
    with _raises(fs.UnsupportedError, "not built", "Call it once"):
        fs.capture(keras.Sequential([layers.Dense(1)]), x)


def test_what_gave_no_tensor_is_told_once() -> None:
    model, x = _ready("recurrent")
    with pytest.warns(RuntimeWarning, match="gave no tensor"):
        fs.capture(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fs.capture(model, x)


def test_a_pass_that_fails_leaves_nothing() -> None:
    model, _ = _ready("sequential")
    with pytest.raises(Exception):  # noqa: B017 - whatever the backend raises for the shape
        fs.capture(model, ops.zeros((2, 3)))
    assert not any("call" in vars(layer) for layer in model._flatten_layers())
