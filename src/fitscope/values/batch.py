"""The batch of a step: what it was given, what it predicted, and what each sample's loss was."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from fitscope.engine import keras_internals
from fitscope.engine.layout import Kept, to_host
from fitscope.engine.leaves import Leaf, leaves, map_leaves
from fitscope.engine.points import BATCH_PATH, batch_site, part_of
from fitscope.select.unseen import Unseen

BATCH = f"{BATCH_PATH}/**"
"""In place of a selection: the batch, with the prediction and the loss of each sample."""

_NO_LOSS = "keep the layers that the loss is computed of, and compute it from those"


class Batch(NamedTuple):
    """What a step was given and came to: arrays, or trees of them; None where there was none."""

    x: Any
    y: Any
    sample_weight: Any
    y_pred: Any = None
    """What the loss was computed of; only where `fs.BATCH` was selected."""
    loss: Any = None
    """The loss of each sample, before weights; only where `fs.BATCH` was selected."""


def split(select: Any) -> tuple[Any, bool]:
    """A selection without `BATCH` (None if nothing is left), and whether that was in it."""
    if isinstance(select, str):
        return (None, True) if select == BATCH else (select, False)
    if isinstance(select, (list, tuple)):
        rest = [part for part in select if not (isinstance(part, str) and part == BATCH)]
        if len(rest) < len(select):
            return rest or None, True
    return select, False


class StepBatch:
    """The batch of one step; its tensors are still on the device.

    Args:
        kept: what left the step.
        model: gives the loss functions; None once it is gone.
    """

    def __init__(self, kept: Kept, model: Any) -> None:
        data = kept.data
        given = tuple(data) if isinstance(data, (tuple, list)) else (data,)
        self.x, self._y, self._weight = (*given[:3], None, None)[:3]
        self._model = model
        self._seen: dict[tuple[str, int | None], dict[Leaf, Any]] = {}
        for site, tensor in zip(kept.sites, kept.tensors, strict=True):
            part = part_of(site)
            if part is not None:
                self._seen.setdefault((part, site.call), {})[site.leaf] = tensor
        self.unseen: list[Unseen] = []

    @property
    def y(self) -> Any:
        """What the loss was computed against, or what the step was given."""
        return self._whole("y", self._y)

    @property
    def sample_weight(self) -> Any:
        return self._whole("sample_weight", self._weight)

    @property
    def y_pred(self) -> Any:
        return self._whole("y_pred", None)

    def parts(self) -> list[tuple[str, int | None, Leaf, Any]]:
        """Every tensor of the batch: its part, its call, its place, itself."""
        found = [
            (part, call, leaf, tensor)
            for (part, call), tree in self._seen.items()
            for leaf, tensor in tree.items()
        ]
        seen = {part for part, _ in self._seen}
        for part, tree in (("x", self.x), ("y", self._y), ("sample_weight", self._weight)):
            if part not in seen:
                found += [(part, None, leaf, tensor) for leaf, tensor in leaves(tree)]
        for call, losses in self.losses.items():
            found += [("loss", call, leaf, tensor) for leaf, tensor in losses.items()]
        return found

    @functools.cached_property
    def losses(self) -> Mapping[int | None, dict[Leaf, Any]]:
        """By call of `compute_loss`, the loss of each sample (by output, where there are several).

        The compiled loss once more, without its reduction, of the prediction and the targets that
        the step computed it of. What masks exclude is 0, as Keras counts it.
        """
        found: dict[int | None, dict[Leaf, Any]] = {}
        calls = [call for part, call in self._seen if part == "y"]
        if self._y is not None and not calls and any(p == "y_pred" for p, _ in self._seen):
            self._miss("the step computes its loss without the model's compute_loss")
        for call in calls:
            try:
                found[call] = self._losses(call)
            except Exception as error:  # noqa: BLE001 - a loss of the user's may do anything
                self._miss(f"could not be computed apart: {type(error).__name__}: {error}")
        return found

    def _losses(self, call: int | None) -> dict[Leaf, Any]:
        if self._model is None or keras_internals.has_own_loss(self._model):
            self._miss("the model computes its loss in a way of its own, or none was compiled")
            return {}
        y, y_pred = (_nest(self._seen.get((part, call), {})) for part in ("y", "y_pred"))
        if y_pred is None:
            self._miss("the prediction that it is computed of was not seen")
            return {}
        masks = self._seen.get(("mask", call), {})
        for leaf, tensor in leaves(y_pred):
            keras_internals.set_mask(tensor, masks.get(leaf))
        named = keras_internals.unreduced_losses(self._model, y, y_pred)
        (_, first), *_ = leaves(y_pred)
        whole = {}
        for name, loss in named:
            if loss.ndim and loss.shape[0] == first.shape[0]:
                whole[() if len(named) == 1 else (name,)] = loss
            else:
                self._miss(
                    f"the loss {name!r} gives {tuple(loss.shape)}, not one number for each of the "
                    f"{first.shape[0]} samples"
                )
        return whole

    def _miss(self, reason: str) -> None:
        self.unseen.append(Unseen(batch_site("loss").name, reason, _NO_LOSS))

    def _whole(self, part: str, otherwise: Any) -> Any:
        trees = [tree for (name, _), tree in self._seen.items() if name == part]
        return _nest(trees[-1]) if trees else otherwise

    def on_host(self, *, whole: bool) -> Batch:
        """The batch as arrays.

        Args:
            whole: whether the prediction and the losses are wanted, too.
        """
        x, y, weight = (
            map_leaves(lambda _, t: to_host(t), tree)
            for tree in (self.x, self.y, self.sample_weight)
        )
        if not whole:
            return Batch(x, y, weight)
        losses = list(self.losses.values())
        loss = _nest(losses[-1]) if losses and losses[-1] else None
        y_pred, loss = (map_leaves(lambda _, t: to_host(t), tree) for tree in (self.y_pred, loss))
        return Batch(x, y, weight, y_pred, loss)


def _nest(tree: Mapping[Leaf, Any]) -> Any:
    """A tree from its leaves: integers are places in lists, strings keys of dicts."""
    if not tree:
        return None
    if () in tree:
        return tree[()]
    keys = list(dict.fromkeys(leaf[0] for leaf in tree))
    below = {k: _nest({leaf[1:]: t for leaf, t in tree.items() if leaf[0] == k}) for k in keys}
    if all(isinstance(key, int) for key in keys):
        return [below.get(i) for i in range(max(keys) + 1)]  # type: ignore[type-var,operator]
    return below
