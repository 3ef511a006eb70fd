"""Which of the operations that made something not finite belongs to the first bad tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from fitscope.engine.operations import BACKWARD, FORWARD, UPDATE, Operation
from fitscope.rules.execution import LOSS, Origin

_FORWARD = "in the forward pass"
"""In the words of an origin; a weight that was bad is so before the forward pass."""


def is_within(operation: Operation, found: Origin | None, model: str) -> bool:
    """Whether an operation of the forward pass may have made what was not finite first.

    It is one of that layer's, of the model's own (`x + y` in its graph), or of the loss.

    Args:
        operation: the operation.
        found: the first tensor that was not finite; None where it was the loss alone.
        model: the model's name.
    """
    if found is None or found.layer == LOSS:
        return operation.layer is None
    if found.is_batch or _FORWARD not in found.direction or operation.layer is None:
        return False
    return _is_of(operation, found) or operation.layer == model


def chosen(operations: Sequence[Operation], found: Origin | None, model: str) -> Operation | None:
    """The operation at fault among those of a whole step, in the order of execution.

    Args:
        operations: which made of finite numbers some that are not.
        found: the first tensor that was not finite; None where it was the loss alone.
        model: the model's name.
    """
    if found is None:
        return next((o for o in operations if o.part == FORWARD and o.layer is None), None)
    if "update" in found.direction:
        parts = (BACKWARD, UPDATE) if "backward" in found.direction else (UPDATE,)
        return next((o for o in operations if o.part in parts), None)
    if _FORWARD in found.direction:
        forward = [o for o in operations if o.part == FORWARD]
        return next((o for o in forward if is_within(o, found, model)), None)
    if "backward" not in found.direction:
        return None
    backward = [o for o in operations if o.part == BACKWARD]
    # On JAX what a derivative is multiplied by is computed in the forward pass.
    for candidates in (backward, [o for o in operations if o.part == FORWARD]):
        own = [o for o in candidates if _is_of(o, found)]
        if own:
            return dataclasses.replace(own[0], part=BACKWARD)
    return backward[0] if backward else None


def _is_of(operation: Operation, found: Origin) -> bool:
    if operation.layer is None:
        return found.layer == LOSS
    return any(
        operation.layer == layer or operation.layer.startswith(f"{layer}/")
        for layer in found.layer.split(" or ")
    )
