"""All that the doctor watches at once: what it changes (nothing), and what its rules cost."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import pytest

import fitscope as fs
from fitscope.launch.doctor_scope import PORTS, DoctorScope
from fitscope.rules.registry import RULES, contract, findings
from fitscope.scope.facts import facts

X = np.random.default_rng(0).normal(size=(96, 12)).astype("float32")
Y = (X[:, 0] > 0).astype("float32")


def model() -> Any:
    keras.utils.set_random_seed(4)
    inputs = keras.Input((12,))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Dense(16, activation="tanh")(x)
    made = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(x))
    made.compile(keras.optimizers.Adam(0.01), "binary_crossentropy", metrics=["accuracy"])
    return made


def bits(made: Any) -> list[bytes]:
    variables = [*made.variables, *made.optimizer.variables]
    return [np.asarray(keras.ops.convert_to_numpy(v)).tobytes() for v in variables]


def test_the_training_is_the_same_to_the_bit() -> None:
    trained = []
    for scope in (None, DoctorScope()):
        made = model()
        given = [] if scope is None else [scope]
        fitted = made.fit(
            X, Y, batch_size=32, epochs=4, validation_split=0.2, verbose=0, callbacks=given
        )
        trained.append((bits(made), fitted.history))
    assert trained[0] == trained[1]
    assert scope is not None
    assert scope.without_gradients is None
    assert {site.port for site in scope.run.sites} == {"output", *PORTS}
    assert scope.cost["observed_steps"] == 4 * 3 + 4 * 1


def test_rules_take_less_than_a_tenth_of_a_second() -> None:
    scope, taken = DoctorScope(), {}

    def cpu(function: Any) -> float:
        found = []
        for _ in range(3):
            began = time.process_time()
            function()
            found.append(time.process_time() - began)
        return min(found)

    class Before(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:
            known = facts(self.model)
            taken["facts"] = cpu(lambda: facts(self.model))
            taken["contract"] = cpu(lambda: contract(known, RULES))

    model().fit(X, Y, batch_size=8, epochs=10, verbose=0, callbacks=[Before(), scope])
    taken["training"] = cpu(lambda: findings(scope.run, RULES))
    assert sum(taken.values()) < 0.1, taken


def test_only_what_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from fitscope.scope import session

    real = session.build

    def refusing(made: Any, plan: Any, *edits: Any) -> Any:
        if "gradient" in plan.ports:
            raise RuntimeError("no gradients here")
        return real(made, plan, *edits)

    monkeypatch.setattr(session, "build", refusing)
    scope, plain = DoctorScope(), fs.Scope(fs.watch("**", of=PORTS), every=1)
    model().fit(X, Y, batch_size=32, epochs=2, verbose=0, callbacks=[scope])
    assert scope.without_gradients == "RuntimeError: no gradients here"
    assert {site.port for site in scope.run.sites} == {"output"}
    # A scope of the user's own watches what it was told, or nothing.
    model().fit(X, Y, batch_size=32, epochs=2, verbose=0, callbacks=[plain])
    assert len(plain.run.sites) == 0
