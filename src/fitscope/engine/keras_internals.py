"""Every private name of Keras that fitscope leans on, in one place.

Checked on Keras 3.8 to 3.15. `check()` looks for each of them before anything is attached,
so that an unknown Keras gives one sentence instead of a traceback from inside a step.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import keras
import keras.src.models.functional
from keras.src import backend as keras_backend
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.masking import get_keras_mask, set_keras_mask
from keras.src.backend.common.stateless_scope import get_stateless_scope
from keras.src.backend.common.symbolic_scope import in_symbolic_scope

from fitscope.errors import UnsupportedError

_FUNCTIONAL_CALL = keras.src.models.functional.Functional.call

CHECKED = ("3.8", "3.15")
BACKENDS = ("tensorflow", "jax", "torch")

__all__ = [
    "BACKENDS",
    "CHECKED",
    "abstract_call",
    "arrays_of",
    "asked_metrics",
    "backend_name",
    "backend_operations",
    "batch_size",
    "carry_mask",
    "check",
    "compiles_from_config",
    "current_layer",
    "current_stateless_scope",
    "fit_in_progress",
    "functional_graph",
    "functional_operations",
    "has_own_compile",
    "has_own_loss",
    "has_own_step",
    "has_schedule",
    "in_symbolic_scope",
    "input_tensors",
    "is_symbolic",
    "loss_weights",
    "make_function",
    "make_predict_function",
    "maker",
    "mask_of",
    "model_input_spec",
    "named_outputs",
    "numerics",
    "output_tensors",
    "own_variables",
    "planned_steps",
    "rematerializes",
    "set_mask",
    "shuffles",
    "sources",
    "sublayers",
    "trained_by",
    "unreduced_losses",
    "with_numerics",
    "without_jit",
]


def backend_name() -> str:
    """The backend that Keras runs on."""
    return str(keras.backend.backend())


def check() -> None:
    """Raise `UnsupportedError` when this Keras or backend is not one fitscope knows."""
    name = backend_name()
    if name not in BACKENDS:
        raise UnsupportedError(
            f"fitscope cannot observe the Keras backend {name!r}. It works on "
            f"{', '.join(BACKENDS)}: set KERAS_BACKEND before keras is imported."
        )
    if name == "jax" and _nnx_enabled():
        raise UnsupportedError(
            "fitscope cannot observe Keras in its NNX mode, where layers may not be wrapped while "
            "a step is traced. Unset KERAS_NNX_ENABLED to use fitscope."
        )
    missing = [name for name, present in _requirements() if not present]
    if missing:
        raise UnsupportedError(
            f"fitscope was checked on Keras {CHECKED[0]} to {CHECKED[1]}; this is Keras "
            f"{keras.__version__}, which lacks {', '.join(missing)}. Install a checked version, "
            "for example: pip install 'keras>=3.8,<3.16'."
        )


def _requirements() -> Iterator[tuple[str, bool]]:
    layer = keras.layers.Layer
    yield "Layer._flatten_layers", hasattr(layer, "_flatten_layers")
    yield "Operation.call", hasattr(keras.Operation, "call")
    yield "backend.compute_output_spec", hasattr(keras_backend, "compute_output_spec")
    yield "Model.make_train_function", hasattr(keras.Model, "make_train_function")
    if backend_name() in ("jax", "tensorflow"):
        yield "Model._make_function", hasattr(keras.Model, "_make_function")


def _nnx_enabled() -> bool:
    config: Any = getattr(keras_backend, "config", None)
    return bool(getattr(config, "is_nnx_enabled", bool)())


def sublayers(layer: Any) -> list[Any]:
    """The direct sublayers of a layer, in the order Keras tracks them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def functional_operations(layer: Any) -> list[Any]:
    """Operations of a functional graph that are no layers, such as `x + y`."""
    if not isinstance(layer, keras.Model):
        return []
    operations = getattr(functional_graph(layer), "_operations", None) or []
    return [op for op in operations if not isinstance(op, keras.layers.Layer)]


def functional_graph(layer: Any) -> Any | None:
    """The graph of a functional or built Sequential model, None for anything else."""
    inner = getattr(layer, "_functional", None)  # where a Sequential keeps its graph
    graph = inner if inner is not None else layer
    # A subclass with a `call` of its own inherits the graph's attributes without running it.
    runs_graph = type(graph).call is _FUNCTIONAL_CALL
    return graph if runs_graph and getattr(graph, "_operations", None) is not None else None


def maker(tensor: Any) -> Any:
    """The layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def sources(target: Any) -> list[Any]:
    """The layers and operations whose outputs feed `target` in functional graphs."""
    nodes = getattr(target, "_inbound_nodes", None) or []
    found = {id(maker(t)): maker(t) for node in nodes for t in node.input_tensors}
    return list(found.values())


def input_tensors(target: Any) -> list[Any]:
    """The symbolic tensors that feed the first call of a layer in a functional graph."""
    nodes = getattr(target, "_inbound_nodes", None) or []
    return list(nodes[0].input_tensors) if nodes else []


def output_tensors(target: Any) -> list[Any]:
    """The symbolic tensors that the first call of a layer in a functional graph gives."""
    nodes = getattr(target, "_inbound_nodes", None) or []
    return list(nodes[0].outputs) if nodes else []


def own_variables(layer: Any) -> list[Any]:
    """The variables of a layer, without those of its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def named_outputs(graph: Any) -> list[str]:
    """The names by which losses of a functional graph's outputs may be given, in their order."""
    structure = getattr(graph, "_outputs_struct", None)
    if isinstance(structure, Mapping):
        return sorted(structure)  # as keras.tree flattens it
    return [str(name) for name in getattr(graph, "output_names", [])]


def asked_metrics(model: Any) -> list[Any]:
    """The metrics given to `compile`."""
    asked = getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
    return [] if asked is None else list(keras.tree.flatten(asked))


def loss_weights(model: Any) -> Any:
    """The weights of the losses given to `compile`; None for none."""
    return getattr(getattr(model, "_compile_loss", None), "_user_loss_weights", None)


def has_schedule(optimizer: Any) -> bool:
    """Whether the learning rate of an optimizer follows a schedule."""
    rate = getattr(optimizer, "_learning_rate", None)
    return isinstance(rate, keras.optimizers.schedules.LearningRateSchedule)


def scales_loss(optimizer: Any) -> bool:
    """Whether an optimizer multiplies the loss, and divides the gradients again."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return True
    return getattr(optimizer, "loss_scale_factor", None) is not None


def loss_scale(optimizer: Any) -> tuple[int, float] | None:
    """How many updates an optimizer under a dynamic loss scale has made, and its scale.

    Between steps, when the variables are with the model; None for any other optimizer.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or not optimizer.built:
        return None
    inner = optimizer.inner_optimizer
    count: Any = keras.ops.convert_to_numpy(inner.iterations)
    scale: Any = keras.ops.convert_to_numpy(optimizer.dynamic_scale)
    return int(count) * int(inner.gradient_accumulation_steps or 1), float(scale)


def planned_steps(epoch_iterator: Any) -> int | None:
    """The batches of an epoch, where Keras knows them."""
    return getattr(epoch_iterator, "_num_batches", None)


def batch_size(epoch_iterator: Any) -> int | None:
    """Rows of a batch of arrays; None for data that come in batches."""
    return getattr(getattr(epoch_iterator, "data_adapter", None), "_batch_size", None)


def backend_operations() -> list[tuple[Any, str, Callable[..., Any]]]:
    """What `keras.ops` calls on tensors that hold values: module, name and function of each."""
    found: list[tuple[Any, str, Callable[..., Any]]] = []
    for module in (keras_backend.numpy, keras_backend.nn, keras_backend.math, keras_backend.linalg):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__
            if own and not name.startswith("_") and inspect.isroutine(value):
                found.append((module, name, value))
    core: Any = keras_backend.core
    found.append((core, "cast", core.cast))  # to float16, it may overflow
    return found


def current_stateless_scope() -> Any | None:
    """The scope that carries the state of the stateless call in progress."""
    return get_stateless_scope()


def current_layer() -> Any | None:
    """The layer whose `call` runs in this thread, the innermost one."""
    stack = get_global_attribute("name_scope_stack") or []
    callers = (scope.caller for scope in reversed(stack))
    return next((c for c in callers if isinstance(c, keras.layers.Layer)), None)


def mask_of(tensor: Any) -> Any | None:
    """The mask that Keras has attached to a tensor."""
    return get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask as Keras does."""
    set_keras_mask(tensor, mask)


def has_own_loss(model: Any) -> bool:
    """Whether the model computes its loss in a way of its own."""
    own = type(model).compute_loss is not keras.Model.compute_loss
    return own or getattr(model, "_compile_loss", None) is None


def unreduced_losses(model: Any, y: Any, y_pred: Any) -> list[tuple[str, Any]]:
    """The compiled losses without their reduction and weights, each with the name of its output.

    Keras' own object matches losses with outputs; a copy of it calls copies of the losses.
    """
    found: list[tuple[str, Any]] = []

    def unreduced(name: str, loss: Any) -> Callable[..., Any]:
        quiet = _twin(loss)
        quiet.reduction = "none"

        def call(y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            del sample_weight
            found.append((name, quiet(y_true, y_pred)))
            return 0.0

        return call

    compiled = _twin(model._compile_loss)
    parts = [p._replace(loss=unreduced(p.name, p.loss)) for p in compiled._flat_losses]
    vars(compiled).update(_flat_losses=parts, _metrics=[None] * len(parts))
    compiled.call(y, y_pred)
    return found


def _twin(target: Any) -> Any:
    """A shallow copy; copy.copy would save and load what Keras can save."""
    twin = object.__new__(type(target))
    vars(twin).update(vars(target))
    return twin


def is_symbolic(value: Any) -> bool:
    """Whether a value is a symbolic tensor of a functional graph."""
    return isinstance(value, keras.KerasTensor)


def rematerializes(layer: Any) -> bool:
    """Whether Keras runs the layer's call inside a gradient checkpoint."""
    return bool(getattr(layer, "_remat_mode", None))


def carry_mask(old: Any, new: Any) -> None:
    """Give a tensor the mask that a layer put on the one it stands for."""
    mask = getattr(old, "_keras_mask", None)
    if mask is not None:
        new._keras_mask = mask


def trained_by(optimizer: Any) -> list[Any]:
    """The variables that an optimizer was built for, in the order of its gradients."""
    return list(getattr(optimizer, "_trainable_variables", []))


def make_function(
    model: Any, step: Callable[..., Any], *, concatenate: bool = False
) -> Callable[..., Any]:
    """Keras' own loop around one step: `steps_per_execution`, compilation on TensorFlow.

    Args:
        model: the model.
        step: what is run for each batch.
        concatenate: whether the outputs of several steps are joined (JAX, prediction).
    """
    if concatenate:
        return model._make_function(step, concatenate_outputs=True)
    return model._make_function(step)


@contextlib.contextmanager
def without_jit(model: Any) -> Generator[None]:
    """Let the functions that Keras makes for `model` be compiled without XLA."""
    before = model.jit_compile
    model.jit_compile = False
    try:
        yield
    finally:
        model.jit_compile = before


def make_predict_function(model: Any, step: Callable[..., Any]) -> Callable[..., Any]:
    """Keras' predict loop around another step; it looks the step up on the model as it traces."""
    before = model.predict_function
    model.make_predict_function(force=True)
    function = model.predict_function
    model.predict_function = before

    def predict(iterator: Any) -> Any:
        vars(model)["predict_step"] = step
        try:
            return function(iterator)
        finally:
            del vars(model)["predict_step"]

    return predict


def abstract_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run `function` on shapes only, the way Keras infers the shapes of a layer's outputs."""
    return keras_backend.compute_output_spec(function, *args, **kwargs)


def model_input_spec(model: Any, batch_size: int) -> Any | None:
    """A tree of `KerasTensor`s that the model's `call` accepts, or None when it is not known."""
    spec = getattr(model, "_inputs_struct", None)
    functional = getattr(model, "_functional", None)
    if spec is None and functional is not None:
        spec = getattr(functional, "_inputs_struct", None)
    if spec is not None:
        return keras.tree.map_structure(
            lambda t: keras.KerasTensor((batch_size, *t.shape[1:]), dtype=t.dtype), spec
        )
    shapes = getattr(model, "_build_shapes_dict", None)
    if not shapes:
        return None
    values = list(shapes.values())
    if len(values) != 1:
        return None
    return _spec_of_shape(values[0], batch_size, model.input_dtype)


def _spec_of_shape(shape: Any, batch_size: int, dtype: str) -> Any:
    if isinstance(shape, dict):
        return {key: _spec_of_shape(value, batch_size, dtype) for key, value in shape.items()}
    if isinstance(shape, Sequence) and shape and not isinstance(shape[0], (int, type(None))):
        return [_spec_of_shape(value, batch_size, dtype) for value in shape]
    return keras.KerasTensor((batch_size, *tuple(shape)[1:]), dtype=dtype)


_PASSES = ("fit", "evaluate")


def fit_in_progress(model: Any) -> dict[str, Any] | None:
    """The local variables of the `fit` or `evaluate` of `model` that is calling its callbacks.

    None elsewhere.

    Among them are the arrays as they were given, how they are shuffled and split, and the iterator
    over the epochs, from which nothing is taken.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name in _PASSES and "epoch_iterator" in frame.f_locals:
            variables = frame.f_locals
            if variables.get("self") is model:
                return dict(variables)
        frame = frame.f_back
    return None


def arrays_of(epoch_iterator: Any) -> tuple[Any, bool] | None:
    """The data behind an epoch iterator, if they can be read again without changing anything.

    Returns:
        `(x, y, sample_weight)` as a tuple, and whether they are the whole of the data and not one
        batch; None for data that only pass by.
    """
    adapter = getattr(epoch_iterator, "data_adapter", None)
    arrays = getattr(adapter, "_inputs", None)
    if arrays is not None:
        return arrays, True
    # Keras itself has taken the first batches of a generator, and gives them out again.
    batches = getattr(adapter, "_first_batches", None)
    if batches:
        return batches[0], False
    return None


def shuffles(epoch_iterator: Any) -> bool | None:
    """Whether arrays are shuffled; None for data that come in batches."""
    shuffle = getattr(getattr(epoch_iterator, "data_adapter", None), "_shuffle", None)
    return None if shuffle is None else bool(shuffle)


def has_own_step(model: Any) -> bool:
    """Whether the model's class brings a training step or a way to compute the loss of its own."""
    names = ("train_step", "compute_loss")
    return any(getattr(type(model), n, None) is not getattr(keras.Model, n, None) for n in names)


def has_own_compile(model: Any) -> bool:
    """Whether the model's class brings a `compile` of its own."""
    return getattr(type(model), "compile", None) is not keras.Model.compile


def compiles_from_config(model: Any) -> bool:
    """Whether the model's class says itself how it is compiled when it is loaded."""
    return getattr(type(model), "compile_from_config", None) is not keras.Model.compile_from_config


def numerics() -> dict[str, Any]:
    """The settings of Keras and its backend that decide in which numbers a step computes."""
    found: dict[str, Any] = {
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "image_data_format": keras.config.image_data_format(),
    }
    if backend_name() == "jax":
        import jax

        found["jax_enable_x64"] = bool(jax.config.read("jax_enable_x64"))
    return found


@contextlib.contextmanager
def with_numerics(wanted: Mapping[str, Any]) -> Generator[None]:
    """Settings that `numerics` gave, for the time of a block."""
    before = numerics()
    try:
        _set_numerics(wanted)
        yield
    finally:
        _set_numerics(before)


def _set_numerics(wanted: Mapping[str, Any]) -> None:
    keras.config.set_floatx(wanted["floatx"])
    keras.config.set_epsilon(wanted["epsilon"])
    keras.config.set_image_data_format(wanted["image_data_format"])
    if "jax_enable_x64" in wanted:
        import jax

        jax.config.update("jax_enable_x64", wanted["jax_enable_x64"])
