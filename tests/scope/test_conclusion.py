"""What a scope keeps and says when a fit is over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import fitscope as fs


def dead_model() -> Any:
    """Its first layer puts out nothing but zeros."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation="relu", bias_initializer=_off(), name="off"),
            layers.Dense(1, name="out"),
        ]
    )
    model.compile("sgd", "mse", jit_compile=keras.backend.backend() == "jax")
    return model


def _off() -> Any:
    return keras.initializers.Constant(-100.0)


@pytest.fixture
def noise() -> tuple[Any, Any]:
    x = np.random.default_rng(0).standard_normal((256, 4)).astype("float32")
    return x, x[:, :1]


def fit(model: Any, data: Any, scope: Any, **arguments: Any) -> None:
    model.fit(*data, batch_size=16, callbacks=[scope], **{"verbose": 0, **arguments})


def test_findings_are_written_into_the_run_once(noise: Any, tmp_path: Path) -> None:
    scope, model = fs.Scope(run=tmp_path / "run", every=1), dead_model()
    fit(model, noise, scope)
    fit(model, noise, scope)
    held = fs.open_run(tmp_path / "run").findings
    dead = [f for f in held if f["rule"] == "dead_units"]
    assert [f["site"] for f in dead] == ["off"]
    assert len(held) == len({(f["rule"], f["site"], f["first_step"]) for f in held})


def test_they_are_printed_where_keras_prints(
    noise: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scope, model = fs.Scope(every=1), dead_model()
    fit(model, noise, scope, verbose=2)
    said = capsys.readouterr().out
    assert "fitscope: watching 16 of 16 steps" in said
    assert "dead_units" in said
    fit(model, noise, scope, verbose=2)
    said = capsys.readouterr().out
    assert "fitscope: watching 32 of 32 steps" in said
    assert "dead_units" not in said, "told twice"


def test_a_quiet_fit_prints_nothing(noise: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fit(dead_model(), noise, fs.Scope(every=1))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_rule_that_fails_does_not_end_the_training(
    noise: Any,
) -> None:
    @fs.rule("fail", "It fails.")
    def fail(run: Any) -> Any:
        raise ZeroDivisionError("in a rule")

    scope = fs.Scope(every=1, rules=fail)
    fit(dead_model(), noise, scope)
    (failed,) = scope.findings.of("fail")
    assert "ZeroDivisionError: in a rule" in failed.message
    assert scope.findings.of("dead_units"), "one broken rule silences no other"
