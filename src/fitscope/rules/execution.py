"""In which order a training step comes by its sites, and where in it something went wrong first."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fitscope.terminal.numbers import compact, count, percent

if TYPE_CHECKING:
    from fitscope.select.site import Site

BEFORE = "before the forward pass"
_STAGES = ("weight", "forward", "gradient", "weight_gradient", "update")
_WORDS = {
    "weight": BEFORE,
    "input": "in what it was given in the forward pass",
    "preactivation": "in the forward pass",
    "output": "in the forward pass",
    "gradient": "in the backward pass",
    "weight_gradient": "in the backward pass",
    "update": "in the update",
}
_KINDS = {"nan": "NaN", "posinf": "+infinity", "neginf": "-infinity"}
NEEDED = ("nan", "posinf", "neginf", "count", "min", "max")
"""The statistics that `origin` looks at."""
FIRST = "first_nonfinite"
"""Beside them, the place in the flat tensor of the first element that is not finite."""
SCALE = "loss_scale"
"""Beside them, by what the loss was multiplied."""

LOSS = "the loss"
"""What the backward pass comes from, in the place of a layer."""

Values = Mapping[str, Mapping[str, float]]
"""Of one step, by site: the statistics `NEEDED`, and `FIRST` and `SCALE` where there are such."""


class Edges:
    """Which layers of a model read the outputs of which.

    Args:
        pairs: `(from path, to path)`, as the graph in a run has them; none for a model whose graph
            is not known.
    """

    def __init__(self, pairs: Iterable[Sequence[str]] = ()) -> None:
        self._read_by: dict[str, list[str]] = {}
        self._reads: dict[str, list[str]] = {}
        for source, target in pairs:
            self._read_by.setdefault(source, []).append(target)
            self._reads.setdefault(target, []).append(source)

    def sources(self, path: str) -> list[str]:
        """The layers whose outputs a layer reads."""
        return self._reads.get(path, [])

    def readers(self, path: str) -> list[str]:
        """The layers that read a layer's output, also that of a model in which it is the last."""
        while path:
            if path in self._read_by:
                return self._read_by[path]
            path = path.rpartition("/")[0]
        return []

    def __bool__(self) -> bool:
        return bool(self._reads)


def rank(site: Site, place: int) -> tuple[int, int]:
    """The place of a site in a step: weights, forward pass, backward pass, update.

    Args:
        site: the site.
        place: its number among the sites, which stand in the order of the forward pass.
    """
    stage = site.port if site.port in _STAGES else "forward"
    return _STAGES.index(stage), -place if stage == "gradient" else place


def direction(site: Site) -> str:
    """In which part of a step a site is come by, in words."""
    return _WORDS.get(site.port, "in the forward pass")


@dataclass(frozen=True, slots=True)
class Part:
    """Targets or sample weights of a batch that are not all finite.

    Attributes:
        name: `"y"` or `"sample_weight"`, with its place where there are several.
        bad: how many of its elements are not finite.
        count: how many elements it has.
        index: of the first of these elements.
    """

    name: str
    bad: int
    count: int
    index: tuple[int, ...]

    def __str__(self) -> str:
        what = f"{count(self.bad)} NaN or infinity in {self.name}"
        return f"{what}, first at {list(self.index)}"

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Part:
        """From what `config` gave."""
        return cls(config["name"], config["bad"], config["count"], tuple(config["index"]))

    def config(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name, "bad": self.bad, "count": self.count, "index": list(self.index)
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in one step a tensor was the first that is not finite.

    Attributes:
        site: its name.
        direction: in which part of the step, in words.
        layer: the layer that made it so: the site's own, but for the gradient of an output, which
            comes out of the backward passes of the layers behind it (all of them are named), or
            of `LOSS`.
        amounts: how many of its elements are `nan`, `posinf` and `neginf`.
        count: how many elements it has.
        index: of the first of these elements; None where it is not known.
        before: what the step came to just before, and what went into the layer where that is known:
            a site and the range of its finite elements.
        batch: what the model was given in this step: its site, the range of its finite elements,
            and how many were not finite; None where it was not watched.
        others: how many sites that the step came to later are not finite, either.
        is_batch: whether the site is the batch itself.
        targets: what of the batch's targets and sample weights was not finite, where the loss made
            the first bad tensor of them and they were looked at.
    """

    site: str
    direction: str
    layer: str
    amounts: Mapping[str, int]
    count: int
    index: tuple[int, ...] | None
    before: tuple[str, float, float] | None
    batch: tuple[str, float, float, int] | None
    others: int
    is_batch: bool
    targets: tuple[Part, ...] = ()

    @property
    def held(self) -> str:
        """What the site held, with its share and the place of the first."""
        held = " and ".join(f"{count(n)} {_KINDS[kind]}" for kind, n in self.amounts.items() if n)
        share = percent(sum(self.amounts.values()) / max(self.count, 1))
        at = "" if self.index is None else f", at {list(self.index)}"
        return f"held {held} ({share}{at})"

    @property
    def surroundings(self) -> str:
        """What was finite around it, in words; each part begins with a semicolon."""
        text = ""
        if self.before is not None and not self.is_batch:
            name, low, high = self.before
            own = name == self.site.replace(":update[", ":weight_gradient[")
            what = "its gradient" if own else f"{name} before it"
            text += f"; {what}: {compact(low)} to {compact(high)}"
        if self.targets:
            text += f"; the batch held {' and '.join(map(str, self.targets))}"
        if self.is_batch:
            text += "; the batch was bad before the model saw it"
        elif self.batch is not None and not self.targets:
            name, low, high, bad = self.batch
            if self.before is None or self.before[0] != name:
                text += f"; batch: {compact(low)} to {compact(high)}"
                text += f" and {count(bad)} that are not finite" if bad else ""
        return text

    @property
    def where(self) -> str:
        """The part of the step and, in the backward pass, whose."""
        own = self.site.partition(":")[0].partition("#")[0]
        of = f" of {self.layer}" if "backward" in self.direction and self.layer != own else ""
        return self.direction + of

    def __str__(self) -> str:
        text = f"{self.site} {self.held}, first {self.where}{self.surroundings}"
        if self.others:
            sites = "site" if self.others == 1 else "sites"
            text += f"; {count(self.others)} more {sites} after it"
        return text + "."

    def evidence(self) -> dict[str, Any]:
        """The same as numbers, for a finding."""
        return {
            **self.amounts,
            "direction": self.direction,
            "layer": self.layer,
            "count": self.count,
            "index": None if self.index is None else list(self.index),
            "before": None if self.before is None else list(self.before),
            "batch": None if self.batch is None else list(self.batch),
            "targets": [part.config() for part in self.targets],
        }


def origin(
    sites: Sequence[Site],
    values: Values,
    *,
    ignore: Collection[str] = (),
    edges: Edges | None = None,
) -> Origin | None:
    """The first site of a step that held NaN or an infinity, in the order of execution.

    Args:
        sites: all sites, in the order of the forward pass.
        values: of the step.
        ignore: sites that may hold some.
        edges: which layers read which, where that is known.

    Returns:
        None when all were finite, or when a loss scale takes care of what was not: an optimizer
        that finds gradients that are not finite under its scale skips the update.
    """
    ordered = in_order(sites, values)
    bad = [s for s in ordered if wrong(values[s.name]) and s.name not in ignore]
    if not bad or is_absorbed(bad, values):
        return None
    first = bad[0]
    got = values[first.name]
    earlier = ordered[: ordered.index(first)]
    known = edges or Edges()
    given = _given(ordered)
    return Origin(
        first.name,
        _direction(first, earlier),
        _layer(first, earlier, known),
        {kind: int(got[kind]) for kind in _KINDS},
        int(got["count"]),
        _index(first, got),
        _before(first, earlier, values, known),
        None if given is None else (*_range(given, values), _amount(values[given.name])),
        len(bad) - 1,
        first is given,
    )


def in_order(sites: Sequence[Site], values: Values) -> list[Site]:
    """The sites of a step in the order of execution."""
    ranked = [(rank(s, i), s) for i, s in enumerate(sites) if s.name in values]
    return [s for _, s in sorted(ranked, key=lambda pair: pair[0])]


def wrong(got: Mapping[str, float]) -> bool:
    """Whether a site held anything that is not finite."""
    return _amount(got) > 0


def is_absorbed(bad: Iterable[Site], values: Values) -> bool:
    """Whether a loss scale takes care of all that is not finite."""
    scaled = any(math.isfinite(v.get(SCALE, math.nan)) for v in values.values())
    return scaled and all(site.port in ("gradient", "weight_gradient") for site in bad)


def _amount(got: Mapping[str, float]) -> int:
    return int(got["nan"] + got["posinf"] + got["neginf"])


def _given(ordered: Sequence[Site]) -> Site | None:
    """The site of what the model itself was given."""
    inputs = [s for s in ordered if s.port == "input" and "Model" in s.layer_classes]
    return next((s for s in inputs if "/" not in s.path), None)


def _index(site: Site, got: Mapping[str, float]) -> tuple[int, ...] | None:
    place = got.get(FIRST, math.nan)
    if not math.isfinite(place):
        return None
    # The first axis may have another length in every step, and is not needed.
    index: list[int] = []
    rest = int(place)
    for length in reversed(site.shape[1:]):
        if length is None:
            return (int(place),)
        rest, at = divmod(rest, max(length, 1))
        index.append(at)
    return (*([rest] if site.shape else []), *reversed(index))


def _direction(site: Site, earlier: Sequence[Site]) -> str:
    own = [s for s in earlier if s.port == "weight_gradient" and s.path == site.path]
    if site.port == "update" and not any(s.leaf == site.leaf for s in own):
        return "in the backward pass or the update"  # the gradient was not watched, or out of sight
    return direction(site)


def _layer(site: Site, earlier: Sequence[Site], edges: Edges) -> str:
    if site.port != "gradient":
        return site.path
    readers = edges.readers(site.path)
    if edges:
        # A reader whose own gradient the backward pass came to is one it has gone through.
        seen = {s.path for s in earlier if s.port == "gradient"}
        reached = [path for path in readers if path in seen] or readers
        return " or ".join(dict.fromkeys(reached)) or LOSS
    passed = [s.path for s in earlier if s.port == "gradient"]
    return passed[-1] if passed else LOSS


def _before(
    site: Site, earlier: Sequence[Site], values: Values, edges: Edges
) -> tuple[str, float, float] | None:
    own = [s for s in earlier if s.path == site.path and s.port in ("input", "preactivation")]
    port = "gradient" if site.port == "gradient" else "output"
    fed = edges.readers(site.path) if port == "gradient" else edges.sources(site.path)
    neighbours = [s for s in earlier if s.path in fed and s.port == port]
    if site.port in ("weight_gradient", "update"):
        ported = "gradient" if site.port == "weight_gradient" else "weight_gradient"
        own = [s for s in earlier if (s.path, s.port, s.leaf) == (site.path, ported, site.leaf)]
        neighbours = [s for s in earlier if s.path == site.path and s.port == ported]
    of_step = [s for s in earlier if s.port != "weight"] or list(earlier)
    for each in [*reversed(own), *reversed(neighbours), *reversed(of_step)]:
        name, low, high = _range(each, values)
        if math.isfinite(low) and math.isfinite(high):
            return name, low, high
    return None


def _range(site: Site, values: Values) -> tuple[str, float, float]:
    return site.name, values[site.name]["min"], values[site.name]["max"]
