"""The command as it can be pasted into the shell that printed it."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

_NAME = "fitscope"


def command() -> str:
    """`fitscope`, or where it lies when the shell would not find it."""
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path(_NAME)
    if started.name == _NAME and started.is_file() and not shutil.which(_NAME):
        return os.path.relpath(started)
    return _NAME
