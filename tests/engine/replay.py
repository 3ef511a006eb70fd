"""The same step once more, eagerly, with every layer's output kept: the other path to the truth.

Nothing here uses fitscope. The state of a model is copied before each step of `fit`; a twin model
is put into that state and runs Keras' own step on the same batch, without compilation, while
`keras.layers.Layer.__call__` itself is patched to keep what it gives back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
from custom_steps import BACKEND, Gan
from zoo import BATCH, Case, rows

Leaf = tuple[str | int, ...]


def optimizer_variables(model: Any) -> list[Any]:
    if isinstance(model, Gan):
        return [*model.d_optimizer.variables, *model.g_optimizer.variables]
    return list(model.optimizer.variables)


def state_of(model: Any) -> list[np.ndarray]:
    """A copy of everything that decides a step: weights, seeds, optimizer."""
    held = [*model.variables, *optimizer_variables(model)]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in held]


class Snapshots(keras.callbacks.Callback):
    """Copies the state before every execution of `fit`, `evaluate` and `predict`."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[tuple[str, int], list[np.ndarray]] = {}
        self.fitting = False
        self.base = {"train": 0, "validation": 0, "test": 0, "predict": 0}
        self.last = dict.fromkeys(self.base, 0)

    def on_train_begin(self, logs: Any = None) -> None:
        self.fitting = True
        self.base["train"] = self.last["train"]

    def on_train_end(self, logs: Any = None) -> None:
        self.fitting = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.base["train"] = self.last["train"]

    def on_test_begin(self, logs: Any = None) -> None:
        self.base[self._test] = self.last[self._test]

    def on_predict_begin(self, logs: Any = None) -> None:
        self.base["predict"] = self.last["predict"]

    @property
    def _test(self) -> str:
        return "validation" if self.fitting else "test"

    def _take(self, phase: str, batch: int) -> None:
        self.states[phase, self.base[phase] + batch] = state_of(self.model)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._take("train", batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With steps_per_execution Keras counts beyond the end of the epoch.
        done = min(batch + 1, (self.params or {}).get("steps") or batch + 1)
        self.last["train"] = self.base["train"] + done

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._take(self._test, batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.last[self._test] = self.base[self._test] + batch + 1

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._take("predict", batch)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self.last["predict"] = self.base["predict"] + batch + 1


def concrete(value: Any) -> tuple[np.ndarray, str] | None:
    """The array behind a tensor of an eager step and its dtype; None inside a nested trace."""
    if BACKEND == "jax":
        import jax

        while isinstance(value, jax.core.Tracer) and hasattr(value, "primal"):
            value = value.primal
        if isinstance(value, jax.core.Tracer) or not hasattr(value, "dtype"):
            return None
    elif BACKEND == "tensorflow":
        if not hasattr(value, "numpy"):
            return None
    elif not hasattr(value, "detach"):
        return None
    dtype = keras.backend.standardize_dtype(value.dtype)
    if BACKEND == "torch":
        value = value.detach().cpu()
        array = (value.float() if dtype == "bfloat16" else value).numpy()
    else:
        array = np.asarray(value)
    return np.array(array, np.float32 if dtype == "bfloat16" else None), dtype


def flatten(tree: Any, place: Leaf = ()) -> Iterator[tuple[Leaf, Any]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from flatten(value, (*place, key))
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            yield from flatten(value, (*place, index))
    elif tree is not None:
        yield place, tree


class Recorder:
    """Keeps the outputs of every call of every layer and graph operation."""

    def __init__(self) -> None:
        self.calls: dict[int, list[dict[Leaf, tuple[np.ndarray, str]]]] = {}
        self.targets: dict[int, Any] = {}
        self.inputs: dict[int, list[np.ndarray]] = {}
        """First arguments of layers, by layer and call."""

    def keep(self, target: Any, outputs: Any, first: Any = None) -> None:
        given = concrete(first) if hasattr(first, "dtype") else None
        if given is not None:
            self.inputs.setdefault(id(target), []).append(given[0])
        found = {leaf: concrete(value) for leaf, value in flatten(outputs)}
        kept = {leaf: value for leaf, value in found.items() if value is not None}
        self.targets[id(target)] = target
        self.calls.setdefault(id(target), []).append(kept)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        layer_call = keras.layers.Layer.__call__
        operation_call = keras.Operation.__call__
        stateless_call = keras.layers.Layer.stateless_call
        recorder = self

        def of_root(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Runs `call` without `__call__`, for the layer that a pass starts from.
            returned = stateless_call(self, *args, **kwargs)
            recorder.keep(self, returned[0])
            return returned

        def of_layer(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = layer_call(self, *args, **kwargs)
            recorder.keep(self, outputs, args[0] if args else None)
            return outputs

        def of_operation(self: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = operation_call(self, *args, **kwargs)
            if not isinstance(self, keras.layers.Layer):
                recorder.keep(self, outputs)
            return outputs

        keras.layers.Layer.__call__ = of_layer
        keras.Operation.__call__ = of_operation
        keras.layers.Layer.stateless_call = of_root
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = layer_call
            keras.Operation.__call__ = operation_call
            keras.layers.Layer.stateless_call = stateless_call


class Twin:
    """A second, equal model that runs single steps eagerly."""

    def __init__(self, case: Case, x: Any, y: Any) -> None:
        self.model = case.make(run_eagerly=True)
        first = (rows(x, 0, BATCH), None if y is None else rows(y, 0, BATCH))
        self.model.train_on_batch(*first)  # builds optimizer and metrics
        if case.evaluates:
            self.model.test_on_batch(*first)

    def load(self, state: list[np.ndarray]) -> None:
        held = [*self.model.variables, *optimizer_variables(self.model)]
        for variable, value in zip(held, state, strict=True):
            variable.assign(value)

    def step(self, phase: str, x: Any, y: Any) -> Recorder:
        """Run one step from the present state and keep what its layers put out."""
        recorder = Recorder()
        data = (x,) if y is None or phase == "predict" else (x, y)
        data = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
        with recorder.installed():
            if BACKEND == "jax":
                self._jax_step(phase, data)
            elif BACKEND == "torch" and phase != "train":
                import torch

                with torch.no_grad():
                    self._stateful_step(phase, data)
            else:
                self._stateful_step(phase, data)
        return recorder

    def _stateful_step(self, phase: str, data: Any) -> None:
        kind = "test" if phase == "validation" else phase
        getattr(self.model, f"{kind}_step")(data)

    def _jax_step(self, phase: str, data: Any) -> None:
        model = self.model
        groups = [model.trainable_variables, model.non_trainable_variables]
        if phase == "train":
            groups.append(optimizer_variables(model))
        if phase != "predict":
            groups.append(model.metrics_variables)
        state = tuple([v.value for v in group] for group in groups)
        if phase == "train":
            _, new = model.train_step(state, data)
        elif phase == "predict":
            _, fixed = model.predict_step(state, data)
            new = (state[0], fixed)
        else:
            _, new = model.test_step(state, data)
        for group, values in zip(groups, new, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)


def children(target: Any) -> list[Any]:
    if not isinstance(target, keras.layers.Layer):
        return []
    found = list(target._flatten_layers(include_self=False, recursive=False))
    graph = getattr(target, "_functional", None) or target
    operations = getattr(graph, "_operations", None) or []
    return [*found, *(o for o in operations if not isinstance(o, keras.layers.Layer))]


def resolve(model: Any, path: str) -> Any:
    """The layer or operation of a site's path, by walking the names from the root."""
    if path == model.name:
        return model
    target = model
    for segment in path.split("/"):
        named = [child for child in children(target) if child.name == segment]
        assert named, f"{segment!r} of {path!r} is no child of {target.name!r}"
        target = named[0]
    return target


def runs_in_a_loop(model: Any) -> set[int]:
    """Layers under an RNN or TimeDistributed, which run once per time step."""
    inside: set[int] = set()
    for layer in model._flatten_layers():
        if isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
            inside |= {id(x) for x in layer._flatten_layers(include_self=False)}
    return inside
