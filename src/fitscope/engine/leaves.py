"""Values inside the tuples, lists and dicts that layers take and give back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Leaf = tuple[str | int, ...]


def leaves(tree: Any) -> Iterator[tuple[Leaf, Any]]:
    """Yield `(place, value)` for all in `tree` but None; the place of a bare value is `()`."""
    yield from _walk(tree, ())


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
