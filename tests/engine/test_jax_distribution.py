"""Keras' distributions on JAX: two devices, in a process of its own, where XLA makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.backends("jax")

PROGRAM = Path(__file__).with_name("distributed.py")


@pytest.mark.timeout(200)
@pytest.mark.parametrize("kind", ["data", "model"])
def test_training_on_two_devices_is_seen_truly_and_left_alone(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), kind], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "fitscope could not" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["same"]
    assert found["compared"] == 7 * 7 * (5 if kind == "data" else 4)
    assert found["recorded"] == 2 * 4
    assert found["edited"]
    if kind == "data":
        assert found["unseen"] == []
    else:
        assert {gap.partition(":gradient: ")[0] for gap in found["unseen"]} == {
            "hidden", "norm", "drop", "head",
        }  # fmt: skip
        assert all("train under DataParallel" in gap for gap in found["unseen"])
