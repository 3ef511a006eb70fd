"""Layer outputs out of a forward pass that is run by hand, in a training loop of one's own."""

from __future__ import annotations

import weakref
from typing import Any

from fitscope.engine import keras_internals
from fitscope.engine.build import inspector
from fitscope.engine.entry import Entry
from fitscope.engine.plan import Plan, Wanted
from fitscope.engine.trace import Root, Trace
from fitscope.errors import SelectionError, UnsupportedError
from fitscope.scope.instructions import Watch, watch
from fitscope.scope.session import make_plan
from fitscope.scope.tell import tell

_OF_A_PASS = ("output", "input", "preactivation")
Taps = dict[str, Any]
"""Tensors by the name of their site."""


def capture(model: Any, x: Any, select: Any = "**", *, of: Any = "output", **kwargs: Any) -> Any:
    """Call a model and get the outputs of its layers from that same forward pass.

    For training loops of your own: eager, inside a `tf.function` (with XLA too) and in torch. The
    tensors belong to the pass, so losses on them are differentiated through the model, and dropout
    masks are those of the prediction. Nothing is left on the model.

    Args:
        model: a built Keras model, of any kind.
        x: what the model is called on.
        select: which sites, as in `fs.watch`; integer and boolean tensors are given, too.
        of: which tensor of a layer: `"output"`, `"input"`, `"preactivation"`, or several.
        **kwargs: passed on to the call, `training=True` and `mask=...` for example.

    Returns:
        `(outputs, taps)`: what the model returns, and the selected tensors by site name, in the
        order in which they were met.

    Raises:
        SelectionError: the selection matches nothing, or nothing that this pass reaches.
        UnsupportedError: the model is not built, or Keras cannot be observed.

    Example:
        ```python
        with tf.GradientTape() as tape:
            y_pred, taps = fs.capture(model, x, "dense*", training=True)
            loss = loss_fn(y, y_pred) + 1e-3 * tf.reduce_mean(taps["dense"] ** 2)
        ```
    """
    trace = _trace(model, watch(select, of))
    with trace.installed():
        outputs = model(x, **kwargs)
    return outputs, _taps(model, trace, select)


def stateless_capture(
    model: Any,
    trainable_variables: Any,
    non_trainable_variables: Any,
    x: Any,
    select: Any = "**",
    *,
    of: Any = "output",
    **kwargs: Any,
) -> Any:
    """As `capture`, by way of `model.stateless_call`: for loops in JAX's own style.

    Works inside `jax.jit`, `jax.grad` and `jax.value_and_grad(..., has_aux=True)`; return the
    tensors as part of the auxiliary values.

    Args:
        model: a built Keras model, of any kind.
        trainable_variables: the values of `model.trainable_variables`.
        non_trainable_variables: the values of `model.non_trainable_variables`.
        x: what the model is called on.
        select: which sites, as in `fs.watch`; integer and boolean tensors are given, too.
        of: which tensor of a layer: `"output"`, `"input"`, `"preactivation"`, or several.
        **kwargs: passed on to `stateless_call`, `training=True` for example.

    Returns:
        What `stateless_call` returns, and the selected tensors by site name behind it:
        `(outputs, non_trainable_variables, taps)`.

    Raises:
        SelectionError: the selection matches nothing, or nothing that this pass reaches.
        UnsupportedError: the model is not built, or Keras cannot be observed.

    Example:
        ```python
        def loss_of(trainable, fixed, x, y):
            y_pred, fixed, taps = fs.stateless_capture(
                model, trainable, fixed, x, "dense*", training=True
            )
            return loss_fn(y, y_pred), (fixed, taps)

        step = jax.jit(jax.value_and_grad(loss_of, has_aux=True))
        ```
    """
    trace = _trace(model, watch(select, of))
    with trace.installed():
        found = model.stateless_call(trainable_variables, non_trainable_variables, x, **kwargs)
    return (*found, _taps(model, trace, select))


class _Keeper:
    """A trace's device that measures nothing and keeps the tensors."""

    def __init__(self) -> None:
        backend = inspector()
        self.is_tensor = backend.is_tensor
        self.dtype = backend.dtype
        self.shape = backend.shape
        self.level = backend.level

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Any:
        del entry, port, wanted
        return tensor

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Any]:
        raise NotImplementedError  # no backward pass is traced

    def finish(self, root: Root) -> None:
        del root


def _trace(model: Any, chosen: Watch) -> Trace:
    keras_internals.check()
    if not getattr(model, "built", False):
        raise UnsupportedError(
            f"capture({getattr(model, 'name', model)!r}): the model is not built, so its layers "
            "are not known yet. Call it once on a batch, or model.build(shape)."
        )
    beyond = [port for port in chosen.ports if port not in _OF_A_PASS]
    if beyond:
        raise SelectionError(
            f"capture(of=...): {beyond[0]!r} is not part of a forward pass, which is all that is "
            f"run here. It accepts {', '.join(map(repr, _OF_A_PASS))}; differentiate a loss with "
            "respect to the captured tensors to get their gradients."
        )
    plan: Plan = make_plan(model, [chosen])
    return Trace(plan, _Keeper(), any_dtype=True)


def _taps(model: Any, trace: Trace, select: Any) -> Taps:
    found = {slot.site.name: slot.measured for _, slots in trace.passes() for slot in slots}
    missed = [*trace.plan.static_unseen, *trace.not_fired()]
    if not found:
        reasons = "; ".join(f"{u.site} {u.reason}: {u.remedy}" for u in missed[:3])
        raise SelectionError(
            f"capture({model.name!r}, {select!r}): this forward pass reached none of the selected "
            f"sites. {reasons or 'Its layers were called with symbolic tensors.'}"
        )
    if missed and model not in _told:
        _told.add(model)
        names = ", ".join(u.site for u in missed[:5])
        tell(
            f"fitscope: {len(missed)} selected sites of {model.name!r} gave no tensor: {names}"
            f"{', ...' if len(missed) > 5 else ''}. The first {missed[0].reason}; "
            f"{missed[0].remedy}."
        )
    return found


_told: weakref.WeakSet[Any] = weakref.WeakSet()
"""Models whose missing sites were told: once is enough for a loop."""
