"""`fitscope demo`: watch a small network train."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fitscope.cli.arguments import add_command, positive_int
from fitscope.cli.backend import BACKENDS, choose_backend
from fitscope.cli.exit_codes import OK

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands

EPOCHS = 30

_EXAMPLE = """\
  fitscope demo
  fitscope demo --ui
  fitscope demo --backend torch --epochs 5
  fitscope demo --run runs/mine"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "demo",
        run,
        summary="Train a small network on real data, watch it live, and see what was found.",
        example=_EXAMPLE,
    )
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="what Keras runs on (default: KERAS_BACKEND, or the first that is installed)",
    )
    parser.add_argument(
        "--epochs", type=positive_int, default=EPOCHS, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--run",
        type=Path,
        metavar="DIR",
        help="the run directory to write (default: runs/demo-<date-time>)",
    )
    parser.add_argument(
        "--fixed", action="store_true", help="train the same network without its planted flaw"
    )
    parser.add_argument("--ui", action="store_true", help="show the page in the browser meanwhile")


def run(arguments: argparse.Namespace) -> int:
    """Choose the backend, then train."""
    backend = choose_backend(arguments.backend, single_thread=True)

    # After the choice: importing Keras fixes its backend.
    from fitscope.demo.train import train

    train(
        backend,
        arguments.epochs,
        arguments.run,
        flawed=not arguments.fixed,
        ui=arguments.ui,
    )
    return OK
