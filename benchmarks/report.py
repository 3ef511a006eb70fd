"""What a benchmark prints: a Markdown table, what it ran on, and the command that made it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.interleave import Timings

LOAD = os.getloadavg()[0]
"""Of the minute before: with more than a few tenths, other work was in the way."""

PACKAGES = {"jax": ("jax", "jaxlib"), "tensorflow": ("tensorflow",), "torch": ("torch",)}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def ratio(timings: Timings, way: str) -> str:
    """The ratio to the plain way and, in brackets, its quartiles over the rounds."""
    low, high = timings.spread(way)
    return f"{timings.ratio(way):.3f} ({low:.3f}-{high:.3f})"


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms"


def command(module: str) -> str:
    """The command of this process, without where Python is and where `--json` went."""
    given = iter(sys.argv[1:])
    kept: list[str] = []
    for argument in given:
        if argument == "--json":
            next(given, None)
        elif not argument.startswith("--json="):
            kept.append(argument)
    return shlex.join(["python", "-m", f"benchmarks.{module}", *kept])


def facts(backend: str) -> dict[str, str]:
    """The machine and the versions that the figures are of."""
    packages = ("keras", *PACKAGES[backend], "numpy")
    return {
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{cores()} x {_processor()}, {platform.system()}",
        "device": _accelerator(backend),
        "load before": f"{LOAD:.1f}",
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
        "fitscope": _own_version(),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def page(title: str, module: str, backend: str, body: str) -> str:
    """One section of a results file."""
    told = "; ".join(f"{name} {value}" for name, value in facts(backend).items())
    return f"## {title}\n\n`{command(module)}`\n\n{body}\n\n{told}\n"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _own_version() -> str:
    import fitscope

    return str(fitscope.__version__)


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _accelerator(backend: str) -> str:
    """The device that the backend computes on by default."""
    if backend == "jax":
        import jax

        return str(jax.devices()[0].device_kind)
    if backend == "torch":
        import torch

        return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    import tensorflow

    found = tensorflow.config.list_physical_devices("GPU")
    return found[0].name if found else "cpu"
