"""Elementwise operations that are repeated while a tensor is gone over.

Without XLA, a tensor that may not be read is computed again from others (`tensorflow_fusion`). One
operation after the other would write each result to memory and read it from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

_MAKES: dict[str, Callable[..., Any]] = {
    "AddV2": tf.add,
    "Maximum": tf.maximum,
    "Minimum": tf.minimum,
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "RealDiv": tf.divide,
    "Relu": tf.nn.relu,
    "ReluGrad": lambda gradients, features: tf.raw_ops.ReluGrad(
        gradients=gradients, features=features
    ),
    "Sigmoid": tf.sigmoid,
    "Square": tf.square,
    "Sub": tf.subtract,
    "Tanh": tf.tanh,
}

_MOST = 16
"""Operations of a chain."""


@dataclasses.dataclass(frozen=True)
class Chain:
    """How a tensor is made of its leaves."""

    whole: tuple[bool, ...]
    """By leaf, whether it has the shape of the tensor; any other has one element, or one a unit."""
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    """Operations and what each is given: the number of a leaf, or behind those, of a step."""

    def __call__(self, leaves: Sequence[Any]) -> Any:
        values = list(leaves)
        for operation, given in self.steps:
            values.append(_MAKES[operation](*(values[i] for i in given)))
        return values[-1]


def chain_of(tensor: Any, units: int) -> tuple[Chain, list[Any]] | None:
    """The chain that ends in a tensor whose units lie along its last axis, and its leaves.

    None where an operation is not elementwise, or a leaf is neither as large as the tensor nor one
    element for each unit.
    """
    if tensor.dtype != tf.float32 or tensor.shape.rank is None or tensor.op.type not in _MAKES:
        return None
    whole: list[bool] = []
    leaves: list[Any] = []
    steps: list[tuple[str, list[Any]]] = []
    places: dict[Any, tuple[str, int]] = {}

    def visit(node: Any) -> bool:
        if node.ref() in places:
            return True
        same = node.shape.rank == tensor.shape.rank and list(node.shape) == list(tensor.shape)
        if same and node.op.type in _MAKES and len(steps) < _MOST:
            if not all(map(visit, node.op.inputs)):
                return False
            places[node.ref()] = "step", len(steps)
            steps.append((node.op.type, [t.ref() for t in node.op.inputs]))
            return True
        if node.dtype != tf.float32 or not (same or _of_units(node, units)):
            return False
        places[node.ref()] = "leaf", len(leaves)
        whole.append(same)
        leaves.append(node)
        return True

    if not visit(tensor) or not any(whole):
        return None
    numbers = {ref: at + len(leaves) * (kind == "step") for ref, (kind, at) in places.items()}
    made = tuple((name, tuple(numbers[ref] for ref in given)) for name, given in steps)
    return Chain(tuple(whole), made), leaves


def _of_units(node: Any, units: int) -> bool:
    """Whether a tensor has one element, or one for each unit, which lie along its last axis."""
    dims = list(node.shape) if node.shape.rank is not None else [None]
    return all(n == 1 for n in dims) or (all(n == 1 for n in dims[:-1]) and dims[-1] == units)
