"""The edits of a scope at work on one model: what acts in which step, and the functions for it."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from fitscope.edits.when import Moment, words
from fitscope.engine import keras_internals
from fitscope.engine.build import Edits, build_edits
from fitscope.engine.editing import EditPass, EditPlan, EditWant, ObjectiveWant, OnShapes
from fitscope.engine.entry import named as named_site
from fitscope.engine.plan import Plan, Want
from fitscope.engine.points import is_objective, objective_point
from fitscope.engine.trace import Trace
from fitscope.errors import EditError, UnsupportedError
from fitscope.scope.edited_steps import EditedSteps
from fitscope.scope.editing import Change, EditInstruction, Objective
from fitscope.scope.taps import Shapes
from fitscope.select.nearest import no_match
from fitscope.select.site import Site

_BATCH_SIZE = 2


class Handle:
    """One edit or objective of a scope, to be set by hand while the training runs.

    Attributes:
        name: its name.
    """

    __slots__ = ("_change", "_enabled", "_strength", "name")

    def __init__(self, change: Change) -> None:
        self.name = str(change.name)
        self._enabled = True
        self._change = change
        self._strength = 1.0

    @property
    def enabled(self) -> bool:
        """False switches it off from the next step on."""
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if not isinstance(value, (bool, np.bool_)):
            raise EditError(f"scope.edits[{self.name!r}].enabled = {value!r}: expected a bool.")
        self._enabled = bool(value)

    @property
    def strength(self) -> float:
        """What the strength of its schedule is multiplied by, from the next step on."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value):
            raise EditError(
                f"scope.edits[{self.name!r}].strength = {value!r}: expected a finite number."
            )
        self._strength = float(value)

    def at(self, moment: Moment) -> float | None:
        """How strongly it acts in a step; None for not at all."""
        if not self.enabled or moment.phase not in self._change.phases:
            return None
        strength = self._change.when.strength(moment)
        if strength is None:
            return None
        strength *= self._strength
        if strength == 0 and self._is_off_at_zero:
            return None
        return strength

    @property
    def _is_off_at_zero(self) -> bool:
        return isinstance(self._change, Objective) or self._change.edit.is_off_at_zero

    def __repr__(self) -> str:
        state = "" if self.enabled else ", off"
        return f"<{self.name}: {describe(self._change)}, strength {self._strength:g}{state}>"


class Handles(Mapping[str, Handle]):
    """The edits and objectives of a scope by name, in their order."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._by_name = {str(change.name): Handle(change) for change in changes}

    def __getitem__(self, name: str) -> Handle:
        if name not in self._by_name:
            known = ", ".join(map(repr, self._by_name)) or "none"
            raise EditError(f"This scope has no edit {name!r}; it has {known}.")
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __repr__(self) -> str:
        return "\n".join(map(repr, self._by_name.values())) or "no edits"


class Editor:
    """Decides before each execution what acts in it, and makes the functions that do.

    Args:
        model: a Keras model.
        changes: edits and objectives, each with a name.
        handles: by name, what the user sets.
        record: called with a record for the run's history.
    """

    def __init__(
        self,
        model: Any,
        changes: Sequence[Change],
        handles: Handles,
        record: Callable[[dict[str, Any]], None],
    ) -> None:
        self.model = model
        self._changes = tuple(changes)
        self._handles = [handles[str(change.name)] for change in changes]
        self._steps = EditedSteps([h.name for h in self._handles], record)
        self._edits: dict[str, Edits] = {}
        self._memory: dict[str, Any] = {}
        """What edits carry from step to step; all phases read that of the training."""
        self._functions: dict[str, tuple[Any, Callable[..., Any]]] = {}
        self._told: tuple[Any, Any] | None = None
        """What the steps of the execution that was decided on last are told."""
        self._absent: Sequence[frozenset[str]] = ()
        self._checked = False

    def check(self) -> None:
        """Find out, on shapes alone, whether everything can act where it is asked to.

        Raises:
            EditError: it cannot.
            SelectionError: a selection matches nothing in the model.
            UnsupportedError: the model is not built.
        """
        if self._checked:
            return
        if not self.model.built:
            raise UnsupportedError(
                f"{self.model.name!r} is not built, so its layers cannot be edited. Call it on a "
                "batch before fit, or model.build(shape)."
            )
        try_on_shapes(self.model, self._changes)
        self._checked = True

    def decide(self, moments: Sequence[Moment]) -> bool:
        """Whether anything acts in the execution of some steps.

        Args:
            moments: the steps, in order.
        """
        strengths = [[handle.at(moment) for handle in self._handles] for moment in moments]
        self._steps.add(moments[0].phase, moments[0].step, strengths)
        if all(strength is None for row in strengths for strength in row):
            return False
        self.check()
        values = np.array(
            [[(s is not None, 0.0 if s is None else s) for s in row] for row in strengths],
            np.float32,
        )
        self._absent = [
            frozenset(
                objective_point(handle.name).path
                for handle, change, strength in zip(self._handles, self._changes, row, strict=True)
                if strength is None and isinstance(change, Objective)
            )
            for row in strengths
        ]
        self._told = values, np.array([words(moment) for moment in moments], np.int32)
        return True

    def absent(self, place: int) -> frozenset[str]:
        """Paths of objectives that have no value in a step of the execution that was decided on.

        Args:
            place: the number of the step in the execution.
        """
        return self._absent[place] if place < len(self._absent) else frozenset()

    def edits(self, phase: str) -> Edits:
        """What edits the steps of a phase."""
        if phase not in self._edits:
            plan = edit_plan(self._changes, phase, int(self.model.steps_per_execution))
            plan = dataclasses.replace(plan, memory=self._memory)
            self._edits[phase] = build_edits(self.model, Plan(self.model, plan.wants()), plan)
        return self._edits[phase]

    @property
    def has_objectives(self) -> bool:
        """Whether there are values to record when something acts."""
        return any(isinstance(change, Objective) for change in self._changes)

    def wants(self, phase: str) -> list[Want]:
        """By which a plan wraps the layers that are edited in a phase, and sees objectives."""
        value = Want(is_objective, is_objective, frozenset(("output",)))
        return [*edit_plan(self._changes, phase, 1).wants(), value]

    def function(self, phase: str, step: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        """The function that runs an execution with its edits, and observes nothing.

        The device is told what was decided on last.

        Args:
            phase: the phase.
            step: which step of Keras' it runs: "train", "test" or "predict".
            plain: Keras' own function.
        """
        known = self._functions.get(phase)
        # Compiling the model anew, or unfreezing layers, gives it another function.
        if known is None or known[0] is not plain:
            self._edits.pop(phase, None)
            known = self._functions[phase] = plain, self.edits(phase).function(step, plain)
        if self._told is not None:
            self.edits(phase).tell(*self._told)
        return known[1]

    def end_of_pass(self, phase: str, steps: int) -> None:
        """An epoch or evaluation is over; write which steps were edited.

        Args:
            phase: the phase.
            steps: how many steps it has had, ever.
        """
        self._steps.flush(phase, steps)


def edit_plan(changes: Sequence[Change], phase: str, depth: int) -> EditPlan:
    """What is changed in the steps of a phase, as the engine sees it.

    Args:
        changes: edits and objectives, each with a name.
        phase: the phase.
        depth: steps in one execution.
    """
    numbered = [(i, c) for i, c in enumerate(changes) if phase in c.phases]
    edits = tuple(_edit_want(i, c) for i, c in numbered if isinstance(c, EditInstruction))
    objectives = tuple(_objective_want(i, c) for i, c in numbered if isinstance(c, Objective))
    return EditPlan(edits, objectives, len(numbered) > 1 or depth > 1, phase)


def _edit_want(index: int, change: EditInstruction) -> EditWant:
    selector = change.selector
    return EditWant(
        index, str(change.name), repr(selector), selector.matches, selector.may_match,
        change.port, change.edit,
    )  # fmt: skip


def _objective_want(index: int, change: Objective) -> ObjectiveWant:
    selectors = change.selectors
    teacher, state = None, None
    if change.teacher is not None:
        teacher, state = _teacher(change.teacher, change.teacher_select)
    return ObjectiveWant(
        index,
        str(change.name),
        tuple(map(repr, selectors)),
        tuple(s.matches for s in selectors),
        tuple(s.may_match for s in selectors),
        change.function,
        change.weight,
        teacher,
        state,
    )


def _teacher(model: Any, select: Any) -> tuple[Callable[..., Any], Callable[[], Any] | None]:
    """How a teacher is run, and what it must be told of its variables."""
    from fitscope.values.capture import capture, stateless_capture

    takes_training = "training" in inspect.signature(model.call).parameters
    inference = {"training": False} if takes_training else {}
    if keras_internals.backend_name() != "jax":

        def run(x: Any, state: Any) -> list[Any]:
            del state
            return list(capture(model, x, select, **inference)[1].values())

        return run, None

    def run_stateless(x: Any, state: Any) -> list[Any]:
        trainable, fixed = state
        found = stateless_capture(model, trainable, fixed, x, select, **inference)
        return list(found[-1].values())

    def state() -> Any:
        # As arguments: values that a trace closes over become constants of the program.
        return (
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
        )

    return run_stateless, state


def try_on_shapes(model: Any, changes: Sequence[Change]) -> list[tuple[Change, list[Site]]]:
    """Run a model on shapes with all edits in place.

    Returns:
        For each edit and objective, the sites that it acts on; empty lists where the model cannot
        be run on shapes.

    Raises:
        EditError: something cannot act where it is asked to.
        SelectionError: a selection matches nothing in the model.
    """
    for change in changes:
        if isinstance(change, Objective) and change.teacher is not None:
            _check_apart(model, change)
    plan = edit_plan([_everywhere(change) for change in changes], "train", 1)
    wrapped = Plan(model, plan.wants())
    _check_selections(wrapped, changes)
    spec = keras_internals.model_input_spec(model, _BATCH_SIZE)
    seen: list[Site] = []
    if spec is not None:
        edits = EditPass(plan, OnShapes(plan), adds_to_loss=False)
        edits.on_site = seen.append
        trace = Trace(wrapped, Shapes(), symbolic=True, edits=edits)

        def call(inputs: Any) -> Any:
            edits.forget()
            outputs = model(inputs)
            edits.try_objectives(inputs)
            return outputs

        try:
            with trace.installed():
                keras_internals.abstract_call(call, spec)
        except EditError:
            raise
        except Exception:  # a model that computes with values; its first step tells
            seen.clear()
    return [(change, [s for s in seen if _acts_on(change, s)]) for change in changes]


def _check_apart(model: Any, objective: Objective) -> None:
    own = {id(layer) for layer in [model, *keras_internals.sublayers(model)]}
    shared = [
        layer
        for layer in [objective.teacher, *keras_internals.sublayers(objective.teacher)]
        if id(layer) in own and not isinstance(layer, keras.layers.InputLayer)
    ]
    if shared:
        names = ", ".join(repr(layer.name) for layer in shared[:3])
        raise EditError(
            f"The teacher of the objective {objective.name!r} shares layers with the model that is "
            f"trained ({names}). Give it layers of its own: keras.models.clone_model(teacher), "
            "then set_weights(teacher.get_weights())."
        )


def _everywhere(change: Change) -> Change:
    return dataclasses.replace(change, phases=("train",))


def _check_selections(plan: Plan, changes: Sequence[Change]) -> None:
    sites = [
        named_site(entry.site(None, "output", (), (), ""), None)
        for entry in plan.entries
        if not entry.is_plain_container
    ]
    for change in changes:
        for selector in _selectors(change):
            if not any(selector.may_match(site) for site in sites):
                raise no_match(selector, sites)
    for entry in plan.entries:
        if entry.loop is None:
            continue
        site = named_site(entry.site(None, "output", (), (), ""), None)
        for change in changes:
            chosen = [s for s in _selectors(change) if s.may_match(site)]
            if any(not any(s.may_match(o) for o in sites if o.path != site.path) for s in chosen):
                raise EditError(
                    f"{site.path} cannot be edited: it runs inside the time loop of a "
                    f"{entry.loop}. Edit the layer around it."
                )


def _selectors(change: Change) -> tuple[Any, ...]:
    return (change.selector,) if isinstance(change, EditInstruction) else change.selectors


def _acts_on(change: Change, site: Site) -> bool:
    return any(selector.matches(site) for selector in _selectors(change))


def describe(change: Change) -> str:
    """An edit or objective in a line."""
    if isinstance(change, Objective):
        what = f"{change.weight:g} * {change.describe()['function']} added to the loss"
        if change.teacher is not None:
            what += f", with the teacher {change.teacher.name!r}"
    else:
        what = f"{change.edit!r}"
        if change.port == "gradient":
            what += " of the gradient"
    when = repr(change.when)
    return f"{what}, {when}, in {' and '.join(change.phases)}"
