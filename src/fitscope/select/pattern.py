r"""Glob patterns over site names; the semantics stand at `fitscope.select.select`.

Brackets mean two things in the world of globs and sites. At the end of a pattern they are a place
in an output, unless they read as a character class by a range or a negation: `conv_[0-9]`,
`conv_[!x]`. Inside a path they are always a class: `conv_[12]/x`. So `lstm[1]` is the second
output of lstm and never `lstm1`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fitscope.errors import SelectionError
from fitscope.select.naming import PORTS, Part, SiteName, Token, split
from fitscope.select.site import Site


@dataclass(frozen=True, slots=True)
class Glob:
    """A pattern, compiled. What the pattern leaves out is `None` or empty: anything."""

    text: str
    path: re.Pattern[str]
    whole_path: bool
    call: int | None
    port: re.Pattern[str] | None
    leaf: tuple[re.Pattern[str], ...]

    def matches(self, site: Site) -> bool:
        """Whether every part of the pattern fits the site."""
        return (
            self.matches_path(site.path)
            and (self.call is None or self.call == (site.call or 0))
            and (self.port is None or self.port.fullmatch(site.port) is not None)
            # The place may lie deeper: x[0] finds x[0][mask], as x finds x[0].
            and len(self.leaf) <= len(site.leaf)
            and all(p.fullmatch(str(k)) for p, k in zip(self.leaf, site.leaf, strict=False))
        )

    def matches_path(self, path: str) -> bool:
        """Whether the path part fits."""
        candidate = path if self.whole_path else path.rpartition("/")[2]
        return self.path.fullmatch(candidate) is not None


@lru_cache(maxsize=4096)
def compile_glob(text: str) -> Glob:
    """Read a pattern.

    Raises:
        SelectionError: The pattern is malformed, or its port does not exist.
    """
    parts = split(text)
    segments = _segments(parts.path.tokens)
    anchored = len(segments) > 1
    if anchored and not segments[0]:
        segments = segments[1:]
    if not all(segments):
        raise SelectionError(
            f"{text!r} is not a pattern: a layer name in its path is empty. Accepted are names and "
            "wildcards joined by single slashes, such as 'encoder/*/attn'; a slash in front means "
            "the top level."
        )
    deep = any(_is_deep(segment, place) for segment in segments for place in range(len(segment)))
    regex = _path_regex(segments)
    if deep and not anchored:
        regex = f"(?:.*/)?{regex}"
    return Glob(
        text=text,
        path=re.compile(regex, re.DOTALL),
        whole_path=anchored or deep,
        call=_call(parts.call, text),
        port=None if parts.port is None else _port(parts.port, parts.path),
        leaf=tuple(re.compile(_regex(key.tokens, ".", "."), re.DOTALL) for key in parts.leaf),
    )


def _segments(tokens: Sequence[Token]) -> list[list[Token]]:
    segments: list[list[Token]] = [[]]
    inside = False
    for token in tokens:
        inside = _is(token, "[") or (inside and not _is(token, "]"))
        if token.char == "/":
            if inside:
                raise SelectionError(
                    f"{''.join(t.char for t in tokens)!r} has a slash in a set of characters. "
                    "Accepted is a set within one layer name, such as 'block_[0-9]/attn'."
                )
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _is(token: Token, char: str) -> bool:
    return token.special and token.char == char


def _is_deep(segment: Sequence[Token], place: int) -> bool:
    return len(segment) > place + 1 and _is(segment[place], "*") and _is(segment[place + 1], "*")


def _path_regex(segments: list[list[Token]]) -> str:
    regex = ""
    any_number = False
    for place, segment in enumerate(segments):
        last = place == len(segments) - 1
        previous, any_number = any_number, len(segment) > 1 and all(_is(t, "*") for t in segment)
        if not any_number:
            regex += _regex(segment, "[^/]", ".") + ("" if last else "/")
        elif not last:
            regex += "" if previous else "(?:[^/]+/)*"
        elif previous or not regex:
            regex = ".*" if not regex or regex == "(?:[^/]+/)*" else _below(regex)
        else:
            regex = _below(regex)
    return regex


def _below(regex: str) -> str:
    # 'encoder/**' finds encoder itself too: ** is any number of segments, also none.
    return regex.removesuffix("(?:[^/]+/)*").removesuffix("/") + "(?:/[^/]+)*"


def _regex(tokens: Sequence[Token], one: str, across: str) -> str:
    """A regular expression; `one` is what `?` and `*` stand for, `across` what `**` does."""
    parts: list[str] = []
    place = 0
    while place < len(tokens):
        token = tokens[place]
        step = 1
        if _is_deep(tokens, place):
            parts.append(f"{across}*")
            while place + step < len(tokens) and _is(tokens[place + step], "*"):
                step += 1
        elif _is(token, "*"):
            parts.append(f"{one}*")
        elif _is(token, "?"):
            parts.append(one)
        elif _is(token, "["):
            step = next(i for i, t in enumerate(tokens[place:]) if _is(t, "]")) + 1
            parts.append(_character_class(tokens[place + 1 : place + step - 1]))
        else:
            parts.append(re.escape(token.char))
        place += step
    return "".join(parts)


def _character_class(tokens: Sequence[Token]) -> str:
    negated = _is(tokens[0], "!") and len(tokens) > 1
    inside = "".join(
        "-" if _is_range(tokens, place) else re.escape(token.char)
        for place, token in enumerate(tokens)
        if place or not negated
    )
    try:
        re.compile(f"[{inside}]")
    except re.error as error:
        shown = "".join(token.char for token in tokens)
        raise SelectionError(
            f"'[{shown}]' is not a set of characters: {error}. Accepted are characters and "
            "ascending ranges, such as [abc] or [0-9], and [!...] for all others."
        ) from error
    return f"[^/{inside}]" if negated else f"[{inside}]"


def _is_range(tokens: Sequence[Token], place: int) -> bool:
    inner = 0 < place < len(tokens) - 1
    return inner and _is(tokens[place], "-") and not _is(tokens[place - 1], "-")


def _call(call: Part | None, text: str) -> int | None:
    if call is None or call.text == "*":
        return None
    if not re.fullmatch(r"[0-9]+", call.text):
        raise SelectionError(
            f"'#{call}' in {text!r} is not the number of a call. Accepted are #0, #1, ... and #* "
            r"for any; write \# where the character belongs to a layer's name."
        )
    return int(call.text)


def _port(port: Part, path: Part) -> re.Pattern[str]:
    pattern = re.compile(_regex(port.tokens, ".", "."))
    if not any(pattern.fullmatch(name) for name in PORTS):
        # Raises the error for an unknown port.
        SiteName(path.text.strip("/"), port=port.text)
    return pattern
