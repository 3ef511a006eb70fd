"""How tensors are met inside code that `torch.compile` compiles.

Operations that the compiler cannot look into are put where tensors are to be seen, and stay in its
graph, in their order and at no cost in graph breaks. A break would be an interference: where Dynamo
cannot break within a `with`, as in `Layer.__call__`, it gives up that code of Keras for good and
runs it eagerly.

What they tell is text, made while a step is traced, and the tensors, while it runs.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import types
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import torch


class Taker(Protocol):
    """Whoever observes the step that runs."""

    def met(self, event: str, tensors: Sequence[Any]) -> None:
        """Called where a tree of tensors was met."""
        ...

    def awaited(self, event: str, tensor: Any) -> int:
        """Called where a tensor was met whose gradient is wanted; gives back a number for it."""
        ...

    def came(self, number: int, gradient: Any) -> None:
        """Called with the gradient of an awaited tensor."""
        ...


_taker: list[Taker] = []


@contextlib.contextmanager
def told(taker: Taker) -> Generator[None]:
    """Have the operations of the step that runs in this block tell `taker`."""
    _taker.append(taker)
    try:
        yield
    finally:
        _taker.remove(taker)


def can_compile() -> bool:
    """Whether this torch has operations whose effects the compiler keeps."""
    from torch._library.custom_ops import CustomOpDef

    return hasattr(CustomOpDef, "register_effect")


def _met(tensors: Sequence[Any], event: str) -> None:
    for taker in _taker[-1:]:
        taker.met(event, tensors)


def _awaited(tensor: Any, event: str) -> Any:
    numbers = [taker.awaited(event, tensor) for taker in _taker[-1:]]
    return torch.tensor(numbers[0] if numbers else -1)


def _came(gradient: Any, number: Any) -> None:
    for taker in _taker[-1:]:
        taker.came(int(number), gradient)


@functools.cache
def define() -> None:
    """Define the operations, once in a process."""
    from torch._library.effects import EffectType

    nothing = "fitscope::met", _met, "(Tensor[] tensors, str event) -> ()", _no_value
    number = "fitscope::awaited", _awaited, "(Tensor tensor, str event) -> Tensor", _a_number
    gradient = "fitscope::came", _came, "(Tensor gradient, Tensor number) -> ()", _no_value
    for name, function, schema, fake in (nothing, number, gradient):
        operation = torch.library.custom_op(name, function, mutates_args=(), schema=schema)
        operation.register_fake(fake)
        # Without it, an operation of whose result nobody makes use is left out.
        operation.register_effect(EffectType.ORDERED)


def _no_value(*args: Any) -> None:
    del args


def _a_number(*args: Any) -> Any:
    del args
    return torch.empty((), dtype=torch.int64)


class _Awaited(torch.autograd.Function):
    """The same values; their gradient is told of."""

    @staticmethod
    def forward(ctx: Any, x: Any, number: Any) -> Any:  # type: ignore[override]
        ctx.save_for_backward(number)
        # A view that a function of ours gave out could not be worked on in place.
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:  # type: ignore[override]
        (number,) = ctx.saved_tensors
        torch.ops.fitscope.came(gradient.detach(), number)
        return gradient, None


def tell(event: str, tree: Any) -> None:
    """Tell of a tree of tensors where it is met."""
    tensors: list[Any] = []
    text = _written(tree, tensors)
    torch.ops.fitscope.met(tensors, f"{event} {text}")


def watch(x: Any, event: str) -> Any:
    """Tell of the gradient of a tensor; gives back the tensor to go on with."""
    if torch.compiler.is_compiling():
        return _Awaited.apply(x, torch.ops.fitscope.awaited(x.detach(), event))
    _hook(x, event)  # type: ignore[reportCallIssue]  # of an untyped decorator
    return x


@torch.compiler.disable
def _hook(x: Any, event: str) -> None:
    number = _awaited(x.detach(), event)
    # Hooks run while the code around the backward pass is looked at by the compiler.
    x.register_hook(torch.compiler.disable(lambda gradient: _came(gradient.detach(), number)))


def _written(tree: Any, tensors: list[Any]) -> str:
    """A tree as a Python literal: tensors as their numbers, other values as the names of types."""
    if tree is None:
        return "None"
    if isinstance(tree, torch.Tensor):
        tensors.append(tree.detach())
        return f"{len(tensors) - 1}"
    if isinstance(tree, dict):
        text = "{"
        for key, value in tree.items():
            text += f"{str(key)!r}: {_written(value, tensors)}, "
        return text + "}"
    if isinstance(tree, (list, tuple)):
        text = "["
        for value in tree:
            text += f"{_written(value, tensors)}, "
        return text + "]"
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        return _written(torch.as_tensor(tree), tensors)  # an array of NumPy
    return f"{type(tree).__name__!r}"


def read(text: str, tensors: Sequence[Any]) -> Any:
    """The tree that was written."""

    def fill(tree: Any) -> Any:
        if isinstance(tree, int):
            return tensors[tree]
        if isinstance(tree, str):
            return type(tree, (), {})()
        if isinstance(tree, dict):
            return {key: fill(value) for key, value in tree.items()}
        return None if tree is None else [fill(value) for value in tree]

    return fill(literal(text))


@functools.cache
def literal(text: str) -> Any:
    """What a Python literal says; the texts of a model's steps are few."""
    return ast.literal_eval(text)


def with_own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function, with a code object that no other function has.

    Dynamo keeps what it compiled, and counts how often it did, by code object.
    """
    assert isinstance(function, types.FunctionType)  # noqa: S101
    code = function.__code__.replace(co_name=name)
    return types.FunctionType(
        code, function.__globals__, name, function.__defaults__, function.__closure__
    )
