"""Kinds of arguments that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # argparse has no public name for it.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]

Command = Callable[[argparse.Namespace], "int | Callable[[], int]"]
"""Gives the exit status, or what is left to do where no exception is caught."""


def add_command(
    commands: Commands, name: str, command: Command, *, summary: str, example: str
) -> argparse.ArgumentParser:
    """Add a command with its help.

    Args:
        commands: What `add_subparsers` gave.
        name: The word to type.
        command: Runs it.
        summary: One sentence.
        example: Lines to copy.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def step_range(text: str) -> tuple[int | None, int | None]:
    """Read `A:B`, the steps from A up to but without B; either end may be left out.

    Raises:
        argparse.ArgumentTypeError: It is no such range.

    Example:
        >>> step_range("100:200"), step_range(":50"), step_range("7")
        ((100, 200), (None, 50), (7, 8))
    """
    first, colon, last = text.partition(":")
    try:
        start = int(first) if first else None
        stop = int(last) if last else None
    except ValueError:
        raise argparse.ArgumentTypeError(_not_a_range(text)) from None
    if not colon and start is not None:
        return start, start + 1
    if not colon or (start is not None and stop is not None and stop <= start):
        raise argparse.ArgumentTypeError(_not_a_range(text))
    return start, stop


def positive_int(text: str) -> int:
    """Read a whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: It is no such number.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def add_imports(parser: Any) -> None:
    """`--import MODULE`, for models with custom layers."""
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module first that registers custom layers; runs its code; may be repeated",
    )


def add_json(parser: Any) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")


def _not_a_range(text: str) -> str:
    return f"{text!r} is not a range of steps; write A:B, such as 100:200, 100: or :200"
