"""Values inside the tuples, lists and dicts that layers take and give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Leaf = tuple[str | int, ...]


def leaves(tree: Any) -> Iterator[tuple[Leaf, Any]]:
    """Yield `(place, value)` for all in `tree` but None; the place of a bare value is `()`."""
    yield from _walk(tree, ())


def map_leaves(function: Callable[[Leaf, Any], Any], tree: Any, place: Leaf = ()) -> Any:
    """A tree of the same structure, with `function(place, value)` for each value in it."""
    if tree is None:
        return None
    if isinstance(tree, Mapping):
        items = {key: map_leaves(function, x, (*place, str(key))) for key, x in tree.items()}
        return items if type(tree) is dict else type(tree)(items)  # type: ignore[call-arg]
    if isinstance(tree, (tuple, list)):
        parts = [map_leaves(function, x, (*place, i)) for i, x in enumerate(tree)]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return function(place, tree)


def _walk(node: Any, place: Leaf) -> Iterator[tuple[Leaf, Any]]:
    if node is None:
        return
    if isinstance(node, Mapping):
        for key in node:
            yield from _walk(node[key], (*place, str(key)))
    elif isinstance(node, (tuple, list)):
        for index, item in enumerate(node):
            yield from _walk(item, (*place, index))
    else:
        yield place, node
