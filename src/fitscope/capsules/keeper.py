"""What the newest copy of the variables is, and which batches the steps since were given."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from fitscope.capsules import file
from fitscope.capsules.adapted import Arrays, adapted
from fitscope.engine import keras_internals
from fitscope.engine.layout import to_host
from fitscope.engine.leaves import leaves, map_leaves
from fitscope.engine.optimizers import optimizers_of
from fitscope.engine.state import State, random_state
from fitscope.errors import FitscopeError
from fitscope.scope.capsule import Capsule, condition_config
from fitscope.scope.tell import tell

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
        random: the backend's own random generators.
        batches: `(step, data)` of the steps since, added on the drain thread.
    """

    step: int
    epoch: int
    values: Sequence[Any]
    variables: Sequence[dict[str, Any]]
    settings: dict[str, Any]
    random: dict[str, Any] = dataclasses.field(default_factory=dict)
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
        self._model: dict[str, Any] | None = None
        self._adapted: Arrays = {}
        self._told = False
        self._settings: dict[str, Any] = {}
        self._variables: list[dict[str, Any]] = []
        self._state: State | None = None
        self.newest: Snapshot | None = None
        """The one that the execution in progress belongs to."""
        self.is_done = False
        """Whether the capsule was written, or cannot be."""

    # On the thread that trains.

    def prepare(self, model: Any) -> None:
        """Called before a training, while the model's variables hold their values."""
        self.newest = self._state = None
        self._variables = []
        self._model, problem = _written(model)
        self._adapted = adapted(model)
        if problem and not self._told:
            self._told = True
            tell(
                f"fs.capsule keeps the step of the model {model.name!r}, and not the model itself: "
                f"{problem}. Replay it with `--model MODULE:FUNCTION`, a function that gives the "
                "model, built and compiled as here."
            )
        self._settings = {
            "backend": keras_internals.backend_name(),
            "keras": keras.__version__,
            "numerics": keras_internals.numerics(),
            "jit_compile": bool(model.jit_compile),
            "run_eagerly": bool(model.run_eagerly),
            "keep_weights": self._capsule.keep_weights,
            "condition": condition_config(self._capsule.condition),
            "model_problem": problem,
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
            # On TensorFlow the first step itself may build an optimizer.
            built = all(bool(optimizer.built) for optimizer in optimizers_of(model))
            self._state = State(model)
            self._settings = {
                **self._settings,
                "optimizer_built": built,
                "trained": self._state.trained(),
            }
            self._variables = [
                {
                    "path": v.path,
                    "of": group,
                    "shape": list(v.shape),
                    "dtype": str(v.dtype),
                    "trainable": bool(v.trainable),
                }
                for group, variables in self._state.groups.items()
                for v in variables
            ]
        self.newest = Snapshot(
            step, epoch, self._state.copies(args), self._variables, self._settings, random_state()
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
        contents = file.Contents(
            settings, self._model, state, batches, self._adapted, snapshot.random
        )
        return file.write(self._run, contents)


def _written(model: Any) -> tuple[dict[str, Any] | None, str]:
    """The model as Keras writes it down, and why that is not enough to have it again."""
    try:
        written = json.loads(json.dumps(keras.saving.serialize_keras_object(model)))
    except Exception as error:  # noqa: BLE001 - whatever a get_config of the user's raises
        first = str(error).strip().split("\n", 1)[0]
        return None, f"Keras cannot write it down ({type(error).__name__}: {first[:300]})"
    losses = [loss for _, loss in leaves(model.loss) if isinstance(loss, keras.losses.Loss)]
    if any(x.dtype != keras.config.floatx() and "dtype" not in x.get_config() for x in losses):
        return written, "Keras does not write down the dtype of its loss"
    if keras_internals.compiles_from_config(model):
        return written, ""
    if not written.get("compile_config"):
        return written, "its compile() is its own, and it has no get_compile_config()"
    several = len(optimizers_of(model))
    if several != 1:
        return written, f"it has {several} optimizers, and no compile_from_config() of its own"
    if keras_internals.has_own_compile(model):
        return written, "its compile() is its own, and it has no compile_from_config()"
    return written, ""


def _lacks_input(data: Any) -> bool:
    """Whether something that the model is called on did not leave the step."""
    return _has_none(data[0] if isinstance(data, (tuple, list)) and data else data)


def _has_none(tree: Any) -> bool:
    if isinstance(tree, Mapping):
        return any(_has_none(part) for part in tree.values())
    if isinstance(tree, (tuple, list)):
        return any(_has_none(part) for part in tree)
    return tree is None
