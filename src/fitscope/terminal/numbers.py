"""Numbers as short text, without a rounding that changes what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence

MISSING = "-"


def compact(value: float | None) -> str:
    """A number with three significant digits, in at most ten characters.

    From 1000 to 9999 the whole part is written in full, which is no longer than an exponent.

    Args:
        value: The number; `None` and NaN stand for "not known".

    Returns:
        The text, with trailing zeros left out.

    Example:
        >>> compact(0.123456), compact(-1234.5), compact(1.2345e-7), compact(0)
        ('0.123', '-1234', '1.23e-7', '0')
    """
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == 0:
        return "0"
    size = abs(value)
    if 999.5 <= size < 9999.5:
        return f"{value:.0f}"
    if 1e-3 <= size < 999.5:
        return _without_zeros(f"{value:#.3g}")
    digits, exponent = f"{value:.2e}".split("e")
    return f"{_without_zeros(digits)}e{int(exponent)}"


def percent(share: float | None) -> str:
    """A share as a percentage that never rounds to none or to all.

    A share above 0 is never shown as 0%, and one below 1 never as 100%.

    Args:
        share: A number from 0 to 1; `None` and NaN stand for "not known".

    Example:
        >>> percent(0.0), percent(1e-9), percent(0.0234), percent(0.5), percent(0.99999)
        ('0%', '<0.1%', '2.3%', '50%', '>99.9%')
    """
    if share is None or math.isnan(share):
        return MISSING
    if share <= 0:
        return "0%"
    if share >= 1:
        return "100%"
    if share < 0.001:
        return "<0.1%"
    if share > 0.999:
        return ">99.9%"
    if share < 0.0995 or share > 0.985:
        # Rounding up must not reach the whole: 99.96% stays 99.9%.
        return f"{min(share * 100, 99.9):.1f}%".replace(".0%", "%")
    return f"{share * 100:.0f}%"


def count(number: float | None) -> str:
    """A whole number with its thousands apart.

    Example:
        >>> count(1797)
        '1,797'
    """
    return MISSING if number is None or math.isnan(number) else f"{int(number):,}"


def duration(seconds: float) -> str:
    """A span of time, in the unit that suits it.

    Example:
        >>> duration(0.0123), duration(3.21), duration(125.0)
        ('12 ms', '3.2 s', '2 min 5 s')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0095 else f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def shape(sizes: Sequence[int | None]) -> str:
    """A tensor's shape; a size that varies is a question mark.

    Example:
        >>> shape((None, 8, 8, 16)), shape(())
        ('?x8x8x16', 'scalar')
    """
    return "x".join("?" if size is None else str(size) for size in sizes) or "scalar"


def _without_zeros(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits
