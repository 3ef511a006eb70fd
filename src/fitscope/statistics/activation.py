"""Where the output of an activation tells that a unit is off, or stuck.

*Dead* is the closed interval of output values in which a unit passes (almost) nothing: exactly
zero, and for activations that only approach zero on their off side the tail of magnitudes up to
`TAIL`. *Saturated* is where the derivative is below `FLAT` = 2% of its largest magnitude, written
as a limit on the output; limits belong to the zone (`y <= below`, `y >= above`), which the flat
pieces of `hard_sigmoid` and its like need. The off side of a rectifier is dead and not saturated
as well.

Zones are for Keras' default parameters. With f' in terms of the output y and s = `FLAT`:

- sigmoid: f' = y(1-y) <= 1/4, so y(1-y) < s/4: y = (1 -+ sqrt(1-s))/2. softmax: the same diagonal
  of its Jacobian, upper side only: with many classes nearly every output is small.
- tanh: f' = 1-y^2, so |y| > sqrt(1-s).  softsign: f' = (1-|y|)^2, so |y| > 1-sqrt(s).
- elu, celu (alpha 1): f' = y+1 below zero, so y < s-1.  selu: f' = y+c below zero, where
  c = scale*alpha = 1.7581 is the largest slope, so y < (s-1)c.
- log_sigmoid: f' = 1-exp(y), so y > log(1-s).  exponential: f' = y grows without limit: none.
- hard_sigmoid, hard_tanh, sparse_sigmoid: their two constants.  relu6: 6.  sparsemax: 1.
- tanh_shrink: f' = tanh(x)^2, flat around zero: |y| <= atanh(sqrt(s)) - sqrt(s) is dead.
- softplus: f' = 1-exp(-y).  squareplus: f' = y^2/(1+y^2).  gelu, silu and mish return to zero from
  below. Their off side has no end, so the dead zone is the tail in which |y| <= `TAIL`.
- relu, leaky_relu, hard_silu, hard_shrink, soft_shrink, sparse_plus, glu, threshold, linear: exact
  zeros. A custom activation is treated as linear.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FLAT = 0.02
TAIL = 1e-3


@dataclass(frozen=True, slots=True)
class Zones:
    """Zones of the output values of an activation.

    Args:
        dead: Closed interval in which a unit is off, or `None`.
        saturated_below: Values up to this one are saturated, or `None`.
        saturated_above: Values from this one on are saturated, or `None`.
        note: What to know before trusting the zones, or empty; left out of comparisons.
    """

    dead: tuple[float, float] | None = (0.0, 0.0)
    saturated_below: float | None = None
    saturated_above: float | None = None
    note: str = field(default="", compare=False)


LINEAR = Zones()

_SIGMOID = (1 - math.sqrt(1 - FLAT)) / 2
_TANH = math.sqrt(1 - FLAT)
_SOFTSIGN = 1 - math.sqrt(FLAT)
# Scale times alpha, from Klambauer et al. (2017), "Self-Normalizing Neural Networks".
_SELU = 1.05070098 * 1.67326324
_TANH_SHRINK = math.atanh(math.sqrt(FLAT)) - math.sqrt(FLAT)

ZONES: dict[str, Zones] = {
    "linear": LINEAR,
    "relu": LINEAR,
    "relu6": Zones(saturated_above=6.0),
    "leaky_relu": LINEAR,
    "prelu": LINEAR,
    "elu": Zones(saturated_below=FLAT - 1),
    "celu": Zones(saturated_below=FLAT - 1),
    "selu": Zones(saturated_below=(FLAT - 1) * _SELU),
    "gelu": Zones(dead=(-TAIL, 0.0)),
    "silu": Zones(dead=(-TAIL, 0.0)),
    "mish": Zones(dead=(-TAIL, 0.0)),
    "hard_silu": LINEAR,
    "sigmoid": Zones(saturated_below=_SIGMOID, saturated_above=1 - _SIGMOID),
    "hard_sigmoid": Zones(saturated_below=0.0, saturated_above=1.0),
    "sparse_sigmoid": Zones(saturated_below=0.0, saturated_above=1.0),
    "log_sigmoid": Zones(saturated_above=math.log1p(-FLAT)),
    "tanh": Zones(saturated_below=-_TANH, saturated_above=_TANH),
    "hard_tanh": Zones(saturated_below=-1.0, saturated_above=1.0),
    "softsign": Zones(saturated_below=-_SOFTSIGN, saturated_above=_SOFTSIGN),
    "softplus": Zones(dead=(0.0, TAIL)),
    "squareplus": Zones(dead=(0.0, TAIL)),
    "sparse_plus": LINEAR,
    "softmax": Zones(saturated_above=1 - _SIGMOID),
    "sparsemax": Zones(saturated_above=1.0),
    "log_softmax": LINEAR,
    "exponential": LINEAR,
    "hard_shrink": LINEAR,
    "soft_shrink": LINEAR,
    "tanh_shrink": Zones(dead=(-_TANH_SHRINK, _TANH_SHRINK)),
    "threshold": LINEAR,
    "glu": LINEAR,
}

# Read without case and underscores, so the layers ReLU, LeakyReLU, ELU, Softmax are found too.
_BY_KEY = {name.replace("_", ""): zones_ for name, zones_ in ZONES.items()}
_BY_KEY["swish"] = _BY_KEY["silu"]
_BY_KEY["hardswish"] = _BY_KEY["hardsilu"]


def zones(activation_name: str | None) -> Zones:
    """The zones of an activation.

    Args:
        activation_name: Name of a Keras activation or activation layer, in any case, with or
            without underscores; `None` is linear, and so is a name that is not known.

    Returns:
        The zones of the output values; `note` says when the name was not known.

    Example:
        >>> zones("relu6")
        Zones(dead=(0.0, 0.0), saturated_below=None, saturated_above=6.0, note='')
    """
    if activation_name is None:
        return LINEAR
    known = _BY_KEY.get(activation_name.replace("_", "").lower())
    if known is not None:
        return known
    return Zones(
        note=f"the activation {activation_name!r} is not one of Keras: only exact zeros count as "
        "dead, and nothing as saturated"
    )
