"""What the newest copy of the variables is, and which batches the steps since were given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from fitscope.capsules import file
from fitscope.engine import keras_internals
from fitscope.engine.layout import to_host
from fitscope.engine.leaves import map_leaves
from fitscope.engine.optimizers import optimizers_of
from fitscope.engine.state import State
from fitscope.errors import FitscopeError
from fitscope.scope.capsule import Capsule, condition_config

if TYPE_CHECKING:
    from fitscope.scope.stopping import StepStatistics


@dataclasses.dataclass(eq=False)
class Snapshot:
    """The variables before a step.

    Attributes:
        step: the first step that started from them.
        epoch: its epoch.
        values: still on the device, in the order of `State.variables`.
        variables: what they are of.
        settings: how the model is run.
        batches: `(step, data)` of the steps since, added on the drain thread.
    """

    step: int
    epoch: int
    values: Sequence[Any]
    variables: Sequence[dict[str, Any]]
    settings: dict[str, Any]
    batches: list[tuple[int, Any]] = dataclasses.field(default_factory=list)


class Keeper:
    """Keeps a step for a capsule.

    Args:
        capsule: the instruction.
        run: the run directory.
    """

    def __init__(self, capsule: Capsule, run: Path) -> None:
        self._capsule = capsule
        self._run = run
        self._model: dict[str, Any] = {}
        self._settings: dict[str, Any] = {}
        self._variables: list[dict[str, Any]] = []
        self._state: State | None = None
        self.newest: Snapshot | None = None
        """The one that the execution in progress belongs to."""
        self.is_done = False
        """Whether the capsule was written, or cannot be."""

    # On the thread that trains.

    def prepare(self, model: Any) -> None:
        """Called before a training, while the model's variables hold their values.

        Raises:
            FitscopeError: the model cannot be written down.
        """
        self.newest = self._state = None
        self._variables = []
        try:
            self._model = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
        except Exception as error:
            raise FitscopeError(
                f"fs.capsule cannot write the model {model.name!r} down, so it keeps nothing "
                f"({type(error).__name__}: {error}). Give its layers a get_config, as model.save "
                "needs it."
            ) from error
        optimizers = optimizers_of(model)
        if len(optimizers) != 1 or not self._model.get("compile_config"):
            several = f"has {len(optimizers)} optimizers" if len(optimizers) != 1 else ""
            raise FitscopeError(
                f"fs.capsule keeps nothing of the model {model.name!r}: it "
                f"{several or 'was not compiled in a way that Keras can write down'}. Models with "
                "one optimizer, given to compile, can be replayed."
            )
        self._settings = {
            "backend": keras_internals.backend_name(),
            "keras": keras.__version__,
            "jit_compile": bool(model.jit_compile),
            "run_eagerly": bool(model.run_eagerly),
            "keep_weights": self._capsule.keep_weights,
            "condition": condition_config(self._capsule.condition),
        }

    def before(self, model: Any, step: int, epoch: int, args: Any) -> None:
        """Called before an execution with what it is about to be called with."""
        last = self.newest
        # Between epochs, callbacks may change weights or the learning rate.
        if last is not None and last.epoch == epoch:
            since = step - last.step
            if 0 <= since < self._capsule.keep_weights:
                return
        if self._state is None or not self._settings["optimizer_built"]:
            # On TensorFlow the first step itself may build the optimizer.
            self._settings = {**self._settings, "optimizer_built": bool(model.optimizer.built)}
            self._state = State(model)
            count = len(self._state.model_variables)
            self._variables = [
                {
                    "path": v.path,
                    "of": "model" if i < count else "optimizer",
                    "shape": list(v.shape),
                    "dtype": str(v.dtype),
                    "trainable": bool(v.trainable),
                }
                for i, v in enumerate(self._state.variables)
            ]
        self.newest = Snapshot(
            step, epoch, self._state.copies(args), self._variables, self._settings
        )

    # On the drain thread.

    def write(self, snapshot: Snapshot, step: StepStatistics, reason: str) -> Path:
        """Write the capsule of the step whose batch was added to a snapshot last.

        Raises:
            FitscopeError: the batch cannot be kept.
            OSError: the disk refuses.
        """
        self.is_done = True
        steps = [number for number, _ in snapshot.batches]
        if steps != list(range(snapshot.step, step.step + 1)):
            raise FitscopeError(
                f"fs.capsule has not all batches from step {snapshot.step} to {step.step}, so it "
                "writes nothing."
            )
        if any(_lacks_input(data) for _, data in snapshot.batches):
            raise FitscopeError(
                "fs.capsule keeps dense tensors and arrays, and the batch has inputs that are none "
                "(ragged and sparse tensors do not leave a step), so it writes nothing."
            )
        batches = [map_leaves(lambda _, t: to_host(t), data) for _, data in snapshot.batches]
        settings = {
            **snapshot.settings,
            "step": step.step,
            "epoch": step.epoch,
            "first_step": snapshot.step,
            "reason": reason,
            "variables": snapshot.variables,
        }
        state = [to_host(value) for value in snapshot.values]
        self.newest = None
        return file.write(self._run, file.Contents(settings, self._model, state, batches))


def _lacks_input(data: Any) -> bool:
    """Whether something that the model is called on did not leave the step."""
    return _has_none(data[0] if isinstance(data, (tuple, list)) and data else data)


def _has_none(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return any(_has_none(part) for part in tree.values())
    if isinstance(tree, (tuple, list)):
        return any(_has_none(part) for part in tree)
    return tree is None
