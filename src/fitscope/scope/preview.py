"""What a scope would see in a model, before anything is run."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import keras

from fitscope.engine import keras_internals
from fitscope.engine.entry import Entry, named
from fitscope.engine.leaves import leaves
from fitscope.engine.plan import Plan
from fitscope.engine.points import part_of
from fitscope.engine.trace import Trace
from fitscope.engine.vector import BINS, LENGTH
from fitscope.engine.weights import weights
from fitscope.errors import UnsupportedError
from fitscope.scope.editing import Change
from fitscope.scope.editor import describe, try_on_shapes
from fitscope.scope.instructions import Instruction, watch
from fitscope.scope.session import make_plan
from fitscope.scope.taps import Shapes
from fitscope.select.nearest import no_match
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen
from fitscope.values.record import Record


@dataclasses.dataclass(frozen=True)
class Preview:
    """The sites a scope would see.

    Attributes:
        sites: in the order in which one forward pass meets them.
        unseen: what was selected but cannot be seen, and why.
        batch_size: that the shapes are for.
        note: why shapes are missing, where they are.
        measured: how many of the sites are reduced to statistics.
        bytes_written: bytes of tensors that `fs.record` writes for a step.
        caution: what may keep some of the sites from being seen, and is known only when the step
            has been traced.
    """

    sites: tuple[Site, ...]
    unseen: tuple[Unseen, ...]
    batch_size: int
    note: str | None = None
    caution: str | None = None
    measured: int | None = None
    bytes_written: int = 0
    edits: tuple[tuple[str, str, tuple[Site, ...]], ...] = ()
    """Of each edit and objective, in order: its name, what it does, and at which sites."""

    def bytes_read(self, site: Site) -> int:
        """Bytes of the tensor, which an observed step reads on the device."""
        return math.prod(d or 1 for d in site.shape) * (
            _item_bytes(site.dtype) if site.dtype else 4
        )

    @property
    def bytes_recorded(self) -> int:
        """Bytes that leave the device for each site in an observed step, at most."""
        return 4 * (LENGTH + BINS)

    def to_json(self) -> dict[str, Any]:
        """The preview in plain types, for `--json`."""
        return {
            "batch_size": self.batch_size,
            "sites": [{**s.to_json(), "bytes_read": self.bytes_read(s)} for s in self.sites],
            "bytes_recorded_per_site": self.bytes_recorded,
            "bytes_written": self.bytes_written,
            "unseen": [u.to_json() for u in self.unseen],
            "note": self.note,
            "caution": self.caution,
            "edits": [
                {"name": name, "does": does, "sites": [s.name for s in sites]}
                for name, does, sites in self.edits
            ],
        }

    def __str__(self) -> str:
        rows = [("site", "class", "shape", "dtype", "bytes/step")]
        rows += [
            (
                s.name,
                s.layer_class,
                _shape(s) if self.note is None else "?",
                s.dtype or "?",
                _bytes(self.bytes_read(s)) if self.note is None else "?",
            )
            for s in self.sites
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
        ]
        total = sum(self.bytes_read(s) for s in self.sites)
        count = len(self.sites)
        measured = count if self.measured is None else self.measured
        statistics = (
            f" and records at most {_bytes(measured * self.bytes_recorded)}" if measured else ""
        )
        lines.append(
            f"{count} {'site' if count == 1 else 'sites'}; an observed step reads {_bytes(total)}"
            f"{statistics}, at batch size {self.batch_size}"
        )
        if self.bytes_written:
            lines[-1] += f"; a recorded step writes {_bytes(self.bytes_written)} of tensors"
        if self.note is not None:
            lines[-1] = f"{count} sites. {self.note}"
        if self.caution is not None:
            lines.append(self.caution)
        if self.edits:
            lines.append("changed, in this order, before it is seen:")
            for name, does, sites in self.edits:
                where = ", ".join(s.name for s in sites) or "sites known in the first step"
                lines.append(f"  {name}: {does}: {where}")
        if self.unseen:
            lines.append("not seen:")
            lines += [f"  {u.site}: {u.reason}; {u.remedy}" for u in self.unseen]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)


def preview(
    model: Any,
    *instructions: Instruction,
    batch_size: int = 32,
    changes: Sequence[Change] = (),
) -> Preview:
    """List the sites of a model that instructions select; nothing is run.

    Args:
        model: a built model.
        *instructions: made by `fs.watch`, `fs.record` and the like; every layer output without any.
        batch_size: the batch size that shapes and bytes are given for.
        changes: what is changed in the model, each with a name.

    Raises:
        EditError: an edit cannot act where it is asked to.
        SelectionError: an instruction matches nothing in this model.
        UnsupportedError: the model is not built.
    """
    keras_internals.check()
    if not isinstance(model, keras.layers.Layer):
        raise UnsupportedError(
            f"preview expected a Keras model, received {type(model).__name__}: {model!r}."
        )
    if not model.built:
        raise UnsupportedError(
            f"{model.name!r} is not built, so its layers' shapes are not known. Call "
            "model.build(input_shape), call the model on a batch, or add a keras.Input."
        )
    watches = instructions if instructions or changes else (watch("**"),)
    edits = tuple(
        (str(change.name), describe(change), tuple(sites))
        for change, sites in (try_on_shapes(model, changes) if changes else ())
    )
    plan = make_plan(model, watches)
    spec = keras_internals.model_input_spec(model, batch_size)
    note = None
    sites: list[Site] = []
    unseen = list(plan.static_unseen)
    if spec is None:
        note = "The model's input shapes are not known, so neither are these; call it on a batch."
    else:
        trace = Trace(plan, Shapes(), symbolic=True, trains=True)
        try:
            with trace.installed():
                keras_internals.abstract_call(_call(model), spec)
        except Exception as error:  # a model that computes with values cannot run on shapes
            note = f"The model cannot be run on shapes alone ({type(error).__name__}: {error})."
        else:
            sites = [slot.site for _, found in trace.passes() for slot in found]
            sites += [named(s, None) for w in weights(plan) for s, _ in w.ports.values()]
            unseen += trace.not_fired()
    if note is not None:
        sites = _static_sites(plan)
    else:
        for each in watches:
            if each.selector is not None and not _selects(each, sites, unseen):
                raise no_match(each.selector, sites)
    measured = [s for s in sites if any(w.measures and _matches(w, s) for w in watches)]
    written = 0 if note is not None else sum(_written(s, watches) for s in sites)
    if written and any(isinstance(w, Record) and w.batch for w in watches):
        given = [x for _, x in leaves(spec)]
        written += sum(
            math.prod(x.shape) * _item_bytes(keras.backend.standardize_dtype(x.dtype))
            for x in given
        )
    return Preview(
        tuple(sites),
        tuple(unseen),
        batch_size,
        note,
        _caution(model),
        len(measured),
        written,
        edits,
    )


def _matches(instruction: Instruction, site: Site) -> bool:
    selector = instruction.selector
    return selector is not None and site.port in instruction.ports and selector.matches(site)


def _written(site: Site, instructions: Sequence[Instruction]) -> int:
    """Bytes of a tensor that are recorded in a step in which all instructions are due."""
    most = 0
    for each in instructions:
        wanted = _matches(each, site) or (each.batch and part_of(site) is not None)
        if not isinstance(each, Record) or not wanted:
            continue
        dtype = each.dtype if each.dtype and "float" in site.dtype else site.dtype
        length = site.shape[0] if site.shape else None
        rows = len(range(*each.rows.indices(length))) if length else 1
        most = max(most, rows * math.prod(d or 1 for d in site.shape[1:]) * _item_bytes(dtype))
    return most


def _item_bytes(dtype: str) -> int:
    bits = re.search(r"(\d+)", dtype)
    return 1 if dtype == "bool" or bits is None else max(1, int(bits[1]) // 8)


def _caution(model: Any) -> str | None:
    fuses = keras_internals.backend_name() == "tensorflow" and getattr(model, "compiled", False)
    if not fuses or model.jit_compile or model.run_eagerly:
        return None
    return (
        "TensorFlow without XLA fuses some outputs that a single operation reads, of convolutions "
        "and matrix products above all; those will be in scope.unseen. To see them, compile with "
        "jit_compile=True."
    )


def _selects(instruction: Instruction, sites: Sequence[Site], unseen: Sequence[Unseen]) -> bool:
    selector = instruction.selector
    if selector is None or unseen:
        return True
    return any(site.port in instruction.ports and selector.matches(site) for site in sites)


def _call(model: Any) -> Any:
    def call(inputs: Any) -> Any:
        return model(inputs)

    return call


def _static_sites(plan: Plan) -> list[Site]:
    return [
        dataclasses.replace(entry.site(None, port, (), (), ""), name=_name(entry, port))
        for entry in plan.candidates
        for port in sorted(plan.ports)
    ]


def _name(entry: Entry, port: str) -> str:
    return entry.path if port == "output" else f"{entry.path}:{port}"


def _shape(site: Site) -> str:
    return "(" + ", ".join("?" if d is None else str(d) for d in site.shape) + ")"


def _bytes(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"
