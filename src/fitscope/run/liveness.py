"""Whether the process that writes a run is still there."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

# A writer beats once a second. On another machine only the age of the last beat is known, so
# it may be this old (clocks differ, network file systems cache) before the run counts as dead.
STALE_SECONDS = 120.0


@cache
def machine() -> str:
    """This machine since its last boot, and this process-id namespace of it."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        pass  # not Linux: the host name has to do
    return "/".join(parts)


def started(pid: int) -> str | None:
    """When a process started, as the kernel writes it; None when it is gone or cannot be seen.

    It tells a process apart from a later one that was given the same number.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    # The command name is in parentheses and may hold anything, spaces and parentheses included.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]


def beat(status: str, details: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a heartbeat of this process."""
    pid = os.getpid()
    return {
        "pid": pid,
        "host": socket.gethostname(),
        "machine": machine(),
        "started": started(pid),
        "time": time.time(),
        "status": status,
        **details,
    }


def status_of(heartbeat: Mapping[str, Any] | None) -> str:
    """`"running"`, `"interrupted"`, or what the writer said when it closed.

    Args:
        heartbeat: The last heartbeat; None when there is none.
    """
    if heartbeat is None:
        return "interrupted"
    status = str(heartbeat.get("status", "running"))
    if status != "running":
        return status
    return "running" if is_alive(heartbeat) else "interrupted"


def is_alive(heartbeat: Mapping[str, Any]) -> bool:
    """Whether the process of a heartbeat runs, as far as can be told from here."""
    pid = int(heartbeat.get("pid", -1))
    fresh = time.time() - float(heartbeat.get("time", 0.0)) < STALE_SECONDS
    if heartbeat.get("machine") != machine() or pid <= 0:
        return fresh
    if (known := heartbeat.get("started")) is not None:
        return started(pid) == known
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs and belongs to someone else
    return fresh
