"""Which characters the output can print."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The drawing characters of one kind of output.

    Args:
        blocks: Rising bars, from nothing to full.
        ellipsis: Stands for text left out.
        rule: Repeated to draw a line.
    """

    blocks: str
    ellipsis: str
    rule: str


UNICODE = Glyphs(blocks=" ▁▂▃▄▅▆▇█", ellipsis="…", rule="─")
ASCII = Glyphs(blocks=" .:-=+*%@", ellipsis="~", rule="-")


def glyphs_for(encoding: str | None) -> Glyphs:
    """The characters that an encoding can print.

    Args:
        encoding: The output's encoding, such as `sys.stdout.encoding`; `None` when unknown.

    Example:
        >>> glyphs_for("utf-8") is UNICODE, glyphs_for("cp1252") is ASCII
        (True, True)
    """
    try:
        (UNICODE.blocks + UNICODE.ellipsis + UNICODE.rule).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE
