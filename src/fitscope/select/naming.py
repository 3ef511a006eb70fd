r"""Names of sites: `path[#call][:port][leaf]`.

A path is layer names joined by slashes, which Keras forbids inside a name. The other characters
the grammar uses are legal in layer names and in the keys of dict outputs, so they are written with
a backslash there: `odd\:name#1`. A key that would read as something else is marked by a backslash
in front: `head[\0]` is the string key `"0"`, `head[0]` the first output. The same escapes hold in
selection patterns, so that every printed name is also a pattern that selects its site.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace

from fitscope.errors import SelectionError

PORTS: tuple[str, ...] = (
    "output",
    "before_edit",
    "input",
    "gradient",
    "preactivation",
    "weight",
    "weight_gradient",
    "update",
)

LeafKey = str | int

_PATH_SPECIAL = re.compile(r"[\\#:\[\]*?]")
_KEY_SPECIAL = re.compile(r"[\\\[\]*?]")
_INTEGER = re.compile(r"0|[1-9][0-9]*")
# `[0-9]` and `[!x]` are character classes in patterns; anything else in brackets is a leaf.
_CLASS_LIKE = re.compile(r"!.*|(?:[^\W_]-[^\W_]|_)*[^\W_]-[^\W_](?:[^\W_]-[^\W_]|_)*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SiteName:
    r"""The parts of a site's name.

    Args:
        path: Layer names from the root model down, joined by `/`, without escapes.
        call: Which call of a reused layer within one step, from 0; `None` when there is one.
        port: One of `PORTS`.
        leaf: Place in a nested output: integers for tuples and lists, strings for dicts.

    Raises:
        SelectionError: A part is malformed.

    Example:
        >>> SiteName.parse("encoder/lstm#1:gradient[0]")
        SiteName(path='encoder/lstm', call=1, port='gradient', leaf=(0,))
        >>> str(SiteName("head", leaf=("logits",)))
        'head[logits]'
    """

    path: str
    call: int | None = None
    port: str = "output"
    leaf: tuple[LeafKey, ...] = ()

    def __post_init__(self) -> None:
        if not self.path or "" in self.path.split("/"):
            raise SelectionError(
                f"the path {self.path!r} has an empty layer name. A path is layer names joined by "
                "single slashes, such as 'encoder/conv_1'."
            )
        if self.call is not None and (type(self.call) is not int or self.call < 0):
            raise SelectionError(
                f"the call of site {self.path!r} is {self.call!r}. It must be an integer from 0, "
                "or None for a layer that is called once."
            )
        if self.port not in PORTS:
            raise SelectionError(_unknown_port(self.port, self.path))
        for key in self.leaf:
            if type(key) is int and key >= 0:
                continue
            if not isinstance(key, str) or not key:
                raise SelectionError(
                    f"the leaf of site {self.path!r} has the key {key!r}. Keys are integers from 0 "
                    "or non-empty strings."
                )

    def __str__(self) -> str:
        call = "" if self.call is None else f"#{self.call}"
        port = "" if self.port == "output" else f":{self.port}"
        leaf = "".join(f"[{_format_key(key)}]" for key in self.leaf)
        return f"{_PATH_SPECIAL.sub(_escape, self.path)}{call}{port}{leaf}"

    @property
    def layer_name(self) -> str:
        """The last segment of the path: the layer's own name."""
        return self.path.rpartition("/")[2]

    def with_port(self, port: str) -> SiteName:
        """The same place at another port.

        Example:
            >>> str(SiteName("conv_3").with_port("gradient"))
            'conv_3:gradient'
        """
        return replace(self, port=port)

    @classmethod
    def parse(cls, text: str) -> SiteName:
        r"""Read a printed name; `str` of the result gives the text back.

        Args:
            text: A name as fitscope prints it. Special characters of layer names are escaped
                with a backslash, as in `odd\:name`.

        Raises:
            SelectionError: The text is not a site name.

        Example:
            >>> SiteName.parse("shared_dense#2").call
            2
        """
        parts = split(text)
        if parts.call is not None and not _INTEGER.fullmatch(parts.call.text):
            raise _malformed(text, f"'#{parts.call}' is not the number of a call, such as #0")
        wild = next((t for t in parts.path.tokens if t.special and t.char in "*?[]"), None)
        if wild is not None:
            raise _malformed(text, f"an unescaped {wild.char!r} stands in the path")
        if parts.port is not None and parts.port.text not in PORTS:
            raise SelectionError(_unknown_port(parts.port.text, text))
        return cls(
            parts.path.text,
            None if parts.call is None else int(parts.call.text),
            "output" if parts.port is None else parts.port.text,
            tuple(_leaf_key(key, text) for key in parts.leaf),
        )


@dataclass(frozen=True, slots=True)
class Token:
    """One character of a name and whether it keeps its special meaning (was not escaped)."""

    char: str
    special: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a name or pattern, still knowing which characters were escaped."""

    tokens: tuple[Token, ...]

    @property
    def text(self) -> str:
        return "".join(token.char for token in self.tokens)

    @property
    def plain(self) -> bool:
        """Whether nothing in it is escaped."""
        return all(token.special for token in self.tokens)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Parts:
    """A name or pattern cut at `#`, `:` and the trailing brackets."""

    path: Part
    call: Part | None
    port: Part | None
    leaf: tuple[Part, ...]


def split(text: str) -> Parts:
    """Cut a name or a pattern into its parts, honouring escapes and brackets.

    Trailing brackets are leaves, except that brackets right after the path which read as a
    character class (`[0-9]`, `[!x]`) stay in the path.
    """
    if not isinstance(text, str) or not text:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _malformed(text, "it is empty" if text == "" else "it is not a string")
    tokens = _tokens(text)
    groups, marks = _scan(tokens, text)
    end = marks[0][1] if marks else len(tokens)
    leaf_start, leaves = _trailing(tokens, groups, after=marks[-1][1] if marks else -1)
    if not marks:
        end = leaf_start
    named: dict[str, Part] = {}
    for place, (mark, start) in enumerate(marks):
        stop = marks[place + 1][1] if place + 1 < len(marks) else leaf_start
        if mark in named or (mark == "#" and ":" in named):
            raise _malformed(text, f"{mark!r} stands at the wrong place or twice")
        named[mark] = Part(tokens[start + 1 : stop])
    return Parts(Part(tokens[:end]), named.get("#"), named.get(":"), leaves)


def _tokens(text: str) -> tuple[Token, ...]:
    tokens: list[Token] = []
    characters = iter(text)
    for char in characters:
        if char != "\\":
            tokens.append(Token(char, True))
            continue
        escaped = next(characters, None)
        if escaped is None:
            raise _malformed(text, "it ends in a lone backslash; write two for a backslash")
        tokens.append(Token(escaped, False))
    return tuple(tokens)


def _scan(
    tokens: tuple[Token, ...], text: str
) -> tuple[list[tuple[int, int]], list[tuple[str, int]]]:
    """The bracket groups as `(open, close)` and the `#` and `:` outside of them."""
    groups: list[tuple[int, int]] = []
    marks: list[tuple[str, int]] = []
    opened: int | None = None
    for place, token in enumerate(tokens):
        if not token.special:
            continue
        if token.char == "[":
            if opened is not None:
                raise _malformed(text, "a '[' stands inside brackets")
            opened = place
        elif token.char == "]":
            if opened is None:
                raise _malformed(text, "a ']' has no '[' before it")
            if place == opened + 1:
                raise _malformed(text, "the brackets '[]' are empty")
            groups.append((opened, place))
            opened = None
        elif token.char in "#:" and opened is None:
            marks.append((token.char, place))
    if opened is not None:
        raise _malformed(text, "a '[' is not closed")
    return groups, marks


def _trailing(
    tokens: tuple[Token, ...], groups: list[tuple[int, int]], after: int
) -> tuple[int, tuple[Part, ...]]:
    """Where the leaves at the end start, and their keys."""
    start = len(tokens)
    leaves: list[Part] = []
    for opened, closed in reversed(groups):
        if closed != start - 1 or opened <= after:
            break
        key = Part(tokens[opened + 1 : closed])
        if after < 0 and key.plain and _CLASS_LIKE.fullmatch(key.text):
            break
        leaves.insert(0, key)
        start = opened
    return start, tuple(leaves)


def _leaf_key(key: Part, text: str) -> LeafKey:
    if any(token.special and token.char in "*?" for token in key.tokens):
        raise _malformed(text, f"the leaf '[{key}]' has an unescaped wildcard")
    return int(key.text) if key.plain and _INTEGER.fullmatch(key.text) else key.text


def _format_key(key: LeafKey) -> str:
    if isinstance(key, int):
        return str(key)
    text = _KEY_SPECIAL.sub(_escape, key)
    if text == key and (_INTEGER.fullmatch(key) or _CLASS_LIKE.fullmatch(key)):
        return f"\\{text}"
    return text


def _escape(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _malformed(text: object, problem: str) -> SelectionError:
    return SelectionError(
        f"{text!r} is not a site: {problem}. Accepted is path[#call][:port][leaf], such as "
        r"'encoder/attn', 'shared#2', 'conv_3:gradient' or 'lstm[1]'; write \#, \:, \[ and \] for "
        "these characters in a layer's name."
    )


def _unknown_port(port: str, text: str) -> str:
    near = difflib.get_close_matches(port, PORTS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown port {port!r} in {text!r}.{hint} Ports are {', '.join(PORTS)}; write '\\:' where "
        "the colon belongs to a layer's name."
    )
