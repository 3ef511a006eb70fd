"""What every test shares: one Keras backend per process, a clean Keras home, and no network."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

# Before anything imports Keras or TensorFlow: both read their environment at import.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Small models gain nothing from many threads, and several test processes may share a machine.
for _pool in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
    os.environ.setdefault(_pool, "2")
# The developer's own keras.json may set another float type or image format.
_keras_home = tempfile.TemporaryDirectory(prefix="fitscope-keras-home-")
os.environ["KERAS_HOME"] = _keras_home.name
# Many tests train the same small model: what JAX compiled for one serves the next.
_compiled = tempfile.TemporaryDirectory(prefix="fitscope-compiled-", ignore_cleanup_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import hypothesis
import pytest

BACKEND = os.environ["KERAS_BACKEND"]

# No deadline: the first example of many properties pays for a compilation.
hypothesis.settings.register_profile("fitscope", deadline=None, print_blob=True)
hypothesis.settings.load_profile("fitscope")


def pytest_report_header() -> str:
    return f"KERAS_BACKEND={BACKEND}, Keras {version('keras')}"


def pytest_unconfigure() -> None:
    _keras_home.cleanup()
    _compiled.cleanup()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("backends"):
            if BACKEND not in mark.args:
                wanted = ", ".join(mark.args)
                item.add_marker(pytest.mark.skip(reason=f"for {wanted}; this is {BACKEND}"))


@pytest.fixture(scope="session")
def backend() -> str:
    """The Keras backend of this process: ``"jax"``, ``"tensorflow"`` or ``"torch"``."""
    return BACKEND


@pytest.fixture(scope="module", autouse=True)
def _compiles_quickly(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let JAX optimize little, except where its optimizations are what a scope must not disturb."""
    if BACKEND != "jax" or request.path.parent.name == "engine":
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="session", autouse=True)
def _no_network() -> Iterator[None]:
    """Refuse connections that leave the machine, so that no test depends on one."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if self.family != socket.AF_UNIX and host not in ("127.0.0.1", "::1", "localhost"):
            raise PermissionError(f"A test tried to reach {address!r}; tests use no network.")
        connect(self, address)  # pyright: ignore[reportArgumentType]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield
