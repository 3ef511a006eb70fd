"""`fitscope ui [RUNS]`: the page, over runs that are written or being written."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fitscope.cli.arguments import add_command
from fitscope.cli.exit_codes import OK

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands

_EXAMPLE = """\
  fitscope ui                      the runs in runs/
  fitscope ui runs/first           one run; it may still be written
  fitscope ui runs /data/more      several folders of runs

safety:
  The server listens on 127.0.0.1 only, answers only a browser that was given the link with its
  random token, only to its own name, and only questions: it changes nothing. The token moves from
  the link into a cookie that scripts cannot read. Only runs below the given folders can be opened.
  Another address (--host) is refused unless FITSCOPE_TOKEN holds a token of at least 16
  characters; that connection is not encrypted, so prefer `ssh -L 6510:127.0.0.1:6510 HOST`.
  Nothing is fetched from the network."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "ui",
        run,
        summary="Show runs in the browser, and follow those that are being written.",
        example=_EXAMPLE,
    )
    parser.add_argument(
        "runs",
        metavar="RUNS",
        nargs="*",
        type=Path,
        help="run directories, or folders that hold them (default: runs)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="N",
        help="the port; 0 for any (default: the first free from 6510 on)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="the address to listen on (default: %(default)s); see safety",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which the browser may reach the page; may be repeated",
    )
    parser.add_argument("--open", metavar="RUN", help="the run that the link opens")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the link and open no browser"
    )
    parser.add_argument("--beside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--end-with-stdin", action="store_true", help=argparse.SUPPRESS)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    # Here and not above: `fitscope --help` needs none of it.
    from fitscope.ui.serve import serve

    roots: list[Path] = arguments.runs or [Path("runs")]
    serve(
        roots,
        host=arguments.host,
        port=arguments.port,
        names=arguments.allow_host,
        open_browser=not arguments.no_browser,
        run=arguments.open,
        end_with_stdin=arguments.end_with_stdin,
        beside=arguments.beside,
    )
    return OK


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 0 to 65535")
    return int(text)
