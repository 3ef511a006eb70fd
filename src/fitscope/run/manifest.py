"""What `run.json` says: the format, the versions of everything, the config."""

from __future__ import annotations

import json
import platform
import socket
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from fitscope.run.layout import FORMAT, json_text
from fitscope.run.source import git_state

_PACKAGES = ("fitscope", "numpy", "pyarrow", "keras", "tensorflow", "jax", "torch")


def manifest(config: Mapping[str, Any], rank: int, *, kept: bool = True) -> dict[str, Any]:
    """The content of `run.json`, in plain JSON types.

    Args:
        config: The config of the run.
        rank: Number of this process.
        kept: Whether it is written: only then git is asked, which may take a moment.
    """
    value = {
        "format": FORMAT,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
        "git": git_state(Path.cwd()) if kept else None,
        "rank": rank,
        "config": config,
    }
    return json.loads(json_text(value))


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        # Only what is loaded: a version is of interest when the package has taken part.
        if name in sys.modules:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found
