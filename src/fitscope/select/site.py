"""A site: one place of a model where a tensor can be seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fitscope.errors import RunFormatError
from fitscope.select.naming import LeafKey, SiteName


@dataclass(frozen=True, slots=True)
class Site:
    """One place of a model where a tensor can be seen, and what is known of the tensor.

    Args:
        name: The printed name, unique within a run.
        path: Layer names from the root model down, joined by `/`.
        call: Which call of a reused layer, from 0; `None` when there is one.
        port: One of `fitscope.select.naming.PORTS`.
        leaf: Place in a nested output.
        layer_class: Class of the layer, or of the operation for graph operations.
        layer_classes: Names of the class and its bases, most derived first; lets a saved run be
            selected by class.
        shape: Shape in one observed step; `None` where it is not known.
        dtype: Dtype the tensor is stored in, such as `"float32"` or `"bfloat16"`.
        activation: Name of the layer's activation, or `None`.
        layer: The layer itself while it lives; never saved, left out of comparisons.

    Example:
        >>> Site.of(SiteName("conv_1"), layer_class="Conv2D", shape=(32, 8, 8, 4)).name
        'conv_1'
    """

    name: str
    path: str
    call: int | None
    port: str
    leaf: tuple[LeafKey, ...]
    layer_class: str
    layer_classes: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str
    activation: str | None = None
    layer: object | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(
        cls,
        name: SiteName,
        *,
        layer_class: str = "Layer",
        layer_classes: tuple[str, ...] = (),
        shape: tuple[int | None, ...] = (),
        dtype: str = "float32",
        activation: str | None = None,
        layer: object | None = None,
    ) -> Site:
        """A site from its parsed name.

        Args:
            name: The parsed name; the printed one is made from it.
            layer_class: See `Site`.
            layer_classes: See `Site`; `(layer_class,)` when left out.
            shape: See `Site`.
            dtype: See `Site`.
            activation: See `Site`.
            layer: See `Site`.
        """
        return cls(
            name=str(name),
            path=name.path,
            call=name.call,
            port=name.port,
            leaf=name.leaf,
            layer_class=layer_class,
            layer_classes=layer_classes or (layer_class,),
            shape=shape,
            dtype=dtype,
            activation=activation,
            layer=layer,
        )

    @property
    def site_name(self) -> SiteName:
        """The parts of the name."""
        return SiteName(self.path, self.call, self.port, self.leaf)

    @property
    def layer_name(self) -> str:
        """The last segment of the path."""
        return self.path.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """Everything but the layer, in JSON types."""
        return {
            "name": self.name,
            "path": self.path,
            "call": self.call,
            "port": self.port,
            "leaf": list(self.leaf),
            "layer_class": self.layer_class,
            "layer_classes": list(self.layer_classes),
            "shape": list(self.shape),
            "dtype": self.dtype,
            "activation": self.activation,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Site:
        """Read what `to_json` wrote; keys of later versions are left aside.

        Raises:
            RunFormatError: A field is missing.
        """
        try:
            return cls(
                name=str(record["name"]),
                path=str(record["path"]),
                call=record["call"],
                port=str(record["port"]),
                leaf=tuple(record["leaf"]),
                layer_class=str(record["layer_class"]),
                layer_classes=tuple(record["layer_classes"]),
                shape=tuple(record["shape"]),
                dtype=str(record["dtype"]),
                activation=record["activation"],
            )
        except KeyError as error:
            raise RunFormatError(
                f"the site record {dict(record)!r} lacks {error.args[0]!r}. It was not written by "
                "fitscope, or was edited; open a run that fitscope wrote."
            ) from error
