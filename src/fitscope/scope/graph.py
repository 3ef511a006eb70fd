"""What a run keeps of the model itself."""

from __future__ import annotations

from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.plan import Plan


def describe_model(model: Any, plan: Plan) -> dict[str, Any]:
    """The model's layers, their nesting and, for functional graphs, what feeds what.

    Returns:
        `{"name", "class", "parameters", "outputs", "layers": [{"path", "class", "parent",
        "parameters", "trainable"}], "edges": [[from path, to path]]}`.
    """
    paths = {id(entry.target): entry.path for entry in plan.entries}
    layers: list[dict[str, Any]] = [
        {
            "path": entry.path,
            "class": type(entry.target).__name__,
            "parent": entry.parent.path if entry.parent is not None else None,
            "parameters": _parameters(entry.target),
            "trainable": bool(getattr(entry.target, "trainable", False)),
        }
        for entry in plan.entries
    ]
    edges = [
        [paths[id(source)], entry.path]
        for entry in plan.entries
        for source in keras_internals.sources(entry.target)
        if id(source) in paths
    ]
    return {
        "name": model.name,
        "class": type(model).__name__,
        "parameters": _parameters(model),
        "outputs": output_paths(model, paths),
        "layers": layers,
        "edges": edges,
    }


def output_paths(model: Any, paths: dict[int, str]) -> list[str]:
    """Paths of the layers that give a functional model's outputs; empty for other models."""
    if keras_internals.functional_graph(model) is None:
        return []
    made_by = [keras_internals.maker(tensor) for tensor in keras.tree.flatten(model.outputs)]
    return [paths[id(layer)] for layer in made_by if id(layer) in paths]


def _parameters(target: Any) -> int:
    if not isinstance(target, keras.layers.Layer) or not target.built:
        return 0
    return int(target.count_params())
