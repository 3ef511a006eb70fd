"""Warnings that never stop a training, and news of it."""

from __future__ import annotations

import sys
import warnings


def tell(message: str) -> None:
    """Warn, also where warnings are errors: there the message goes to stderr instead."""
    try:
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    except RuntimeWarning:
        sys.stderr.write(f"fitscope: {message}\n")


def announce(message: str) -> None:
    """Say what was asked for: no warning, which would stand behind a line of code of ours."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
