"""The facts of a `fit` before its first step, for the contract's rules.

Looks only: no layer is called, no iterator is advanced, no random number drawn. Arrays are read
where they lie; of data that pass by in batches only what Keras has already taken is read.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import keras
import numpy as np

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry, activation_of, entries
from fitscope.engine.layout import look_at
from fitscope.rules.fit import (
    PASSING,
    ArrayFact,
    Fit,
    LayerFact,
    LossFact,
    OptimizerFact,
    OutputFact,
    WeightFact,
)

MOST_ROWS = 4096
MOST_VALUES = 2_000_000
"""Of one array; a sample of that many float32 takes a few milliseconds to sum up."""
MOST_WEIGHTS = 65_536
MOST_READ = 4_000_000
"""Values of a weight that are brought to the host; of a larger one only its first rows are."""
_HEAD = 256
_ROWS = 64
_OPTIONS = (
    "rate", "input_dim", "return_sequences", "data_format", "use_bias", "axis", "momentum",
    "recurrent_activation", "negative_slope", "max_value", "pool_size", "strides",
)  # fmt: skip


def with_batch(fit: Fit, batch: Any) -> Fit:
    """The facts with what a batch tells that has passed by.

    The model is not looked at again: in the middle of a `fit` its weights are elsewhere on JAX.

    Args:
        fit: The facts before the first step.
        batch: `(x, y, sample_weight)`, or a part of it.
    """
    x, y, weights = _three(batch)
    inputs = _arrays("x", x, whole=False)
    size = inputs[0].rows if inputs else fit.batch_size
    return dataclasses.replace(
        fit,
        inputs=inputs,
        targets=_arrays("y", y, whole=False),
        sample_weights=_arrays("sample_weight", weights, whole=False),
        weighted=fit.weighted or weights is not None,
        batch_size=size,
    )


def facts(model: Any) -> Fit:
    """The facts of the `fit` or `evaluate` that is calling its callbacks, or of a loop's model.

    Args:
        model: The model, built.
    """
    found = entries(model)
    paths = {id(entry.target): entry.path for entry in found}
    running = keras_internals.fit_in_progress(model)
    variables = running or {}
    iterator = variables.get("epoch_iterator")
    data = keras_internals.arrays_of(iterator) if iterator is not None else None
    given, whole = (None, False) if data is None else data
    x, y, weights = _three(given)
    inputs, targets = _arrays("x", x, whole), _arrays("y", y, whole)
    batch_size = keras_internals.batch_size(iterator)
    if batch_size is None and inputs and not whole:
        batch_size = inputs[0].rows
    layers = [_layer(entry, paths) for entry in found]
    if isinstance(model, keras.Sequential) and not any(fact.sources for fact in layers):
        layers = _in_a_row(
            layers, [paths[id(layer)] for layer in model.layers if id(layer) in paths]
        )
    outputs = _outputs(model, paths)
    if _adds_losses(model, found):
        outputs = tuple(_not_comparable(output) for output in outputs)
    return Fit(
        layers=tuple(layers),
        outputs=outputs,
        optimizer=_optimizer(getattr(model, "optimizer", None)),
        inputs=inputs,
        targets=targets,
        validation=_validation(variables),
        metrics=_metrics(model),
        batch_size=None if batch_size is None else int(batch_size),
        epochs=int(variables.get("epochs") or 1),
        steps=_steps(variables, iterator),
        shuffle=keras_internals.shuffles(iterator),
        weighted=any(variables.get(n) is not None for n in ("class_weight", "sample_weight")),
        sample_weights=_arrays("sample_weight", weights, whole),
        sequential=isinstance(model, keras.Sequential),
        custom_step=keras_internals.has_own_step(model),
        backend=keras_internals.backend_name(),
        resumed=_resumed(getattr(model, "optimizer", None)),
        own_loop=running is None,
    )


def _three(data: Any) -> tuple[Any, Any, Any]:
    """x, y and sample weights; None for what is not there."""
    parts: tuple[Any, ...] = tuple(data) if isinstance(data, (tuple, list)) else (data,)
    x, y, weights = (*parts[:3], None, None, None)[:3]
    return x, y, weights


def _steps(variables: Mapping[str, Any], iterator: Any) -> int | None:
    steps = variables.get("steps_per_epoch") or keras_internals.planned_steps(iterator)
    return int(steps) if steps else None


def _resumed(optimizer: Any) -> bool:
    try:
        return int(np.asarray(keras.ops.convert_to_numpy(optimizer.iterations)).item()) > 0
    except (AttributeError, TypeError, ValueError):
        return False


# Arrays


def _arrays(name: str, tree: Any, whole: bool) -> tuple[ArrayFact, ...]:
    found = [_array(each, value, whole) for each, value in _named(name, tree)]
    return tuple(fact for fact in found if fact is not None)


def _named(name: str, tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [(f"{name}[{key!r}]", tree[key]) for key in sorted(tree)]
    if not isinstance(tree, (list, tuple)):
        return [] if tree is None else [(name, tree)]
    parts = list[Any](tree)
    if len(parts) == 1:
        return [(name, parts[0])]
    return [(f"{name}[{place}]", part) for place, part in enumerate(parts)]


def _array(name: str, value: Any, whole: bool) -> ArrayFact | None:
    shape: tuple[Any, ...] = tuple(getattr(value, "shape", ()))
    if not shape or not isinstance(shape[0], int) or shape[0] == 0:
        return None
    rows = shape[0]
    width = max(1, int(np.prod([n or 1 for n in shape[1:]])))
    wanted = max(1, min(rows, MOST_ROWS, MOST_VALUES // width))
    try:
        # Even, and through the last row: a sorted array shows its order.
        places = np.unique(np.linspace(0, rows - 1, wanted).astype(np.int64))
        sample = _numpy(value, places) if wanted < rows else _numpy(value, slice(None))
        head = sample[:_HEAD] if wanted == rows else _numpy(value, slice(0, min(_HEAD, wanted)))
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError):
        return None
    return ArrayFact(name, sample, rows, str(sample.dtype), head, whole)


def _numpy(value: Any, rows: Any) -> Any:
    if hasattr(value, "iloc"):
        part = value.iloc[rows].to_numpy()
    elif isinstance(value, np.ndarray):
        part = value[rows]
    else:
        whole = keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value
        part = np.asarray(whole)[rows]
    return part.astype(np.float32) if str(part.dtype) == "bfloat16" else part


def _validation(
    variables: Mapping[str, Any],
) -> tuple[tuple[ArrayFact, ...], tuple[ArrayFact, ...]] | None:
    x, y = variables.get("val_x"), variables.get("val_y")
    readable = isinstance(x, (np.ndarray, list, tuple, dict)) or hasattr(x, "iloc")
    if x is None or not (readable or keras.ops.is_tensor(x)):
        return None
    return _arrays("validation x", x, True), _arrays("validation y", y, True)


# Layers


def _layer(entry: Entry, paths: Mapping[int, str]) -> LayerFact:
    target = entry.target
    is_layer = isinstance(target, keras.layers.Layer)
    own = keras_internals.own_variables(target) if is_layer else []
    return LayerFact(
        path=entry.path,
        kind=type(target).__name__,
        activation=_activation(target),
        units=_units(target),
        trainable=bool(getattr(target, "trainable", False)),
        parameters=int(target.count_params()) if is_layer and target.built else 0,
        input_shape=_shape(keras_internals.input_tensors(target)),
        output_shape=_shape(keras_internals.output_tensors(target)),
        weights=tuple(_weight(variable) for variable in own),
        options={n: _plain(getattr(target, n)) for n in _OPTIONS if hasattr(target, n)},
        sources=tuple(
            paths[id(source)] for source in keras_internals.sources(target) if id(source) in paths
        ),
        regularization=_regularization(own),
        dtype=str(getattr(target, "compute_dtype", None) or "float32"),
        variable_dtype=str(getattr(target, "variable_dtype", None) or "float32"),
    )


def _in_a_row(layers: Sequence[LayerFact], order: Sequence[str]) -> list[LayerFact]:
    """The layers of a Sequential that is not built, each fed by the one before it."""
    before = dict(itertools.pairwise(order))
    sources = {second: (first,) for first, second in before.items()}
    return [dataclasses.replace(f, sources=sources.get(f.path, f.sources)) for f in layers]


def _activation(target: Any) -> str | None:
    """As `activation_of`, and the nonlinear operations of a functional graph."""
    name = activation_of(target)
    if name is None and not isinstance(target, keras.layers.Layer):
        kind = type(target).__name__.lower()
        return kind if kind in ("softmax", "sigmoid", "relu", "tanh", "softplus") else None
    return None if name == "linear" else name


def _units(target: Any) -> int | None:
    for attribute in ("units", "filters", "output_dim"):
        value = getattr(target, attribute, None)
        if isinstance(value, int):
            return value
    return None


def _shape(tensors: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(tensors[0].shape) if tensors else ()


def _weight(variable: Any) -> WeightFact:
    shape = tuple(int(n) for n in variable.shape)
    if str(variable.dtype) in ("string", "bool"):
        return WeightFact(variable.name, shape, np.zeros(1, np.float32), trainable=False)
    values = values_of(variable)
    equal = len(shape) > 1 and shape[-1] > 1 and _are_equal(values.reshape(-1, shape[-1]))
    flat = values.ravel()
    sample = flat[:: max(1, flat.size // MOST_WEIGHTS)].copy()
    return WeightFact(variable.name, shape, sample, equal, variable.trainable)


def _are_equal(rows: np.ndarray[Any, Any]) -> bool:
    """Whether all columns are the same; the first rows mostly tell that they are not."""
    parts = (rows[at : at + _ROWS] for at in range(0, len(rows), _ROWS))
    return all(bool((part == part[:, :1]).all()) for part in parts)


def values_of(variable: Any) -> np.ndarray[Any, Any]:
    """The values of a variable on the host, float32 or float64; of a very large one its first rows.

    They may lie where the variable does, so they are copied or let go before the next step.

    Args:
        variable: The variable; between steps, when the weights are with the model.
    """
    value = variable.value
    shape = tuple(int(n) for n in variable.shape)
    if int(np.prod(shape)) > MOST_READ:
        value = value[: max(1, MOST_WEIGHTS // int(np.prod(shape[1:])))]
    values = look_at(value)
    return values if values.dtype == np.float64 else values.astype(np.float32, copy=False)


def _regularization(variables: Iterable[Any]) -> float:
    total = 0.0
    for variable in variables:
        regularizer = getattr(variable, "regularizer", None)
        values = None if regularizer is None else keras.ops.convert_to_numpy(variable)
        for strength, power in (("l1", np.abs), ("l2", np.square)):
            factor = getattr(regularizer, strength, None)
            if values is not None and factor is not None:
                total += float(np.asarray(factor)) * float(power(values.astype(np.float64)).sum())
    return total


def _plain(value: Any) -> Any:
    return value if isinstance(value, (bool, int, float, str, tuple, list, type(None))) else None


# Outputs and losses


def _outputs(model: Any, paths: Mapping[int, str]) -> tuple[OutputFact, ...]:
    graph = keras_internals.functional_graph(model)
    if graph is None:
        return _unbuilt_output(model, paths)
    tensors = keras.tree.flatten(graph.outputs)
    losses = _losses(
        getattr(model, "loss", None), len(tensors), keras_internals.named_outputs(graph)
    )
    return tuple(_output(tensor, loss, paths) for tensor, loss in zip(tensors, losses, strict=True))


def _adds_losses(model: Any, found: Sequence[Entry]) -> bool:
    """Whether anything may be added to the compiled loss, or weights it: it is no mean then."""
    if keras_internals.loss_weights(model) is not None:
        return True
    layers = [e.target for e in found if isinstance(e.target, keras.layers.Layer)]
    return any(
        getattr(layer, "activity_regularizer", None) is not None or _calls_add_loss(type(layer))
        for layer in layers
        if layer is not model
    )


def _calls_add_loss(kind: type) -> bool:
    """Whether a method of a layer's own class, or of one it inherits from, names `add_loss`."""
    own = [c for c in kind.__mro__ if c is not object and not c.__module__.startswith("keras.")]
    codes = [
        getattr(getattr(value, "fget", value), "__code__", None)
        for each in own
        for value in vars(each).values()
    ]
    return any(code is not None and _names(code, "add_loss") for code in codes)


def _names(code: CodeType, name: str) -> bool:
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return name in code.co_names or any(_names(each, name) for each in inner)


def _not_comparable(output: OutputFact) -> OutputFact:
    loss = output.loss
    changed = None if loss is None else dataclasses.replace(loss, comparable=False)
    return dataclasses.replace(output, loss=changed)


def _unbuilt_output(model: Any, paths: Mapping[int, str]) -> tuple[OutputFact, ...]:
    """The output of a Sequential that its first batch will build; nothing of other models."""
    layers = model.layers if isinstance(model, keras.Sequential) else []
    chain: list[str] = []
    for layer in reversed(layers):
        activation = _activation(layer)
        if activation is not None:
            chain.append(activation)
        if _units(layer) is None and (
            type(layer).__name__ in PASSING or _is_activation_layer(layer)
        ):
            continue
        if (activation is None and not _is_linear_end(layer)) or _units(layer) is None:
            break
        # Its rank is that of what comes in; two axes is what a dense head has.
        loss = _losses(getattr(model, "loss", None), 1, [])[0]
        last = layers[-1]
        name = chain[0] if chain else "linear"
        path, shape = paths[id(last)], (None, _units(layer))
        kind = type(last).__name__
        return (OutputFact(path, name, shape, loss, tuple(chain), kind, rank_known=False),)
    return ()


def _output(tensor: Any, loss: LossFact | None, paths: Mapping[int, str]) -> OutputFact:
    path, ends_in, chain = "", "", []
    node: Any = tensor
    known = True
    while True:
        layer = keras_internals.maker(node)
        path, ends_in = path or paths.get(id(layer), layer.name), ends_in or type(layer).__name__
        inner = keras_internals.functional_graph(layer)
        if inner is not None:
            node = keras.tree.flatten(inner.outputs)[0]
            path, ends_in = "", ""  # the layer inside gives it
            continue
        activation = _activation(layer)
        function = getattr(layer, "activation", None)
        if activation is not None:
            chain.append(activation)
        elif callable(function) and getattr(function, "__name__", "") != "linear":
            known = False
            break
        passes = type(layer).__name__ in PASSING or _is_activation_layer(layer)
        sources = [] if not passes else keras_internals.input_tensors(layer)
        if len(sources) != 1:
            known = known and (activation is not None or _is_linear_end(layer))
            break
        node = sources[0]
    name = chain[0] if chain else "linear" if known else None
    return OutputFact(path, name, tuple(tensor.shape), loss, tuple(chain), ends_in)


def _is_activation_layer(layer: Any) -> bool:
    return type(layer).__name__ in ("Activation", "Softmax", "ReLU", "LeakyReLU", "ELU", "PReLU")


def _is_linear_end(layer: Any) -> bool:
    """Whether a layer without an activation gives any number: no merge, pooling or operation."""
    kinds = ("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Add")
    return type(layer).__name__ in kinds


def _losses(asked: Any, count: int, keys: Sequence[str]) -> list[LossFact | None]:
    if isinstance(asked, Mapping):
        return [_loss(asked.get(key)) for key in keys] if len(keys) == count else [None] * count
    if isinstance(asked, (list, tuple)):
        return [_loss(each) for each in asked] if len(asked) == count else [None] * count
    return [_loss(asked)] * count


def _loss(asked: Any) -> LossFact | None:
    if asked is None:
        return None
    try:
        function = keras.losses.get(asked)
    except (ValueError, TypeError):
        return LossFact("custom", custom=True)
    loss, given = function, dict[str, Any]()
    if isinstance(function, keras.losses.Loss):
        given = dict(getattr(function, "_fn_kwargs", {}))
        function = getattr(function, "fn", type(function))
    while isinstance(function, functools.partial):
        given = {**function.keywords, **given}
        function = function.func
    name = getattr(function, "__name__", "custom")
    ours = str(getattr(function, "__module__", "")).startswith("keras.")
    mean = getattr(loss, "reduction", "sum_over_batch_size") in ("sum_over_batch_size", "mean")
    smooth = bool(given.get("label_smoothing"))
    logits = bool(given.get("from_logits", False))
    return LossFact(name, logits, custom=not ours, comparable=mean and not smooth)


def _optimizer(optimizer: Any) -> OptimizerFact | None:
    if optimizer is None:
        return None
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
    rate: float | None
    try:
        rate = float(np.asarray(keras.ops.convert_to_numpy(inner.learning_rate)).item())
    except (AttributeError, TypeError, ValueError, NotImplementedError):
        rate = None
    names = ("momentum", "nesterov", "clipnorm", "clipvalue", "global_clipnorm", "weight_decay")
    options = {n: _plain(getattr(inner, n)) for n in names if hasattr(inner, n)}
    options["scheduled"] = keras_internals.has_schedule(inner)
    scales = keras_internals.scales_loss(optimizer)
    return OptimizerFact(type(inner).__name__.lower(), rate, options, scales)


def _metrics(model: Any) -> tuple[str, ...]:
    asked = keras_internals.asked_metrics(model)
    names = [each if isinstance(each, str) else getattr(each, "name", "") for each in asked]
    return tuple(str(name).lower() for name in names if name)
