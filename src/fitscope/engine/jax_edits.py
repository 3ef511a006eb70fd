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
from fitscope.engine.jax_engine import JaxDevice, predict_step, shardings
from fitscope.engine.optimizers import loss_scale
from fitscope.engine.plan import Plan
from fitscope.engine.trace import Trace


class JaxSignals:
    """What the host tells one traced step."""

    def __init__(self, told: Any, scale: Any) -> None:
        self._values, self.words, self._teachers = told
        self.loss_scale = scale

    def active(self, index: int) -> Any:
        return self._values[index, 0] > 0

    def strength(self, index: int) -> Any:
        return self._values[index, 1]

    def teacher_state(self, index: int) -> Any:
        return self._teachers.get(str(index))

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

    def arguments(self) -> Any:
        """What the next step of the execution is told."""
        values, words = self._told[self._place]
        self._place += 1
        teachers = {
            str(o.index): o.teacher_state()
            for o in self._edits.objectives
            if o.teacher_state is not None
        }
        return np.asarray(values, np.float32), np.asarray(words, np.int32), teachers

    def begin(self, told: Any, state: Any) -> EditPass:
        """The edits of a step that is traced or run.

        Args:
            told: what `arguments` gave, as the trace knows it.
            state: the state that the step was given.
        """
        scale = None
        if self._edits.trains and any(not e.edit.is_scale_free for e in self._edits.edits):
            scale = loss_scale(self._model, state[2])
        told = jax.tree.map(jnp.asarray, told)
        return EditPass(
            self._edits, JaxSignals(told, scale), adds_to_loss=self._edits.phase != "predict"
        )

    def function(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """See `build.Edits.function`."""
        del plain
        model = self._model
        run = predict_step(model) if step == "predict" else getattr(model, f"{step}_step")

        def edited_step(state: Any, data: Any, told: Any) -> Any:
            edits = self.begin(told, state)
            trace = Trace(self._plan, JaxDevice(traced=False), edits=edits)
            with trace.installed():
                return run(state, data)

        compiled = edited_step
        if not model.run_eagerly and model.jit_compile:
            places = shardings(model, step)
            out: dict[str, Any] = {} if places is None else {"out_shardings": (None, places)}
            compiled = jax.jit(edited_step, donate_argnums=0, **out)

        def one_step(state: Any, data: Any) -> Any:
            return compiled(state, data, self.arguments())

        return keras_internals.make_function(model, one_step, concatenate=step == "predict")
