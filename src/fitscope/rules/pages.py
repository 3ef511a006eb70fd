"""The documentation page of each rule, made from the rule itself."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from fitscope.rules.registry import RULES
from fitscope.rules.rule import Rule

_STAGES = {"contract": "before the first step", "training": "while it trains"}


def page(rule: Rule) -> str:
    """The page of a rule, in Markdown.

    Args:
        rule: The rule; its module's docstring holds the formula and its source.
    """
    text = sys.modules[rule.check.__module__].__doc__ or ""
    title, *paragraphs = [part.strip() for part in text.split("\n\n") if part.strip()]
    when = (
        f"Looked at {_STAGES[rule.stage]}; severity `{rule.severity}` unless the finding says "
        "otherwise."
    )
    lines = [f"# {rule.id}", "", _filled(f"**{rule.sentence}** {title}"), "", _filled(when)]
    for paragraph in paragraphs:
        label, colon, rest = paragraph.partition(":")
        if colon and label in ("Formula", "Fires on", "Source"):
            paragraph = f"**{label}.** {rest.strip()}"  # noqa: PLW2901
        lines += ["", _filled(paragraph)]
    if rule.explains:
        explained = ", ".join(f"[{name}]({name}.md)" for name in rule.explains)
        lines += ["", _filled(f"**Explains**, and is told together with: {explained}.")]
    lines += ["", "## Settings", "", "```toml"]
    if rule.thresholds:
        lines += [f"[rules.{rule.id}]"]
        lines += [f"{name} = {value}" for name, value in rule.thresholds.items()]
    lines += [f"# or, to silence it, under [rules]: {rule.id} = false", "```", ""]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """Write the page of every rule, and a list of them, into a folder.

    Args:
        folder: It is made where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for rule in RULES.values():
        (folder / f"{rule.id}.md").write_text(page(rule), encoding="utf-8")
    (folder / "README.md").write_text(contents(), encoding="utf-8")


def contents() -> str:
    """The list of all rules, in Markdown."""
    lines = ["# Rules", "", "Made by `python -m fitscope.rules.pages docs/rules`."]
    for stage, words in _STAGES.items():
        lines += [
            "",
            f"## {words.capitalize()}",
            "",
            "| Rule | Severity | Looks for |",
            "|---|---|---|",
        ]
        lines += [
            f"| [{rule.id}]({rule.id}.md) | {rule.severity} | {rule.sentence} |"
            for rule in RULES.values()
            if rule.stage == stage
        ]
    return "\n".join([*lines, ""])


def _filled(text: str) -> str:
    return textwrap.fill(
        " ".join(text.split()), 100, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write(parser.parse_args().folder)
