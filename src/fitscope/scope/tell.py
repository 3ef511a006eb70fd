"""Warnings that never stop a training."""

from __future__ import annotations

import sys
import warnings


def tell(message: str) -> None:
    """Warn, also where warnings are errors: there the message goes to stderr instead."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        sys.stderr.write(f"fitscope: {message}\n")
