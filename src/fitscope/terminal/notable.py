"""Which sites of a large model deserve one of the few lines."""

from __future__ import annotations

from collections.abc import Sequence

from fitscope.terminal.rows import SiteRow


def notability(row: SiteRow) -> float:
    """How much a site stands out; 0 for one with nothing to say.

    Non-finite values come before anything else, then dead and saturated units. The score is
    coarse, so that a live table does not swap lines at every refresh.
    """
    score = 10.0 if row.nonfinite > 0 else 0.0
    if row.rms == 0:
        score += 2.0
    for share in (row.dead, row.saturated):
        if share is not None and share >= 0.1:
            score += round(share, 1)
    return score


def most_notable(rows: Sequence[SiteRow], limit: int | None) -> tuple[list[SiteRow], int]:
    """Keep the most notable rows, in the order of the model.

    Args:
        rows: All rows.
        limit: How many to keep; `None` keeps all.

    Returns:
        The kept rows, and how many were left out.
    """
    if limit is None or len(rows) <= limit:
        return list(rows), 0
    limit = max(limit, 1)
    # A stable sort: among equals the first ones of the model stay.
    ranked = sorted(range(len(rows)), key=lambda place: -notability(rows[place]))
    kept = sorted(ranked[:limit])
    return [rows[place] for place in kept], len(rows) - limit
