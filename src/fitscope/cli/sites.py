"""`fitscope sites MODEL.keras`: where a saved model can be watched."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from fitscope.cli.arguments import add_command, add_imports, add_json
from fitscope.cli.backend import BACKENDS, choose_backend
from fitscope.cli.exit_codes import OK

if TYPE_CHECKING:
    from fitscope.cli.arguments import Commands

_EXAMPLE = """\
  fitscope sites model.keras
  fitscope sites model.keras --import my_package.layers    for custom layers
  fitscope sites model.keras --json | jq '.sites[].name'"""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "sites",
        run,
        summary="Print the sites of a saved model, and what cannot be seen and why.",
        example=_EXAMPLE,
    )
    parser.add_argument("model", metavar="MODEL.keras", help="a model saved by Keras 3")
    parser.add_argument(
        "--backend",
        choices=BACKENDS,
        help="what Keras runs on (default: KERAS_BACKEND, or the first that is installed)",
    )
    add_imports(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Load the model and print its sites."""
    # Here and not above: Keras takes seconds to import.
    from fitscope.cli.saved_model import check_file, load

    check_file(arguments.model)
    choose_backend(arguments.backend)
    model = load(arguments.model, arguments.modules)

    from fitscope.scope.preview import preview

    found = preview(model)
    print(json.dumps(found.to_json(), indent=2) if arguments.json else str(found))
    return OK
