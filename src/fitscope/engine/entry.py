"""The layers and graph operations of a model, each with its path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen
from fitscope.statistics.activation import Zones, zones

_CONVOLUTIONS: tuple[type, ...] = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_LOOPS: tuple[type, ...] = (keras.layers.RNN, keras.layers.TimeDistributed)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One layer or graph operation of a model."""

    target: Any
    path: str
    parent: Entry | None
    loop: str | None = None
    """Class name of the enclosing layer that runs this one once per time step."""

    @property
    def is_layer(self) -> bool:
        return isinstance(self.target, keras.layers.Layer)

    @property
    def is_plain_container(self) -> bool:
        """Whether the output is, by construction, the output of a layer inside."""
        return self.parent is None and bool(
            isinstance(self.target, keras.Sequential)
            or keras_internals.functional_graph(self.target)
        )

    def unit_axis(self, rank: int) -> int:
        """The axis along which the units (features, channels) of an output lie."""
        channels_first = getattr(self.target, "data_format", None) == "channels_first"
        return 1 if channels_first and rank > 2 else -1

    @property
    def is_elementwise(self) -> bool:
        """Whether the output may come out of a loop over the elements of its inputs.

        XLA computes such an output, a sum of several tensors too, again wherever it is used; the
        results of library calls it stores.
        """
        if isinstance(self.target, _CONVOLUTIONS):
            # A bias or an activation is a loop behind the library call.
            return self.target.use_bias or self.has_fused_activation
        return True

    @property
    def has_fused_activation(self) -> bool:
        """Whether the layer applies a nonlinear function of its own at the end of its call."""
        function = getattr(self.target, "activation", None)
        if not self.is_layer or isinstance(self.target, keras.layers.RNN):
            return False
        return callable(function) and getattr(function, "__name__", "") != "linear"

    def activation(self) -> str | None:
        return activation_of(self.target)

    def zones(self, port: str) -> Zones:
        """The zones of the values at a port: those of the activation only behind it."""
        return zones(self.activation() if port in ("output", "before_edit") else None)

    def site(
        self, call: int | None, port: str, leaf: tuple[str | int, ...], shape: Any, dtype: str
    ) -> Site:
        target = self.target
        output = port in ("output", "before_edit", "gradient")
        return Site(
            name="",
            path=self.path,
            call=call,
            port=port,
            leaf=leaf,
            layer_class=type(target).__name__,
            layer_classes=tuple(c.__name__ for c in type(target).__mro__ if c is not object),
            shape=tuple(shape),
            dtype=dtype,
            activation=self.activation() if output else None,
            layer=target,
        )


def named(site: Site, call: int | None) -> Site:
    """The site under its printed name; `call` is None when the layer runs once per step."""
    name = str(SiteName(site.path, call, site.port, site.leaf))
    return dataclasses.replace(site, call=call, name=name)


def activation_of(target: Any) -> str | None:
    """The name of the activation that a layer's output has gone through, if it is a known one."""
    if isinstance(target, keras.layers.ReLU):
        plain = not target.negative_slope and not target.threshold
        if not plain:
            return "leaky_relu"
        return "relu" if target.max_value is None else "relu6" if target.max_value == 6 else None
    if isinstance(target, keras.layers.PReLU):
        return "leaky_relu"
    for kind, name in (
        (keras.layers.LeakyReLU, "leaky_relu"),
        (keras.layers.ELU, "elu"),
        (keras.layers.Softmax, "softmax"),
    ):
        if isinstance(target, kind):
            return name
    if not isinstance(target, keras.layers.Layer):
        name = type(target).__name__.lower()
        return (
            name if name in ("relu", "sigmoid", "tanh", "softmax", "gelu", "silu", "elu") else None
        )
    if isinstance(target, keras.layers.RNN):
        return None
    function = getattr(target, "activation", None)
    name = getattr(function, "__name__", None) or getattr(function, "name", None)
    return None if name in (None, "linear") else str(name)


def entries(model: Any) -> list[Entry]:
    """Every layer and graph operation under `model`, parents before their children.

    A layer that is reachable in several ways appears once, at the first place found; its calls
    are told apart by their number within a step.
    """
    found: list[Entry] = []
    taken: set[str] = set()
    for entry in _walk(Entry(model, model.name, None), "", None, set()):
        path, n = entry.path, 1
        while path in taken:  # two layers under one parent may carry the same name
            n += 1
            path = f"{entry.path}~{n}"
        taken.add(path)
        found.append(entry if path == entry.path else dataclasses.replace(entry, path=path))
    return found


def _walk(entry: Entry, prefix: str, loop: str | None, seen: set[int]) -> Iterator[Entry]:
    target = entry.target
    if id(target) in seen or isinstance(target, keras.layers.InputLayer):
        return
    seen.add(id(target))
    yield entry
    if isinstance(target, _LOOPS):
        loop = type(target).__name__
    children = keras_internals.sublayers(target) if entry.is_layer else []
    for child in [*children, *keras_internals.functional_operations(target)]:
        nested = Entry(child, prefix + child.name, entry, loop)
        yield from _walk(nested, f"{nested.path}/", loop, seen)


def in_loop(entry: Entry) -> Unseen:
    """The report of a layer that runs inside a time loop."""
    return Unseen(
        site=entry.path,
        reason=f"runs inside the time loop of a {entry.loop}, whose tensors must not leave it",
        remedy=(
            "watch the output of the layer around it; with return_sequences=True it holds "
            "every time step"
        ),
    )


def frozen(entry: Entry) -> Unseen:
    """The report of a layer that is not trained, whose weights have no gradient and no update."""
    return Unseen(
        site=f"{entry.path}:update",
        reason="is frozen (trainable=False), so its weights get no gradient and no update",
        remedy="watch its weight or its output; set trainable=True and compile to train it",
    )


def without_gradient(name: str) -> Unseen:
    """The report of a tensor that the backward pass did not come to."""
    return Unseen(
        site=name,
        reason=(
            "got no gradient: the loss does not depend on it, or nothing that is trained lies "
            "before it"
        ),
        remedy="watch its output",
    )


def without_activation(entry: Entry) -> Unseen:
    """The report of a layer that has no value before its activation."""
    return Unseen(
        site=f"{entry.path}:preactivation",
        reason="applies no activation of its own, so nothing lies before one",
        remedy="watch its output, which is the same",
    )
