"""Tensors that TensorFlow's graph optimizer makes disappear.

Without XLA, Grappler rewrites chains of operations (convolution, bias, ReLU; a scale, a shift and
a ReLU; several additions; ...) into one that rounds differently, but only where nobody else reads
what is inside. A tap there would keep the chain apart and change the training in its last bits. So
where a tensor has a single reader, the tap does not read it: it repeats the few elementwise
operations that lead to it, from tensors that are read elsewhere anyway. Where a convolution or a
matrix product would have to be repeated, the tensor is left alone and reported.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from fitscope.select.unseen import Unseen

_CHEAP = frozenset(
    {
        "Abs",
        "Add",
        "AddV2",
        "Cast",
        "Elu",
        "Erf",
        "Exp",
        "Identity",
        "LeakyRelu",
        "Log1p",
        "Maximum",
        "Minimum",
        "Mul",
        "Neg",
        "Pow",
        "RealDiv",
        "Reciprocal",
        "Relu",
        "Relu6",
        "Reshape",
        "Rsqrt",
        "SelectV2",
        "Selu",
        "Sigmoid",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Square",
        "SquaredDifference",
        "StopGradient",
        "Sub",
        "Tanh",
    }
)
_SOURCES = frozenset(
    {
        "Arg",
        "Const",
        "Fill",
        "IteratorGetNext",
        "IteratorGetNextAsOptional",
        "OptionalGetValue",
        "Pack",
        "Placeholder",
        "PlaceholderWithDefault",
        "Prod",
        "Range",
        "ReadVariableOp",
        "Shape",
        "StridedSlice",
        "VarHandleOp",
    }
)
_APART = frozenset(
    {
        "AvgPool",
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "Conv2D",
        "Conv3D",
        "DepthwiseConv2dNative",
        "Einsum",
        "LogSoftmax",
        "MatMul",
        "MaxPool",
        "Softmax",
        "SoftmaxCrossEntropyWithLogits",
        "SparseSoftmaxCrossEntropyWithLogits",
    }
)
"""Readers that the optimizer never joins with what they read."""

_LINEAR = frozenset({"AddV2", "BiasAdd", "Conv2D", "MatMul"})
_DIFFERENCES = frozenset({"SquaredDifference", "Sub"})
"""What a loss makes of a prediction; the optimizer joins activations and additions with a linear
layer, and never these."""

_SHAPES = frozenset({"Rank", "Shape", "ShapeN", "Size"})
"""Readers that want no value. Gradients have them where a batch size is not known beforehand, and
the optimizer takes them away before it looks for chains."""

_DEPTH = 12


class _CostlyError(Exception):
    """Repeating what leads to the tensor would be a second forward pass."""


def aside(tensor: Any, readers: dict[Any, int]) -> Any | None:
    """A tensor of equal value that may be read without keeping the optimizer from anything.

    Args:
        tensor: a tensor of a step that is traced to its end.
        readers: how many operations read each tensor, kept between calls; counted before
            anything of ours reads it.

    Returns:
        `tensor` itself where it has several readers; None where there is no cheap way.
    """
    if _readers(tensor, readers) != 1 or _of_values(tensor)[0].type in _APART:
        return tensor
    if not tensor.dtype.is_floating or _is_prediction(tensor):
        return tensor
    try:
        return _repeat(tensor, readers, _DEPTH)
    except _CostlyError:
        return None


def _is_prediction(tensor: Any) -> bool:
    """Whether a tensor comes out of a linear layer and goes into a difference of variables."""
    (reader,) = _of_values(tensor)
    around = [*tensor.op.inputs, *reader.inputs]
    constant = any(t.op.type == "Const" for t in around)  # sums with constants are rearranged
    return tensor.op.type in _LINEAR and reader.type in _DIFFERENCES and not constant


def _readers(tensor: Any, readers: dict[Any, int]) -> int:
    reference = tensor.ref()
    if reference not in readers:
        readers[reference] = len(_of_values(tensor))
    return readers[reference]


def _of_values(tensor: Any) -> list[Any]:
    return [operation for operation in tensor.consumers() if operation.type not in _SHAPES]


def _repeat(tensor: Any, readers: dict[Any, int], depth: int) -> Any:
    operation = tensor.op
    if operation.type in _SOURCES:
        return tensor
    if _readers(tensor, readers) != 1:
        # Without this the optimizer would find the repeated operations equal to the originals.
        return tf.raw_ops.EnsureShape(input=tensor, shape=tensor.shape)
    if operation.type not in _CHEAP or not depth:
        raise _CostlyError(operation.type)
    inputs = [_repeat(t, readers, depth - 1) for t in operation.inputs]
    again = tensor.graph.create_op(
        operation.type,
        inputs,
        [t.dtype for t in operation.outputs],
        attrs=dict(operation.node_def.attr),
    )
    return again.outputs[tensor.value_index]


def unseen(site: str) -> Unseen:
    """The report of a site that was left alone."""
    return Unseen(
        site,
        "TensorFlow fuses it with the operation that follows; reading it would change the last "
        "bits of the training",
        "compile with jit_compile=True to see it, or watch the layer that follows",
    )
