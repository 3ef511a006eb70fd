"""Tensors inside the tuples, lists and dicts that layers take and give back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Leaf = tuple[str | int, ...]


def leaves(tree: Any, is_tensor: Callable[[Any], bool]) -> Iterator[tuple[Leaf, Any]]:
    """Yield `(place, tensor)` for every tensor in `tree`; the place of a bare tensor is `()`."""
    yield from _walk(tree, is_tensor, ())


def _walk(node: Any, is_tensor: Callable[[Any], bool], place: Leaf) -> Iterator[tuple[Leaf, Any]]:
    if node is None:
        return
    if is_tensor(node):
        yield place, node
    elif isinstance(node, Mapping):
        for key in node:
            yield from _walk(node[key], is_tensor, (*place, str(key)))
    elif isinstance(node, (tuple, list)):
        for index, item in enumerate(node):
            yield from _walk(item, is_tensor, (*place, index))
