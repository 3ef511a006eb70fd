"""What a scope wants from a model: which layers to wrap, which tensors to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry, entries, frozen, in_loop, without_activation
from fitscope.engine.leaves import Leaf
from fitscope.engine.points import BatchPart, Point, TapPoint, batch_point
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen

WEIGHT_PORTS = frozenset(("weight", "weight_gradient", "update"))
"""Ports of a layer's variables; the others are of the tensors that it is called with."""


@dataclasses.dataclass(frozen=True)
class Want:
    """One instruction as the engine sees it."""

    matches: Callable[[Site], bool]
    may_match: Callable[[Site], bool]
    """As `matches`, for a site whose call, leaf, shape and dtype are not known yet."""

    ports: frozenset[str]
    statistics: tuple[Any, ...] = ()
    """User-defined statistics, computed beside the built-in ones."""

    rows: slice | None = None
    """Which rows of the tensor itself are wanted; None for none."""

    measures: bool = True
    """Whether statistics of the tensor are wanted."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be taken of one tensor."""

    statistics: tuple[Any, ...] = ()
    """User statistics, beside the built-in ones."""

    rows: slice | None = None
    """Which of its rows leave the step, too; None for none."""

    measures: bool = True
    """Whether it is reduced to statistics."""

    @property
    def keeps(self) -> bool:
        """Whether the tensor, or some rows of it, leaves the step."""
        return self.rows is not None

    def taken(self, tensor: Any) -> Any:
        """The rows of a tensor that leave the step, on the device."""
        if self.rows in (None, EVERY_ROW) or tensor.ndim == 0:
            return tensor
        return tensor[self.rows]


EVERY_ROW = slice(None)


def covering(rows: Sequence[slice]) -> slice:
    """The least slice that has all rows of several; steps are positive, ends count from the start.

    Example:
        >>> covering([slice(4, 8), slice(6, 20, 2)])
        slice(4, 20, None)
    """
    if all(each == rows[0] for each in rows):
        return rows[0]
    starts = [each.start or 0 for each in rows]
    stops = [each.stop for each in rows]
    ends = [stop for stop in stops if stop is not None]
    start = min(starts) or None
    return slice(start, max(ends) if len(ends) == len(stops) else None)


class Plan:
    """The wanted tensors of one model.

    Args:
        model: a built Keras model.
        wants: the instructions; a tensor is measured when any of them matches it.
        batch: whether the prediction of the step, and what its loss was computed of, are wanted.
        data: whether what the step was given is wanted.
        first_data: whether what the first step was given is wanted.
    """

    def __init__(
        self,
        model: Any,
        wants: Sequence[Want],
        *,
        batch: bool = False,
        data: bool = False,
        first_data: bool = False,
    ) -> None:
        self.model = model
        self.wants = tuple(wants)
        self.batch = batch
        self.data = data
        self.first_data = first_data
        self.entries = entries(model)
        self.ports = frozenset().union(*(want.ports for want in self.wants))
        self._by_target = {id(entry.target): entry for entry in self.entries}
        self._points: dict[tuple[str, str], Point] = {}
        self._parts: dict[str, Point] = {}
        self._known: dict[Any, tuple[Site, Wanted | None]] = {}
        self.deferred: list[Any] = []
        """Selectors that match no layer; whether a tap fits them is known when a step is traced."""
        self.candidates: list[Entry] = []
        self.weight_entries: list[Entry] = []
        self.static_unseen: list[Unseen] = []
        for entry in self.entries:
            if entry.is_layer and entry.target.weights and self.may_match(entry, weights=True):
                self.weight_entries.append(entry)
                if self._is_frozen(entry):
                    self.static_unseen.append(frozen(entry))
            if not self.may_match(entry):
                continue
            if entry.loop is not None:
                self.static_unseen.append(in_loop(entry))
            elif entry.is_plain_container:
                # Its output is that of a layer inside, but what it is given is nobody's output.
                if self.may_match(entry, ports=("input",)):
                    self.candidates.append(entry)
            else:
                self.candidates.append(entry)
                if self._lacks_preactivation(entry):
                    self.static_unseen.append(without_activation(entry))

    @property
    def keeps(self) -> bool:
        """Whether tensors, or what the step was given, leave each step."""
        return self.batch or self.data or any(want.rows is not None for want in self.wants)

    def may_match(
        self, entry: Entry, *, weights: bool = False, ports: Iterable[str] | None = None
    ) -> bool:
        """Whether a tensor of this layer can match; calls and leaves are known only in a trace."""
        return any(
            want.may_match(entry.site(None, port, (), (), ""))
            for want in self.wants
            for port in (want.ports if ports is None else want.ports.intersection(ports))
            if (port in WEIGHT_PORTS) == weights
        )

    def _is_frozen(self, entry: Entry) -> bool:
        """Whether gradients or updates are wanted of a layer whose own weights get none."""
        layer = entry.target
        if keras_internals.sublayers(layer) or layer.trainable:
            return False
        return self.may_match(entry, weights=True, ports=("weight_gradient", "update"))

    def _lacks_preactivation(self, entry: Entry) -> bool:
        """Whether the value before an activation is wanted of a layer that applies none."""
        if not hasattr(entry.target, "activation") or entry.has_fused_activation:
            return False
        site = entry.site(None, "preactivation", (), (), "")
        return any("preactivation" in w.ports and w.may_match(site) for w in self.wants)

    def wrapped(self) -> list[Entry]:
        """Candidates and the layers around them, which tell where a forward pass begins."""
        chosen: dict[int, Entry] = {}
        for entry in self.candidates:
            step: Entry | None = entry
            while step is not None and id(step.target) not in chosen:
                chosen[id(step.target)] = step
                step = step.parent
        # Taps may stand in any layer: the model tells where a pass begins, a checkpointed layer
        # what does not leave it.
        for entry in self.entries:
            if entry.parent is None or keras_internals.rematerializes(entry.target):
                chosen.setdefault(id(entry.target), entry)
        return list(chosen.values())

    def tapped(self, layer: Any, name: str) -> Point:
        """The place of a tensor that `fs.tap` named within a layer's call."""
        entry = self._by_target.get(id(layer))
        within = "" if entry is None or entry.parent is None else f"{entry.path}/"
        key = within, name
        if key not in self._points:
            taken = {e.path for e in self.entries} | {p.path for p in self._points.values()}
            path, n = f"{within}{name}", 1
            while path in taken:  # a layer of that name
                n += 1
                path = f"{within}{name}~{n}"
            loop = None if entry is None else entry.loop
            self._points[key] = Point(TapPoint(name), path, entry, loop)
        return self._points[key]

    def part(self, name: str) -> Point:
        """The place of a part of the batch."""
        return self._parts.setdefault(name, batch_point(name))

    def lookup(
        self, entry: Entry, call: int, port: str, leaf: Leaf, shape: Any, dtype: str
    ) -> tuple[Site, Wanted | None]:
        """The site of a tensor, and what is to be taken of it (None: nothing)."""
        key = (id(entry.target), call, port, leaf, tuple(shape), dtype)
        found = self._known.get(key)
        if found is None:
            site = entry.site(call, port, leaf, shape, dtype)
            own = isinstance(entry.target, BatchPart)
            wanted = Wanted(rows=EVERY_ROW, measures=False) if own else self._wanted(site)
            found = self._known[key] = (site, wanted)
        return found

    def _wanted(self, site: Site) -> Wanted | None:
        # Of an edit, a want only says which layers to wrap.
        takers = [w for w in self.wants if w.measures or w.rows is not None]
        wants = [w for w in takers if site.port in w.ports and w.matches(site)]
        if not wants:
            return None
        statistics = {id(s): s for want in wants for s in want.statistics}
        rows = [want.rows for want in wants if want.rows is not None]
        measures = any(want.measures for want in wants)
        return Wanted(tuple(statistics.values()), covering(rows) if rows else None, measures)
