"""Running the step in a capsule again: as it was trained, and operation by operation."""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras

from fitscope.capsules.adapted import adapt_again
from fitscope.capsules.culprit import chosen, is_within
from fitscope.capsules.file import Contents, read
from fitscope.engine import keras_internals
from fitscope.engine.leaves import map_leaves
from fitscope.engine.operations import Operation, Operations
from fitscope.engine.optimizers import optimizers_of
from fitscope.engine.single_operations import watched
from fitscope.engine.state import State, as_given, set_random_state
from fitscope.errors import FitscopeError, UnsupportedError
from fitscope.rules.execution import Edges, Origin
from fitscope.scope.capsule import condition_of
from fitscope.scope.instructions import Watch, watch
from fitscope.scope.scope import Scope
from fitscope.scope.stopping import Beyond, NonFinite, StepStatistics, stop_on
from fitscope.scope.tell import tell

COMPILED, EAGER = "as it was trained", "operation by operation"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of running the step once more.

    Attributes:
        how: `COMPILED` or `EAGER`.
        reason: why the condition holds, as in the training; None where it does not.
        origin: the first tensor that was not finite, if any.
        unseen: layers just before it that could not be seen, and may have been first.
        operation: the operation that made it so, Keras' own where there is one; only of `EAGER`.
    """

    how: str
    reason: str | None
    origin: Origin | None
    operation: Operation | None = None
    unseen: tuple[str, ...] = ()

    loss: float = 0.0
    """Of the steps together."""

    @property
    def reproduced(self) -> bool:
        """Whether the condition held again."""
        return self.reason is not None

    @property
    def is_of_loss(self) -> bool:
        """Whether the loss alone was not finite."""
        return self.origin is None and self.reproduced and not math.isfinite(self.loss)


def replay(
    folder: Path,
    custom_objects: Mapping[str, Any] | None = None,
    make: Callable[[], Any] | None = None,
) -> list[Outcome]:
    """Run the steps in a capsule, twice.

    Args:
        folder: the capsule.
        custom_objects: custom classes and functions by name, as for `keras.saving.load_model`.
        make: gives the model, built and compiled as it was, in place of the one that is kept.

    Raises:
        FitscopeError: the model cannot be rebuilt as it was.
        UnsupportedError: Keras runs on another backend than in the training.
    """
    contents = read(folder)
    backend = keras_internals.backend_name()
    if contents.settings["backend"] != backend:
        raise UnsupportedError(
            f"the capsule was kept on {contents.settings['backend']}, and Keras runs on {backend}. "
            f"Set KERAS_BACKEND={contents.settings['backend']} and run it again."
        )
    again = make or functools.partial(made_again, contents, dict(custom_objects or {}))
    with keras_internals.with_numerics(contents.settings["numerics"]):
        compiled = _run(contents, again, eagerly=False)
        eager = _run(contents, again, eagerly=True)
        return [compiled, _with_operation(eager, contents, again)]


def rebuild(contents: Contents, make: Callable[[], Any]) -> Any:
    """The model as it was before the first step in a capsule.

    Args:
        contents: of the capsule.
        make: gives the model, with whatever values; see `made_again`.

    Raises:
        FitscopeError: it is not the model that was trained.
    """
    model = make()
    if not getattr(model, "built", False) or getattr(model, "optimizer", None) is None:
        problem = contents.settings["model_problem"] or (
            "give it a build(input_shape), and a get_compile_config if it has a compile of its own"
        )
        raise FitscopeError(
            f"the model {getattr(model, 'name', model)!r} is not built and compiled: {problem}. Or "
            "name a function that gives it, built and compiled: --model MODULE:FUNCTION."
        )
    kept = sum(variable["of"] == "optimizer 0" for variable in contents.settings["variables"])
    several = len(optimizers_of(model)) != 1
    if not model.optimizer.built and not (several and kept <= len(model.optimizer.variables)):
        model.optimizer.build(model.trainable_variables)  # as fit does before the first step
    adapt_again(model, contents.adapted)
    restore(model, contents)
    return model


def made_again(contents: Contents, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model that a capsule keeps, built and compiled, with whatever values.

    Raises:
        FitscopeError: it keeps none, or Keras cannot rebuild it.
    """
    if contents.model is None:
        raise FitscopeError(
            f"the capsule keeps no model: {contents.settings['model_problem']}. Name a function "
            "that gives it, built and compiled: --model MODULE:FUNCTION."
        )
    try:
        with warnings.catch_warnings():
            # Of a compile that Keras does not call there is an error of ours.
            warnings.filterwarnings("ignore", message="`compile\\(\\)` was not called")
            return keras.saving.deserialize_keras_object(
                copy.deepcopy(contents.model),
                custom_objects=dict(custom_objects or {}),
                safe_mode=True,
            )
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise FitscopeError(
            f"Keras cannot rebuild the model ({type(error).__name__}: {first[:300]}). Name its "
            "custom classes and functions by --custom MODULE:NAME, or by --import the module that "
            "registers them; or a function that gives the model: --model MODULE:FUNCTION."
        ) from error


def restore(model: Any, contents: Contents) -> None:
    """Put the kept values into a model's variables.

    Raises:
        FitscopeError: it has other variables.
    """
    state = State(model)
    # The first step of a model with optimizers of its own may have built them.
    state.build(contents.settings.get("trained", ()))
    groups = state.groups
    kept: dict[str, list[tuple[dict[str, Any], Any]]] = {name: [] for name in groups}
    for variable, value in zip(contents.settings["variables"], contents.state, strict=True):
        kept.setdefault(variable["of"], []).append((variable, value))
    for name, wanted in kept.items():
        variables = groups.get(name, [])
        if name != "model" and not contents.settings["optimizer_built"]:
            # Before its first step an optimizer that was not built has what building it gives.
            variables = variables[: len(wanted)]
        _check(name, [_kind(v) for v in variables], [k for k, _ in wanted])
        for variable, (_, value) in zip(variables, wanted, strict=True):
            variable.assign(value)


def _kind(variable: Any) -> dict[str, Any]:
    return {
        "path": variable.path,
        "shape": list(variable.shape),
        "dtype": str(variable.dtype),
        "trainable": bool(variable.trainable),
    }


def _check(group: str, found: Sequence[Any], wanted: Sequence[Any]) -> None:
    for one, two in itertools.zip_longest(found, wanted):
        of = "shape", "dtype", "trainable"
        if one is None or two is None or any(one[key] != two[key] for key in of):
            named: Any = one if two is None else two
            raise FitscopeError(
                f"the {group} has other variables than the one that was trained: {len(found)} and "
                f"{len(wanted)}, the first that differs is {named['path']!r}. Layers that "
                "were frozen or changed after the model was made must be so in its get_config; or "
                "name a function that gives the model as it was: --model MODULE:FUNCTION."
            )


@dataclasses.dataclass(frozen=True)
class _Look(NonFinite):
    """Sees what `non_finite` would, and keeps the step instead of judging it."""

    seen: list[StepStatistics] = dataclasses.field(default_factory=list)

    def __call__(self, step: StepStatistics) -> str | None:
        del self.seen[:]
        self.seen.append(step)
        return None


def _run(contents: Contents, make: Callable[[], Any], *, eagerly: bool) -> Outcome:
    model = _ready(contents, make, eagerly=eagerly)
    how = EAGER if eagerly else COMPILED
    condition = condition_of(contents.settings["condition"]) or NonFinite("**")
    look = _Look("**")
    beside: list[Watch] = []
    if isinstance(condition, NonFinite):
        look = _Look(condition.select)
    elif isinstance(condition, Beyond):
        beside = [watch(condition.select, condition.of)]
    scope = Scope(stop_on(look), *beside, every=1)
    operations = Operations(model)
    with operations.installed() if eagerly else nullcontext():
        loss = _fit(model, contents, scope)
    if not look.seen or look.seen[-1].step != len(contents.batches) - 1:
        raise FitscopeError(f"the step could not be observed when it ran {how}.")
    step = look.seen[-1]
    found = look.origin(step)
    reason = condition(step)
    if not reason and isinstance(condition, NonFinite) and not math.isfinite(loss):
        reason = condition.of_loss(step, loss)
    of_loss = found is None and reason and not math.isfinite(loss)
    made = operations.made_bad if found is not None or of_loss else []
    made = [o for o in made if is_within(o, found, model.name)]
    return Outcome(
        how, str(reason) if reason else None, found, made[0] if made else None,
        _unseen(scope, found), loss,
    )  # fmt: skip


def _with_operation(outcome: Outcome, contents: Contents, make: Callable[[], Any]) -> Outcome:
    """The outcome with the backend's operation, where none of Keras' own is known."""
    found = outcome.origin
    if outcome.operation is not None or (
        not outcome.is_of_loss if found is None else found.is_batch
    ):
        return outcome
    model = _ready(contents, make, eagerly=True)
    try:
        with watched(model, len(contents.batches)) as made:
            _fit(model, contents)
    except Exception as error:  # noqa: BLE001
        # It leans on the inside of the backends, and what is known without it stays.
        tell(
            "fitscope could not look at the backend's operations one by one "
            f"({type(error).__name__}: {error})."
        )
        return outcome
    return dataclasses.replace(outcome, operation=chosen(made, found, model.name))


def _ready(contents: Contents, make: Callable[[], Any], *, eagerly: bool) -> Any:
    model = rebuild(contents, make)
    model.steps_per_execution = 1
    model.jit_compile = contents.settings["jit_compile"]
    model.run_eagerly = eagerly or contents.settings["run_eagerly"]
    return model


def _fit(model: Any, contents: Contents, *callbacks: Any) -> float:
    """Run the steps; gives their loss."""
    history = model.fit(
        batches_of(contents),
        steps_per_epoch=len(contents.batches),
        shuffle=False,
        verbose=0,  # type: ignore[arg-type]
        callbacks=[Random(contents), *callbacks],
    )
    return float(history.history.get("loss", [0.0])[-1])


class Random(keras.callbacks.Callback):
    """Puts the backend's random generators back when the first step begins."""

    def __init__(self, contents: Contents) -> None:
        super().__init__()
        self._contents = contents

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Called by Keras."""
        if not batch:
            set_random_state(self._contents.random)


def _unseen(scope: Scope, found: Origin | None) -> tuple[str, ...]:
    """Layers before the first bad one whose outputs are out of sight, as where they are fused."""
    if found is None or "in the forward pass" not in found.direction:
        return ()
    edges = Edges(scope.run.graph.get("edges", ()))
    hidden = {u.site.partition("#")[0].partition("[")[0] for u in scope.unseen}
    return tuple(path for path in edges.sources(found.layer) if path in hidden)


def batches_of(contents: Contents) -> Iterator[Any]:
    """The batches as a generator gives them: tuples."""
    for batch in contents.batches:
        parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
        while len(parts) > 1 and parts[-1] is None:
            del parts[-1]
        yield tuple(map_leaves(lambda _, x: as_given(x), part) for part in parts)
