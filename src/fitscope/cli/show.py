"""`fitscope show RUN`: the summary table of a run."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fitscope.cli.arguments import add_command, add_json, positive_int, step_range
from fitscope.cli.exit_codes import OK

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands

PHASES = ("train", "validation", "test", "predict")

_EXAMPLE = """\
  fitscope show runs/first
  fitscope show runs/first --steps 400:    everything from step 400 on
  fitscope show runs/first --phase validation --all
  fitscope show runs/first --json | jq '.findings'"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "show",
        run,
        summary="Print the summary table of a run: every site, findings, and what was not seen.",
        example=_EXAMPLE,
    )
    parser.add_argument("run", metavar="RUN", help="a run directory; it may still be written")
    parser.add_argument(
        "--steps",
        type=step_range,
        metavar="A:B",
        help="merge the steps from A up to but without B (default: the last observed step)",
    )
    parser.add_argument(
        "--phase", choices=PHASES, default="train", help="the phase to show (default: train)"
    )
    parser.add_argument(
        "--select", metavar="GLOB", default="**", help="the sites to show, such as 'conv_*'"
    )
    parser.add_argument(
        "--all", action="store_true", help="show every site, not only the most notable"
    )
    parser.add_argument(
        "--width",
        type=positive_int,
        metavar="N",
        help="characters of a line (default: the terminal's, or 120 for a pipe)",
    )
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read the run and print it."""
    # Here and not above: `fitscope --help` needs none of NumPy, pyarrow and rich.
    from fitscope.cli.run_summary import summarize

    summary = summarize(
        arguments.run, phase=arguments.phase, steps=arguments.steps, select=arguments.select
    )
    if arguments.json:
        print(json.dumps(summary.to_json(), indent=2, allow_nan=False))
        return OK

    from fitscope.cli.run_page import print_summary

    print_summary(summary, show_all=arguments.all, width=arguments.width)
    return OK
