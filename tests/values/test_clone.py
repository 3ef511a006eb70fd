"""Clones with taps: they compute what the model computes, and are Keras models as any other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND, BATCH, BY_NAME, Attention, AttentionBlock

import fitscope as fs

GRAPHS = [
    "sequential", "branches", "nested", "siamese", "convolutions", "recurrent", "transformer",
    "two_outputs", "noisy", "frozen", "mixed_float16", "custom_step", "regularized", "integers",
]  # fmt: skip


def _arrays(values: Any) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(ops.convert_to_numpy(v)) for v in values]


def _taps(model: Any) -> list[Any]:
    return [x for x in model._flatten_layers() if isinstance(x, fs.layers.Tap)]


@pytest.mark.parametrize("weights", ["copy", "share"])
@pytest.mark.parametrize("name", GRAPHS)
def test_a_clone_computes_the_same(name: str, weights: str) -> None:
    case = BY_NAME[name]
    model, (x, _) = case.make(), case.data(BATCH)
    before = [v.path for v in model.variables]
    clone = fs.clone_with_taps(model, weights=weights)
    assert _taps(clone)
    assert not _taps(model)
    assert [v.path for v in model.variables] == before
    assert clone.count_params() == model.count_params()
    found, expected = (
        keras.tree.flatten(m.predict(x, batch_size=BATCH, verbose=0)) for m in (clone, model)
    )
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    shared = {id(v) for v in clone.variables} & {id(v) for v in model.variables}
    assert bool(shared) == (weights == "share")
    frozen = [len(m.trainable_variables) for m in (clone, model)]
    assert frozen[0] == frozen[1]


@pytest.mark.parametrize("name", ["sequential", "noisy", "custom_step", "siamese"])
def test_a_clone_trains_as_the_model_does(name: str, tmp_path: Path) -> None:
    case = BY_NAME[name]
    x, y = case.data(3 * BATCH)

    def train(model: Any, callbacks: list[Any]) -> tuple[Any, list[np.ndarray[Any, Any]]]:
        if BACKEND == "torch":
            import torch

            torch.manual_seed(0)
        history = model.fit(
            x, y, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
        )
        by_name = sorted(model.weights, key=lambda v: v.path)
        return history.history["loss"], _arrays(by_name)

    model = case.make()
    clone = fs.clone_with_taps(model)
    assert clone.compiled
    assert clone.optimizer is not model.optimizer
    scope = fs.Scope(fs.watch(fs.layers.Tap), every=1)
    expected, weights = train(model, [])
    found, cloned = train(clone, [scope])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(cloned, weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert {s.layer_class for s in scope.run.sites} == {"Tap"}
    unseen = {u.site for u in scope.unseen}  # TensorFlow without XLA fuses some away
    assert {t.name for t in _taps(clone)} == {
        name.rpartition("/")[2].partition("#")[0].partition("[")[0]
        for name in {*(s.name for s in scope.run.sites), *unseen}
    }


def test_a_clone_is_saved_and_loaded(tmp_path: Path) -> None:
    case = BY_NAME["nested"]
    model, (x, y) = case.make(), case.data(BATCH)
    clone = fs.clone_with_taps(model, "**/b")
    clone.fit(x, y, verbose=0)
    clone.save(tmp_path / "clone.keras")
    own = {"AttentionBlock": AttentionBlock, "Attention": Attention}
    loaded = keras.models.load_model(tmp_path / "clone.keras", custom_objects=own)
    assert [t.name for t in _taps(loaded)] == [t.name for t in _taps(clone)] == ["b_tap", "b_tap_2"]
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), clone.predict(x, verbose=0))


@pytest.mark.oldest_keras
def test_taps_stand_behind_what_is_selected() -> None:
    model = BY_NAME["recurrent"].make()
    clone = fs.clone_with_taps(model, ["gru", "words"])
    assert sorted(t.name for t in _taps(clone)) == ["gru_0_tap", "gru_1_tap", "words_tap"]
    clone = fs.clone_with_taps(model, "gru[1]")
    assert [t.name for t in _taps(clone)] == ["gru_1_tap"]
    clone = fs.clone_with_taps(BY_NAME["siamese"].make(), "shared#1")
    assert [t.name for t in _taps(clone)] == ["shared_1_tap"]


def test_a_tap_changes_nothing(tmp_path: Path) -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        tap = fs.layers.Tap(name="t")
    finally:
        keras.config.set_dtype_policy("float32")
    x = ops.ones((2, 3), "float32")
    assert tap(x) is x
    assert keras.backend.standardize_dtype(tap(ops.cast(x, "bfloat16")).dtype) == "bfloat16"
    assert list(tap({"a": x, "b": (x, x)})) == ["a", "b"]
    again = keras.layers.deserialize(keras.layers.serialize(tap))
    assert type(again) is fs.layers.Tap
    assert again.autocast is False
    assert not tap.weights


class Own(keras.Sequential):
    """With a constructor that a clone cannot call, and a step of its own."""

    def __init__(self, size: int) -> None:
        super().__init__([keras.Input((2,)), layers.Dense(size, name="d")])

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return 2 * super().compute_loss(*args, **kwargs)


def test_errors_say_what_to_do() -> None:
    with pytest.raises(fs.UnsupportedError, match=r"Subclassed is subclassed.*fs\.Scope"):
        fs.clone_with_taps(BY_NAME["subclassed"].make())
    with pytest.raises(fs.UnsupportedError, match=r"not built.*Call it once"):
        fs.clone_with_taps(keras.Sequential([layers.Dense(1)]))
    with pytest.raises(fs.UnsupportedError, match=r"'link'.*'copy' or 'share'"):
        fs.clone_with_taps(BY_NAME["sequential"].make(), weights="link")
    with pytest.raises(fs.SelectionError, match="frist"):
        fs.clone_with_taps(BY_NAME["sequential"].make(), "frist")
    with pytest.raises(fs.UnsupportedError, match=r"lies inside another layer.*attention/"):
        fs.clone_with_taps(BY_NAME["transformer"].make(), "attention/*")
    with pytest.raises(fs.UnsupportedError, match=r"Own has a compute_loss of its own"):
        fs.clone_with_taps(Own(3))
    with pytest.warns(RuntimeWarning, match="selected layers lie inside others"):
        fs.clone_with_taps(BY_NAME["transformer"].make())
