"""The `fitscope` command: reads the arguments, runs a command, turns errors into sentences."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from fitscope._version import __version__
from fitscope.cli import demo, doctor, replay, run, show, sites, ui
from fitscope.cli.exit_codes import INTERRUPTED, OK, PROBLEM, USAGE
from fitscope.errors import FitscopeError

DEBUG_VARIABLE = "FITSCOPE_DEBUG"
# A compiler's error may run over pages; what went wrong stands at either end.
_LONGEST_UNEXPECTED = 400

_DESCRIPTION = "See what every layer of a Keras model puts out while it trains."
_EPILOG = """\
examples:
  fitscope demo                   watch a small network train, then see what was found
  fitscope show runs/first        the summary table of a run
  fitscope doctor train.py        what is wrong with a training
  fitscope replay runs/first      a failing step that fs.capsule kept, once more
  fitscope sites model.keras      where a saved model can be watched
  fitscope run train.py           an unmodified script, every fit in it watched
  fitscope ui                     the runs in runs/, in the browser

exit codes: 0 all went well, 1 a problem (one sentence on the error stream), 2 wrong usage,
3 a fault found by `doctor`.
FITSCOPE_DEBUG=1 adds the traceback to an error."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; imports nothing heavier than argparse."""
    parser = argparse.ArgumentParser(
        prog="fitscope",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"fitscope {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in (demo, run, show, doctor, replay, sites, ui):
        command.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after the program's name; those of the process by default.

    Returns:
        The exit status: 0, 1 for a problem, 2 for wrong usage.

    Example:
        >>> main([])
        2
    """
    _print_what_it_can()
    parser = build_parser()
    given, rest = list(sys.argv[1:] if arguments is None else arguments), []
    if given[:1] == ["run"]:  # what stands behind the script is the script's
        given, rest = run.split(given)
    try:
        parsed = parser.parse_args(given, argparse.Namespace(rest=rest))
    except SystemExit as leaving:  # argparse has printed the help or what is wrong
        return leaving.code if isinstance(leaving.code, int) else USAGE
    if not hasattr(parsed, "command"):
        parser.print_help(sys.stderr)
        return USAGE
    try:
        status: int | Callable[[], int] = parsed.command(parsed)
        if not callable(status):
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return OK
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except (FitscopeError, OSError, ImportError) as error:
        return _explain(error)
    except Exception as error:  # anything else is a fault of fitscope; say so in one sentence
        return _explain(error, unexpected=True)
    # A script that is run ends as it does by itself: what it raises is its own.
    return status() if callable(status) else status


def _explain(error: Exception, *, unexpected: bool = False) -> int:
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exception(error)
    message = " ".join(str(error).split()) or type(error).__name__
    if unexpected:
        if len(message) > _LONGEST_UNEXPECTED:
            half = _LONGEST_UNEXPECTED // 2
            message = f"{message[:half]} ... {message[-half:]}"
        message = (
            f"unexpected {type(error).__name__}: {message} (set {DEBUG_VARIABLE}=1 for the "
            "traceback)"
        )
    print(f"fitscope: {message}", file=sys.stderr)
    return PROBLEM


def _print_what_it_can() -> None:
    """A layer's name that the output cannot encode must not end the command."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _silence_stdout() -> None:
    """The reader has left (`| head`): keep the flush at exit from complaining about it."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
