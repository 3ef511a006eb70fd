"""A clone of a model with identity layers behind the chosen ones."""

from __future__ import annotations

from collections import Counter
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry, entries
from fitscope.engine.leaves import Leaf, leaves, map_leaves
from fitscope.errors import UnsupportedError
from fitscope.layers import Tap
from fitscope.scope.instructions import watch
from fitscope.scope.session import make_plan
from fitscope.scope.tell import tell
from fitscope.select.selector import Selector

WEIGHTS = ("copy", "share")


def clone_with_taps(model: Any, select: Any = "**", *, weights: str = "copy") -> Any:
    """Clone a model with a `fs.layers.Tap` behind each selected output.

    The clone is a Keras model as any other: it compiles, trains, saves and loads (with fitscope
    imported), and computes what the model computes. Its taps are layers named after the layer they
    stand behind, `dense_tap` behind `dense`, and can be watched as such:
    `fs.watch(fs.layers.Tap)`. If the model is compiled, the clone is, with settings of its own.

    Args:
        model: a built functional or Sequential model; nested ones are cloned with their taps, too.
        select: which outputs, as in `fs.watch`.
        weights: `"copy"` gives the clone variables of its own, with the model's values;
            `"share"` builds it of the model's very layers, so that training one trains both.

    Returns:
        The clone.

    Raises:
        SelectionError: the selection matches nothing.
        UnsupportedError: the model is not built, or is subclassed. Its `call` is code that a clone
            cannot change; `fs.Scope` watches it as it is.

    Example:
        ```python
        tapped = fs.clone_with_taps(model, "conv*")
        scope = fs.Scope(fs.watch(fs.layers.Tap))
        tapped.fit(x, y, callbacks=[scope])
        ```
    """
    if weights not in WEIGHTS:
        raise UnsupportedError(
            f"clone_with_taps(weights={weights!r}): expected {' or '.join(map(repr, WEIGHTS))}."
        )
    keras_internals.check()
    if not getattr(model, "built", False):
        raise UnsupportedError(
            f"clone_with_taps({getattr(model, 'name', model)!r}): the model is not built. Call it "
            "once on a batch, or model.build(shape)."
        )
    if not _has_graph(model):
        raise UnsupportedError(
            f"clone_with_taps({model.name!r}): {type(model).__name__} is subclassed, so its layers "
            "are called by code that a clone cannot change. Give fs.Scope(...) to fit instead: it "
            "watches the layers of any model and needs no clone."
        )
    chosen = watch(select).selector
    make_plan(model, [watch(select)])  # a selection that can match nothing is an error
    maker = _Maker(model, chosen, share=weights == "share")
    clone = maker.clone(model)
    _check_steps(model, clone)
    maker.report()
    if model.compiled and not clone.compiled:
        clone.compile_from_config(model.get_compile_config())
    return clone


def _has_graph(layer: Any) -> bool:
    return keras_internals.functional_graph(layer) is not None


def _check_steps(model: Any, clone: Any) -> None:
    """A clone of another class would train otherwise."""
    for name in ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics"):
        if getattr(type(model), name) is not getattr(type(clone), name):
            raise UnsupportedError(
                f"clone_with_taps({model.name!r}): {type(model).__name__} has a {name} of its own "
                "and a constructor that a clone cannot call; the clone would train otherwise. Let "
                "the constructor accept (inputs, outputs, name=...), or give fs.Scope(...) to fit "
                "instead, which needs no clone."
            )


class _Maker:
    """Clones one model and what is nested in it."""

    def __init__(self, model: Any, chosen: Selector, *, share: bool) -> None:
        self._model = model
        self._chosen = chosen
        self._share = share
        self._entries = {id(entry.target): entry for entry in entries(model)}
        self._clones: dict[int, Any] = {}
        self._originals: dict[int, Any] = {}
        self._calls: Counter[int] = Counter()
        self._names: set[str] = {e.target.name for e in self._entries.values()}
        self._reached: set[int] = set()
        self._taps = 0

    def clone(self, model: Any) -> Any:
        """A clone of a functional or Sequential model with its taps."""
        if isinstance(model, keras.Sequential):
            return self._clone_sequential(model)
        return keras.models.clone_model(
            model, clone_function=self._counterpart, call_function=self._call
        )

    def report(self) -> None:
        """Tell of selected layers that lie inside others, where a clone puts nothing."""
        missed = [
            entry
            for key, entry in self._entries.items()
            if key not in self._reached
            and not entry.is_plain_container
            and self._chosen.may_match(entry.site(None, "output", (), (), ""))
        ]
        if not self._taps:
            where = ", ".join(e.path for e in missed[:5])
            raise UnsupportedError(
                f"clone_with_taps: every selected layer of {self._model.name!r} lies inside "
                f"another layer, where a clone cannot put a tap: {where}. fs.Scope(...) watches "
                "them as they are."
            )
        if missed:
            tell(
                f"clone_with_taps: {len(missed)} selected layers lie inside others, where a clone "
                f"cannot put a tap ({missed[0].path}, for one). fs.Scope(...) watches them as they "
                "are."
            )

    def _clone_sequential(self, model: Any) -> Any:
        first = model.inputs[0]
        stack: list[Any] = [keras.Input(batch_shape=first.shape, dtype=first.dtype)]
        for layer in model.layers:
            stack.append(self._counterpart(layer))
            chosen = self._chosen_leaves(layer, layer.output)
            if chosen is not None:
                stack.append(self._tap(chosen[0], chosen[1], ()))  # of all that the layer puts out
        made = (
            type(model) if type(model).__init__ is keras.Sequential.__init__ else keras.Sequential
        )
        clone = made(stack, name=model.name)
        for layer in model.layers:
            self._bring_values(layer)
        return clone

    def _counterpart(self, layer: Any) -> Any:
        """The layer in the clone: the same for all calls of one layer."""
        if id(layer) not in self._clones:
            if _has_graph(layer):
                new = self.clone(layer)
            elif self._share:
                new = layer
            else:
                new = type(layer).from_config(layer.get_config())
            self._clones[id(layer)] = new
            self._originals[id(new)] = layer
        return self._clones[id(layer)]

    def _call(self, new: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = new(*args, **kwargs)
        layer = self._originals[id(new)]
        self._bring_values(layer)
        chosen = self._chosen_leaves(layer, outputs)
        if chosen is None:
            return outputs
        entry, call, places = chosen

        def tapped(leaf: Leaf, x: Any) -> Any:
            return self._tap(entry, call, leaf)(x) if leaf in places else x

        return map_leaves(tapped, outputs)

    def _bring_values(self, layer: Any) -> None:
        """Give the clone of a layer the values of its variables, seeds among them."""
        new = self._clones[id(layer)]
        if new is layer or _has_graph(layer) or not isinstance(layer, keras.layers.Layer):
            return
        if len(new.variables) != len(layer.variables):
            raise UnsupportedError(
                f"clone_with_taps: {layer.name!r} ({type(layer).__name__}) has "
                f"{len(layer.variables)} variables, and {len(new.variables)} when it is made anew "
                "from its get_config(). Mend its get_config, use weights='share', or give "
                "fs.Scope(...) to fit instead."
            )
        for target, source in zip(new.variables, layer.variables, strict=True):
            # By way of the host: on JAX both would hold one array, and training gives it away.
            target.assign(keras.ops.convert_to_numpy(source))

    def _chosen_leaves(self, layer: Any, outputs: Any) -> tuple[Entry, int, set[Leaf]] | None:
        """Which parts of the outputs of one more call of a layer are selected."""
        entry = self._entries.get(id(layer))
        if entry is None:
            return None
        self._reached.add(id(layer))
        call = self._calls[id(layer)]
        self._calls[id(layer)] += 1
        places = {
            leaf
            for leaf, x in leaves(outputs)
            if self._chosen.matches(entry.site(call, "output", leaf, tuple(x.shape), str(x.dtype)))
        }
        return (entry, call, places) if places else None

    def _tap(self, entry: Entry, call: int, leaf: Any) -> Tap:
        name = "_".join([entry.target.name, *([str(call)] if call else []), *map(str, leaf), "tap"])
        unique, n = name, 1
        while unique in self._names:
            n += 1
            unique = f"{name}_{n}"
        self._names.add(unique)
        self._taps += 1
        return Tap(name=unique)
