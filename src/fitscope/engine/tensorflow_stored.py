"""Tensors that a step compiled by XLA stores, whoever else reads them.

XLA computes an elementwise result anew inside each loop that uses it, unless something has to find
it in memory. A matrix product has to, so what goes into one leaves the step as it is, without a
copy; see docs/design.md, 7.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

_VIEWS = frozenset({"Identity", "PreventGradient", "Reshape", "StopGradient"})
"""What XLA takes out, or makes of one buffer."""

_TRANSPOSED = {
    "BatchMatMulV2": ("adj_x", "adj_y"),
    "BatchMatMulV3": ("adj_x", "adj_y"),
    "MatMul": ("transpose_a", "transpose_b"),
}
"""Matrix products, and which attributes say that an operand is transposed."""


class Stored:
    """The tensors of one step that go into matrix products.

    Args:
        graph: the step's, traced to its end.
        outputs: what the step gives.
    """

    def __init__(self, graph: Any, outputs: Sequence[Any]) -> None:
        self._graph = graph
        self._outputs = outputs

    def __contains__(self, tensor: Any) -> bool:
        # Half precision is converted for the product, which then reads what that gives.
        return tensor.dtype.name == "float32" and self._goes_into_product(tensor)

    def _goes_into_product(self, tensor: Any) -> bool:
        return any(
            self._goes_into_product(reader.outputs[0])
            if reader.type in _VIEWS
            else reader.type in _TRANSPOSED and _is_library_call(reader) and reader in self._run
            for reader in tensor.consumers()
        )

    @functools.cached_property
    def _run(self) -> set[Any]:
        """Operations of the compiled program, in which those that nothing depends on are not."""
        waiting = [each for each in self._graph.get_operations() if _has_effect(each)]
        waiting += [tensor.op for tensor in self._outputs]
        found = set(waiting)
        while waiting:
            operation = waiting.pop()
            needed = [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
            waiting += set(needed) - found
            found.update(needed)
        return found


def _has_effect(operation: Any) -> bool:
    return operation.op_def is not None and operation.op_def.is_stateful


def _is_library_call(product: Any) -> bool:
    """Whether XLA leaves a product as one.

    With a vector, or of two vectors, it is a loop that may take in what comes before it. A length
    that is not known before the step runs may be one, which matters where it is summed over.
    """
    a, b = (_last_two(t) for t in product.inputs)
    left, right = (bool(product.get_attr(name)) for name in _TRANSPOSED[product.type])
    rows, summed = a[::-1] if left else a
    columns = b[0] if right else b[1]
    return summed not in (None, 1) and rows != 1 and columns != 1


def _last_two(tensor: Any) -> list[int | None]:
    shape = tensor.shape
    return [None, None] if shape.rank is None else list(shape)[-2:]
