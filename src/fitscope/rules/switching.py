"""Which sites can switch units off, or saturate: questions that only an activation answers.

Every tensor has exact zeros somewhere. Only behind an activation with an off side do they say that
a unit is off; pooling, reshaping and dropout pass on, or make, zeros that mean nothing of the kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitscope.statistics.activation import zones

if TYPE_CHECKING:
    from fitscope.select.site import Site

# Activations of which a unit can be off for good: flat, at or near zero, on one side.
_OFF_SIDE = frozenset(
    {"relu", "relu6", "gelu", "silu", "swish", "mish", "softplus", "squareplus", "sparseplus",
     "hardsilu", "hardswish", "hardshrink", "softshrink", "threshold"}
)  # fmt: skip
# Layers that are an activation themselves and may come without an `activation` of their own.
_ACTIVATION_LAYERS = frozenset({"ReLU", "Softmax", "ELU", "Activation"})


def activation_of(site: Site) -> str | None:
    """The activation whose output a site shows; `None` for any other tensor.

    Args:
        site: The site.
    """
    if site.port != "output":
        return None
    if site.activation is not None:
        return site.activation
    return site.layer_class if site.layer_class in _ACTIVATION_LAYERS else None


def can_switch_off(site: Site) -> bool:
    """Whether a unit of the site can be off.

    Args:
        site: The site.
    """
    activation = activation_of(site)
    return activation is not None and activation.replace("_", "").lower() in _OFF_SIDE


def can_saturate(site: Site) -> bool:
    """Whether a value of the site can be saturated.

    Args:
        site: The site.
    """
    activation = activation_of(site)
    flat = zones(activation)
    return activation is not None and (flat.saturated_below, flat.saturated_above) != (None, None)
