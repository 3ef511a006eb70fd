"""The weights that a plan wants to see: as they are, their gradients, and what a step changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry
from fitscope.engine.leaves import Leaf
from fitscope.engine.paired import UPDATE_RATIO
from fitscope.engine.plan import Plan, Wanted
from fitscope.select.site import Site


@dataclasses.dataclass(frozen=True, eq=False)
class Weight:
    """A variable of a layer, and what is wanted of it.

    Attributes:
        variable: the Keras variable.
        entry: the layer that made it.
        ports: the site and what is to be taken, by port.
    """

    variable: Any
    entry: Entry
    ports: dict[str, tuple[Site, Wanted]]


def weights(plan: Plan) -> list[Weight]:
    """The variables of which a plan wants anything, layer by layer."""
    found: list[Weight] = []
    taken: set[int] = set()
    for entry in plan.weight_entries:
        for leaf, variable in _own(entry.target):
            if id(variable) in taken:
                continue
            taken.add(id(variable))
            ports = dict(_ports(plan, entry, leaf, variable))
            if ports:
                found.append(Weight(variable, entry, ports))
    return found


def _ports(
    plan: Plan, entry: Entry, leaf: Leaf, variable: Any
) -> Iterator[tuple[str, tuple[Site, Wanted]]]:
    dtype = str(keras.backend.standardize_dtype(variable.dtype))
    if not dtype.startswith(("float", "bfloat")):
        return
    for port in ("weight", "weight_gradient", "update"):
        if port not in plan.ports or (port != "weight" and not variable.trainable):
            continue
        site, wanted = plan.lookup(entry, 0, port, leaf, tuple(variable.shape), dtype)
        if wanted is None:
            continue
        if port == "update":
            statistics = (*wanted.statistics, UPDATE_RATIO)
            wanted = dataclasses.replace(wanted, statistics=statistics)
        yield port, (site, wanted)


def _own(layer: Any) -> Iterator[tuple[Leaf, Any]]:
    """The variables that a layer made itself, under names that are unique in it."""
    inner = {id(w) for sub in keras_internals.sublayers(layer) for w in sub.weights}
    taken: set[str] = set()
    for variable in layer.weights:
        if id(variable) in inner:
            continue
        name, n = variable.name, 1
        while name in taken:
            n += 1
            name = f"{variable.name}~{n}"
        taken.add(name)
        yield (name,), variable
