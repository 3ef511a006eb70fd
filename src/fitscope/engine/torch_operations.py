"""PyTorch's operations one by one, below autograd: those of the backward pass, too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

if TYPE_CHECKING:
    from fitscope.engine.single_operations import See

_KEY = "fitscope"
_GARBAGE = ("empty", "new_empty", "resize")
"""What gives memory as it is."""

_marks: list[str] = []


@contextlib.contextmanager
def mark(name: str) -> Generator[None]:
    """Operations in the block, and those of their backward pass, are under the name."""
    _marks.append(name)
    try:
        yield
    finally:
        _marks.pop()


def left(outputs: Any) -> None:
    """A marked block gave these; nodes that were made past torch's functions are its own, too."""
    pending: list[Any] = [x.grad_fn for x in tree_leaves(outputs) if isinstance(x, torch.Tensor)]
    while pending:
        node = pending.pop()
        # What an operation is made of leads back to the nodes of its inputs.
        if node is None or _KEY in node.metadata:
            continue
        node.metadata[_KEY] = "/".join(_marks)
        pending += [source for source, _ in node.next_functions]


def run(step: Callable[..., Any], args: Any, see: See) -> Any:
    """Run a step and see each operation."""
    with _Tagging(), _Looking(see):
        return step(*args)


class _Tagging(TorchFunctionMode):
    """Writes the marks on the nodes of the backward pass as they are made."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        outputs = func(*args, **(kwargs or {}))
        left(outputs)
        return outputs


class _Looking(TorchDispatchMode):
    """Looks at what goes into an operation and what comes out."""

    def __init__(self, see: See) -> None:
        super().__init__()
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        # Before it runs: an operation may write into what it is given.
        given = list(_floats((args, kwargs or {})))
        outputs = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        results = list(_floats((outputs, _written(func, args))))
        if not name.startswith(_GARBAGE) and any(not np.isfinite(x).all() for x in results):
            node: Any = torch._C._current_autograd_node()  # noqa: SLF001
            marks = "/".join(_marks) if node is None else node.metadata.get(_KEY, "")
            of = None if node is None else node.name()
            self._see(name, marks, given, results, backward=node is not None, of=of)
        return outputs


def _written(func: Any, args: Any) -> list[Any]:
    """What an operation has written into, such as the weights of a fused update."""
    schema = zip(args, func._schema.arguments, strict=False)  # noqa: SLF001
    return [x for x, a in schema if a.alias_info is not None and a.alias_info.is_write]


def _floats(tree: Any) -> Iterator[np.ndarray[Any, Any]]:
    for value in {id(x): x for x in tree_leaves(tree)}.values():
        if isinstance(value, float):
            yield np.asarray(value)
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and not value.is_meta:
            yield value.detach().to("cpu", torch.float64, copy=True).numpy()
