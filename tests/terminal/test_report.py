"""Findings as sentences of a terminal."""

from fitscope.rules.finding import Finding
from fitscope.terminal.report import findings_text


def finding(message, why="", remedy=""):
    return Finding("rule", "fault", "dense", 3, 3, message, why=why, remedy=remedy)


def told(found, width=100):
    return findings_text([found], width).plain.splitlines()[1:]


def test_each_part_has_a_line_where_three_are_enough():
    found = finding("half of it is off.", "It learns nothing.", "a lower learning rate.")
    assert told(found) == [
        "  fault  dense, step 3: half of it is off. [rule]",
        "    Why: It learns nothing.",
        "    Try: a lower learning rate.",
    ]


def test_parts_share_lines_where_that_saves_a_fourth():
    two = finding("half of it is off. " * 8, "It learns nothing.", "a lower learning rate.")
    *_, last = lines = told(two)
    assert len(lines) == 3
    assert last == "    Why: It learns nothing. Try: a lower learning rate."
    lines = told(finding("is off. " * 17, "It learns little. " * 3, "a lower rate. " * 3))
    assert len(lines) == 3
    assert "Why:" in lines[1] or "Why:" in lines[2]


def test_what_needs_more_has_each_part_by_itself():
    lines = told(finding("half of it is off. " * 12, "It learns nothing. " * 4, "a lower rate."))
    assert len(lines) > 3
    assert lines[-1] == "    Try: a lower rate."


def test_all_words_are_there_at_every_width():
    found = finding("half of it is off. " * 5, "It learns nothing. " * 3, "a lower rate. " * 2)
    words = " ".join(line.strip() for line in found.lines).split()
    for width in range(40, 200, 7):
        assert " ".join(told(found, width)).split() == words
