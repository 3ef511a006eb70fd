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
        "ConcatV2",
        "Elu",
        "EluGrad",
        "Erf",
        "Exp",
        "Identity",
        "LeakyRelu",
        "LeakyReluGrad",
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
        "Relu6Grad",
        "ReluGrad",
        "Reshape",
        "ReverseV2",
        "Rsqrt",
        "SelectV2",
        "Selu",
        "SeluGrad",
        "Sigmoid",
        "SigmoidGrad",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Square",
        "SquaredDifference",
        "StopGradient",
        "Sub",
        "Tanh",
        "TanhGrad",
        "Transpose",
    }
)
_WHOLE = frozenset(
    {
        "LogSoftmax",
        "Softmax",
        "StatelessWhile",
        "TensorListStack",
        "While",
    }
)
"""What the optimizer joins with no reader: the ends of loops, and kernels that no chain goes on
from."""

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
        "AvgPoolGrad",
        "BatchMatMul",
        "BatchMatMulV2",
        "BatchMatMulV3",
        "BiasAddGrad",
        "Conv2D",
        "Conv2DBackpropFilter",
        "Conv2DBackpropInput",
        "Conv3D",
        "DepthwiseConv2dNative",
        "DepthwiseConv2dNativeBackpropFilter",
        "DepthwiseConv2dNativeBackpropInput",
        "Einsum",
        "EluGrad",
        "FusedBatchNormGradV3",
        "LeakyReluGrad",
        "LogSoftmax",
        "MatMul",
        "MaxPool",
        "MaxPoolGrad",
        "Relu6Grad",
        "ReluGrad",
        "ResourceApplyAdam",
        "SeluGrad",
        "SigmoidGrad",
        "Softmax",
        "SoftmaxCrossEntropyWithLogits",
        "SparseSoftmaxCrossEntropyWithLogits",
        "TanhGrad",
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

_OF_WEIGHTS = frozenset(
    {
        "BiasAddGrad",
        "Conv2DBackpropFilter",
        "Conv3DBackpropFilterV2",
        "DepthwiseConv2dNativeBackpropFilter",
        "FusedBatchNormGradV3",
        "MatMul",
        "Sum",
        "UnsortedSegmentSum",
    }
)
"""What gradients of weights come out of; the optimizer joins none of them with a product."""

_SOURCES_OF_THEIR_OWN = frozenset({"Arg", "Placeholder", "PlaceholderWithDefault", "VarHandleOp"})
"""Operations without inputs, of which each stands for something else."""

_IDENTITIES = frozenset({"Identity", "IdentityN"})

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
    if not tensor.dtype.is_floating or tensor.op.type in _WHOLE:
        return tensor
    if _is_prediction(tensor) or _is_only_scaled(tensor):
        return tensor
    try:
        return _repeat(tensor, readers, _DEPTH)
    except _CostlyError:
        return None


def _is_prediction(tensor: Any) -> bool:
    """Whether a tensor comes out of a linear layer and goes into a difference of variables."""
    reader = _of_values(tensor)[0]
    around = [*tensor.op.inputs, *reader.inputs]
    constant = any(t.op.type == "Const" for t in around)  # sums with constants are rearranged
    return tensor.op.type in _LINEAR and reader.type in _DIFFERENCES and not constant


def _is_only_scaled(tensor: Any) -> bool:
    """Whether a gradient of weights goes into nothing but products, those of the optimizer."""
    operation = tensor.op
    if operation.type == "Reshape":
        operation = _handed_on(operation.inputs[0]).op
    return operation.type in _OF_WEIGHTS and _of_values(tensor)[0].type in ("Mul", "Square")


def _readers(tensor: Any, readers: dict[Any, int]) -> int:
    reference = tensor.ref()
    if reference not in readers:
        readers[reference] = len(_distinct(_of_values(tensor)))
    return readers[reference]


def _distinct(operations: list[Any]) -> list[Any]:
    """Without those that compute what another one does, which the optimizer makes one of."""
    found: list[Any] = []
    for operation in operations:
        if not any(_equal(operation, other, _DEPTH) for other in found):
            found.append(operation)
    return found


def _equal(a: Any, b: Any, depth: int) -> bool:
    if a is b:
        return True
    if a.type != b.type or len(a.inputs) != len(b.inputs) or a.type in _SOURCES_OF_THEIR_OWN:
        return False
    if a.type == "Const":
        return a.get_attr("value") == b.get_attr("value")
    if not depth:
        return True  # not known, and one reader is the case to be careful with
    pairs = ((_handed_on(x), _handed_on(y)) for x, y in zip(a.inputs, b.inputs, strict=True))
    return all(
        x.ref() == y.ref() or (x.value_index == y.value_index and _equal(x.op, y.op, depth - 1))
        for x, y in pairs
    )


def _handed_on(tensor: Any) -> Any:
    """What an identity hands on."""
    while tensor.op.type in _IDENTITIES:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _of_values(tensor: Any) -> list[Any]:
    """The operations that read a tensor's value, also by way of identities, which will be gone."""
    found: list[Any] = []
    for operation in tensor.consumers():
        if operation.type in _IDENTITIES:
            for read, handed_on in zip(operation.inputs, operation.outputs, strict=True):
                if read.ref() == tensor.ref():
                    found += _of_values(handed_on)
        elif operation.type not in _SHAPES:
            found.append(operation)
    return found


def _repeat(tensor: Any, readers: dict[Any, int], depth: int) -> Any:
    operation = tensor.op
    if operation.type in _SOURCES:
        return tensor
    if _readers(tensor, readers) != 1 or operation.type in _WHOLE:
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
