"""The console fitscope prints to: a terminal, or plain text of a fixed width."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console

# A pipe has no width. A fixed one makes the output the same everywhere.
PIPE_WIDTH = 120


class PlainConsole(Console):
    """A console that leaves a closed pipe to its caller."""

    def on_broken_pipe(self) -> None:
        """Raise the `BrokenPipeError` again; rich would end the process with status 1."""
        raise  # noqa: PLE0704  rich calls this while it handles the error


def make_console(file: TextIO | None = None, width: int | None = None) -> Console:
    """Open a console on a stream.

    Names of layers are printed as they are: markup, emoji codes and highlighting are off.

    Args:
        file: The stream; the standard output by default.
        width: The characters of a line. By default the terminal's, or 120 for a pipe.
    """
    stream = file if file is not None else sys.stdout
    if width is None and not stream.isatty():
        width = PIPE_WIDTH
    return PlainConsole(file=stream, width=width, markup=False, emoji=False, highlight=False)
