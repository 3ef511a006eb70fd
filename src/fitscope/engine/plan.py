"""What a scope wants from a model: which layers to wrap, which tensors to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry, entries, frozen, in_loop, without_activation
from fitscope.engine.leaves import Leaf
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

    keeps: bool = False
    """Whether the tensor itself is wanted."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be taken of one tensor."""

    statistics: tuple[Any, ...]
    """User statistics, beside the built-in ones."""

    keeps: bool
    """Whether the tensor leaves the step, too."""


class Plan:
    """The wanted tensors of one model.

    Args:
        model: a built Keras model.
        wants: the instructions; a tensor is measured when any of them matches it.
    """

    def __init__(self, model: Any, wants: Sequence[Want]) -> None:
        self.model = model
        self.wants = tuple(wants)
        self.entries = entries(model)
        self.ports = frozenset().union(*(want.ports for want in self.wants))
        self._known: dict[Any, tuple[Site, Wanted | None]] = {}
        self.candidates: list[Entry] = []
        self.weight_entries: list[Entry] = []
        self.static_unseen: list[Unseen] = []
        for entry in self.entries:
            if entry.is_layer and entry.target.weights and self._may_match(entry, weights=True):
                self.weight_entries.append(entry)
                if self._is_frozen(entry):
                    self.static_unseen.append(frozen(entry))
            if not self._may_match(entry, weights=False):
                continue
            if entry.loop is not None:
                self.static_unseen.append(in_loop(entry))
            elif not entry.is_plain_container:
                self.candidates.append(entry)
                if self._lacks_preactivation(entry):
                    self.static_unseen.append(without_activation(entry))

    def _may_match(self, entry: Entry, *, weights: bool) -> bool:
        """Whether a tensor of this layer can match; calls and leaves are known only in a trace."""
        return any(
            want.may_match(entry.site(None, port, (), (), ""))
            for want in self.wants
            for port in want.ports
            if (port in WEIGHT_PORTS) == weights
        )

    def _is_frozen(self, entry: Entry) -> bool:
        """Whether gradients or updates are wanted of a layer whose own weights get none."""
        layer = entry.target
        if keras_internals.sublayers(layer) or layer.trainable:
            return False
        ports = ("weight_gradient", "update")
        return any(
            port in w.ports and w.may_match(entry.site(None, port, (), (), ""))
            for w in self.wants
            for port in ports
        )

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
        return list(chosen.values())

    def lookup(
        self, entry: Entry, call: int, port: str, leaf: Leaf, shape: Any, dtype: str
    ) -> tuple[Site, Wanted | None]:
        """The site of a tensor, and what is to be taken of it (None: nothing)."""
        key = (id(entry.target), call, port, leaf, tuple(shape), dtype)
        found = self._known.get(key)
        if found is None:
            site = entry.site(call, port, leaf, shape, dtype)
            found = self._known[key] = (site, self._wanted(site))
        return found

    def _wanted(self, site: Site) -> Wanted | None:
        wants = [w for w in self.wants if site.port in w.ports and w.matches(site)]
        if not wants:
            return None
        statistics = {id(s): s for want in wants for s in want.statistics}
        return Wanted(tuple(statistics.values()), any(want.keeps for want in wants))
