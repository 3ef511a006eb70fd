"""What is changed in one pass through a model: outputs, gradients, and terms of the loss."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import keras
from keras import ops

from fitscope.edits.edit import At, Edit, checked, shape_text
from fitscope.engine import keras_internals
from fitscope.engine.plan import Want
from fitscope.engine.points import objective_point
from fitscope.errors import EditError
from fitscope.select.site import Site


@dataclasses.dataclass(frozen=True, eq=False)
class EditWant:
    """One edit as the engine sees it.

    Attributes:
        index: its place among all edits and objectives of a scope.
        name: its name.
        select: how the selection reads.
        matches: whether a site is edited.
        may_match: as `matches`, for a site whose call, leaf, shape and dtype are not known yet.
        port: `"output"` or `"gradient"`.
        edit: what becomes of the tensor.
    """

    index: int
    name: str
    select: str
    matches: Callable[[Site], bool]
    may_match: Callable[[Site], bool]
    port: str
    edit: Edit


@dataclasses.dataclass(frozen=True, eq=False)
class ObjectiveWant:
    """One objective as the engine sees it.

    Attributes:
        index: its place among all edits and objectives of a scope.
        name: its name.
        selects: how the selections read.
        matches: of each selection, whether a site is in it.
        may_match: as `matches`, for a site whose call, leaf, shape and dtype are not known yet.
        function: from tensors to a scalar.
        weight: what its value is multiplied by.
        teacher: from the inputs of the step and the values of the teacher's variables to more
            tensors for the function.
        teacher_state: the values of the teacher's variables, for backends that need them told.
    """

    index: int
    name: str
    selects: tuple[str, ...]
    matches: tuple[Callable[[Site], bool], ...]
    may_match: tuple[Callable[[Site], bool], ...]
    function: Callable[..., Any]
    weight: float
    teacher: Callable[[Any, Any], Sequence[Any]] | None = None
    teacher_state: Callable[[], Any] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class EditPlan:
    """What is changed in the steps of one phase.

    Attributes:
        edits: in the order in which they act.
        objectives: what is added to the loss.
        gated: whether some may be off in a step while others act.
        phase: of which phase.
        memory: by edit and tensor, what edits carry from step to step, as the backend holds it.
    """

    edits: tuple[EditWant, ...]
    objectives: tuple[ObjectiveWant, ...]
    gated: bool
    phase: str
    memory: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def carries(self) -> bool:
        """Whether an edit may carry something from step to step."""
        return any(type(e.edit).memory_length is not Edit.memory_length for e in self.edits)

    @property
    def trains(self) -> bool:
        """Whether a backward pass follows."""
        return self.phase == "train"

    def wants(self) -> list[Want]:
        """Wants that measure nothing, by which a plan wraps the layers that are needed."""
        output = frozenset(("output",))
        pairs = [(e.matches, e.may_match) for e in self.edits]
        pairs += [p for o in self.objectives for p in zip(o.matches, o.may_match, strict=True)]
        return [Want(matches, may, output, measures=False) for matches, may in pairs]


class Signals(Protocol):
    """What the host tells a step; each backend has its own way to do so."""

    words: Any
    """Two numbers that belong to the step, int32 `[2]`."""

    loss_scale: Any
    """By what gradients are too large; None for nothing."""

    def active(self, index: int) -> Any:
        """Whether an edit or objective acts: a bool, or a scalar of bool on the device."""
        ...

    def strength(self, index: int) -> Any:
        """How strongly, a float32 scalar."""
        ...

    def teacher_state(self, index: int) -> Any:
        """The values of the variables of an objective's teacher."""
        ...

    def recall(self, key: str, length: int) -> Any:
        """What was kept last under a key, a float32 vector; zeros at first."""
        ...

    def keep(self, key: str, value: Any) -> None:
        """Keep a vector for the steps to come."""
        ...

    def through_gradient(self, x: Any, function: Callable[[Any], Any]) -> Any:
        """A tensor of the same value, whose gradient goes through a function."""
        ...

    def without_gradient(self) -> AbstractContextManager[Any]:
        """Around what is not differentiated."""
        ...


class OnShapes:
    """What a pass is told that only infers shapes: everything acts, at strength 1."""

    words = (0, 0)
    loss_scale = None

    def __init__(self, plan: EditPlan) -> None:
        self._teachers = {o.index: o.teacher_state for o in plan.objectives}

    def active(self, index: int) -> bool:
        del index
        return True

    def strength(self, index: int) -> Any:
        del index
        return ops.ones((), "float32")

    def teacher_state(self, index: int) -> Any:
        state = self._teachers[index]
        return None if state is None else state()

    def recall(self, key: str, length: int) -> Any:
        del key
        return ops.zeros((length,), "float32")

    def keep(self, key: str, value: Any) -> None:
        del key, value

    def through_gradient(self, x: Any, function: Callable[[Any], Any]) -> Any:
        function(x)
        return x

    def without_gradient(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()


class EditPass:
    """The edits and objectives of one pass.

    Args:
        plan: what to change.
        signals: what the host tells this step.
        adds_to_loss: whether a loss is computed in this pass.
    """

    def __init__(self, plan: EditPlan, signals: Signals, *, adds_to_loss: bool = True) -> None:
        self.plan = plan
        self._signals = signals
        self._adds_to_loss = adds_to_loss
        self._fired: set[int] = set()
        self._met: list[tuple[Site, Any]] = []
        self._loss_computed = False
        self._error: EditError | None = None
        self.on_site: Callable[[Site], None] | None = None
        """Called with each site that is edited or goes into an objective."""

    @contextlib.contextmanager
    def running(self) -> Generator[None]:
        """Around the pass; at its end everything must have come to act.

        Raises:
            EditError: something did not.
        """
        try:
            yield
        except EditError as error:
            # Keras puts a text of its own around what is raised within a layer.
            raise (self._error or error) from None
        for want in self.plan.edits:
            if want.index not in self._fired:
                raise EditError(_never(f"The edit {want.name!r}", want.select, self.plan.phase))
        if self._adds_to_loss:
            self._check_objectives()

    def _check_objectives(self) -> None:
        for want in self.plan.objectives:
            if want.index in self._fired:
                continue
            if not self._loss_computed:
                raise EditError(
                    f"The objective {want.name!r} could not be added to the loss: the step never "
                    "called compute_loss. Compute its loss by self.compute_loss(x, y, y_pred, "
                    "sample_weight), whose result has the objectives in it."
                )
            raise EditError(
                _never(f"The objective {want.name!r}", ", ".join(want.selects), self.plan.phase)
            )

    def wants(self, site: Site, port: str) -> list[EditWant]:
        """The edits of a tensor, in order."""
        return [want for want in self.plan.edits if want.port == port and want.matches(site)]

    def refuse(self, site: Site, reason: str) -> EditError:
        """The error that a site which is to be edited cannot be."""
        self._error = EditError(f"{site.name or site.path} cannot be edited: it {reason}.")
        return self._error

    def change(self, wants: Sequence[EditWant], site: Site, unit_axis: int, x: Any) -> Any:
        """A tensor after its edits."""
        if self.on_site is not None:
            self.on_site(site)
        for want in wants:
            self._fired.add(want.index)
            try:
                x = self._changed(want, site, unit_axis, x)
            except EditError as error:
                self._error = error
                raise
        return x

    def _changed(self, want: EditWant, site: Site, unit_axis: int, x: Any) -> Any:
        edit, signals = want.edit, self._signals
        at = At(
            site=site,
            unit_axis=unit_axis,
            strength=signals.strength(want.index),
            words=signals.words,
            port=want.port,
            through_gradient=functools.partial(self._through, want),
            tries_shapes=isinstance(signals, OnShapes),
        )

        if length := edit.memory_length(x, at):
            at = dataclasses.replace(at, memory=self._remembered(want, at, x, length))

        def apply(tensor: Any) -> Any:
            return checked(edit.apply(tensor, at), tensor, at, repr(edit))

        if want.port == "gradient":
            return self._through(want, x, apply)
        return apply(x) if edit.is_gradient_edit else self._gated(want.index, apply, x)

    def _remembered(self, want: EditWant, at: At, x: Any, length: int) -> Any:
        """What an edit carries, this step included where it learns from it."""
        key = f"{want.index}/{at.place}"
        memory = self._signals.recall(key, length)
        if not self.plan.trains:
            return memory
        found = want.edit.remember(memory, ops.stop_gradient(x), at)
        if self.plan.gated:
            found = ops.where(self._signals.active(want.index), found, memory)
        self._signals.keep(key, found)
        return found

    def _gated(self, index: int, function: Callable[[Any], Any], x: Any) -> Any:
        """The function of a tensor where it acts, and else the tensor."""
        if not self.plan.gated:
            return function(x)
        active = self._signals.active(index)
        if isinstance(active, bool):
            return function(x) if active else x
        return ops.cond(active, lambda: function(x), lambda: x)

    def _through(self, want: EditWant, x: Any, function: Callable[[Any], Any]) -> Any:
        """The tensor, with its gradient going through a function, without its loss scale."""
        scale = None if want.edit.is_scale_free else self._signals.loss_scale

        def unscaled(gradient: Any) -> Any:
            if scale is None:
                return function(gradient)
            # In float32: what a loss scale is for is what its own precision cannot hold.
            by: Any = ops.cast(scale, "float32")
            exact: Any = ops.cast(gradient, "float32")
            found = function(exact / by)
            return ops.cast(found * by, gradient.dtype)

        return self._signals.through_gradient(
            x, lambda gradient: self._gated(want.index, unscaled, gradient)
        )

    def meet(self, site: Site, tensor: Any) -> None:
        """A tensor was met that an objective may be of."""
        if self.on_site is not None:
            self.on_site(site)
        self._met.append((site, tensor))

    def is_met(self, site: Site) -> bool:
        """Whether an objective is of the site."""
        return any(matches(site) for want in self.plan.objectives for matches in want.matches)

    def around_loss(
        self, function: Callable[..., Any], observe: Callable[[Any, Any], None]
    ) -> Callable[..., Any]:
        """A model's `compute_loss` with the objectives added.

        Args:
            function: the model's own.
            observe: called with the place and the value of each objective.
        """
        signature = inspect.signature(function)

        @functools.wraps(function)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = function(*args, **kwargs)
            if keras_internals.in_symbolic_scope():
                return loss
            self._loss_computed = True
            x = signature.bind(*args, **kwargs).arguments.get("x")
            for want, value in self._values(x):
                observe(objective_point(want.name), ops.reshape(ops.stop_gradient(value), (1,)))
                term = value * (self._signals.strength(want.index) * want.weight)
                if loss is None:
                    loss = term
                else:
                    loss = loss + ops.cast(term, keras.backend.standardize_dtype(loss.dtype))
            self._met.clear()
            return loss

        return compute_loss

    def _met_by(self) -> Iterator[tuple[ObjectiveWant, list[Any]]]:
        """The objectives that can be computed of what was met, each with its tensors."""
        for want in self.plan.objectives:
            groups = [
                [tensor for site, tensor in self._met if matches(site)] for matches in want.matches
            ]
            if all(groups):
                yield want, [tensor for group in groups for tensor in group]

    def _values(self, x: Any) -> Iterator[tuple[ObjectiveWant, Any]]:
        """The objectives that can be computed, each with its value."""
        for want, tensors in self._met_by():
            self._fired.add(want.index)

            def compute(_: Any, want: ObjectiveWant = want, tensors: Any = tensors) -> Any:
                return _value(want, [*tensors, *self._taught(want, x)])

            try:
                value = self._gated(want.index, compute, ops.zeros((), "float32"))
            except EditError as error:
                self._error = error
                raise
            yield want, value

    def forget(self) -> None:
        """Begin again: a pass on shapes may be run more than once."""
        self._met.clear()

    def try_objectives(self, x: Any) -> None:
        """Compute, in a pass on shapes, the objectives of what was met.

        Args:
            x: what the model was given.

        Raises:
            EditError: one cannot be computed, or is no scalar.
        """
        for want, tensors in self._met_by():
            try:
                taught = self._taught(want, x)
            except Exception:  # noqa: S112 - a teacher of other inputs: the step tells
                continue
            given = [*tensors, *taught]
            try:
                _value(want, given, any_batch=True)
            except EditError:
                raise
            except Exception as error:
                if "meta" in str(error):  # torch: it looks at values, which there are none of
                    continue
                shapes = ", ".join(shape_text(tensor, any_batch=True) for tensor in given)
                raise EditError(
                    f"The objective {want.name!r} cannot be computed of tensors of shape "
                    f"{shapes}: {type(error).__name__}: {error}"
                ) from error

    def _taught(self, want: ObjectiveWant, x: Any) -> Sequence[Any]:
        if want.teacher is None:
            return ()
        if x is None:
            raise EditError(
                f"The objective {want.name!r} has a teacher, which is run on the inputs of the "
                "step; but the step called compute_loss without x. Give it: "
                "self.compute_loss(x=x, y=y, y_pred=y_pred)."
            )
        with self._signals.without_gradient():
            found = want.teacher(x, self._signals.teacher_state(want.index))
        return [ops.stop_gradient(tensor) for tensor in found]


def _at_least_float32(tensor: Any) -> Any:
    """Losses are computed in float32 at least; Keras' own are, too."""
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    is_half = dtype == "float16" or dtype.startswith(("bfloat", "float8"))
    return ops.cast(tensor, "float32") if is_half else tensor


def _value(want: ObjectiveWant, tensors: Sequence[Any], *, any_batch: bool = False) -> Any:
    """What an objective's function gives of its tensors.

    Raises:
        EditError: it is no scalar.
    """
    found = want.function(*(_at_least_float32(tensor) for tensor in tensors))
    if not ops.is_tensor(found):
        raise EditError(
            f"The objective {want.name!r} gave a {type(found).__name__}: expected a "
            "scalar tensor, computed with keras.ops of the tensors it was given."
        )
    if len(found.shape):
        shape = shape_text(found, any_batch=any_batch)
        raise EditError(
            f"The objective {want.name!r} gave a tensor of shape {shape}; expected a "
            "scalar, for example keras.ops.mean(...) of it."
        )
    return ops.cast(found, "float32")


def _never(what: str, select: str, phase: str) -> str:
    return (
        f"{what} selects {select}, which no call in the {phase} step reached. Check that the step "
        "uses that layer, and with a #number that it is called so often; scope.preview(model) "
        "lists the sites."
    )
