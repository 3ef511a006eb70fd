"""The same step once more, eagerly, with every layer's output kept: the other path to the truth.

Nothing here uses fitscope. The state of a model is copied before each step of `fit`; a twin model
is put into that state and runs Keras' own step on the same batch, without compilation, while
`keras.layers.Layer.__call__` itself is patched to keep what it gives back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
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
    """A copy of everything that decides a step: weights, seeds, optimizer.

    On torch also its global generator, last: Keras leaves Dropout without a seed to it.
    """
    held = [*model.variables, *optimizer_variables(model)]
    copies = [np.array(keras.ops.convert_to_numpy(v)) for v in held]
    if BACKEND == "torch":
        import torch

        copies.append(np.array(torch.get_rng_state()))
    return copies


class Snapshots(keras.callbacks.Callback):
    """Copies the state before every execution of `fit`, `evaluate` and `predict`.

    Args:
        steps: of an epoch or evaluation, by phase; with `steps_per_execution` Keras counts beyond
            the last one.
    """

    def __init__(self, **steps: int) -> None:
        super().__init__()
        self.steps = steps
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

    def _done(self, phase: str, batch: int) -> None:
        self.last[phase] = self.base[phase] + min(batch + 1, self.steps.get(phase, batch + 1))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done("train", batch)

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._take(self._test, batch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done(self._test, batch)

    def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._take("predict", batch)

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done("predict", batch)


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
    """Keeps the outputs of every call of every layer and graph operation.

    Args:
        take: what is kept of a tensor.
    """

    def __init__(self, take: Callable[[Any], Any] = concrete) -> None:
        self.take = take
        self.calls: dict[int, list[dict[Leaf, tuple[np.ndarray, str]]]] = {}
        self.targets: dict[int, Any] = {}
        self.inputs: dict[int, list[tuple[np.ndarray, str]]] = {}
        """First arguments of layers, by layer and call."""

    def keep(self, target: Any, outputs: Any, first: Any = None) -> None:
        given = self.take(first) if hasattr(first, "dtype") else None
        if given is not None:
            self.inputs.setdefault(id(target), []).append(given)
        found = {leaf: self.take(value) for leaf, value in flatten(outputs)}
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

    def __init__(self, case: Case, x: Any, y: Any, *, jit: bool = False) -> None:
        # XLA draws other random numbers than TensorFlow's own kernels do, from the same seed.
        self.compiled = jit and BACKEND == "tensorflow"
        # Those kernels know no channels_first on a CPU.
        eager = not (self.compiled and case.name == "channels_first")
        self.model = case.make(run_eagerly=eager, jit_compile=not eager)
        first = (rows(x, 0, BATCH), None if y is None else rows(y, 0, BATCH))
        self.model.train_on_batch(*first)  # builds optimizer and metrics
        if case.evaluates:
            self.model.test_on_batch(*first)

    def load(self, state: list[np.ndarray]) -> None:
        held = [*self.model.variables, *optimizer_variables(self.model)]
        if BACKEND == "torch":
            import torch

            *state, generator = state
            torch.set_rng_state(torch.tensor(generator))
        # Before its first step an optimizer may have few variables yet.
        assert len(self.model.variables) <= len(state) <= len(held)
        for variable, value in zip(held, state, strict=False):
            variable.assign(value)

    def step(self, phase: str, x: Any, y: Any) -> Recorder:
        """Run one step from the present state and keep what its layers put out."""
        data = (x,) if y is None or phase == "predict" else (x, y)
        data = keras.tree.map_structure(keras.ops.convert_to_tensor, data)
        if self.compiled:
            return self._compiled_step(phase, data)
        recorder = Recorder()
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

    def _compiled_step(self, phase: str, data: Any) -> Recorder:
        """Compile Keras' own step so that it also gives back every tensor that was kept."""
        import tensorflow as tf

        recorder = Recorder()

        @tf.function(jit_compile=True, autograph=False)
        def step(data: Any) -> Any:
            graph = tf.compat.v1.get_default_graph()
            inner = Recorder(lambda t: t if getattr(t, "graph", None) is graph else None)
            with inner.installed():
                self._stateful_step(phase, data)
            recorder.targets = inner.targets
            places = [
                (target, call, leaf)
                for target, calls in inner.calls.items()
                for call, found in enumerate(calls)
                for leaf in found
            ]
            recorder.calls = {t: [{} for _ in calls] for t, calls in inner.calls.items()}
            self._places = places
            self._inputs = [(t, len(given)) for t, given in inner.inputs.items()]
            given = [tensor for tensors in inner.inputs.values() for tensor in tensors]
            return [inner.calls[t][call][leaf] for t, call, leaf in places], given

        kept, given = step(data)
        for (target, call, leaf), tensor in zip(self._places, kept, strict=True):
            recorder.calls[target][call][leaf] = concrete(tensor)
        remaining = iter(given)
        for target, count in self._inputs:
            recorder.inputs[target] = [concrete(next(remaining)) for _ in range(count)]
        return recorder

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
