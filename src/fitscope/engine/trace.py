"""One pass through a model with its layers wrapped: which tensors were met, in which order.

Nothing stays on the model: `installed` puts wrappers in place for the time a step is traced (or,
without compilation, run) and takes them away again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol

import keras
import numpy as np

from fitscope.engine import keras_internals, points
from fitscope.engine.editing import EditPass
from fitscope.engine.entry import Entry, in_loop, named
from fitscope.engine.failures import failure
from fitscope.engine.leaves import Leaf, leaves, map_leaves
from fitscope.engine.plan import WEIGHT_PORTS, Plan, Wanted
from fitscope.engine.points import part_of
from fitscope.errors import StatisticError
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen


@dataclasses.dataclass
class Slot:
    """A measured tensor: where it was met and what the device holds of it."""

    site: Site
    measured: Any
    wanted: Wanted


@dataclasses.dataclass
class Root:
    """One forward pass: the outermost wrapped call and what was met inside it."""

    entry: Entry
    scope: object
    level: object
    slots: list[Slot] = dataclasses.field(default_factory=list)


class Device(Protocol):
    """What a backend does for a trace."""

    def is_tensor(self, value: Any) -> bool: ...

    def dtype(self, tensor: Any) -> str: ...

    def shape(self, tensor: Any) -> tuple[int | None, ...]: ...

    def level(self) -> object:
        """A token that differs inside loops, conditionals and nested function traces."""
        ...

    def measure(self, tensor: Any, entry: Entry, port: str, wanted: Wanted) -> Any: ...

    def watch_gradient(self, tensor: Any, entry: Entry, wanted: Wanted) -> tuple[Any, Any]:
        """Have the gradient of the loss with respect to a tensor measured when it comes.

        Returns:
            The tensor to go on with, and what will hold the measurement.
        """
        ...

    def finish(self, root: Root) -> None:
        """Called when a forward pass ends, still inside the trace it ran in."""
        ...


class Trace:
    """Wraps the layers of a plan for one pass.

    Args:
        plan: which layers and tensors.
        device: what is done with a tensor.
        symbolic: whether symbolic tensors are met, too.
        any_dtype: whether tensors that hold no floating-point numbers are wanted, too.
        trains: whether a backward pass follows.
        edits: what is changed on the way.
    """

    def __init__(
        self,
        plan: Plan,
        device: Device,
        *,
        symbolic: bool = False,
        any_dtype: bool = False,
        trains: bool = False,
        edits: EditPass | None = None,
    ) -> None:
        self.plan = plan
        self.device = device
        self.symbolic = symbolic
        self.any_dtype = any_dtype
        self.trains = trains
        self.edits = edits
        self.roots: list[Root] = []
        self.calls: Counter[int] = Counter()
        self.unseen: dict[str, Unseen] = {}
        self._stack: list[Root] = []
        self._sealed: str | None = None
        self._last: tuple[Any, Any, Any] | None = None
        self._gradients: dict[int, tuple[Any, Any, Any, Wanted]] = {}
        """By identity, tensors whose gradients are watched, and what goes on in their place."""
        self._loss_seen = False
        self._measured_ids = {id(entry.target) for entry in plan.candidates}

    def passes(self) -> list[tuple[Root, list[Slot]]]:
        """Every forward pass with what it measured, in order, under final site names."""
        return [
            (root, [dataclasses.replace(s, site=self._named(s.site)) for s in root.slots])
            for root in self.roots
        ]

    def _named(self, site: Site) -> Site:
        several = site.port not in WEIGHT_PORTS and self.calls[id(site.layer)] > 1
        return named(site, site.call if several else None)

    def not_fired(self) -> list[Unseen]:
        """Candidates that no call reached, and tensors that were met but could not be measured."""
        missing = [
            Unseen(
                site=entry.path,
                reason="was not called in the observed step",
                remedy=(
                    "check that train_step uses this layer; a layer inside a tf.function of your "
                    "own is called only when that function is traced"
                ),
            )
            for entry in self.plan.candidates
            if not self.calls[id(entry.target)] and entry.path not in self.unseen
        ]
        slots = [slot for root in self.roots for slot in root.slots]
        missing += [
            _no_tap(selector)
            for selector in self.plan.deferred
            if not any(selector.matches(slot.site) for slot in slots)
        ]
        if self.plan.batch and not any(part_of(slot.site) for slot in slots):
            missing.append(_no_prediction())
        return [*self.unseen.values(), *missing]

    @contextlib.contextmanager
    def installed(self) -> Generator[None]:
        """Wrap the planned layers for the duration of the block."""
        undo: list[tuple[dict[str, Any], str, Any]] = []
        points.begin(self)
        try:
            if self.plan.batch and hasattr(self.plan.model, "compute_loss"):
                namespace = vars(self.plan.model)
                undo.append((namespace, "compute_loss", namespace.get("compute_loss", _ABSENT)))
                namespace["compute_loss"] = self._around_loss(self.plan.model.compute_loss)
            if self.edits is not None and self.edits.plan.objectives:
                namespace = vars(self.plan.model)
                undo.append((namespace, "compute_loss", namespace.get("compute_loss", _ABSENT)))
                compute_loss = self.plan.model.compute_loss
                namespace["compute_loss"] = self.edits.around_loss(compute_loss, self._observe_at)
            for entry in self.plan.wrapped():
                for name, wrapper in self._wrappers(entry):
                    namespace = vars(entry.target)
                    undo.append((namespace, name, namespace.get(name, _ABSENT)))
                    namespace[name] = wrapper
            with contextlib.nullcontext() if self.edits is None else self.edits.running():
                yield
        finally:
            points.end(self)
            for namespace, name, before in reversed(undo):
                # The override is deleted, not reassigned: a bound method left in the instance
                # would outlive later changes to its class.
                if before is _ABSENT:
                    namespace.pop(name, None)
                else:
                    namespace[name] = before

    def _wrappers(self, entry: Entry) -> Iterator[tuple[str, Callable[..., Any]]]:
        target = entry.target
        if keras_internals.rematerializes(target):
            yield "rematerialized_call", self._outside_checkpoint(entry)
            return
        yield "call", self._observed(entry, target.call)
        if getattr(target, "quantization_mode", None) is not None:
            yield "quantized_call", self._observed(entry, target.quantized_call)

    def _observed(self, entry: Entry, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._run(entry, function, args, kwargs)

        return call

    def _outside_checkpoint(self, entry: Entry) -> Callable[..., Any]:
        """Measure what a rematerialised layer gives back; what is inside runs twice."""
        original = entry.target.rematerialized_call

        def rematerialized_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            @functools.wraps(function)
            def sealed(*a: Any, **k: Any) -> Any:
                before, self._sealed = self._sealed, "inside a gradient checkpoint (RematScope)"
                try:
                    return function(*a, **k)
                finally:
                    self._sealed = before

            return self._observed(entry, original(sealed, *args, **kwargs))

        return rematerialized_call

    def _run(self, entry: Entry, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if self._passes_by(args):
            return function(*args, **kwargs)
        scope = keras_internals.current_stateless_scope()
        outer = self._stack[-1] if self._stack else None
        starts = outer is None or outer.scope is not scope
        if starts:
            self._stack.append(Root(entry, scope, self.device.level()))
        try:
            outputs = self._measure_call(self._stack[-1], entry, function, args, kwargs)
        except BaseException:
            if starts:
                self._stack.pop()
            raise
        if self.plan.batch and entry.target is self.plan.model and not self._loss_seen:
            self._observe_part(self._stack[-1], "y_pred", outputs)
        if starts:
            root = self._stack.pop()
            self.roots.append(root)
            self.device.finish(root)
        return outputs

    def _around_loss(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See what the loss of the step is computed of."""

        @functools.wraps(function)
        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            try:
                given = inspect.signature(function).bind(*args, **kwargs).arguments
                self._observe_loss(given)
            except Exception as error:  # the training step is not to fail for it
                self._failed(f"{points.BATCH_PATH}/y_pred", error)
            return function(*args, **kwargs)

        return compute_loss

    def _observe_loss(self, given: Mapping[str, Any]) -> None:
        if given.get("y_pred") is None or keras_internals.in_symbolic_scope():
            return
        if not self._loss_seen:
            # The prediction is what goes into the loss, not what the model was called for before.
            self._loss_seen = True
            point = self.plan.part("y_pred")
            for root in self.roots:
                root.slots[:] = [s for s in root.slots if s.site.layer is not point.target]
            self.calls[id(point.target)] = 0
        root = Root(self.plan.entries[0], None, self.device.level())
        masks = map_leaves(lambda _, x: keras_internals.mask_of(x), given["y_pred"])
        for part, tree in (
            ("y_pred", given["y_pred"]),
            ("y", given.get("y")),
            ("sample_weight", given.get("sample_weight")),
            ("mask", masks),
        ):
            self._observe_part(root, part, tree)
        self.roots.append(root)
        self.device.finish(root)

    def _observe_part(self, root: Root, part: str, tree: Any) -> None:
        point = self.plan.part(part)
        call = self.calls[id(point.target)]
        self.calls[id(point.target)] += 1
        for leaf, value in leaves(tree):
            tensor = value
            if not self.device.is_tensor(value) and hasattr(value, "dtype"):
                tensor = keras.ops.convert_to_tensor(value)  # targets may be arrays of NumPy
            if self.device.is_tensor(tensor):
                self._observe_tensor(root, point, call, "output", leaf, tensor)

    def _observe_at(self, point: points.Point, value: Any) -> None:
        """See a value that is no layer's."""
        root = Root(self.plan.entries[0], None, self.device.level())
        call = self.calls[id(point.target)]
        self.calls[id(point.target)] += 1
        self._observe_tensor(root, point, call, "output", (), value)
        self.roots.append(root)
        self.device.finish(root)

    def meet(self, tree: Any, name: str) -> None:
        """Called by `fs.tap` within the call of a layer."""
        if keras_internals.in_symbolic_scope() and not self.symbolic:
            return
        if any(keras_internals.is_symbolic(x) for _, x in leaves(tree)) and not self.symbolic:
            return
        if "output" not in self.plan.ports:
            return
        try:
            self._meet(tree, name, keras_internals.current_layer())
        except StatisticError:
            raise
        except Exception as error:
            self._failed(name, error)

    def _failed(self, name: str, error: Exception) -> None:
        self.unseen.setdefault(name, failure(error).at(name))

    def _meet(self, tree: Any, name: str, layer: Any) -> None:
        point = self.plan.tapped(layer, name)
        if not self.plan.may_match(point):
            return
        if point.loop is not None:
            self.unseen.setdefault(point.path, in_loop(point))
            return
        call = self.calls[id(point.target)]
        self.calls[id(point.target)] += 1
        alone = not self._stack
        root = Root(point, None, self.device.level()) if alone else self._stack[-1]
        self._observe(root, point, call, "output", tree)
        if alone:
            self.roots.append(root)
            self.device.finish(root)

    def _passes_by(self, args: Any) -> bool:
        if keras_internals.in_symbolic_scope() and not self.symbolic:
            return True
        return bool(args) and keras_internals.is_symbolic(args[0])

    def _measure_call(
        self, root: Root, entry: Entry, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        if id(entry.target) not in self._measured_ids:
            return function(*args, **kwargs)
        call = self.calls[id(entry.target)]
        self.calls[id(entry.target)] += 1
        ports = self.plan.ports
        if entry.is_plain_container:
            ports = ports & {"input"}
        if "input" in ports:
            self._observe(root, entry, call, "input", called_on(args, kwargs))
        if "preactivation" in ports:
            with self._spy_on_activation(root, entry, call):
                outputs = function(*args, **kwargs)
        else:
            outputs = function(*args, **kwargs)
        if "before_edit" in ports:
            self._observe(root, entry, call, "before_edit", outputs)
        edits = None if entry.is_plain_container else self.edits
        if edits is not None:
            outputs = self._edit(edits, root, entry, call, "output", outputs)
        if "output" in ports:
            self._observe(root, entry, call, "output", outputs)
        if "gradient" in ports and self.trains:
            outputs = self._watch_gradients(root, entry, call, outputs)
        if edits is not None:
            # Behind the place where gradients are watched: they come from there.
            outputs = self._edit(edits, root, entry, call, "gradient", outputs)
        return outputs

    def _edit(
        self, edits: EditPass, root: Root, entry: Entry, call: int, port: str, outputs: Any
    ) -> Any:
        """What goes on in the place of a layer's outputs, or has its gradients changed."""
        replaced = False

        def change(leaf: Leaf, tensor: Any) -> Any:
            nonlocal replaced
            if not self.device.is_tensor(tensor):
                return tensor
            dtype, shape = self.device.dtype(tensor), self.device.shape(tensor)
            # Whether there is another call is not known yet: the first one has no number in print.
            # A model that is tried on shapes may be run more than once.
            numbered = entry.site(call, "output", leaf, shape, dtype)
            printed = None if self.symbolic else call or None
            site = dataclasses.replace(numbered, name=named(numbered, printed).name)
            wants = edits.wants(site, port)
            meets = port == "output" and edits.is_met(site)
            problem = self._obstacle(root, site) if wants or meets else None
            if problem is not None:
                raise edits.refuse(site, f"{problem.reason}; {problem.remedy}")
            if wants and not dtype.startswith(_FLOATING):
                raise edits.refuse(site, f"holds {dtype}, and edits are of floating-point tensors")
            if wants:
                after = edits.change(wants, site, entry.unit_axis(len(shape)), tensor)
                keras_internals.carry_mask(tensor, after)
                replaced, tensor = True, after
            if meets:
                edits.meet(site, tensor)
            return tensor

        found = map_leaves(change, outputs)
        return found if replaced else outputs

    def _watch_gradients(self, root: Root, entry: Entry, call: int, outputs: Any) -> Any:
        replaced = False

        def watch(leaf: Leaf, tensor: Any) -> Any:
            nonlocal replaced
            if not self.device.is_tensor(tensor):
                return tensor
            try:
                after = self._watch_gradient(root, entry, call, leaf, tensor)
            except Exception as error:  # whatever goes wrong here, the step is not to
                self._failed(f"{entry.path}:gradient", error)
                return tensor
            replaced |= after is not tensor
            return after

        found = map_leaves(watch, outputs)
        return found if replaced else outputs

    def _watch_gradient(self, root: Root, entry: Entry, call: int, leaf: Leaf, tensor: Any) -> Any:
        """Watch one tensor; gives back the one to go on with."""
        dtype, shape = self.device.dtype(tensor), self.device.shape(tensor)
        site, wanted = self.plan.lookup(entry, call, "gradient", leaf, shape, dtype)
        if wanted is None:
            return tensor
        problem = self._obstacle(root, site)
        if problem is not None:
            self.unseen.setdefault(problem.site, problem)
            return tensor
        # A tensor that is handed on, or given out twice, has one gradient.
        known = self._gradients.get(id(tensor))
        if known is not None and known[3] == wanted:
            _, after, measured, _ = known
        else:
            after, measured = self.device.watch_gradient(tensor, entry, wanted)
            if after is not tensor:
                keras_internals.carry_mask(tensor, after)
            for each in (tensor, after):
                self._gradients[id(each)] = (each, after, measured, wanted)
        root.slots.append(Slot(site, measured, wanted))
        return after

    def add_weights(self, slots: list[Slot]) -> None:
        """Add what was measured of the weights, behind what was met in the passes."""
        if slots:
            self.roots.append(Root(self.plan.entries[0], None, None, slots))

    def _observe(self, root: Root, entry: Entry, call: int, port: str, tree: Any) -> None:
        found = 0
        for leaf, given in leaves(tree):
            found += 1
            value = given
            if port == "input" and isinstance(given, np.ndarray):
                # On JAX a step that is not compiled is given the arrays of the data as they are.
                value = keras.ops.convert_to_tensor(given)
            if self.device.is_tensor(value):
                self._observe_tensor(root, entry, call, port, leaf, value)
            elif port == "output":
                self._report(entry, f"puts out a {type(value).__name__}, which is no tensor")
        if not found and port == "output":
            self._report(entry, "puts out nothing")

    def _report(self, entry: Entry, reason: str) -> None:
        self.unseen.setdefault(
            entry.path,
            Unseen(entry.path, reason, "let call return tensors, keras.ops.convert_to_tensor(...)"),
        )

    def _observe_tensor(
        self, root: Root, entry: Entry, call: int, port: str, leaf: Leaf, tensor: Any
    ) -> None:
        try:
            self._measure_tensor(root, entry, call, port, leaf, tensor)
        except StatisticError:
            raise
        except Exception as error:  # whatever goes wrong here, the training step is not to
            self._failed(entry.path, error)

    def _measure_tensor(
        self, root: Root, entry: Entry, call: int, port: str, leaf: Leaf, tensor: Any
    ) -> None:
        dtype = self.device.dtype(tensor)
        shape = self.device.shape(tensor)
        site, wanted = self.plan.lookup(entry, call, port, leaf, shape, dtype)
        if wanted is None:
            return
        problem = self._obstacle(root, site)
        if problem is not None:
            self.unseen.setdefault(problem.site, problem)
            return
        if not (self.any_dtype or site.dtype.startswith(_FLOATING)):
            if wanted.measures and not wanted.keeps:
                self.unseen.setdefault(site.path, _no_floats(named(site, None).name, site.dtype))
                return
            wanted = dataclasses.replace(wanted, statistics=(), measures=False)
        # A torch tensor that was changed in place counts so.
        how = (wanted, entry.zones(port), getattr(tensor, "_version", 0))
        if self._last is not None and self._last[0] is tensor and self._last[2] == how:
            measured = self._last[1]  # a block that hands on the tensor of its last layer
        else:
            measured = self.device.measure(tensor, entry, port, wanted)
            self._last = (tensor, measured, how)
        root.slots.append(Slot(site, measured, wanted))

    def _obstacle(self, root: Root, site: Site) -> Unseen | None:
        name = named(site, None).name
        if self._sealed is not None:
            return Unseen(name, f"runs {self._sealed}", "watch the layer around it")
        if self.device.level() != root.level:
            return Unseen(
                name,
                "runs inside a loop, branch or nested function of its own (scan, while, cond, "
                "vmap, checkpoint or tf.function), whose tensors must not leave it",
                "watch the output of the layer around it",
            )
        return None

    @contextlib.contextmanager
    def _spy_on_activation(self, root: Root, entry: Entry, call: int) -> Generator[None]:
        """See what goes into a fused activation, for the time of one call."""
        namespace = vars(entry.target)
        activation = namespace.get("activation")
        if not callable(activation) or not entry.has_fused_activation:
            yield
            return

        def spy(x: Any, *args: Any, **kwargs: Any) -> Any:
            self._observe(root, entry, call, "preactivation", x)
            return activation(x, *args, **kwargs)

        namespace["activation"] = spy
        try:
            yield
        finally:
            namespace["activation"] = activation


_ABSENT = object()
_FLOATING = ("float", "bfloat")


def _no_floats(site: str, dtype: str) -> Unseen:
    return Unseen(
        site,
        f"holds {dtype}; statistics are defined for floating-point tensors",
        "watch a layer that turns it into floats, or record the values themselves (fs.record)",
    )


def _no_tap(selector: Any) -> Unseen:
    return Unseen(
        repr(selector),
        "matches no layer, and no fs.tap that the observed step came to",
        "check the name; scope.preview(model) lists the sites",
    )


def _no_prediction() -> Unseen:
    return Unseen(
        f"{points.BATCH_PATH}/y_pred",
        "is not known: the step neither called the model itself nor its compute_loss",
        "call self.compute_loss(x, y, y_pred, sample_weight) in train_step, or record the layer "
        "that makes the prediction",
    )


def called_on(args: Any, kwargs: Any) -> Any:
    """What a layer was called on: one tensor stands bare, several are told apart by place."""
    positional = args[0] if len(args) == 1 else list(args)
    tensors = {k: v for k, v in kwargs.items() if k not in ("mask", "training") and v is not None}
    if not tensors:
        return positional
    return {**({"inputs": positional} if args else {}), **tensors}
