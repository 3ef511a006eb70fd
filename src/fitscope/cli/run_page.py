"""How `fitscope show` lays out a run's summary."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.text import Text

from fitscope.terminal.command import command
from fitscope.terminal.console import make_console
from fitscope.terminal.glyphs import glyphs_for
from fitscope.terminal.notable import most_notable
from fitscope.terminal.numbers import count, percent
from fitscope.terminal.report import findings_text, unseen_text
from fitscope.terminal.table import site_table

if TYPE_CHECKING:
    from fitscope.cli.run_summary import RunSummary

# More lines than this are a wall; `--all` prints it on request.
ROW_LIMIT = 40


def print_summary(summary: RunSummary, *, show_all: bool = False, width: int | None = None) -> None:
    """Print a run's summary.

    Args:
        summary: The summary.
        show_all: Whether to print every site.
        width: The characters of a line; `None` for the terminal's.
    """
    console = make_console(width=width)
    glyphs = glyphs_for(console.encoding)

    def put(text: Text | str = "") -> None:
        console.print(text, soft_wrap=True)

    put(_header(summary))
    put()
    if summary.rows:
        put(Text(_which_steps(summary), style="dim"))
        shown, hidden = most_notable(summary.rows, None if show_all else ROW_LIMIT)
        rows = summary.with_histograms(shown)
        put(
            site_table(
                rows, width=console.width, hidden=hidden, glyphs=glyphs, hint="; --all shows all"
            )
        )
    else:
        put(_nothing(summary))
    put()
    if summary.unseen:
        put(unseen_text(summary.unseen, console.width, glyphs))
        put()
    if not summary.rows:
        return
    train = summary.extents.get("train")
    observed = train.observed if train is not None else 0
    put(findings_text(summary.findings, console.width, observed=observed))
    put()
    put(Text("Next:", style="bold"))
    put(Text(f"  {next_command(summary)}"))


def next_command(summary: RunSummary) -> str:
    """The command that looks further.

    Args:
        summary: The summary just printed.
    """
    show = f"{command()} show {shlex.quote(str(summary.run.path))}"
    if summary.findings and summary.findings[0].site:
        finding = summary.findings[0]
        return f"{show} --select {shlex.quote(finding.site)} --steps {finding.first_step}:"
    if "validation" in summary.extents and summary.phase != "validation":
        return f"{show} --phase validation"
    return f"{show} --steps 0:"


def _nothing(summary: RunSummary) -> str:
    if summary.run.status == "running":
        return "No observed step yet. A run is readable while it is written: try again later."
    return f"No step was observed before the run was {summary.run.status}."


def _header(summary: RunSummary) -> Text:
    run = summary.run
    text = Text()
    text.append(str(run.path), style="bold")
    text.append(f"  {run.status}")
    model = run.config.get("model") or run.graph.get("name")
    backend = run.config.get("backend")
    facts = [f"model {model}" if model else "", f"backend {backend}" if backend else ""]
    facts.append(f"{count(len(run.sites))} sites")
    text.append("\n" + "  ".join(filter(None, facts)))
    for phase, extent in summary.extents.items():
        text.append(
            f"\n{phase}: observed {count(extent.observed)} steps in {count(extent.epochs)} "
        )
        text.append("epoch" if extent.epochs == 1 else "epochs")
        if extent.share is not None:
            text.append(f", {percent(extent.share)} of the steps up to step {extent.last}")
    return text


def _which_steps(summary: RunSummary) -> str:
    steps = summary.steps
    if len(steps) == 1:
        return f"step {steps.start}, {summary.phase}"
    return f"steps {steps.start} to {steps.stop - 1} merged, {summary.phase}"
