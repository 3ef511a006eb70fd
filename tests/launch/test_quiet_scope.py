"""A quiet scope keeps all that a scope keeps, and prints nothing."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from fitscope.launch.quiet_scope import QuietScope


def test_it_keeps_what_was_found_and_how_far_weights_moved(
    capsys: pytest.CaptureFixture[str],
) -> None:
    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, "relu", name="out")])
    model.compile("adam", "binary_crossentropy")
    scope = QuietScope(every=1)
    model.fit(x, (x[:, 0] > 0).astype("float32"), epochs=6, callbacks=[scope])
    said = capsys.readouterr().out
    assert "Epoch 6/6" in said
    assert "fitscope" not in said
    assert [r["event"] for r in scope.run.history][-1] == "end"
    assert scope.findings[0].rule == "from_logits"
