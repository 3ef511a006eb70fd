"""The sites of a run, in the order of their indices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from fitscope.errors import SelectionError
from fitscope.select.site import Site

_SHOWN = 20


class SiteTable(Sequence[Site]):
    """A list of sites that prints as a table and is indexed by number or name.

    Example:
        >>> table = SiteTable([])
        >>> len(table), table.names
        (0, [])
    """

    __slots__ = ("_by_name", "_sites")

    def __init__(self, sites: Iterable[Site] = ()) -> None:
        self._sites = tuple(sites)
        self._by_name = {site.name: index for index, site in enumerate(self._sites)}

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [site.name for site in self._sites]

    def index_of(self, name: str) -> int:
        """The index of the site of that name.

        Raises:
            SelectionError: There is none.
        """
        if name not in self._by_name:
            near = difflib.get_close_matches(name, self._by_name, n=3, cutoff=0.4)
            hint = f" Nearest: {', '.join(near)}." if near else ""
            raise SelectionError(
                f"no site is named {name!r}; the run has {len(self)} sites.{hint} "
                "`run.sites` lists them."
            )
        return self._by_name[name]

    @overload
    def __getitem__(self, key: int | str) -> Site: ...
    @overload
    def __getitem__(self, key: slice) -> SiteTable: ...
    def __getitem__(self, key: int | str | slice) -> Site | SiteTable:
        if isinstance(key, slice):
            return SiteTable(self._sites[key])
        return self._sites[self.index_of(key) if isinstance(key, str) else key]

    def __len__(self) -> int:
        return len(self._sites)

    def __iter__(self) -> Iterator[Site]:
        return iter(self._sites)

    def __contains__(self, item: object) -> bool:
        return item in self._by_name if isinstance(item, str) else item in self._sites

    def __repr__(self) -> str:
        header = ("site", "layer", "shape", "dtype")
        rows = [
            (site.name, site.layer_class, _shape(site.shape), site.dtype)
            for site in self._sites[:_SHOWN]
        ]
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, *rows]
        ]
        if len(self) > _SHOWN:
            lines.append(f"... {len(self) - _SHOWN} more")
        lines.append(f"[{len(self)} {'site' if len(self) == 1 else 'sites'}]")
        return "\n".join(lines)


def _shape(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in shape) + ")"
