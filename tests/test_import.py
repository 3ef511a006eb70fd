"""Importing fitscope is cheap and has no side effects; what is exported is there."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import fitscope

HEAVY = ("keras", "jax", "tensorflow", "torch", "rich", "pyarrow", "numpy", "sklearn")


def loaded_after(code: str) -> set[str]:
    """The heavy packages that a fresh interpreter has loaded once ``code`` ran."""
    report = f"import json, sys; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def test_import_loads_nothing_heavy():
    assert loaded_after("import fitscope") == set()


def test_errors_load_nothing_heavy():
    assert loaded_after("from fitscope import FitscopeError, RunError, SelectionError") == set()


def test_reading_a_run_loads_no_keras_and_no_terminal():
    loaded = loaded_after("import fitscope as fs; fs.open_run; fs.Run")
    assert loaded.isdisjoint({"keras", "jax", "tensorflow", "torch", "rich", "sklearn"})


@pytest.mark.parametrize("package", ["select", "statistics", "run", "terminal", "rules", "cli"])
def test_packages_beside_the_engine_load_no_keras(package: str):
    loaded = loaded_after(
        f"import importlib, pkgutil\npackage = importlib.import_module('fitscope.{package}')\n"
        "for module in pkgutil.iter_modules(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)"
    )
    assert loaded.isdisjoint({"keras", "jax", "tensorflow", "torch"})


@pytest.mark.parametrize("backend", ["jax", "tensorflow", "torch"])
def test_a_scope_loads_no_backend_that_keras_does_not(backend: str):
    choose = f"import os; os.environ['KERAS_BACKEND'] = {backend!r}\n"
    backends = {"jax", "tensorflow", "torch"}
    loaded = loaded_after(choose + "import fitscope as fs; fs.Scope") & backends
    assert backend in loaded
    # Keras alone may load more than the chosen one: 3.15 imports JAX wherever it is installed.
    assert loaded <= loaded_after(choose + "import keras") | {backend}


@pytest.mark.parametrize("name", sorted(fitscope._HOMES))
def test_every_export_exists(name: str):
    value = getattr(fitscope, name)
    assert getattr(value, "__name__", None) == name or name == "BATCH"  # a constant
    assert name in dir(fitscope)


def test_select_stays_the_function_beside_its_package():
    from fitscope.select.site import Site

    assert Site.__module__ == "fitscope.select.site"
    assert repr(fitscope.select("conv*")) == "select('conv*')"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'scpoe'"):
        fitscope.scpoe  # noqa: B018


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert fitscope.__version__ == version("fitscope")
