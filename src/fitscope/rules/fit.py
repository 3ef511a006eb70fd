"""What is known of a training before its first step: what the contract's rules read.

Plain records and NumPy arrays; `fitscope.scope.facts` makes them from a Keras model, tests write
them by hand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Layers that hand values on, in order, scale or shape aside: what the doctor looks through.
PASSING = frozenset(
    {"Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout",
     "GaussianDropout", "GaussianNoise", "Flatten", "Reshape", "Permute", "ActivityRegularization",
     "Identity", "Masking", "RepeatVector", "Squeeze", "ExpandDims", "Transpose"}
)  # fmt: skip
NORMALIZING = frozenset(
    {"Normalization", "Rescaling", "BatchNormalization", "LayerNormalization",
     "GroupNormalization", "RMSNormalization", "UnitNormalization"}
)  # fmt: skip
DENSE = frozenset({"Dense", "EinsumDense"})


@dataclass(frozen=True, eq=False)
class WeightFact:
    """A weight as it is before the first step.

    Args:
        name: `kernel`, `bias`, ...
        shape: Its shape.
        values: Up to 65,536 of its values, at an even stride, float32.
        equal_units: Whether all units (the last axis) have the same values.
        trainable: Whether training may change it.
    """

    name: str
    shape: tuple[int, ...]
    values: NDArray[np.floating]
    equal_units: bool = False
    trainable: bool = True

    @property
    def rms(self) -> float:
        """Root mean square of the values."""
        return float(np.sqrt(np.mean(np.square(self.values, dtype=np.float64))))

    @property
    def fan_in(self) -> int:
        """Inputs of one unit."""
        return int(np.prod(self.shape[:-1])) if len(self.shape) > 1 else 1


@dataclass(frozen=True, eq=False)
class LayerFact:
    """A layer.

    Args:
        path: Its path in the model.
        kind: The name of its class.
        activation: The name of its activation, also of an activation layer's; `None` for none.
        units: Units or filters.
        trainable: Whether it is.
        parameters: How many it has.
        input_shape: Of the first input, batch first; empty where not known.
        output_shape: Of the first output.
        weights: Its own weights.
        options: Settings from its configuration: `rate`, `input_dim`, `return_sequences`, ...
        sources: Paths of the layers that feed it, in a functional graph.
        regularization: What its regularizers add to the loss before the first step.
        dtype: What it computes in.
        variable_dtype: What its weights are kept in.
    """

    path: str
    kind: str
    activation: str | None = None
    units: int | None = None
    trainable: bool = True
    parameters: int = 0
    input_shape: tuple[int | None, ...] = ()
    output_shape: tuple[int | None, ...] = ()
    weights: tuple[WeightFact, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    regularization: float = 0.0
    dtype: str = "float32"
    variable_dtype: str = "float32"

    @property
    def kernel(self) -> WeightFact | None:
        """The first weight of rank 2 or more."""
        return next((w for w in self.weights if len(w.shape) > 1), None)


@dataclass(frozen=True, eq=False)
class LossFact:
    """A loss: its canonical name (`mean_squared_error`), and `from_logits` where it has that."""

    name: str
    from_logits: bool = False
    custom: bool = False
    comparable: bool = True
    """Whether its value is the mean over samples and nothing is added to it."""


@dataclass(frozen=True, eq=False)
class OutputFact:
    """One output of the model.

    Args:
        path: The layer that gives it; for a chain such as `Dense`, `Activation`, the last.
        activation: The activation that shapes it; `"linear"` for none, `None` where not known.
        shape: Batch first.
        loss: What it is held against the targets with; `None` for no loss.
        activations: All activations that follow each other at the end, the last one first.
        ends_in: Class of the layer that gives it.
        rank_known: Whether `shape` has all axes; of a model that is not built the last one is.
    """

    path: str
    activation: str | None
    shape: tuple[int | None, ...]
    loss: LossFact | None = None
    activations: tuple[str, ...] = ()
    ends_in: str = ""
    rank_known: bool = True

    @property
    def units(self) -> int | None:
        """The length of the last axis."""
        return self.shape[-1] if len(self.shape) > 1 else None


@dataclass(frozen=True, eq=False)
class OptimizerFact:
    """The optimizer: class name in lower case, learning rate at the first step, settings.

    Under loss scaling it is the one inside.
    """

    name: str
    learning_rate: float | None
    options: Mapping[str, Any] = field(default_factory=dict)
    scales_loss: bool = False
    """Whether the loss is multiplied, against underflow in half precision."""


@dataclass(frozen=True, eq=False)
class ArrayFact:
    """An array of the data.

    Args:
        name: `x`, `y`, or with the number or key of the input.
        sample: Rows of it, at an even stride over all that is at hand, in order.
        rows: Rows it has; those of the batch for data that comes in batches.
        dtype: Its dtype.
        head: Its first rows, without a stride.
        whole: Whether all rows are at hand, and not one batch.
    """

    name: str
    sample: NDArray[Any]
    rows: int
    dtype: str
    head: NDArray[Any]
    whole: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.sample.shape[1:])

    @cached_property
    def is_number(self) -> bool:
        """Whether it holds numbers."""
        return self.sample.dtype.kind in "fiub"

    @cached_property
    def finite(self) -> NDArray[np.float64]:
        """The finite values of the sample, flat, float64."""
        values = self.sample.astype(np.float64).ravel()
        return values[np.isfinite(values)]

    @cached_property
    def is_whole_numbers(self) -> bool:
        """Whether every finite value is a whole number."""
        return bool(self.finite.size and (self.finite == np.round(self.finite)).all())

    @cached_property
    def classes(self) -> NDArray[Any] | None:
        """The class of each row of the sample: labels, or the places of the ones of one-hot rows.

        `None` where the rows are neither.
        """
        if not self.is_number or not self.is_whole_numbers or self.sample.size == 0:
            return None
        rows = self.sample.reshape(len(self.sample), -1)
        if rows.shape[1] == 1:
            labels = rows[:, 0]
            return labels if len(np.unique(labels)) <= max(2, len(labels) // 4) else None
        return rows.argmax(1) if self.is_one_hot else None

    @cached_property
    def is_one_hot(self) -> bool:
        """Whether each row is zeros and a single one."""
        if not self.is_number or self.sample.ndim < 2 or self.sample.shape[-1] < 2:
            return False
        rows = self.sample.reshape(-1, self.sample.shape[-1])
        return bool(np.isin(rows, (0, 1)).all() and (rows.sum(-1) == 1).all())


_NOTHING = ArrayFact("y", np.zeros(0, np.float32), 0, "float32", np.zeros(0, np.float32), False)


@dataclass(frozen=True, eq=False)
class Fit:
    """A training before its first step.

    Args:
        layers: All layers, in the order of the model.
        outputs: The outputs; empty where the model does not tell them before it runs.
        optimizer: The optimizer.
        inputs: The arrays of `x`.
        targets: The arrays of `y`.
        validation: Inputs and targets of the validation data, where they are arrays.
        metrics: Names of the metrics asked for.
        batch_size: Rows of a batch.
        epochs: Epochs asked for.
        steps: Steps of an epoch, where known.
        shuffle: Whether Keras shuffles; `None` where the data come in batches.
        weighted: Whether samples or classes are weighted.
        sample_weights: The weights of the samples, those of their classes included.
        sequential: Whether each layer feeds the next one alone.
        custom_step: Whether the model brings a `train_step` or `compute_loss` of its own, so that
            outputs and compiled losses need not belong together.
        backend: The backend.
        resumed: Whether the optimizer has made steps before.
        own_loop: Whether the script makes the steps itself, by `train_on_batch`.
        trains: Whether it is a training, and not an evaluation alone.
    """

    layers: tuple[LayerFact, ...] = ()
    outputs: tuple[OutputFact, ...] = ()
    optimizer: OptimizerFact | None = None
    inputs: tuple[ArrayFact, ...] = ()
    targets: tuple[ArrayFact, ...] = ()
    validation: tuple[tuple[ArrayFact, ...], tuple[ArrayFact, ...]] | None = None
    metrics: tuple[str, ...] = ()
    batch_size: int | None = None
    epochs: int = 1
    steps: int | None = None
    shuffle: bool | None = None
    weighted: bool = False
    sample_weights: tuple[ArrayFact, ...] = ()
    sequential: bool = False
    custom_step: bool = False
    backend: str = ""
    resumed: bool = False
    own_loop: bool = False
    trains: bool = True

    def pairs(self) -> Iterator[tuple[OutputFact, LossFact, ArrayFact]]:
        """Each output with its loss and targets; nothing for models with a step of their own."""
        # Of data that pass by in batches nothing is known: rows of none.
        unknown = () if self.inputs else tuple(_NOTHING for _ in self.outputs)
        targets = self.targets or unknown
        if self.custom_step or len(self.outputs) != len(targets):
            return
        for output, target in zip(self.outputs, targets, strict=True):
            if output.loss is not None and not output.loss.custom and target.is_number:
                yield output, output.loss, target

    def after(self, layer: LayerFact) -> list[LayerFact]:
        """The layers that a layer feeds."""
        return [other for other in self.layers if layer.path in other.sources]

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of the whole `fit`."""
        return None if self.steps is None else self.steps * self.epochs

    def summary(self) -> dict[str, Any]:
        """What rules of the training want to know later, in JSON types."""
        losses = [o.loss.name for o in self.outputs if o.loss is not None]
        shares = [t for t in self.targets if t.classes is not None and not self.custom_step]
        return {
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "steps": self.steps,
            "optimizer": self.optimizer.name if self.optimizer else None,
            "learning_rate": self.optimizer.learning_rate if self.optimizer else None,
            "losses": losses if not self.custom_step else [],
            "constant_answer_loss": sum(self.baseline().values())
            if len(self.baseline()) == len(self.outputs) > 0
            else None,
            "regularization": sum(layer.regularization for layer in self.layers),
            "majority": _majority(shares[0]) if len(shares) == 1 == len(self.targets) else None,
            "custom_step": self.custom_step,
            "resumed": self.resumed,
            "scales_loss": bool(self.optimizer and self.optimizer.scales_loss),
            "features": sum(int(np.prod(x.shape)) for x in self.inputs) if self.inputs else None,
            "output_units": [o.units for o in self.outputs],
            "own_loss": any(o.loss is not None and o.loss.custom for o in self.outputs),
            "rows": self.inputs[0].rows if self.inputs and self.inputs[0].whole else None,
            "trainable": [
                layer.path for layer in self.layers if any(w.trainable for w in layer.weights)
            ],
        }

    def baseline(self) -> dict[str, float]:
        """Loss of the best constant answer, by output path; see `constant_answer`."""
        return {
            output.path: value
            for output, loss, target in self.pairs()
            if not self.weighted
            and loss.comparable
            and (value := constant_answer(loss.name, target)) is not None
        }


def constant_answer(loss: str, target: ArrayFact) -> float | None:
    """The smallest mean loss that an answer which ignores the input can have on these targets.

    For the cross-entropies this is the entropy of the class shares, for squared error the variance,
    for absolute error the mean distance from the median.

    Args:
        loss: Canonical name of the loss.
        target: The targets.
    """
    if not target.sample.size:
        return None
    y = target.sample.astype(np.float64).reshape(len(target.sample), -1)
    if not np.isfinite(y).all():
        return None
    if loss == "mean_squared_error":
        return float(y.var(0).mean())
    if loss == "mean_absolute_error":
        return float(np.abs(y - np.median(y, 0)).mean())
    if loss == "binary_crossentropy" and y.min() >= 0 and y.max() <= 1:
        share = y.mean(0)
        return float(_entropy(np.stack([share, 1 - share])).mean())
    if loss == "categorical_crossentropy" and target.is_one_hot and target.sample.ndim == 2:
        return float(_entropy(y.mean(0)))
    if loss == "sparse_categorical_crossentropy" and target.is_whole_numbers:
        _, counts = np.unique(y, return_counts=True)
        return float(_entropy(counts / counts.sum()))
    return None


def _majority(target: ArrayFact) -> float | None:
    if target.classes is None:
        return None
    _, counts = np.unique(target.classes, return_counts=True)
    return float(counts.max() / counts.sum())


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    held = np.where(share > 0, share, 1.0)
    return -(share * np.log(held)).sum(0)
