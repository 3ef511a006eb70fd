"""A selected site that was not seen, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fitscope.errors import RunFormatError


@dataclass(frozen=True, slots=True)
class Unseen:
    """A selected site that was not seen.

    Args:
        site: Name of the site.
        reason: Why it was not seen, as one sentence.
        remedy: What the user can do to see it, or to see something near it.

    Example:
        >>> print(Unseen("rnn/cell", "it runs inside a scan.", "Watch the output of 'rnn'."))
        rnn/cell: it runs inside a scan. Watch the output of 'rnn'.
    """

    site: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.site}: {self.reason} {self.remedy}".rstrip()

    def to_json(self) -> dict[str, str]:
        """The three fields, in JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Unseen:
        """Read what `to_json` wrote; keys of later versions are left aside.

        Raises:
            RunFormatError: A field is missing.
        """
        try:
            return cls(str(record["site"]), str(record["reason"]), str(record["remedy"]))
        except KeyError as error:
            raise RunFormatError(
                f"the record of an unseen site {dict(record)!r} lacks {error.args[0]!r}. It was "
                "not written by fitscope, or was edited; open a run that fitscope wrote."
            ) from error
