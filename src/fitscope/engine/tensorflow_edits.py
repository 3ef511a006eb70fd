"""Edited steps on TensorFlow: what the host tells a step is in variables that it captures."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf

from fitscope.engine import keras_internals
from fitscope.engine.editing import EditPass, EditPlan
from fitscope.engine.optimizers import loss_scale
from fitscope.engine.plan import Plan
from fitscope.engine.tensorflow_engine import TensorFlowDevice, check_strategy
from fitscope.engine.trace import Trace


class TensorFlowSignals:
    """What the host tells one traced step."""

    def __init__(self, values: Any, words: Any, scale: Any, memory: dict[str, Any]) -> None:
        self._values, self.words, self.loss_scale = values, words, scale
        self._memory = memory

    def active(self, index: int) -> Any:
        return self._values[index, 0] > 0

    def strength(self, index: int) -> Any:
        return self._values[index, 1]

    def teacher_state(self, index: int) -> Any:
        del index  # its variables are captured

    def recall(self, key: str, length: int) -> Any:
        if key not in self._memory:
            # While a tf.function is traced, its thread may not make variables.
            with ThreadPoolExecutor(1) as thread:
                zeros = np.zeros(length, np.float32)
                self._memory[key] = thread.submit(_variable, zeros).result()
        return tf.convert_to_tensor(self._memory[key])

    def keep(self, key: str, value: Any) -> None:
        self._memory[key].assign(value)

    def through_gradient(self, x: Any, function: Callable[[Any], Any]) -> Any:
        return through_gradient(x, function)

    def without_gradient(self) -> Any:
        return contextlib.nullcontext()


class TensorFlowEdits:
    """Edited functions for the steps of one phase of one model."""

    def __init__(self, model: Any, plan: Plan, edits: EditPlan) -> None:
        check_strategy(model)
        self._reference = weakref.ref(model)
        self._plan = plan
        self._edits = edits
        self._depth = int(model.steps_per_execution)
        count = len(edits.edits) + len(edits.objectives)
        highest = max((w.index for w in (*edits.edits, *edits.objectives)), default=count)
        self._values = _variable(np.zeros((self._depth, highest + 1, 2), np.float32))
        # Not int32: TensorFlow keeps such variables on the host, where XLA does not find them.
        self._words = _variable(np.zeros((self._depth, 2), np.int64))
        self._place = _variable(np.zeros((), np.int64))
        """Which step of the execution runs; it stays 0 where there is one."""
        self._told: Any = None

    @property
    def _model(self) -> Any:
        return self._reference()

    def tell(self, values: Any, words: Any) -> None:
        """See `build.Edits.tell`."""
        values = values[:, : self._values.shape[1]]
        if self._told is None or not np.array_equal(values, self._told):
            self._values.assign(values)
            self._told = np.array(values)
        self._words.assign(words)
        if self._depth > 1:
            self._place.assign(0)

    @contextlib.contextmanager
    def step(self) -> Generator[EditPass]:
        """Around a step that is traced or run: its edits."""
        place = tf.minimum(tf.convert_to_tensor(self._place), self._depth - 1)
        one = self._depth == 1
        values = self._values[0] if one else tf.gather(self._values, place)
        words = self._words[0] if one else tf.gather(self._words, place)
        scale = None
        if self._edits.trains and any(not e.edit.is_scale_free for e in self._edits.edits):
            scale = loss_scale(self._model)
        signals = TensorFlowSignals(values, words, scale, self._edits.memory)
        yield EditPass(self._edits, signals, adds_to_loss=self._edits.phase != "predict")
        if self._depth > 1:
            self._place.assign_add(1)

    def function(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """See `build.Edits.function`."""
        del plain
        model = self._model
        run = getattr(model, f"{step}_step")
        # A train_step that is itself a tf.function may hold a trace without our layers.
        run = getattr(run, "python_function", run)

        @tf.autograph.experimental.do_not_convert
        def edited_step(data: Any) -> Any:
            with self.step() as edits:
                trace = Trace(self._plan, TensorFlowDevice(), edits=edits)
                with trace.installed():
                    return run(data)

        if step == "predict":
            return keras_internals.make_predict_function(model, edited_step)
        return keras_internals.make_function(model, edited_step)


def through_gradient(x: Any, function: Callable[[Any], Any]) -> Any:
    """A tensor of the same value, whose gradient goes through a function."""

    @tf.custom_gradient
    def identity(x: Any) -> Any:
        return tf.identity(x), function

    return identity(x)


def _variable(value: Any) -> Any:
    return tf.Variable(value, trainable=False)
