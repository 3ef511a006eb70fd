"""JAX's operations one by one: the traced step, with what it calls written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from fitscope.engine.jax_program import bind, called

if TYPE_CHECKING:
    from fitscope.engine.single_operations import See

mark = jax.named_scope
"""Operations in the block, and those of their backward pass, are under the name."""


def left(outputs: Any) -> None:
    """A marked block gave these; the backend itself knows what they are made of."""
    del outputs


def run(step: Callable[..., Any], args: Any, see: See) -> Any:
    """Run a step and see each operation."""
    closed, shapes = jax.make_jaxpr(step, return_shape=True)(*args)
    results = _run(closed.jaxpr, closed.consts, jax.tree.leaves(args), "", see)
    return jax.tree.unflatten(jax.tree.structure(shapes), results)


def _run(jaxpr: Any, constants: Sequence[Any], args: Sequence[Any], marks: str, see: See) -> Any:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def value(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [value(atom) for atom in equation.invars]
        names = f"{marks}/{equation.source_info.name_stack}"
        inner = called(equation)
        if inner is None:
            found = bind(equation, given)
            _look(equation.primitive.name, names, given, found, see)
        else:
            found = _run(*inner, given, names, see)
        values.update(zip(equation.outvars, found, strict=True))
    return [value(atom) for atom in jaxpr.outvars]


def _look(name: str, marks: str, given: Any, found: Any, see: See) -> None:
    results = _floats(found)
    if any(not np.isfinite(x).all() for x in results):
        see(name, marks, _floats(given), results, backward="transpose(" in marks)


def _floats(values: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    return [
        np.asarray(x).astype(np.float64)
        for x in values
        if jnp.issubdtype(getattr(x, "dtype", type(x)), jnp.floating)
    ]
