"""Edited steps on JAX: what the host tells a step is an argument of it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fitscope.engine import keras_internals
from fitscope.engine.editing import EditPass, EditPlan
from fitscope.engine.jax_engine import (
    Held,
    JaxDevice,
    compile_step,
    predict_step,
    read_in_program,
)
from fitscope.engine.optimizers import loss_scale
from fitscope.engine.plan import Plan
from fitscope.engine.trace import Trace
from fitscope.errors import EditError


class JaxSignals:
    """What the host tells one traced step."""

    def __init__(self, told: Any, scale: Any, device: JaxDevice) -> None:
        self._values, self.words, self._teachers, self._memory = told
        self.loss_scale = scale
        self._device = device
        self._kept: dict[str, Held] = {}
        self.lengths: dict[str, int] = {}
        """Of all that edits carry."""

    def active(self, index: int) -> Any:
        return self._values[index, 0] > 0

    def strength(self, index: int) -> Any:
        return self._values[index, 1]

    def teacher_state(self, index: int) -> Any:
        return self._teachers.get(str(index))

    def recall(self, key: str, length: int) -> Any:
        self.lengths[key] = length
        return self._memory.get(key, jnp.zeros(length))

    def keep(self, key: str, value: Any) -> None:
        self._kept[key] = self._device.hold(value)

    @property
    def memory(self) -> dict[str, Any]:
        """What edits carry on, once the step was run."""
        for key, held in self._kept.items():
            if held.value is None:
                raise EditError(
                    f"{key.partition('/')[2]} runs inside a function of its own in train_step "
                    "(jit, vmap, scan, while or cond), where an edit cannot carry a mean from step "
                    "to step. Replace it by a value."
                )
        return {key: held.value for key, held in self._kept.items()}

    def through_gradient(self, x: Any, function: Callable[[Any], Any]) -> Any:
        @jax.custom_vjp
        def identity(x: Any) -> Any:
            return x

        identity.defvjp(lambda x: (x, None), lambda _, gradient: (function(gradient),))
        return identity(x)

    def without_gradient(self) -> Any:
        return nullcontext()


class JaxEdits:
    """Edited functions for the steps of one phase of one model."""

    def __init__(self, model: Any, plan: Plan, edits: EditPlan) -> None:
        self._reference = weakref.ref(model)
        self._plan = plan
        self._edits = edits
        self._told: Sequence[Any] = ()
        self._signals: JaxSignals | None = None
        """Of the step that was begun last."""
        self._place = 0

    @property
    def _model(self) -> Any:
        return self._reference()

    def tell(self, values: Any, words: Any) -> None:
        """See `build.Edits.tell`."""
        self._told = list(zip(values, words, strict=True))
        self._place = 0

    def step_back(self) -> None:
        """The last step is run once more."""
        self._place -= 1

    def arguments(self, state: Any, data: Any) -> Any:
        """What the next step of the execution is told.

        Args:
            state: the state that it is given.
            data: the data that it is given.
        """
        values, words = self._told[self._place]
        self._place += 1
        teachers = {
            str(o.index): o.teacher_state()
            for o in self._edits.objectives
            if o.teacher_state is not None
        }
        numbers = np.asarray(values, np.float32), np.asarray(words, np.int32)
        if self._edits.carries and self._edits.trains and not self._edits.memory:
            # What is carried must be an argument of the first step already, or the second one would
            # be traced anew.
            lengths = self._lengths(state, data, (*numbers, teachers, {}))
            self._edits.memory.update({key: jnp.zeros(n) for key, n in lengths.items()})
        return *numbers, teachers, dict(self._edits.memory)

    def _lengths(self, state: Any, data: Any, told: Any) -> dict[str, int]:
        """Of what edits carry from step to step, by running a step on shapes."""
        found: dict[str, int] = {}

        def step(state: Any, data: Any, told: Any) -> Any:
            device = JaxDevice(traced=False)
            trace = Trace(self._plan, device, edits=self.begin(told, state, device))
            with trace.installed():
                result = self._model.train_step(state, data)
            found.update(self._signals.lengths if self._signals else {})
            return result

        jax.eval_shape(step, state, data, told)
        return found

    @property
    def memory(self) -> dict[str, Any]:
        """What the step that was begun last carries on."""
        return {} if self._signals is None else self._signals.memory

    def remember(self, memory: dict[str, Any]) -> None:
        """Keep what a step carries on."""
        self._edits.memory.update(memory)

    def begin(self, told: Any, state: Any, device: JaxDevice) -> EditPass:
        """The edits of a step that is traced or run.

        Args:
            told: what `arguments` gave, as the trace knows it.
            state: the state that the step was given.
            device: holds the values that leave the step.
        """
        scale = None
        if self._edits.trains and any(not e.edit.is_scale_free for e in self._edits.edits):
            scale = loss_scale(self._model, state[2])
        told = jax.tree.map(jnp.asarray, told)
        self._signals = JaxSignals(told, scale, device)
        return EditPass(self._edits, self._signals, adds_to_loss=self._edits.phase != "predict")

    def function(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """See `build.Edits.function`."""
        del plain
        model = self._model
        run = predict_step(model) if step == "predict" else getattr(model, f"{step}_step")

        is_compiled = bool(not model.run_eagerly and model.jit_compile)
        carries = self._edits.carries and step == "train"

        def edited_step(state: Any, data: Any, told: Any, one: Any) -> Any:
            device = JaxDevice(traced=carries and is_compiled)
            trace = Trace(self._plan, device)

            def step(state: Any, data: Any, told: Any) -> Any:
                trace.edits = self.begin(told, state, device)
                with trace.installed():
                    return run(state, data)

            args = state, data, told
            if device.traced:
                outputs, new = read_in_program(step, args, one, device.taps)
            else:
                outputs, new = step(*args)
            return outputs, new, self.memory

        compiled = edited_step
        if is_compiled:
            compiled = compile_step(edited_step)
        one = jnp.float32(1)

        def one_step(state: Any, data: Any) -> Any:
            outputs, state, memory = compiled(state, data, self.arguments(state, data), one)
            self.remember(memory)
            return outputs, state

        return keras_internals.make_function(model, one_step, concatenate=step == "predict")
