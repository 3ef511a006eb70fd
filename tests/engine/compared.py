"""Trainings that are compared bit for bit, and all that another callback may see of them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops
from replay import optimizer_variables
from zoo import BACKEND, BATCH, VALIDATED, Case, rows

JITS = [True, False] if BACKEND != "torch" else [False]
STEPS = 2
PORTS = ("output", "gradient", "weight", "weight_gradient", "update")


class Probe(keras.callbacks.Callback):
    """Looks at the model at every hook, as other callbacks do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, Any]] = []
        self.functions: list[Any] = []

    def look(self, hook: str) -> None:
        self.seen.append((hook, describe(self.model)))

    def on_train_begin(self, logs: Any = None) -> None:
        self.look("train_begin")

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.look(f"batch_begin {batch}")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.look(f"batch_end {batch} {sorted(logs or {})}")
        self.functions.append(self.model.train_function)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.look(f"test_batch_end {batch}")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.look(f"epoch_end {epoch} {sorted(logs or {})}")

    def on_train_end(self, logs: Any = None) -> None:
        self.look("train_end")


def describe(model: Any) -> dict[str, Any]:
    """All that another callback may look at, but for values, which are compared at the end."""
    summary = io.StringIO()
    with contextlib.redirect_stdout(summary):
        model.summary(print_fn=lambda line: summary.write(line + "\n"))
    return {
        "weights": [(w.path, tuple(w.shape), str(w.dtype)) for w in model.weights],
        "variables": [(v.path, tuple(v.shape)) for v in model.variables],
        "get_weights": [w.shape for w in model.get_weights()],
        "trainable": [v.path for v in model.trainable_variables],
        "non_trainable": [v.path for v in model.non_trainable_variables],
        "metrics": [v.path for v in model.metrics_variables],
        "count": model.count_params() if model.built else None,
        "summary": summary.getvalue(),
        "attributes": {layer.name: sorted(vars(layer)) for layer in model._flatten_layers()},
        "calls": [layer.name for layer in model._flatten_layers() if "call" in vars(layer)],
    }


def file_contents(path: Path) -> dict[str, Any]:
    """What is in a saved file, without times of day."""
    if zipfile.is_zipfile(path):
        found: dict[str, Any] = {}
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".h5"):
                    found[name] = _datasets(io.BytesIO(archive.read(name)))
                else:
                    # These ids are addresses of this process.
                    found[name] = re.sub(rb'"shared_object_id": \d+', b"", archive.read(name))
        found["metadata.json"] = json.loads(found["metadata.json"])
        found["metadata.json"].pop("date_saved")
        return found
    return _datasets(path)


def _datasets(source: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        attributes = {key: str(value) for key, value in item.attrs.items()}
        found[name] = (
            (str(item.dtype), item.shape, item[()].tobytes(), attributes)
            if isinstance(item, h5py.Dataset)
            else attributes
        )

    with h5py.File(source) as file:
        file.visititems(visit)
    return found


def train(
    case: Case,
    folder: Path,
    scope: Any | None,
    *,
    n: int = STEPS * BATCH,
    epochs: int = 2,
    optimizer: str | None = None,
    shuffle: bool = True,
    snapshots: Any = None,
    **compiled: Any,
) -> dict[str, Any]:
    """Train a model of the zoo and give back all that training leaves behind.

    Args:
        case: the model.
        folder: for the files that are saved on the way; it is made.
        scope: watches the training, if there is one.
        n: samples.
        epochs: epochs.
        optimizer: the name of another optimizer than the model's own.
        shuffle: whether each epoch has an order of its own.
        snapshots: another callback that looks at every step.
        compiled: for `compile`.
    """
    keras.utils.clear_session()  # Keras numbers optimizers of a kind
    chosen = keras.optimizers.get(optimizer) if optimizer and case.plain_adam else None
    model = case.make(optimizer=chosen, **compiled)
    x, y = case.data(n)
    folder.mkdir()
    before = Probe()
    around: list[Any] = [before] if snapshots is None else [before, snapshots]
    after = None
    if scope is not None:
        after = Probe()
        around += [scope, after]
    history = model.fit(
        x, y, batch_size=BATCH, epochs=epochs, shuffle=shuffle, verbose=0,
        validation_data=(rows(x, 0, BATCH), rows(y, 0, BATCH)) if case.name in VALIDATED else None,
        callbacks=[
            keras.callbacks.ModelCheckpoint(folder / "{epoch}-{batch}.keras", save_freq=2),
            keras.callbacks.ModelCheckpoint(
                folder / "{epoch}-{batch}.weights.h5", save_freq=2, save_weights_only=True
            ),
            *around,
        ],
    )  # fmt: skip
    if scope is not None:
        assert scope._session.broken is None, scope._session.broken
    return {
        "history": history.history,
        "logs": history.epoch,
        "variables": [(v.path, as_bytes(v)) for v in model.variables],
        "optimizer": [(v.path, as_bytes(v)) for v in optimizer_variables(model)],
        "metrics": [(v.path, as_bytes(v)) for v in model.metrics_variables],
        "files": {path.name: file_contents(path) for path in sorted(folder.iterdir())},
        "seen": before.seen,
        "seen_after": after.seen if after else before.seen,
        "functions": {id(f) for p in (before, after) if p for f in p.functions},
        "model": model,
        "function": model.train_function,
        "random": np.random.random(3).tolist(),  # noqa: NPY002 - what Keras shuffles with
        "global_seed": as_bytes(keras.random.uniform((3,))),
    }


def as_bytes(value: Any) -> bytes:
    return np.asarray(ops.convert_to_numpy(value)).tobytes()


def assert_same(watched: dict[str, Any], plain: dict[str, Any]) -> None:
    for key in ("variables", "optimizer", "metrics"):
        names = [name for (name, a), (_, b) in zip(watched[key], plain[key], strict=True) if a != b]
        assert not names, f"{key} differ: {names}"
        assert [n for n, _ in watched[key]] == [n for n, _ in plain[key]]
    np.testing.assert_equal(watched["history"], plain["history"])
    for key in ("logs", "random", "global_seed"):
        assert watched[key] == plain[key], key
    assert watched["files"].keys() == plain["files"].keys()
    assert watched["files"], "the checkpoints were not written"
    for name, content in watched["files"].items():
        assert content == plain["files"][name], f"{name} was saved otherwise"
    for key in ("seen", "seen_after"):
        for (hook, found), (expected_hook, expected) in zip(
            watched[key], plain["seen"], strict=True
        ):
            assert hook == expected_hook
            for what, value in found.items():
                assert value == expected[what], f"{what} differs in {hook}"
    assert len(watched["functions"]) == 1, "another callback saw our function on the model"
    assert watched["functions"] == {id(watched["function"])}
    leftovers = [
        f"{layer.name}.{name}"
        for layer in watched["model"]._flatten_layers()
        for name, value in vars(layer).items()
        if "fitscope" in getattr(type(value), "__module__", "")
        or "fitscope" in (getattr(value, "__module__", "") or "")
        or (name in ("call", "quantized_call", "rematerialized_call"))
    ]
    assert not leftovers
