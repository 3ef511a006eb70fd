"""`fitscope replay RUN`: the failing step that a capsule keeps, once more."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitscope.cli.arguments import add_command, add_imports, add_json
from fitscope.cli.backend import BackendError, choose_backend
from fitscope.cli.exit_codes import OK, PROBLEM, USAGE
from fitscope.errors import FitscopeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitscope.capsules.replay import Outcome
    from fitscope.cli.arguments import Commands
    from fitscope.engine.operations import Operation

_EXAMPLE = """\
  fitscope replay runs/first
  fitscope replay runs/first --custom my_package.layers:Attention
  fitscope replay runs/first --import my_package.layers    registers custom classes
  fitscope replay runs/first --model train:make_model      gives the model, built and compiled

exit status: 0 the failure came again as it was trained, 1 it did not, 2 it could not be run."""


def add_parser(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands,
        "replay",
        run,
        summary="Run the step again that fs.capsule kept: as it was trained, and operation by "
        "operation.",
        example=_EXAMPLE,
    )
    parser.add_argument("run", metavar="RUN", help="a run directory, or a capsule in it")
    parser.add_argument(
        "--custom",
        metavar="MODULE:NAME",
        action="append",
        default=[],
        help="a custom class or function of the model; imports its module; may be repeated",
    )
    parser.add_argument(
        "--model",
        metavar="MODULE:FUNCTION",
        help="a function without arguments that gives the model as it was trained, built and "
        "compiled, for what Keras cannot write down; imports its module",
    )
    add_imports(parser)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Replay, and print what came of it."""
    from fitscope.capsules.file import find, read_settings

    try:
        folder = find(Path(arguments.run))
        settings = read_settings(folder)
        _choose_backend(settings["backend"])
        custom, make = _given(arguments)

        from fitscope.capsules.replay import replay

        outcomes = replay(folder, custom, make)
    except Exception as error:  # noqa: BLE001 - the model's own code runs; 1 means it ran through
        if os.environ.get("FITSCOPE_DEBUG", "") not in ("", "0"):
            traceback.print_exception(error)
        known = isinstance(error, (FitscopeError, OSError))
        kind = "" if known else f"the step could not be run again: {type(error).__name__}: "
        print(f"fitscope: {kind}{error}", file=sys.stderr)
        return USAGE
    if arguments.json:
        print(json.dumps(_to_json(folder, settings, outcomes), indent=2))
    else:
        print("\n".join(_lines(folder, settings, outcomes)))
    return OK if outcomes[0].reproduced else PROBLEM


def _choose_backend(wanted: str) -> None:
    given = os.environ.get("KERAS_BACKEND")
    if given and given != wanted:
        raise BackendError(
            f"The capsule was kept on {wanted}, and KERAS_BACKEND is {given}. Set "
            f"KERAS_BACKEND={wanted}, or leave it unset."
        )
    choose_backend(wanted)


def _given(arguments: argparse.Namespace) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    """Custom objects by name, and the function that gives the model."""
    # The script's folder is on the path, not the folder the user stands in.
    sys.path.insert(0, str(Path.cwd()))
    for module in arguments.modules:
        _imported(module, "MODULE after --import")
    found: dict[str, Any] = {}
    for text in arguments.custom:
        name = text.rpartition(":")[2]
        found[name] = _imported(text, "MODULE:NAME after --custom")
    if arguments.model is None:
        return found, None
    make = _imported(arguments.model, "MODULE:FUNCTION after --model")
    if not callable(make):
        raise FitscopeError(
            f"--model {arguments.model}: expected a function that gives the model, and it is a "
            f"{type(make).__name__}."
        )
    return found, make


def _imported(text: str, expected: str) -> Any:
    module, colon, name = text.partition(":")
    try:
        if bool(colon) != (":" in expected):
            raise ValueError("a name is missing, or one too many")
        found = importlib.import_module(module)
        return getattr(found, name) if colon else found
    except (ImportError, AttributeError, ValueError) as error:
        raise FitscopeError(f"{text} cannot be imported: {error}. Expected {expected}.") from error


def _lines(folder: Path, settings: dict[str, Any], outcomes: list[Outcome]) -> list[str]:
    ahead = settings["step"] - settings["first_step"]
    lines = [
        f"{folder}: train step {settings['step']}, epoch {settings['epoch']}, on "
        f"{settings['backend']} with Keras {settings['keras']}"
        + (f", from the weights {ahead} steps before it" if ahead else ""),
        f"kept because: {settings['reason']}",
    ]
    if settings["condition"]["kind"] == "function":
        lines.append(
            f"the condition was a function ({settings['condition']['name']}), which is not kept: "
            "looked for NaN and infinities in its place"
        )
    for each in outcomes:
        compiled = "XLA or torch.compile on" if settings["jit_compile"] else "jit_compile off"
        how = f"{each.how} ({compiled})" if each is outcomes[0] else f"{each.how} (eagerly)"
        lines += ["", f"{how}: {'reproduced' if each.reproduced else 'not reproduced'}"]
        if each.reason is not None:
            lines.append(f"  {each.reason}")
        if each.origin is not None and str(each.origin) != each.reason:
            lines.append(f"  not finite first: {each.origin}")
        if each.unseen:
            lines.append(f"  could not be seen, and may have been first: {', '.join(each.unseen)}")
        if each is not outcomes[0] and (each.origin is not None or each.is_of_loss):
            told = _no_operation(each) if each.operation is None else _operation(each.operation)
            lines.append(f"  operation: {told}")
    return lines


def _operation(made: Operation) -> str:
    from fitscope.terminal.numbers import compact, count

    where = "outside the layers" if made.layer is None else f"in {made.layer}"
    if made.part == "backward":
        whose = "of the loss" if made.layer is None else f"of {made.layer}"
        where = f"in the backward pass {whose}" + (f" ({made.of})" if made.of else "")
    if made.part == "update":
        where = "in the update"
    text = f"{made.name} {where} made {count(made.bad)} of {count(made.size)} values not finite"
    if made.given is not None:
        text += f", of values within {compact(made.given[0])} and {compact(made.given[1])}"
    return text


def _no_operation(outcome: Outcome) -> str:
    if outcome.origin is not None and (outcome.origin.is_batch or outcome.origin.targets):
        return "none; the batch was bad before the model saw it"
    if outcome.origin is not None and "before the forward" in outcome.origin.direction:
        return "none; the weight was bad before the step"
    return "not known: no single operation was seen to make it of finite values"


def _to_json(folder: Path, settings: dict[str, Any], outcomes: list[Outcome]) -> dict[str, Any]:
    keys = ("step", "epoch", "first_step", "backend", "keras", "jit_compile", "reason", "condition")
    return {
        "capsule": str(folder),
        **{key: settings[key] for key in keys},
        "outcomes": [
            {
                "how": o.how,
                "reproduced": o.reproduced,
                "reason": o.reason,
                "site": None if o.origin is None else o.origin.site,
                "layer": None if o.origin is None else o.origin.layer,
                "direction": None if o.origin is None else o.origin.direction,
                "unseen": list(o.unseen),
                "operation": None if o.operation is None else o.operation.name,
                "operation_layer": None if o.operation is None else o.operation.layer,
                "operation_part": None if o.operation is None else o.operation.part,
                "operation_of": None if o.operation is None else o.operation.of,
            }
            for o in outcomes
        ],
    }
