"""What the demo says before and after training."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from fitscope.rules.registry import findings
from fitscope.terminal.command import command
from fitscope.terminal.numbers import count, percent
from fitscope.terminal.progress import cost_text
from fitscope.terminal.report import findings_text, paragraph

if TYPE_CHECKING:
    from fitscope.run.reader import Run

# Kept apart from the network, which imports Keras: the text is the same in tests without it.
_LAYER = "conv_2"


def opening_text(backend: str, epochs: int, images: int, *, flawed: bool = True) -> Text:
    """What is about to happen, in one line.

    Args:
        backend: What Keras runs on.
        epochs: Epochs to train.
        images: Images to train on.
        flawed: Whether the network has its flaw.
    """
    kind = "a small convolutional network" if flawed else "the network without its flaw"
    return Text(
        f"Training {kind} on {count(images)} handwritten digits with {backend}, "
        f"{epochs} {'epoch' if epochs == 1 else 'epochs'}.\n"
    )


def ending_text(
    run: Run,
    path: Path,
    accuracy: float,
    cost: Mapping[str, Any],
    width: int,
    *,
    flawed: bool = True,
) -> Text:
    """What was found, what it means, and where to look further.

    Args:
        run: The run.
        path: Its directory.
        accuracy: Accuracy on the images kept apart, 0 to 1.
        cost: `Scope.cost`.
        width: The characters of a line.
        flawed: Whether the network has its flaw.
    """
    found = findings(run)
    text = Text()
    text.append(f"Accuracy on unseen images: {percent(accuracy)}.")
    # The finding is read from the run, so the text never claims what this training did not show.
    seen = any(finding.rule == "dead_units" and finding.site == _LAYER for finding in found)
    if seen and accuracy > 0.9:
        text.append(" From the accuracy alone nothing looks wrong.")
    text.append("\n\n")
    text.append_text(findings_text(found, width))
    text.append("\n\n")
    if seen:
        text.append(paragraph(_PLANTED, width) + "\n\n")
    elif flawed:
        text.append(paragraph(_NOT_FOUND, width) + "\n\n")
    text.append(f"Cost: {cost_text(cost)}.\n")
    text.append(paragraph(_COST, width) + f"\nRun:  {path}\n\n")
    text.append("Look further:\n", style="bold")
    directory = shlex.quote(str(path))
    show = f"  {command()} show {directory}"
    text.append(f"{show}\n{show} --phase validation\n  {command()} ui {directory}")
    if flawed:
        text.append(f"\n  {command()} demo --fixed    the same network without the flaw")
    return text


_PLANTED = (
    "This flaw was planted: the bias initializer of conv_2 draws around -1 instead of zero, so "
    "most of its filters start below zero for every image, and a ReLU passes no gradient there. "
    "The filters that are left suffice for 8x8 digits."
)
_COST = (
    "The demo observes every 5th step, so that the table moves and each run finds the same; "
    "fs.Scope() by itself chooses the steps so that watching stays within 2% of the time."
)
_NOT_FOUND = (
    "The network has a flaw that was planted in conv_2 (its bias initializer draws around -1), "
    "but too few steps were observed for the rules to say so. Train longer: --epochs 30."
)
