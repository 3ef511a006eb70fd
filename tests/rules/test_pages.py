"""Every rule has a page with its formula and source, and the pages are those of the rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from fitscope.rules.pages import contents, page
from fitscope.rules.registry import RULES

DOCS = Path(__file__).parents[2] / "docs" / "rules"


@pytest.mark.parametrize("name", RULES)
def test_the_page_is_that_of_the_rule(name):
    text = page(RULES[name])
    assert (DOCS / f"{name}.md").read_text(encoding="utf-8") == text, (
        "run: python -m fitscope.rules.pages docs/rules"
    )
    assert "**Formula.**" in text
    assert "**Source.**" in text


def test_the_list_has_every_rule_and_no_other():
    assert (DOCS / "README.md").read_text(encoding="utf-8") == contents()
    assert {path.stem for path in DOCS.glob("*.md")} == {*RULES, "README"}
