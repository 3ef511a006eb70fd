"""Findings, and what was not seen, as sentences."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from fitscope.rules.series import MIN_STEPS
from fitscope.terminal.glyphs import Glyphs
from fitscope.terminal.numbers import count

if TYPE_CHECKING:
    from fitscope.rules.finding import Finding
    from fitscope.select.unseen import Unseen

_STYLES = {"fault": "bold red", "warning": "bold yellow", "note": "bold cyan"}
_MOST_NAMES = 4
_INDENT = "    "
_LINES = 3


def findings_text(findings: Sequence[Finding], width: int, *, observed: int | None = None) -> Text:
    """Findings in plain sentences, each with what to do.

    Args:
        findings: The findings, the most severe first.
        width: The characters of a line.
        observed: Observed training steps, where they may be too few to judge by.
    """
    if not findings and observed is not None and observed < MIN_STEPS:
        return Text(
            f"Findings: none yet. Most rules judge by {MIN_STEPS} observed steps or more; "
            f"{count(observed)} were observed."
        )
    if not findings:
        return Text("Findings: none. The rules saw nothing wrong in the observed steps.")
    text = Text()
    text.append(f"Findings: {len(findings)}", style="bold")
    for finding in findings:
        block = _block(finding.lines, width)
        text.append("\n  ")
        text.append(finding.severity, style=_STYLES.get(finding.severity, ""))
        text.append(block[len(_INDENT) + len(finding.severity) :])
    return text


def _block(lines: Sequence[str], width: int) -> str:
    """What was seen, why it matters and what to try: a line each, or joined where that saves some.

    A finding takes three lines of the terminal where it can.
    """
    what, *rest = (line.strip() for line in lines)
    tries = [[what, *rest], [what, " ".join(rest)], [" ".join([what, *rest])]]
    blocks = [
        "\n".join(paragraph(part, width, _INDENT) for part in parts if part) for parts in tries
    ]
    return next((block for block in blocks if block.count("\n") < _LINES), blocks[0])


def unseen_text(unseen: Sequence[Unseen], width: int, glyphs: Glyphs) -> Text:
    """What was selected and not seen, with the reason, grouped by reason.

    Args:
        unseen: The gaps.
        width: The characters of a line.
        glyphs: The characters to draw with.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for gap in unseen:
        groups.setdefault((gap.reason, gap.remedy), []).append(gap.site)
    text = Text()
    text.append(f"Not seen: {count(len(unseen))}", style="bold")
    for (reason, remedy), names in groups.items():
        listed = ", ".join(names[:_MOST_NAMES])
        if len(names) > _MOST_NAMES:
            listed += f"{glyphs.ellipsis} and {count(len(names) - _MOST_NAMES)} more"
        text.append(
            f"\n  {listed}\n" + paragraph(" ".join(filter(None, (reason, remedy))), width, _INDENT)
        )
    return text


def paragraph(sentence: str, width: int, indent: str = "") -> str:
    """Break a sentence into lines.

    Args:
        sentence: The sentence.
        width: The characters of a line.
        indent: What every line starts with.
    """
    # Long site names and commands stay whole, so that they can be copied.
    return textwrap.fill(
        sentence,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
