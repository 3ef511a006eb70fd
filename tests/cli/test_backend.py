"""Choosing Keras' backend before Keras is imported."""

import os
import sys
import types

import pytest

from fitscope.cli import backend
from fitscope.cli.backend import BackendError, choose_backend


@pytest.fixture
def installed(monkeypatch):
    """`installed("torch")`: only these can be imported, and Keras is not loaded."""
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.delitem(sys.modules, "keras", raising=False)

    def only(*names):
        monkeypatch.setattr(backend, "is_installed", lambda name: name in names)

    return only


def test_what_is_asked_for_wins(installed):
    installed("jax", "torch")
    os.environ["KERAS_BACKEND"] = "jax"
    assert choose_backend("torch") == "torch"
    assert os.environ["KERAS_BACKEND"] == "torch"


def test_then_the_environment(installed):
    installed("jax", "torch")
    os.environ["KERAS_BACKEND"] = "torch"
    assert choose_backend(None) == "torch"


def test_then_the_first_that_is_installed(installed):
    installed("tensorflow", "torch")
    assert choose_backend(None) == "tensorflow"


def test_not_installed_names_the_command_and_the_others(installed):
    installed("torch")
    with pytest.raises(BackendError, match=r"jax is not installed") as caught:
        choose_backend("jax")
    assert "pip install 'fitscope[jax]'" in str(caught.value)
    assert "--backend torch" in str(caught.value)


def test_none_installed(installed):
    installed()
    with pytest.raises(BackendError, match=r"pip install 'fitscope\[jax\]'") as caught:
        choose_backend(None)
    assert "choose one" not in str(caught.value)


def test_a_backend_that_is_not_observed(installed):
    installed("jax")
    os.environ["KERAS_BACKEND"] = "openvino"
    with pytest.raises(BackendError, match="not one that fitscope observes"):
        choose_backend(None)


def test_keras_that_is_loaded_already(installed, monkeypatch):
    installed("jax", "torch")
    keras = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "jax"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    assert choose_backend("jax") == "jax"
    with pytest.raises(BackendError, match="already runs on jax"):
        choose_backend("torch")


def test_one_thread_for_a_tiny_model_on_torch_alone(installed):
    installed("jax", "torch")
    choose_backend("jax", single_thread=True)
    assert "OMP_NUM_THREADS" not in os.environ
    choose_backend("torch", single_thread=True)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_is_installed_does_not_import():
    assert backend.is_installed("json")
    assert not backend.is_installed("no_such_backend")
