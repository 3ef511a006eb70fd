"""Layer outputs of a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops
from zoo import BACKEND

import fitscope as fs
from fitscope.run import array_file


class Model(keras.Model):
    """Subclassed, with dropout that inference leaves out, and a tap."""

    def __init__(self) -> None:
        super().__init__(name="model")
        self.hidden = layers.Dense(6, activation="relu", name="hidden")
        self.drop = layers.Dropout(0.5, name="drop")
        self.head = layers.Dense(2, name="head")

    def call(self, x: Any) -> Any:
        return self.head(fs.tap(self.drop(self.hidden(x)) * 2.0, "doubled"))


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(4)
    made = Model()
    made(np.zeros((2, 4), "float32"))
    return made


X = np.random.default_rng(0).standard_normal((70, 4)).astype("float32")


def hidden(model: Any, x: Any) -> Any:
    kernel, bias = (np.array(ops.convert_to_numpy(v), "float64") for v in model.hidden.weights)
    return np.maximum(x @ kernel + bias, 0)


@pytest.mark.oldest_keras
def test_predict(model: Any) -> None:
    before = [np.array(ops.convert_to_numpy(v)) for v in model.variables]
    found = fs.extractor(model, ["hidden", "doubled", "head"]).predict(X, batch_size=32)
    assert list(found) == ["hidden", "doubled", "head"]
    np.testing.assert_allclose(found["hidden"], hidden(model, X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["doubled"], 2 * found["hidden"], rtol=1e-6)
    expected = model.predict(X, batch_size=32, verbose=0)
    np.testing.assert_allclose(found["head"], expected, rtol=1e-4, atol=1e-5)
    for was, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(was, ops.convert_to_numpy(variable))
    assert "call" not in vars(model)


def test_weights_are_those_of_the_moment(model: Any) -> None:
    extractor = fs.extractor(model, "hidden")
    extractor.predict(X)
    bias = np.array(ops.convert_to_numpy(model.hidden.bias))
    model.hidden.bias.assign(bias + 1.0)
    np.testing.assert_allclose(
        extractor.predict(X)["hidden"], hidden(model, X), rtol=1e-4, atol=1e-5
    )
    model.hidden.bias.assign(bias)


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return X[10 * index : 10 * index + 10], np.zeros(10)


def data_sets() -> list[Any]:
    found = [X, Batches(), (X[i : i + 10] for i in range(0, 70, 10)), [(X[:40], 0), (X[40:], 0)]]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        found.append(tf.data.Dataset.from_tensor_slices((X, X)).batch(16))
    if BACKEND == "torch":
        import torch

        data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(X))
        found.append(torch.utils.data.DataLoader(data, batch_size=16))
    return found


@pytest.mark.parametrize("kind", range(len(data_sets())))
def test_data_of_all_kinds(kind: int, model: Any) -> None:
    found = fs.extractor(model, "hidden").predict(data_sets()[kind])
    np.testing.assert_allclose(found["hidden"], hidden(model, X), rtol=1e-4, atol=1e-5)


def test_a_run_goes_on_after_an_interruption(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "features"
    asked: list[int] = []

    def batches(stop: int = 7) -> Any:
        for i in range(7):
            if i == stop:
                raise KeyboardInterrupt
            asked.append(i)
            yield X[10 * i : 10 * i + 10]

    extractor = fs.extractor(model, ["hidden", "head"])
    with pytest.raises(KeyboardInterrupt):
        extractor.to_run(path, batches(4))
    assert fs.open_run(path).values("hidden").steps.tolist() == [0, 1, 2, 3]
    run = fs.extractor(model, ["hidden", "head"]).to_run(path, batches())
    assert "7/7" in capsys.readouterr().out
    assert run.status == "finished"
    found = run.values("hidden")
    assert found.steps.tolist() == list(range(7))
    assert set(found.phases) == {"predict"}
    np.testing.assert_allclose(found.rows().values, hidden(model, X), rtol=1e-4, atol=1e-5)
    asked.clear()
    assert len(extractor.to_run(path, batches(), verbose=0).values("head")) == 7
    assert asked == []  # it is done
    with pytest.raises(fs.RunExistsError, match="an extraction with other settings"):
        fs.extractor(model, "head").to_run(path, batches(), verbose=0)


def test_a_disk_that_fails(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "features"
    extractor = fs.extractor(model, "hidden")
    with monkeypatch.context() as patch:
        patch.setattr(array_file, "_write_at", full)
        patch.setattr("fitscope.run.value_store.BUFFER_BYTES", 0)
        with (
            pytest.warns(RuntimeWarning, match="No space left"),
            pytest.raises(fs.RunError, match="call to_run again"),
        ):
            extractor.to_run(path, X, verbose=0)
    run = extractor.to_run(path, X, verbose=0)
    np.testing.assert_allclose(
        run.values("hidden").rows().values, hidden(model, X), rtol=1e-4, atol=1e-5
    )


def test_errors_say_what_to_do(model: Any, tmp_path: Path) -> None:
    with pytest.raises(fs.UnsupportedError, match="not built"):
        fs.extractor(Model())
    with pytest.raises(fs.SelectionError, match="hiden"):
        fs.extractor(model, "hiden").predict(X)
    with pytest.raises(fs.FitscopeError, match=r"expected arrays, or something that gives batches"):
        fs.extractor(model).predict(3)
    with pytest.raises(fs.FitscopeError, match="no batch"):
        fs.extractor(model).predict(iter(()))
    with pytest.raises(fs.FitscopeError, match="batch_size=0"):
        fs.extractor(model).predict(X, batch_size=0)
    (tmp_path / "note").write_text("here")
    with pytest.raises(fs.RunExistsError):
        fs.extractor(model).to_run(tmp_path, X, verbose=0)
