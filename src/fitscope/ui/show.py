"""Showing the page from a training process, in a process of its own."""

from __future__ import annotations

import contextlib
import os
import selectors
import subprocess
import sys
import time
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from fitscope.errors import FitscopeError

_SECONDS = 30.0
_MARK = "fitscope page: "


class ShowError(FitscopeError):
    """The page's process did not start."""


class Page:
    """A page that is being served.

    Args:
        process: The serving process.
        url: The link, with its token.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process = process
        self.url = url

    @property
    def is_open(self) -> bool:
        """Whether it is still served."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the serving process."""
        # It ends when its input does, also when this process is killed.
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __repr__(self) -> str:
        return f"<Page {self.url}>" if self.is_open else "<Page, closed>"


def show(roots: Sequence[Path], *, beside: bool = False, open_browser: bool = True) -> Page:
    """Serve a page over some folders until this process ends.

    Args:
        roots: Folders with runs, or runs.
        beside: Whether the roots are runs of a scope, whose further runs lie beside them
            (`first-2` beside `first`).
        open_browser: Whether to open the link.

    Returns:
        The page.

    Raises:
        ShowError: The process did not start; the message says why.
    """
    # A new process, never a fork: the training process has threads and devices.
    command = [sys.executable, "-m", "fitscope", "ui", "--port", "0"]
    command += ["--no-browser", "--end-with-stdin"]
    command += ["--beside"] if beside else []
    command += ["--", *(str(root.resolve()) for root in roots)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own command
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        # Ctrl-C in the terminal is for the training.
        start_new_session=True,
    )
    said = _first_line(process)
    if not said.startswith(_MARK):
        process.kill()
        process.wait()
        reason = said.removeprefix("fitscope: ").strip() or "it said nothing"
        raise ShowError(f"the page could not be started: {reason}")
    page = Page(process, said.removeprefix(_MARK).strip())
    if open_browser:
        # False where there is no browser; the link was printed.
        webbrowser.open(page.url)
    return page


def _first_line(process: subprocess.Popen[str]) -> str:
    if process.stdout is None:
        return ""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            if selector.select(timeout=0.2):
                return process.stdout.readline()
    return ""
