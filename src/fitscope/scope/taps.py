"""The tensors that `fs.tap` names in a model, found without running it."""

from __future__ import annotations

from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry
from fitscope.engine.plan import Plan, Want, Wanted
from fitscope.engine.points import TapPoint
from fitscope.engine.trace import Root, Trace
from fitscope.select.site import Site

_BATCH_SIZE = 2
_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


class Shapes:
    """A device that only looks at shapes; it works on whatever Keras infers shapes with."""

    def is_tensor(self, value: Any) -> bool:
        return keras.ops.is_tensor(value)

    def dtype(self, tensor: Any) -> str:
        return str(keras.backend.standardize_dtype(tensor.dtype))

    def shape(self, tensor: Any) -> tuple[int | None, ...]:
        return tuple(tensor.shape)

    def level(self) -> object:
        return None

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Any:
        del tensor, entry, port, wanted

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Any]:
        del entry, wanted
        return tensor, None

    def finish(self, root: Root) -> None:
        del root


def tapped_sites(model: Any) -> list[Site] | None:
    """The sites of all `fs.tap` calls in a model.

    Returns:
        None where the model cannot be run on shapes alone, so that nothing can be said.
    """
    spec = keras_internals.model_input_spec(model, _BATCH_SIZE)
    if spec is None:
        return None
    want = Want(_is_tap, _is_tap, frozenset(("output",)))
    trace = Trace(Plan(model, [want]), Shapes(), symbolic=True, any_dtype=True)
    try:
        with trace.installed():
            keras_internals.abstract_call(_call(model), spec)
    except Exception:
        return None
    return [slot.site for _, found in trace.passes() for slot in found]


def taps_in_steps(model: Any) -> bool:
    """Whether a step of the model's own names tensors, which only the step itself can find."""
    functions = (getattr(type(model), name, None) for name in _STEPS)
    codes = (getattr(function, "__code__", None) for function in functions)
    return any(code is not None and "tap" in code.co_names for code in codes)


def _call(model: Any) -> Any:
    def call(inputs: Any) -> Any:
        return model(inputs)

    return call


def _is_tap(site: Site) -> bool:
    return isinstance(site.layer, TapPoint)
