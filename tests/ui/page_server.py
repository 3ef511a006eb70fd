"""The page's server in a process of its own, and the browser that the tests use."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TOKEN = "a-token-of-the-tests-0123456789"


@dataclass
class Server:
    """A page's server in a process of its own."""

    port: int
    process: subprocess.Popen[str]

    def get(self, path: str, *, token: bool = True, method: str = "GET", **headers: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            named.setdefault("Cookie", f"fitscope-{self.port}={TOKEN}")
        connection.putrequest(method, path, skip_host="Host" in named)
        for name, value in named.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return SimpleNamespace(status=answer.status, headers=answer.headers, body=body)

    def json(self, path: str) -> Any:
        answer = self.get(path)
        assert answer.status == 200, answer.body
        return json.loads(answer.body)

    @property
    def link(self) -> str:
        return f"http://127.0.0.1:{self.port}/?token={TOKEN}"


def start(*roots: Path) -> Server:
    process = subprocess.Popen(
        [sys.executable, "-m", "fitscope", "ui", "--port", "0", "--no-browser", *map(str, roots)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "FITSCOPE_TOKEN": TOKEN},
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("fitscope page: http://127.0.0.1:"), line
    return Server(int(line.split(":")[3].split("/")[0]), process)


def stop(server: Server) -> None:
    server.process.terminate()
    server.process.wait(timeout=10)
    if server.process.stdout is not None:
        server.process.stdout.close()


def chromium() -> str:
    named = os.environ.get("FITSCOPE_CHROMIUM")
    found = named or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    assert found, "no Chromium found: install it (`make browser`), or set FITSCOPE_CHROMIUM"
    return found


def until(condition: Any, seconds: float = 15.0) -> Any:
    """Wait for something that happens soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not so within {seconds:g} s")
