"""Edited steps on torch: the wrapped layers edit as they run."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import torch

from fitscope.engine.editing import EditPass, EditPlan
from fitscope.engine.optimizers import loss_scale
from fitscope.engine.plan import Plan
from fitscope.engine.torch_engine import TorchDevice
from fitscope.engine.trace import Trace


class TorchEdits:
    """Edited functions for the steps of one phase of one model; its steps' signals, too."""

    def __init__(self, model: Any, plan: Plan, edits: EditPlan) -> None:
        self._reference = weakref.ref(model)
        self._plan = plan
        self._edits = edits
        self._active: list[bool] = []
        self._values: Any = None
        self.words: Any = None
        self.loss_scale: Any = None

    @property
    def _model(self) -> Any:
        return self._reference()

    def tell(self, values: Any, words: Any) -> None:
        """See `build.Edits.tell`."""
        self._active = [bool(active) for active, _ in values[0]]
        self._values = keras.ops.convert_to_tensor(values[0], "float32")
        self.words = keras.ops.convert_to_tensor(words[0], "int32")

    def active(self, index: int) -> bool:
        return self._active[index]

    def strength(self, index: int) -> Any:
        return self._values[index, 1]

    def teacher_state(self, index: int) -> Any:
        del index  # its variables hold their values themselves

    def recall(self, key: str, length: int) -> Any:
        if key not in self._edits.memory:
            return keras.ops.zeros((length,), "float32")
        return self._edits.memory[key]

    def keep(self, key: str, value: Any) -> None:
        self._edits.memory[key] = value.detach()

    def through_gradient(self, x: Any, function: Callable[[Any], Any]) -> Any:
        return through_gradient(x, function)

    def without_gradient(self) -> Any:
        return torch.no_grad()

    def begin(self) -> EditPass:
        """The edits of a step that is run."""
        needs_scale = any(not e.edit.is_scale_free for e in self._edits.edits)
        if self._edits.trains and needs_scale:
            self.loss_scale = loss_scale(self._model)
        return EditPass(self._edits, self, adds_to_loss=self._edits.phase != "predict")

    def function(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """See `build.Edits.function`."""

        def edited_step(data: Any) -> Any:
            trace = Trace(self._plan, TorchDevice(), edits=self.begin())
            with trace.installed():
                return plain(data)

        if not self._model.jit_compile:
            return edited_step
        # A function of its own: what Keras has compiled was compiled without edits.
        model, name = self._model, f"{step}_step"

        def one_step(data: Any) -> Any:
            if step == "train":
                return getattr(model, name)(data[0])
            with torch.no_grad():
                return getattr(model, name)(data[0])

        plain = torch.compile(one_step)
        return edited_step


def through_gradient(x: Any, function: Callable[[Any], Any]) -> Any:
    """A tensor of the same value, whose gradient goes through a function."""
    if not x.requires_grad:
        return x
    found = x.view_as(x)

    def changed(gradient: Any) -> Any:
        with torch.no_grad():
            return function(gradient)

    found.register_hook(changed)
    # Whoever watches the gradient of the result sees it before it is changed, hooked later or not.
    return found.view_as(found)
