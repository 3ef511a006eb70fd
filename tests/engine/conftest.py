"""The zoo of models and the way a step is replayed stand beside the tests that use them."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are imported by path, so their folder is not one that modules are found in.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    now = set(threading.enumerate()) - before
    left = [t.name for t in now if t.name.startswith("fitscope")]
    assert not left, f"threads left behind: {left}"
