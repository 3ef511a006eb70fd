"""All ports at once, beside all that optimizers do: nothing changes, and what is seen is true.

Each model is trained with a scope that watches everything, and without one. Both come to the same
bits, and what the scope saw is compared with autodiff and with the weights before and after.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from autodiff import compare_steps
from compared import JITS, PORTS, assert_same, train
from custom_steps import Gan
from keras import layers, ops
from replay import Snapshots, Twin, state_of
from zoo import BACKEND, BATCH, BY_NAME, Case, rows

import fitscope as fs

SAMPLES = 4 * BATCH
SGD, ADAM = keras.optimizers.SGD, keras.optimizers.Adam


def reused_and_frozen() -> Any:
    """One frozen layer, one that is called twice, and a dropout between them."""
    inputs = keras.Input((5,))
    x = layers.Dense(5, activation="tanh", name="frozen", trainable=False)(inputs)
    shared = layers.Dense(5, activation="tanh", name="shared")
    x = shared(layers.Dropout(0.2, seed=3, name="drop")(shared(x)))
    return keras.Model(inputs, layers.Dense(2, name="out")(x), name="reused")


SMALL = Case("reused", reused_and_frozen, BY_NAME["branches"].data)


def scaled(inner: Any) -> Any:
    # The scale is doubled after every two steps.
    return keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**10, dynamic_growth_steps=2)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "clipnorm": lambda: ADAM(0.01, clipnorm=0.05),
    "global_clipnorm": lambda: SGD(0.05, momentum=0.9, global_clipnorm=0.05),
    "clipvalue": lambda: SGD(0.05, clipvalue=0.01),
    "ema": lambda: SGD(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "accumulation": lambda: ADAM(0.01, gradient_accumulation_steps=2),
    "weight_decay": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "schedule": lambda: SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "loss_scale": lambda: scaled(SGD(0.05)),
    "all_at_once": lambda: scaled(
        ADAM(0.01, clipnorm=0.05, use_ema=True, ema_overwrite_frequency=2,
             gradient_accumulation_steps=2, weight_decay=0.01)
    ),
}  # fmt: skip

_DAILY = {
    ("jax", True): ("global_clipnorm", "accumulation", "loss_scale", "all_at_once"),
    ("jax", False): ("clipnorm",),
    ("tensorflow", True): ("global_clipnorm", "loss_scale", "all_at_once"),
    ("tensorflow", False): ("clipnorm", "ema", "accumulation", "loss_scale", "all_at_once"),
}
"""Each is trained twice and compiled as often: what `make test` has the time for."""

SETTINGS = [
    (name, jit)
    for name in OPTIMIZERS
    for jit in JITS
    if os.environ.get("FITSCOPE_TEST_ALL") or name in _DAILY.get((BACKEND, jit), [name])
]


def setting_id(value: Any) -> str:
    return value if isinstance(value, str) else "jit" if value else "nojit"


def compare(case: Case, jit: bool, folder: Path) -> tuple[Any, Any]:
    """Train with and without a scope; gives the scope, and what the watched training left."""
    given = {"n": SAMPLES, "epochs": 1, "shuffle": False, "jit_compile": jit}
    steps = SAMPLES // BATCH
    plain = train(case, folder / "plain", None, snapshots=Snapshots(train=steps), **given)
    scope, snapshots = fs.Scope(fs.watch("**", of=PORTS), every=1), Snapshots(train=steps)
    watched = train(case, folder / "watched", scope, snapshots=snapshots, **given)
    assert_same(watched, plain)
    x, y = case.data(SAMPLES)
    compare_steps(case, watched["model"], scope, snapshots, x, y, jit=jit)
    return scope, watched


@pytest.mark.parametrize(("name", "jit"), SETTINGS, ids=setting_id)
def test_what_an_optimizer_does_besides(name: str, jit: bool, tmp_path: Path) -> None:
    case = dataclasses.replace(SMALL, optimizer=OPTIMIZERS[name])
    scope, _ = compare(case, jit, tmp_path)
    gaps = {u.site: u.reason for u in scope.unseen}
    assert "is frozen" in gaps["frozen:update"]
    sites = {site.name for site in scope.run.sites}
    assert {"shared#0", "shared#1", "frozen:weight[kernel]"} <= sites
    # One gradient a call, and one update for both; those of `out` may be fused away.
    assert {"shared#0:gradient", "shared#1:gradient"} <= sites
    assert {"shared:update[kernel]", "out:update[bias]"} <= sites
    if name == "accumulation":
        norms = [r["value"] for r in scope.run.stats("out:update[kernel]", "l2")]
        assert [n > 0 for n in norms] == [False, True, False, True]
    if name == "loss_scale":
        scales = [r["value"] for r in scope.run.stats("shared#0:gradient", "loss_scale")]
        assert scales == [2.0**10, 2.0**10, 2.0**11, 2.0**11]


@pytest.mark.parametrize("jit", JITS[:1], ids=setting_id)
def test_half_precision_with_a_scaled_loss(jit: bool, tmp_path: Path) -> None:
    case = dataclasses.replace(BY_NAME["mixed_float16"], optimizer=OPTIMIZERS["loss_scale"])
    compare(case, jit, tmp_path)


class Given:
    """Keeps the gradients that the optimizers of a twin are given, past fitscope."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.kept: dict[str, Any] = {}
        self.model = twin.model

    def of(self, state: list[np.ndarray], x: Any, *, jit: bool) -> dict[str, np.ndarray]:
        """By the path of a variable, its gradient in the step that starts from a state."""
        self.twin.load(state)
        data = (keras.tree.map_structure(ops.convert_to_tensor, x),)
        if BACKEND == "tensorflow" and jit:
            import tensorflow as tf

            # XLA draws other random numbers than TensorFlow's own kernels do.
            def step() -> Any:
                self._step(data)
                return self.kept

            found = tf.function(step, jit_compile=True, autograph=False)()
        else:
            self._step(data)
            found = self.kept
        return {path: np.array(ops.convert_to_numpy(g)) for path, g in found.items()}

    def _step(self, data: Any) -> None:
        optimizers = {
            self.model.d_optimizer: self.model.discriminator,
            self.model.g_optimizer: self.model.generator,
        }
        name = "stateless_apply" if BACKEND == "jax" else "apply"
        with pytest.MonkeyPatch.context() as patch:
            for optimizer, part in optimizers.items():
                own = getattr(optimizer, name)

                def applied(*args: Any, own: Any = own, part: Any = part) -> Any:
                    grads = args[1] if BACKEND == "jax" else args[0]
                    for variable, gradient in zip(part.trainable_variables, grads, strict=True):
                        copied = gradient.clone() if BACKEND == "torch" else gradient * 1
                        self.kept[variable.path] = copied
                    return own(*args)

                patch.setitem(vars(optimizer), name, applied)
            if BACKEND == "jax":
                self.twin._jax_step("train", data)
            else:
                self.model.train_step(data)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype("float64")))


@pytest.mark.parametrize("jit", JITS, ids=setting_id)
def test_two_optimizers(jit: bool, tmp_path: Path) -> None:
    """What the losses of a GAN make of its scores is known by hand."""
    case, steps = BY_NAME["gan"], SAMPLES // BATCH
    given = {"n": SAMPLES, "epochs": 1, "shuffle": False, "jit_compile": jit}
    plain = train(case, tmp_path / "plain", None, snapshots=Snapshots(train=steps), **given)
    snapshots = Snapshots(train=steps)
    scope = fs.Scope(fs.watch("**", of=PORTS), fs.record("**/d_out"), every=1)
    watched = train(case, tmp_path / "watched", scope, snapshots=snapshots, **given)
    assert_same(watched, plain)

    states = [snapshots.states["train", step] for step in range(steps)]
    states.append(state_of(watched["model"]))
    x, _ = case.data(SAMPLES)
    twin = Twin(case, x, None)
    assert isinstance(twin.model, Gan)
    gradients = Given(twin)
    parts = {"g": "generator", "d": "discriminator"}
    values = {
        port: {
            (r["step"], r["site"]): r["value"] for r in scope.run.stats(f"**:{port}", "l2")
        }
        for port in ("gradient", "weight", "weight_gradient", "update")
    }  # fmt: skip
    for step in range(steps):
        batch = rows(x, step * BATCH, (step + 1) * BATCH)
        found = gradients.of(states[step], batch, jit=jit)
        for place, variable in enumerate(twin.model.variables):
            if variable.path not in found:
                continue
            layer, leaf = variable.path.split("/")[-2:]
            part = parts[layer[0]]
            before, after = (states[s][place].astype("float64") for s in (step, step + 1))
            for port, want in (
                ("weight", before), ("weight_gradient", found[variable.path]),
                ("update", after - before),
            ):  # fmt: skip
                name = f"{part}/{layer}:{port}[{leaf}]"
                if port == "weight_gradient" and is_fused(scope, name, jit):
                    continue
                np.testing.assert_allclose(
                    values[port][step, name], np.linalg.norm(want), rtol=1e-4, atol=1e-7,
                    err_msg=f"step {step}, {name}",
                )  # fmt: skip
        for call, sign in enumerate((-1, 1, -1)):  # real, fake, and fake that is to seem real
            name = f"discriminator/d_out#{call}"
            if is_fused(scope, name, jit):
                continue
            score = scope.run.values(name)[step].array
            want = sign * sigmoid(sign * score) / BATCH
            np.testing.assert_allclose(
                values["gradient"][step, f"{name}:gradient"], np.linalg.norm(want), rtol=1e-4
            )


def is_fused(scope: Any, name: str, jit: bool) -> bool:
    """Whether reading it would cost TensorFlow's own fusion, and it is reported instead."""
    found = [u for u in scope.unseen if u.site in (name, f"{name}:gradient")]
    assert not found or (BACKEND == "tensorflow" and not jit), found
    return bool(found)
