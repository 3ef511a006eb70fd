"""Observed steps on torch that `torch.compile` compiles: wrappers it can see through.

Dynamo breaks Keras' step into many pieces, and which of them it compiles depends on what it tried
before: it keeps eight variants of a code object at most, and gives some up. Two functions, one for
observed steps and one for the others, spoil each other's pieces, and some then run eagerly and
round differently. So there is one, Keras' own, and it has the wrappers in every step. They do
nothing but call operations (`torch_taps.py`), and hold still from step to step. All that is usually
done where a tensor is met is done when its operation runs, in steps that are observed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import keras
import torch

from fitscope.engine import keras_internals, points, torch_taps
from fitscope.engine.entry import Entry
from fitscope.engine.leaves import leaves, map_leaves
from fitscope.engine.optimizers import optimizers_of
from fitscope.engine.plan import Plan
from fitscope.engine.trace import Root, Slot, Trace, called_on
from fitscope.errors import StatisticError, UnsupportedError

Given = Callable[[Any, Any, Any], None]
_LOSS = ("x", "y", "y_pred", "sample_weight")


class Told(Trace):
    """A pass that is told what the step meets, while it runs.

    Args:
        plan: which layers and tensors.
        device: what is done with a tensor.
        given: called with a variable, its gradient and the scale of the loss (or None).
        variables: what the numbers of weights stand for.
    """

    def __init__(self, plan: Plan, device: Any, given: Given, variables: Sequence[Any]) -> None:
        super().__init__(plan, device, trains=True)
        self._given = given
        self._variables = variables
        self._scales: dict[str, Any] = {}
        self._awaited: list[tuple[Entry, Any]] = []
        self._root = Root(plan.entries[0], None, device.level())
        self.roots.append(self._root)

    def met(self, event: str, tensors: Sequence[Any]) -> None:
        """See `torch_taps.Taker`."""
        kind, place, text = event.split(" ", 2)
        self._last = None  # compiled code writes into its tensors again, and no version tells
        try:
            tree = torch_taps.read(text, tensors)
            getattr(self, f"_{kind}")(place, tree)
        except StatisticError:
            raise
        except Exception as error:  # the training step is not to fail for it
            self._failed(self._path(kind, place), error)

    def _path(self, kind: str, place: str) -> str:
        if kind == "loss":
            return f"{points.BATCH_PATH}/y_pred"
        return self.plan.entries[int(place)].path if kind in _PORTS else self.plan.entries[0].path

    def _input(self, place: str, tree: Any) -> None:
        entry = self.plan.entries[int(place)]
        self._observe(self._root, entry, self.calls[id(entry.target)], "input", tree)

    def _preactivation(self, place: str, tree: Any) -> None:
        entry = self.plan.entries[int(place)]
        self._observe(self._root, entry, self.calls[id(entry.target)], "preactivation", tree)

    def _output(self, place: str, tree: Any) -> None:
        entry = self.plan.entries[int(place)]
        if self.plan.batch and entry.target is self.plan.model and not self._loss_seen:
            self._observe_part(self._root, "y_pred", tree)
        if id(entry.target) not in self._measured_ids:
            return
        call = self.calls[id(entry.target)]
        self.calls[id(entry.target)] += 1
        if _sees(self.plan, entry, "output"):
            self._observe(self._root, entry, call, "output", tree)

    def _point(self, place: str, tree: Any) -> None:
        layer = None if place == "-1" else self.plan.entries[int(place)].target
        for name, value in tree.items():
            self._meet(value, name, layer)

    def _loss(self, place: str, tree: Any) -> None:
        del place
        masks = tree.pop("masks")
        for (_, tensor), mask in zip(leaves(tree["y_pred"]), masks, strict=True):
            if mask is not None:
                keras_internals.set_mask(tensor, mask)
        self._observe_loss(tree)

    def _scale(self, place: str, tree: Any) -> None:
        self._scales[place] = self.device.hold_scale(tree)  # type: ignore[attr-defined]

    def _applied(self, place: str, tree: Any) -> None:
        number, _, places = place.partition(":")
        for index, gradient in zip(places.split(","), tree, strict=True):
            if gradient is not None and int(index) >= 0:
                variable = self._variables[int(index)]
                self._given(variable, gradient, self._scales.get(number))

    def awaited(self, event: str, tensor: Any) -> int:
        """See `torch_taps.Taker`."""
        place, text = event.split(" ", 1)
        entry = self.plan.entries[int(place)]
        try:
            site, wanted = self.plan.lookup(
                entry, self.calls[id(entry.target)] - 1, "gradient", torch_taps.literal(text),
                self.device.shape(tensor), self.device.dtype(tensor),
            )  # fmt: skip
            if wanted is None:
                return -1
            coming = self.device.await_gradient(wanted)  # type: ignore[attr-defined]
        except Exception as error:
            self._failed(f"{entry.path}:gradient", error)
            return -1
        self._root.slots.append(Slot(site, coming, wanted))
        self._awaited.append((entry, coming))
        return len(self._awaited) - 1

    def came(self, number: int, gradient: Any) -> None:
        """See `torch_taps.Taker`."""
        if number >= 0:
            entry, coming = self._awaited[number]
            self.device.came(coming, gradient, entry)  # type: ignore[attr-defined]


_PORTS = ("input", "preactivation", "output")


class CompiledTaps:
    """The wrappers around the layers of a plan and the optimizers of its model, for one phase.

    Args:
        plan: which layers and tensors.
        trains: whether a backward pass follows.

    Raises:
        UnsupportedError: the model, or this version of torch, cannot be observed so.
    """

    def __init__(self, plan: Plan, *, trains: bool) -> None:
        if not torch_taps.can_compile():
            raise UnsupportedError(
                f"torch {torch.__version__} has no operations with effects that torch.compile "
                "keeps, so a model that it compiles cannot be observed without changing the "
                "training. Compile with jit_compile=False, or use torch 2.13 or newer."
            )
        sealed = [e.path for e in plan.entries if keras_internals.rematerializes(e.target)]
        if sealed:
            raise UnsupportedError(
                f"{sealed[0]!r} runs inside a gradient checkpoint (RematScope), in which "
                "torch.compile cannot be observed. Compile with jit_compile=False, or without "
                "the checkpoint."
            )
        torch_taps.define()
        self._plan = plan
        self._trains = trains
        self._places = {id(entry.target): place for place, entry in enumerate(plan.entries)}
        self._known: dict[tuple[int, str], tuple[Any, Callable[..., Any]]] = {}
        self.variables = list(plan.model.variables)

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Wrap layers and optimizers for the duration of the block."""
        undo: list[tuple[dict[str, Any], str, Any]] = []
        points.compiled.append(self)
        try:
            for target, name, wrapper in self._wrappers():
                namespace = vars(target)
                undo.append((namespace, name, namespace.get(name, _ABSENT)))
                namespace[name] = wrapper
            yield
        finally:
            points.compiled.remove(self)
            for namespace, name, before in reversed(undo):
                if before is _ABSENT:
                    namespace.pop(name, None)
                else:
                    namespace[name] = before

    def meet(self, tree: Any, name: str) -> None:
        """Called by `fs.tap` within the call of a layer, while that is traced or runs."""
        if "output" in self._plan.ports and not keras_internals.in_symbolic_scope():
            place = self._places.get(id(keras_internals.current_layer()), -1)
            torch_taps.tell(f"point {place}", {name: tree})

    def _wrappers(self) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
        model = self._plan.model
        seen = {id(entry.target) for entry in self._plan.candidates}
        for place, entry in enumerate(self._plan.entries):
            target = entry.target
            predicts = self._plan.batch and target is model
            if id(target) not in seen and not predicts:
                continue
            around = functools.partial(_around_call, place, entry, self._plan, self._trains)
            yield target, "call", self._wrapper(target, "call", around)
            if getattr(target, "quantization_mode", None) is not None:
                yield target, "quantized_call", self._wrapper(target, "quantized_call", around)
            if _sees(self._plan, entry, "preactivation") and entry.has_fused_activation:
                spy = functools.partial(_around_activation, place)
                yield target, "activation", self._wrapper(target, "activation", spy)
        if self._plan.batch and hasattr(model, "compute_loss"):
            yield model, "compute_loss", self._wrapper(model, "compute_loss", _around_loss)
        if not self._trains:
            return
        gives = "weight_gradient" in self._plan.ports
        scaled = gives or "gradient" in self._plan.ports
        places = {id(variable): place for place, variable in enumerate(self.variables)}
        busy = [False]
        for number, optimizer in enumerate(optimizers_of(model)):
            if scaled:
                around = functools.partial(_around_scale, number)
                yield optimizer, "scale_loss", self._wrapper(optimizer, "scale_loss", around)
            if gives:
                around = functools.partial(_around_apply, number, optimizer, places, busy)
                yield optimizer, "apply", self._wrapper(optimizer, "apply", around)

    def _wrapper(
        self, target: Any, name: str, around: Callable[[Any], Callable[..., Any]]
    ) -> Callable[..., Any]:
        """The wrapper of an earlier step, unless what it wraps is another function by now."""
        function = getattr(target, name)
        known = self._known.get((id(target), name))
        if known is None or known[0] != function:
            wrapper = torch_taps.with_own_code(around(function), f"{name}_{len(self._known)}")
            known = self._known[id(target), name] = (function, wrapper)
        return known[1]


def _sees(plan: Plan, entry: Entry, port: str) -> bool:
    """Whether anything is wanted at a port of a layer."""
    if entry.is_plain_container and port != "input":
        return False
    return port in plan.ports and plan.may_match(entry, ports=(port,))


def _around_call(
    place: int, entry: Entry, plan: Plan, trains: bool, function: Callable[..., Any]
) -> Callable[..., Any]:
    takes, gives = _sees(plan, entry, "input"), _sees(plan, entry, "output")
    gives = gives or (plan.batch and entry.target is plan.model)
    watched = trains and _sees(plan, entry, "gradient")

    def watch(leaf: Any, tensor: Any) -> Any:
        if not isinstance(tensor, torch.Tensor) or not tensor.requires_grad:
            return tensor
        after = torch_taps.watch(tensor, f"{place} {_spelled(leaf)}")
        if after is not tensor:
            keras_internals.carry_mask(tensor, after)
        return after

    def call(*args: Any, **kwargs: Any) -> Any:
        if keras_internals.in_symbolic_scope() or (args and isinstance(args[0], keras.KerasTensor)):
            return function(*args, **kwargs)
        if takes:
            torch_taps.tell(f"input {place}", called_on(args, kwargs))
        outputs = function(*args, **kwargs)
        torch_taps.tell(f"output {place}", outputs if gives else None)
        if not watched:
            return outputs
        return (
            watch((), outputs) if isinstance(outputs, torch.Tensor) else map_leaves(watch, outputs)
        )

    return call


def _around_activation(place: int, activation: Callable[..., Any]) -> Callable[..., Any]:
    def spy(x: Any, *args: Any, **kwargs: Any) -> Any:
        if not keras_internals.in_symbolic_scope() and isinstance(x, torch.Tensor):
            torch_taps.tell(f"preactivation {place}", x)
        return activation(x, *args, **kwargs)

    return spy


def _around_loss(function: Callable[..., Any]) -> Callable[..., Any]:
    def compute_loss(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(_LOSS, args, strict=False))
        for name in _LOSS:
            if name in kwargs:
                given[name] = kwargs[name]
        y_pred = given.get("y_pred")
        if y_pred is not None and not keras_internals.in_symbolic_scope():
            masks = [keras_internals.mask_of(x) for x in _flat(y_pred)]
            torch_taps.tell("loss -", {**given, "masks": masks})
        return function(*args, **kwargs)

    return compute_loss


def _around_scale(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def scale_loss(loss: Any) -> Any:
        found = function(loss)
        if found is not loss:
            one = keras.ops.ones((), keras.backend.standardize_dtype(found.dtype))
            torch_taps.tell(f"scale {number}", function(one))
        return found

    return scale_loss


def _around_apply(
    number: int,
    optimizer: Any,
    places: dict[int, int],
    busy: list[bool],
    function: Callable[..., Any],
) -> Callable[..., Any]:
    def apply(grads: Any, trainable_variables: Any = None) -> Any:
        if busy[0]:  # an optimizer that another one hands on to
            return function(grads, trainable_variables)
        grads = list(grads)
        variables = trainable_variables
        if variables is None:
            variables = keras_internals.trained_by(optimizer)
        known = [str(places.get(id(v), -1)) for v, _ in zip(variables, grads, strict=False)]
        torch_taps.tell(f"applied {number}:{','.join(known)}", grads[: len(known)])
        busy[0] = True
        try:
            return function(grads, trainable_variables)
        finally:
            busy[0] = False

    return apply


def _flat(tree: Any) -> list[Any]:
    """As `leaves`, without places: Dynamo traces no recursion of generators."""
    if tree is None:
        return []
    if isinstance(tree, dict):
        return [x for value in tree.values() for x in _flat(value)]
    if isinstance(tree, (list, tuple)):
        return [x for value in tree for x in _flat(value)]
    return [tree]


def _spelled(leaf: Any) -> str:
    text = "("
    for part in leaf:
        text += f"{part!r}, "
    return text + ")" if text != "(" else "()"


_ABSENT = object()
