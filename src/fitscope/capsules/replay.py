"""Running the step in a capsule again: as it was trained, and operation by operation."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras

from fitscope.capsules.file import Contents, read
from fitscope.engine import keras_internals
from fitscope.engine.operations import Operation, Operations
from fitscope.engine.state import State
from fitscope.errors import FitscopeError, UnsupportedError
from fitscope.rules.execution import LOSS, Edges, Origin
from fitscope.scope.capsule import condition_of
from fitscope.scope.instructions import Watch, watch
from fitscope.scope.scope import Scope
from fitscope.scope.stopping import Beyond, NonFinite, StepStatistics, stop_on

COMPILED, EAGER = "as it was trained", "operation by operation"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of running the step once more.

    Attributes:
        how: `COMPILED` or `EAGER`.
        reason: why the condition holds, as in the training; None where it does not.
        origin: the first tensor that was not finite, if any.
        unseen: layers just before it that could not be seen, and may have been first.
        operation: the Keras operation that made it so; only of `EAGER`, only where there is one.
    """

    how: str
    reason: str | None
    origin: Origin | None
    operation: Operation | None = None
    unseen: tuple[str, ...] = ()

    @property
    def reproduced(self) -> bool:
        """Whether the condition held again."""
        return self.reason is not None


def replay(folder: Path, custom_objects: Mapping[str, Any] | None = None) -> list[Outcome]:
    """Run the steps in a capsule, twice.

    Args:
        folder: the capsule.
        custom_objects: custom classes and functions by name, as for `keras.saving.load_model`.

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
    objects = dict(custom_objects or {})
    return [_run(contents, objects, eagerly=eagerly) for eagerly in (False, True)]


def rebuild(contents: Contents, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """The model as it was before the first step in a capsule.

    Raises:
        FitscopeError: it cannot be rebuilt.
    """
    try:
        model: Any = keras.saving.deserialize_keras_object(
            copy.deepcopy(contents.model), custom_objects=dict(custom_objects or {}), safe_mode=True
        )
    except Exception as error:
        first = str(error).strip().split("\n", 1)[0]
        raise FitscopeError(
            f"Keras cannot rebuild the model ({type(error).__name__}: {first[:300]}). Name its "
            "custom classes and functions by --custom MODULE:NAME, or by --import the module that "
            "registers them."
        ) from error
    if not model.built or getattr(model, "optimizer", None) is None:
        raise FitscopeError(
            f"the model {model.name!r} was rebuilt, but is not built and compiled. Give it a "
            "build(input_shape), and a get_compile_config if it has a compile of its own."
        )
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    _restore(model, contents)
    return model


def _restore(model: Any, contents: Contents) -> None:
    variables, kept = State(model).variables, contents.settings["variables"]
    found = [(list(v.shape), str(v.dtype), bool(v.trainable)) for v in variables]
    wanted = [(k["shape"], k["dtype"], k["trainable"]) for k in kept]
    if not contents.settings["optimizer_built"]:
        # Before its first step an optimizer that was not built has what building it gives.
        variables, found = variables[: len(wanted)], found[: len(wanted)]
    if found != wanted:
        pairs = zip(found, wanted, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(wanted)))
        name = kept[place]["path"] if place < len(kept) else variables[place].path
        raise FitscopeError(
            f"the rebuilt model has other variables than the one that was trained: {len(found)} "
            f"and {len(wanted)}, the first that differs is {name!r}. Layers that were frozen or "
            "changed after the model was made must be so in its get_config."
        )
    for variable, value in zip(variables, contents.state, strict=True):
        variable.assign(value)


@dataclasses.dataclass(frozen=True)
class _Look(NonFinite):
    """Sees what `non_finite` would, and keeps the step instead of judging it."""

    seen: list[StepStatistics] = dataclasses.field(default_factory=list)

    def __call__(self, step: StepStatistics) -> str | None:
        del self.seen[:]
        self.seen.append(step)
        return None


def _run(contents: Contents, custom_objects: Mapping[str, Any], *, eagerly: bool) -> Outcome:
    settings = contents.settings
    model = rebuild(contents, custom_objects)
    model.steps_per_execution = 1
    model.jit_compile = settings["jit_compile"]
    model.run_eagerly = eagerly or settings["run_eagerly"]
    how = EAGER if eagerly else COMPILED
    condition = condition_of(settings["condition"]) or NonFinite("**")
    look = _Look("**")
    beside: list[Watch] = []
    if isinstance(condition, NonFinite):
        look = _Look(condition.select)
    elif isinstance(condition, Beyond):
        beside = [watch(condition.select, condition.of)]
    scope = Scope(stop_on(look), *beside, every=1)
    operations = Operations(model)
    with operations.installed() if eagerly else nullcontext():
        model.fit(
            _given(contents.batches),
            steps_per_epoch=len(contents.batches),
            shuffle=False,
            verbose=0,  # type: ignore[arg-type]
            callbacks=[scope],
        )
    if not look.seen or look.seen[-1].step != len(contents.batches) - 1:
        raise FitscopeError(f"the step could not be observed when it ran {how}.")
    step = look.seen[-1]
    found = look.origin(step)
    operation = None
    if found is not None:
        made = [o for o in operations.made_bad if _is_within(o, found, model.name)]
        operation = made[0] if made else None
    reason = condition(step)
    return Outcome(how, str(reason) if reason else None, found, operation, _unseen(scope, found))


def _unseen(scope: Scope, found: Origin | None) -> tuple[str, ...]:
    """Layers before the first bad one whose outputs are out of sight, as where they are fused."""
    if found is None or "forward" not in found.direction:
        return ()
    edges = Edges(scope.run.graph.get("edges", ()))
    hidden = {u.site.partition("#")[0].partition("[")[0] for u in scope.unseen}
    return tuple(path for path in edges.sources(found.layer) if path in hidden)


def _given(batches: Any) -> Iterator[Any]:
    """The batches as a generator gives them: tuples."""
    for batch in batches:
        parts = list(batch) if isinstance(batch, (tuple, list)) else [batch]
        while len(parts) > 1 and parts[-1] is None:
            del parts[-1]
        yield tuple(parts)


def _is_within(operation: Operation, found: Origin, model: str) -> bool:
    """Whether an operation may have made what was not finite first.

    It is one of that layer's forward pass, of the model's own (`x + y` in its graph), or of the
    loss.
    """
    if found.layer == LOSS:
        return operation.layer is None
    if found.is_batch or "forward" not in found.direction or operation.layer is None:
        return False
    own = operation.layer == found.layer or operation.layer.startswith(f"{found.layer}/")
    return own or operation.layer == model
