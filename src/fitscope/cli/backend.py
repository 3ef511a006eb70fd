"""Choosing Keras' backend before Keras is imported."""

from __future__ import annotations

import importlib.util
import os
import sys

from fitscope.errors import FitscopeError

BACKENDS: tuple[str, ...] = ("jax", "tensorflow", "torch")
_VARIABLE = "KERAS_BACKEND"


class BackendError(FitscopeError, ImportError):
    """The backend is not installed, or Keras already runs on another one."""


def choose_backend(requested: str | None, *, single_thread: bool = False) -> str:
    """Fix the backend of this process.

    Args:
        requested: A backend by name. Without one: `KERAS_BACKEND`, then the first that is
            installed. Keras' configuration file is not asked: Keras writes `tensorflow` there by
            itself, installed or not.
        single_thread: For tiny models on torch. Its OpenMP threads wait for each other by
            spinning; on a busy machine the demo then took 98 s instead of 5 s.

    Returns:
        The backend Keras will use.

    Raises:
        BackendError: It is not installed, or Keras was imported with another one.
    """
    backend = requested or os.environ.get(_VARIABLE) or _first_installed()
    if backend not in BACKENDS:
        raise BackendError(
            f"The backend {backend!r} is not one that fitscope observes; choose one of "
            f"{', '.join(BACKENDS)} with --backend or {_VARIABLE}."
        )
    if not is_installed(backend):
        raise BackendError(_not_installed(backend))
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != backend:
        raise BackendError(
            f"Keras already runs on {loaded.backend.backend()} in this process and cannot change "
            f"to {backend}; start a new process."
        )
    os.environ[_VARIABLE] = backend
    if single_thread and backend == "torch":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    # TensorFlow's start-up messages would push the table off the screen.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return backend


def is_installed(backend: str) -> bool:
    """Whether a backend can be imported, without importing it."""
    return importlib.util.find_spec(backend) is not None


def _first_installed() -> str:
    for backend in BACKENDS:
        if is_installed(backend):
            return backend
    return BACKENDS[0]


def _not_installed(backend: str) -> str:
    others = [name for name in BACKENDS if name != backend and is_installed(name)]
    text = (
        f"The backend {backend} is not installed. Install it with "
        f"`pip install 'fitscope[{backend}]'`"
    )
    if others:
        text += f", or choose one that is installed: --backend {' or --backend '.join(others)}"
    return text + "."
