"""A JAX step as a traced program: which of its values are tapped, and how they are read.

A tensor met inside `value_and_grad` may not leave it from within. But once the step is traced, the
forward pass, the backward pass and the update are one flat list of equations, and every value of
it can be read. A tap is therefore an identity operation with a name, put where a layer hands its
output on; when the program is run, it is the place where the value is read.

Reading must not change what XLA makes of the rest, to the last bit. XLA computes an elementwise
result anew inside each loop that uses it, as long as every user is such a loop, and takes it into
the library call of a reduction, as long as nothing outside that call needs it. A reader of ours
would be a user that is neither:

* An elementwise output that only loops use gets a copy that is one more loop: times a one that
  XLA does not know to be one.
* A value that goes into a reduction and nowhere else may have no reader of ours, not even a loop.
  It is computed once more, aside, from values that are stored in any case (times that one, or XLA
  would notice that it is the same).
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.extend import source_info_util
from jax.extend.core import Literal, Primitive, Var
from jax.interpreters import ad, batching, mlir

_NAME = "fitscope:"

Read = Callable[[int, Any], None]
"""Called with a tap's number and its value, where the program has come to it."""


def tap(x: Any, number: int) -> Any:
    """The tensor under a name that `Program` finds again."""
    return checkpoint_name(x, f"{_NAME}{number}")


_gradient_p = Primitive("fitscope_gradient")
"""An identity whose transpose, in the backward pass, is a tap."""


def _same(x: Any, *, number: int) -> Any:
    del number
    return x


def _backward(gradient: Any, x: Any, *, number: int) -> list[Any]:
    del x
    return [tap(gradient, number)]


def _lower(context: Any, x: Any, *, number: int) -> list[Any]:
    del context, number
    return [x]


_gradient_p.def_impl(_same)
_gradient_p.def_abstract_eval(_same)
ad.deflinear2(_gradient_p, _backward)
batching.defvectorized(_gradient_p)
mlir.register_lowering(_gradient_p, _lower)


def gradient_tap(x: Any, number: int) -> Any:
    """The tensor, with its gradient under a name that `Program` finds again.

    Unlike a function with a backward pass of its own, this can be differentiated in both
    directions, and where there is no gradient none is computed.
    """
    return _gradient_p.bind(x, number=number)


def _tapped(equation: Any) -> int | None:
    if equation.primitive.name != "name":
        return None
    name = str(equation.params["name"])
    return int(name.removeprefix(_NAME)) if name.startswith(_NAME) else None


def _is_ours(equation: Any) -> bool:
    """Whether an equation is an identity that a tap has put there."""
    return equation.primitive is _gradient_p or _tapped(equation) is not None


class Program:
    """A step, traced once.

    Args:
        function: the step.
        args: what it is traced for.
    """

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        self._jaxpr, self._constants = closed.jaxpr, closed.consts
        self._structure = jax.tree.structure(shapes)
        equations = self._jaxpr.eqns
        found = [(n, e) for e in equations if (n := _tapped(e)) is not None]
        times = Counter(n for n, _ in found)
        passed = Counter(e.params["number"] for e in equations if e.primitive is _gradient_p)
        # Of a gradient of gradients there are several, and the last one is that of the loss.
        once = {n for n in times if (passed[n] == 1 if n in passed else times[n] == 1)}
        self._read = {n: e for n, e in found if n in once}
        """By number, the equation whose value is read."""
        self.taps: Mapping[int, Any] = {n: e.invars[0] for n, e in self._read.items()}
        """By number, the variable that is read. A tap in a loop or a nested function is not
        among them: its value does not exist outside. Nor is one that stands for two values, in a
        function that was traced once, called twice and written out."""

    def shape(self, number: int) -> tuple[int, ...]:
        """The shape of a tapped value in the whole program (a `vmap` adds an axis)."""
        return tuple(self.taps[number].aval.shape)

    def run(self, args: Any, one: Any, read: Read) -> Any:
        """Run the step on the arguments that it was traced for.

        Args:
            args: the arguments.
            one: a float32 scalar that holds 1 and whose value the compiler does not know.
            read: what is done with each tapped value.

        Returns:
            What the step returns.
        """
        jaxpr = self._jaxpr
        values = dict(zip(jaxpr.constvars, self._constants, strict=True))
        values.update(zip(jaxpr.invars, jax.tree.leaves(args), strict=True))
        aside = _Aside(jaxpr, values, one) if self.taps else None
        for equation in jaxpr.eqns:
            if not _is_ours(equation):
                found = bind(equation, [_value(v, values) for v in equation.invars])
                values.update(zip(equation.outvars, found, strict=True))
                continue
            source = equation.invars[0]
            values[equation.outvars[0]] = _value(source, values)
            number = _tapped(equation)
            if aside is not None and number is not None and self._read.get(number) is equation:
                read(number, aside.copy(source))
        return jax.tree.unflatten(self._structure, [_value(v, values) for v in jaxpr.outvars])


def _value(atom: Any, values: Mapping[Any, Any]) -> Any:
    return atom.val if isinstance(atom, Literal) else values[atom]


def _times(value: Any, one: Any) -> Any:
    floating = jnp.issubdtype(value.dtype, jnp.floating)
    return value * one.astype(value.dtype) if floating else value


def bind(equation: Any, values: list[Any]) -> list[Any]:
    """Run one equation, under the names and settings that it was traced with."""
    bound = equation.primitive.get_bind_params(equation.params)
    functions, params = bound if isinstance(bound, tuple) else ((), bound)  # a tuple before 0.10
    source = equation.source_info
    names = source_info_util.current_name_stack() + source.name_stack
    with source_info_util.user_context(source.traceback, name_stack=names), equation.ctx.manager:
        found = equation.primitive.bind(*functions, *values, **params)
    return list(found) if equation.primitive.multiple_results else [found]


class _Aside:
    """Computes values of a program a second time, from values that the program stores."""

    def __init__(self, jaxpr: Any, values: Mapping[Any, Any], one: Any) -> None:
        self._values = values
        self._one = one
        self._readers = _Readers(jaxpr)
        self._makers = {v: e for e in jaxpr.eqns for v in e.outvars if not _is_ours(e)}
        self._computed: dict[Any, Any] = {}

    def is_needed(self, atom: Any) -> bool:
        """Whether a reader of ours would take the value out of a reduction's library call."""
        maker = None if isinstance(atom, Literal) else self._makers.get(atom)
        return (
            maker is not None
            and _is_made_of(maker, _LOOPS | _REDUCTIONS)
            and self._readers.end_in_reduction(atom)
        )

    def copy(self, atom: Any) -> Any:
        """The value, to be read by whatever operations."""
        if self.is_needed(atom):
            return self.compute(atom)
        value = _value(atom, self._values)
        if isinstance(atom, Literal) or self._readers.is_stored(atom):
            return value
        return _times(value, self._one)

    def compute(self, atom: Any) -> Any:
        """The value again, by operations of its own."""
        if atom not in self._computed:
            maker = self._makers[atom]
            found = bind(maker, [self._input(v) for v in maker.invars])
            self._computed.update(zip(maker.outvars, found, strict=True))
        return self._computed[atom]

    def _input(self, atom: Any) -> Any:
        if isinstance(atom, Literal):
            return atom.val
        maker = self._makers.get(atom)
        is_loop = maker is not None and _is_made_of(maker, _LOOPS)
        if self.is_needed(atom) or (is_loop and self._readers.count(atom) == 1):
            return self.compute(atom)
        return _times(self._values[atom], self._one)


@dataclasses.dataclass(frozen=True, eq=False)
class _Node:
    """One operation of a program whose nested calls are written out."""

    place: int
    operation: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    has_effect: bool


class _Readers:
    """Who reads the values of a program, inside nested calls too; taps do not count."""

    def __init__(self, jaxpr: Any) -> None:
        self._fresh = itertools.count()
        self._names: dict[Any, int] = {}
        self._ends: dict[int, bool] = {}
        self._makers: dict[int, str] = {}
        nodes = list(self._nodes(jaxpr, self._names))
        results = [self._names[v] for v in jaxpr.outvars if isinstance(v, Var) and v in self._names]
        self._readers: dict[int, list[_Node | None]] = defaultdict(list)
        for name in results:
            self._readers[name].append(None)
        for node in reversed(nodes):
            # An operation that nothing depends on is not in the compiled program.
            if node.has_effect or any(name in self._readers for name in node.outputs):
                for name in set(node.inputs):
                    self._readers[name].append(node)

    def _nodes(self, jaxpr: Any, names: dict[Any, int]) -> Iterator[_Node]:
        def name(atom: Any) -> int:
            if isinstance(atom, Literal):
                return next(self._fresh)
            return names.setdefault(atom, next(self._fresh))

        for equation in jaxpr.eqns:
            if _is_ours(equation):
                names[equation.outvars[0]] = name(equation.invars[0])
                continue
            inputs = [name(v) for v in equation.invars]
            inner = _called(equation)
            if inner is None:
                outputs = tuple(name(v) for v in equation.outvars)
                effect = bool(equation.effects)
                operation = str(equation.primitive.name)
                for output in outputs:
                    self._makers[output] = operation
                yield _Node(next(self._fresh), operation, tuple(inputs), outputs, effect)
                continue
            inside = dict(zip(inner.invars, inputs, strict=True))
            yield from self._nodes(inner, inside)
            for outer, result in zip(equation.outvars, inner.outvars, strict=True):
                known = not isinstance(result, Literal) and result in inside
                names[outer] = inside[result] if known else next(self._fresh)

    def is_stored(self, atom: Any) -> bool:
        """Whether the program keeps the value in memory, whoever else reads it.

        An argument and the result of a library call it keeps, and so what goes into one, or out of
        the program: XLA does not compute anew in each loop what has to be stored for others.
        """
        name = self._names[atom]
        return self._makers.get(name) not in _LOOPS or self._goes_into_library(name)

    def _goes_into_library(self, name: int) -> bool:
        return any(
            reader is None
            or reader.operation in _LIBRARY
            or (reader.operation in _VIEWS and self._goes_into_library(reader.outputs[0]))
            for reader in self._readers.get(name, ())
        )

    def count(self, atom: Any) -> int:
        """How many operations of the compiled program read a value (its results count as one)."""
        return len(self._readers.get(self._names[atom], ()))

    def end_in_reduction(self, atom: Any) -> bool:
        """Whether a value goes, by way of loops, into one reduction and nowhere else.

        The loops and reductions on the way may have several readers, as those of a layer
        normalisation before a pooling have.
        """
        name = self._names[atom]
        if name not in self._ends:
            self._ends[name] = self._all_ways_meet_in_reduction(name)
        return self._ends[name]

    def _all_ways_meet_in_reduction(self, name: int) -> bool:
        last_read = 0
        """Where the values on the way that were met so far are read for the last time."""
        ahead: list[tuple[int, _Node]] = []
        queued: set[int] = set()
        outputs: tuple[int, ...] = (name,)
        while True:
            for output in outputs:
                for reader in self._readers.get(output, ()):
                    if reader is None or reader.operation not in _LOOPS | _REDUCTIONS:
                        return False
                    last_read = max(last_read, reader.place)
                    if reader.place not in queued:
                        queued.add(reader.place)
                        heapq.heappush(ahead, (reader.place, reader))
            if not ahead:
                return False
            place, node = heapq.heappop(ahead)
            if place == last_read and node.operation in _REDUCTIONS:
                return True
            outputs = node.outputs


def called(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """The equations of a nested function that XLA writes out in place, and its constants."""
    if equation.primitive.name not in _CALLS:
        return None
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        closed = equation.params.get(key)
        inner = getattr(closed, "jaxpr", closed)
        if inner is not None and len(inner.invars) == len(equation.invars):
            return inner, getattr(closed, "consts", ())
    return None


def _called(equation: Any) -> Any | None:
    found = called(equation)
    return None if found is None else found[0]


def _is_made_of(equation: Any, operations: frozenset[str]) -> bool:
    """Whether an equation, with all that it calls, consists of some operations only."""
    inner = _called(equation)
    if inner is None:
        return equation.primitive.name in operations
    return all(_is_made_of(e, operations) for e in inner.eqns)


# fmt: off
_CALLS = frozenset((
    "pjit", "jit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call",
    "custom_vjp_call_jaxpr",
))
_LIBRARY = frozenset(("conv_general_dilated", "dot_general"))
_VIEWS = frozenset(("reshape", "squeeze"))
_REDUCTIONS = frozenset((
    "argmax", "argmin", "reduce", "reduce_and", "reduce_max", "reduce_min", "reduce_or",
    "reduce_prod", "reduce_sum", "reduce_window", "reduce_window_max", "reduce_window_min",
    "reduce_window_sum", "reduce_xor",
))
_LOOPS = frozenset((
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh",
    "bitcast_convert_type", "broadcast_in_dim", "cbrt", "ceil", "clamp", "concatenate",
    "convert_element_type", "copy", "copy_p", "cos", "cosh", "div", "eq", "erf", "erf_inv",
    "erfc", "exp", "exp2", "expm1", "floor", "gather", "ge", "gt", "imag", "integer_pow", "iota",
    "is_finite", "le", "log", "log1p", "logistic", "lt", "max", "min", "mul", "name", "ne", "neg",
    "nextafter", "not", "or", "pad", "pow", "real", "rem", "reshape", "rev", "round", "rsqrt",
    "select_n", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin",
    "sinh", "slice", "sqrt", "square", "squeeze", "stop_gradient", "sub", "tan", "tanh",
    "transpose", "xor",
))
# fmt: on
"""What XLA turns into loops over the elements of the result."""
