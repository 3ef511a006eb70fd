"""The engine for the backend in use; the only place that chooses among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fitscope.engine import keras_internals
from fitscope.engine.editing import EditPlan
from fitscope.engine.layout import Row
from fitscope.engine.plan import Plan


class Engine(Protocol):
    """Builds observed functions for one model."""

    def observed(
        self,
        phase: str,
        plain: Callable[..., Any],
        emit: Callable[[Row], None],
        failed: Callable[[BaseException], None],
    ) -> Callable[..., Any]:
        """A drop-in for the function that Keras runs at every step, which also measures.

        Args:
            phase: "train", "test" or "predict".
            plain: Keras' own function, which is run instead when the step cannot be traced.
            emit: called once per inner step with its rows.
            failed: called with the error when the step cannot be traced.
        """
        ...

    def passing(self, phase: str, plain: Callable[..., Any]) -> Callable[..., Any] | None:
        """What is run in place of `plain` in steps that are not observed; None for `plain` itself.

        Where one compiled function is to serve all steps, for one of its own would round otherwise.
        """
        ...

    def wait(self, outputs: Any = None) -> None:
        """Let the device finish what it was given.

        Args:
            outputs: what the last step returned, where that is at hand.
        """
        ...


def inspector() -> Any:
    """What tells tensors, their shapes and their trace levels apart on the backend in use."""
    backend = keras_internals.backend_name()
    if backend == "jax":
        from fitscope.engine.jax_engine import JaxDevice

        return JaxDevice(traced=False)
    if backend == "tensorflow":
        from fitscope.engine.tensorflow_engine import TensorFlowDevice

        return TensorFlowDevice()
    from fitscope.engine.torch_engine import TorchDevice

    return TorchDevice()


class Edits(Protocol):
    """Builds edited functions for the steps of one phase of one model."""

    def tell(self, values: Any, words: Any) -> None:
        """Called before each execution.

        Args:
            values: for each of its steps and each edit, whether it acts and how strongly, float32
                `[steps, edits, 2]`.
            words: for each of its steps, two numbers that no other step has, int32 `[steps, 2]`.
        """
        ...

    def function(self, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """A drop-in for the function that Keras runs at every step, with the edits in it.

        Args:
            step: "train", "test" or "predict".
            plain: Keras' own function.
        """
        ...


def build_edits(model: Any, plan: Plan, edits: EditPlan) -> Edits:
    """The edits of one phase of `model` on the backend that Keras runs on."""
    backend = keras_internals.backend_name()
    if backend == "jax":
        from fitscope.engine.jax_edits import JaxEdits

        return JaxEdits(model, plan, edits)
    if backend == "tensorflow":
        from fitscope.engine.tensorflow_edits import TensorFlowEdits

        return TensorFlowEdits(model, plan, edits)
    from fitscope.engine.torch_edits import TorchEdits

    return TorchEdits(model, plan, edits)


def build(model: Any, plan: Plan, edits: Edits | None = None) -> Engine:
    """The engine for `model` on the backend that Keras runs on.

    Args:
        model: a built Keras model.
        plan: what is observed.
        edits: what its observed steps change.
    """
    backend = keras_internals.backend_name()
    if backend == "jax":
        from fitscope.engine.jax_engine import JaxEngine

        return JaxEngine(model, plan, edits)
    if backend == "tensorflow":
        from fitscope.engine.tensorflow_engine import TensorFlowEngine

        return TensorFlowEngine(model, plan, edits)
    from fitscope.engine.torch_engine import TorchEngine

    return TorchEngine(model, plan, edits)


def shares_the_step(model: Any) -> bool:
    """Whether unobserved steps of `model` run through `Engine.passing`, too."""
    return keras_internals.backend_name() == "torch" and bool(model.jit_compile)


def caution(model: Any, *, edits: bool) -> str | None:
    """What to know of a model whose training a scope may change in the last digits.

    Args:
        model: a built Keras model, before its first step under the scope.
        edits: whether its outputs are edited.
    """
    if not shares_the_step(model):
        return None
    if edits:
        return (
            "fitscope edits a model that torch.compile compiles. Edited steps are compiled anew "
            "where they are observed and where not, and the two may round differently in the last "
            "digits. Compile with jit_compile=False for trainings that are equal to the bit."
        )
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    if iterations is None or not int(iterations.value):
        return None
    return (
        "fitscope joins a model that has trained before, and that torch.compile compiles. Its "
        "step is compiled anew with the scope, and may round differently in the last digits from "
        "what was compiled before. Watch it from its first step on, or compile with "
        "jit_compile=False, to train bit for bit as without a scope."
    )
