"""All rules, and what they find in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from fitscope.rules.constant_output import constant_output
from fitscope.rules.dead_units import dead_units
from fitscope.rules.finding import Finding, by_severity
from fitscope.rules.non_finite import non_finite
from fitscope.rules.saturation import saturation

if TYPE_CHECKING:
    from fitscope.run.reader import Run

Rule = Callable[["Run"], list[Finding]]

RULES: Mapping[str, Rule] = {
    "non_finite": non_finite,
    "dead_units": dead_units,
    "saturation": saturation,
    "constant_output": constant_output,
}


def findings(run: Run) -> list[Finding]:
    """What all rules find in a run, the most severe first.

    Args:
        run: The run to read; it may still be being written.

    Example:
        ```python
        for finding in findings(fs.open_run("runs/first")):
            print(finding.site, finding.message)
        ```
    """
    return by_severity([finding for rule in RULES.values() for finding in rule(run)])
