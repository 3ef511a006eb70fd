"""What a scope changes in a model's steps: `edit` and `objective`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from fitscope.edits.edit import Edit, as_edit, number
from fitscope.edits.replacing import Replace
from fitscope.edits.when import When, as_when
from fitscope.errors import EditError
from fitscope.select.selector import Selector
from fitscope.select.selector import select as as_selector
from fitscope.values.batch import split
from fitscope.values.when import check_phases


@dataclasses.dataclass(frozen=True, eq=False)
class EditInstruction:
    """A change of the selected tensors. Made by `edit`."""

    selector: Selector
    edit: Edit
    when: When
    name: str | None
    phases: tuple[str, ...]
    port: str

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "edit",
            "name": self.name,
            "select": repr(self.selector),
            "edit": self.edit.describe(),
            "when": self.when.describe(),
            "phases": list(self.phases),
            "port": self.port,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Objective:
    """A term of the loss, of tensors of the same forward pass. Made by `objective`."""

    selectors: tuple[Selector, ...]
    function: Callable[..., Any]
    weight: float
    when: When
    name: str | None
    phases: tuple[str, ...]
    teacher: Any = None
    teacher_select: Any = None

    def describe(self) -> dict[str, Any]:
        """For the run's `run.json`."""
        return {
            "kind": "objective",
            "name": self.name,
            "select": [repr(selector) for selector in self.selectors],
            "function": _name_of(self.function),
            "weight": self.weight,
            "when": self.when.describe(),
            "phases": list(self.phases),
            "teacher": None if self.teacher is None else self.teacher.name,
        }


Change = EditInstruction | Objective


def edit(
    select: Any,
    edit: Edit | Callable[[Any], Any],
    *,
    when: When | Callable[[int, int], float | bool | None] | None = None,
    name: str | None = None,
    phases: str | Iterable[str] = "train",
    port: str = "output",
) -> EditInstruction:
    """Change what the selected layers put out, in every step, before it goes on.

    The gradient follows by itself. Edits of one site act in the order in which they are given to
    the scope, and before the site is watched: `fs.watch(..., of="before_edit")` sees what was
    before. Where nothing acts in a step, Keras' own function runs it, untouched.

    Args:
        select: which sites, as in `fs.watch`; they must hold floating-point tensors.
        edit: `fs.Scale`, `fs.Clip`, `fs.Zero`, `fs.Noise`, `fs.Replace`, `fs.Steer`, `fs.Patch`,
            `fs.Quantize`, `fs.StopGradient`, `fs.ReverseGradient`, `fs.ClipGradient`; an `fs.Edit`
            of your own; or a function of `keras.ops` from a tensor to one of the same shape and
            dtype.
        when: in which steps, and how strongly: `fs.epochs`, `fs.steps`, `fs.ramp`,
            `fs.probability`, some of them joined by `&`, or a function of step and epoch that
            gives a strength or None. None for always.
        name: what it is called in `scope.edits` and in the run; made up from the class of the
            edit without one.
        phases: in which phases: `"train"`, `"validation"` (evaluation inside `fit`), `"test"`,
            `"predict"`, or several.
        port: `"output"`, or `"gradient"` to change, in its place, the gradient of the loss with
            respect to the output; a loss scale is taken out of it before, and put back.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        EditError: the edit, its schedule, its name or port is not what is accepted.
        SelectionError: the selection or a phase cannot be read.

    Example:
        ```python
        scope = fs.Scope(fs.edit("conv_2", fs.Noise(0.1), when=fs.epochs(2, 4)))
        ```
    """
    made = as_edit(edit)
    if port not in ("output", "gradient"):
        raise EditError(f"edit(port={port!r}): expected 'output' or 'gradient'.")
    if port == "gradient" and made.is_gradient_edit:
        raise EditError(
            f"edit({made!r}, port='gradient'): this edit is of an output, and acts on the gradient "
            "that flows back through it; leave port out."
        )
    if port == "gradient" and isinstance(made, Replace) and made.running_mean is not None:
        raise EditError(
            f"edit({made!r}, port='gradient'): a running mean is kept of outputs alone; replace "
            "the gradient by a value."
        )
    chosen = check_phases("edit", phases)
    if (port == "gradient" or made.is_gradient_edit) and chosen != ("train",):
        raise EditError(
            f"edit({made!r}, phases={phases!r}): there are gradients in training alone; leave "
            "phases out."
        )
    if split(select)[1]:
        raise EditError("edit(fs.BATCH, ...): the batch cannot be edited; edit a layer's output.")
    return EditInstruction(
        as_selector(select), made, as_when(when), _checked_name("edit", name), chosen, port
    )


def objective(
    sites: Any,
    function: Callable[..., Any],
    weight: float = 1.0,
    *,
    when: When | Callable[[int, int], float | bool | None] | None = None,
    name: str | None = None,
    phases: str | Iterable[str] = ("train", "validation", "test"),
    teacher: Any = None,
    teacher_sites: Any = None,
) -> Objective:
    """Add a term to the loss, computed of tensors of the very forward pass that is trained.

    As with Keras' `add_loss`, the term is part of `loss` in `History`, and of `val_loss`. It is
    added where the model's `compute_loss` gives its result, so it acts in stock train steps and in
    those of your own that call `self.compute_loss(...)`. Where a step does not, training ends with
    an error before its first step. The value of the function, before weight and strength, is a
    statistic of its own: that of the site `@objective/<name>`.

    Args:
        sites: a selection as in `fs.watch`, or a list of them. The tensors are seen after edits.
        function: is given each selected tensor as an argument of its own, in the order of the
            list and, within a selection, of the pass, and gives a scalar, with `keras.ops`.
            Tensors in half precision are given in float32.
        weight: what the value is multiplied by.
        when: in which steps and how strongly, as in `fs.edit`.
        name: what it is called in `scope.edits` and in the run; the function's without one.
        phases: in which phases, as in `fs.edit`; there is no loss in `"predict"`.
        teacher: another built model, which is run on the inputs of each step, in inference mode
            and without gradients; it is neither trained nor saved with the model.
        teacher_sites: which of its sites are given to the function, behind those of the model.

    Returns:
        An instruction for `fs.Scope`.

    Raises:
        EditError: an argument is not what is accepted.
        SelectionError: a selection or a phase cannot be read.

    Example:
        ```python
        def sparse(*tensors):
            return sum(keras.ops.mean(keras.ops.abs(x)) for x in tensors)

        scope = fs.Scope(fs.objective("conv*", sparse, weight=1e-4))
        ```
    """
    if not callable(function) or inspect.isclass(function):
        raise EditError(
            f"objective(..., {function!r}): expected a function that takes the selected tensors "
            "and gives a scalar."
        )
    chosen = check_phases("objective", phases)
    if "predict" in chosen:
        raise EditError(
            f"objective(phases={phases!r}): no loss is computed in 'predict'; leave it out."
        )
    each = sites if isinstance(sites, (list, tuple)) else [sites]
    if not each or any(split(site)[1] for site in each):
        raise EditError(
            f"objective({sites!r}): expected one or more selections of layers' outputs."
        )
    if (teacher is None) != (teacher_sites is None):
        raise EditError("objective(teacher=..., teacher_sites=...): give both of them, or none.")
    if teacher is not None and not (isinstance(teacher, keras.Model) and teacher.built):
        raise EditError(
            f"objective(teacher={teacher!r}): expected a built keras.Model; call it on a batch "
            "once."
        )
    return Objective(
        tuple(as_selector(site) for site in each),
        function,
        number(weight, "objective(weight)"),
        as_when(when),
        _checked_name("objective", name),
        chosen,
        teacher,
        teacher_sites,
    )


def named(changes: Sequence[Change]) -> list[Change]:
    """The same, each with a name of its own.

    Raises:
        EditError: two were given the same name.
    """
    given = [change.name for change in changes if change.name is not None]
    twice = next((name for name in given if given.count(name) > 1), None)
    if twice is not None:
        raise EditError(
            f"Scope(...): two edits or objectives are called {twice!r}; give each a name of its "
            "own."
        )
    taken = set(given)
    found: list[Change] = []
    for change in changes:
        name = change.name
        if name is None:
            stem = _stem(change)
            name, n = stem, 1
            while name in taken:
                n += 1
                name = f"{stem}_{n}"
            taken.add(name)
        found.append(dataclasses.replace(change, name=name))
    return found


def _stem(change: Change) -> str:
    if isinstance(change, Objective):
        return _plain(_name_of(change.function))
    described = change.edit.describe()
    own = described["config"].get("name") if described["class"] == "function" else None
    return _plain(str(own or described["class"]))


def _plain(text: str) -> str:
    """What may stand in the path of a site."""
    last = text.rsplit(".", maxsplit=1)[-1]
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in last).strip("_").lower() or "own"


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or type(function).__name__)


def _checked_name(what: str, name: Any) -> str | None:
    if name is None:
        return None
    if not isinstance(name, str) or not name or set(name) & set("/\\#:[]*?"):
        raise EditError(
            f"{what}(name={name!r}): expected a name without / \\ # : [ ] * ?, such as 'noise'."
        )
    return name
