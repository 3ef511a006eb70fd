"""`fitscope sites`."""

import json
import sys
import warnings

import pytest

from fitscope.cli.main import main


@pytest.fixture
def sites(capsys, monkeypatch):
    monkeypatch.delenv("FITSCOPE_DEBUG", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(*arguments):
        status = main(["sites", *map(str, arguments)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def save(tmp_path):
    import keras

    def write(*layers, shape=(5, 3), name="model.keras"):
        inputs = outputs = keras.Input(shape)
        for layer in layers:
            outputs = layer(outputs)
        path = tmp_path / name
        keras.Model(inputs, outputs).save(path)
        return path

    return write


def test_prints_sites_and_what_cannot_be_seen(save, sites):
    import keras

    path = save(keras.layers.LSTM(4, name="lstm"), keras.layers.Dense(2, name="head"))
    status, out, err = sites(path)
    assert (status, err) == (0, "")
    assert "lstm" in out
    assert "head" in out
    assert "lstm/lstm_cell" in out

    status, out, _ = sites(path, "--json")
    listing = json.loads(out)
    assert status == 0
    assert [site["name"] for site in listing["sites"]] == ["lstm", "head"]
    assert listing["unseen"]


def problem(sites, *arguments):
    status, out, err = sites(*arguments)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


def test_what_is_no_keras_file(tmp_path, sites):
    (tmp_path / "text.keras").write_text("text")
    (tmp_path / "model.weights.h5").write_bytes(b"\x89HDF")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    assert "no file" in problem(sites, tmp_path / "missing.keras")
    assert "not a .keras file" in problem(sites, tmp_path / "text.keras")
    assert "weights and no model" in problem(sites, tmp_path / "model.weights.h5")
    assert "fitscope show" in problem(sites, tmp_path / "run")
    assert "is a folder" in problem(sites, tmp_path)


def test_a_file_that_was_cut_off(save, sites):
    import keras

    path = save(keras.layers.Dense(2))
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut off" in problem(sites, path)


def test_a_lambda_is_not_run(save, sites):
    import keras

    path = save(keras.layers.Lambda(lambda x: x * 2, output_shape=(5, 3)))
    assert "Lambda layer with Python code" in problem(sites, path)


def test_a_custom_layer_needs_its_module(save, sites, tmp_path, monkeypatch):
    import keras

    source = (
        "import keras\n"
        "@keras.saving.register_keras_serializable('of_this_test')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x * 2\n"
    )
    (tmp_path / "layers_of_this_test.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import layers_of_this_test

    path = save(layers_of_this_test.Twice(name="twice"))
    registered = dict(keras.saving.get_custom_objects())
    keras.saving.get_custom_objects().clear()
    del sys.modules["layers_of_this_test"]
    sys.path.remove(str(tmp_path))
    try:
        said = problem(sites, path)
        assert "custom class Twice, which is not registered" in said
        assert "--import MODULE" in said
        assert "cannot be imported" in problem(sites, path, "--import", "no_such_module")
        status, out, _ = sites(path, "--import", "layers_of_this_test")
        assert status == 0
        assert "twice" in out
    finally:
        keras.saving.get_custom_objects().update(registered)


def test_a_model_that_is_not_built(tmp_path, sites):
    import keras

    path = tmp_path / "unbuilt.keras"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Keras warns of exactly this
        keras.Sequential([keras.layers.Dense(2)]).save(path)
    assert "not built" in problem(sites, path)


def test_another_backend_than_the_loaded_one(save, sites, backend):
    import keras

    other = "torch" if backend != "torch" else "jax"
    path = save(keras.layers.Dense(2))
    assert f"already runs on {backend}" in problem(sites, path, "--backend", other)
