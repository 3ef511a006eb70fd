"""All sealed blocks of one statistic, by phase, which grow as a run is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fitscope.run.layout import Span
from fitscope.ui.blocks import Blocks
from fitscope.ui.dense import Dense, together

Pieces = dict[int, Dense | Blocks]
Steps = tuple[int, int]

NONE: Steps = (0, -1)


@dataclass(slots=True, eq=False)
class Sealed:
    """Blocks by phase, and what each segment gave.

    Args:
        spans: The segments.
        whole: By phase, the blocks of all of them.
        ranges: By segment and phase, the steps covered.
        counts: By segment and phase, the blocks per site; None where the blocks are no matrices.
        pieces: What each segment gave, kept only where the whole is no matrix.
    """

    spans: list[Span]
    whole: Pieces
    ranges: list[dict[int, Steps]]
    counts: list[dict[int, int]]
    pieces: list[Pieces] | None

    def of(self, phase: int) -> tuple[Dense | Blocks, list[Steps]]:
        """The blocks of a phase, and the steps that each segment covers in it."""
        whole = self.whole.get(phase)
        return (
            Blocks.empty() if whole is None else whole,
            [steps.get(phase, NONE) for steps in self.ranges],
        )

    def arrays(self) -> list[NDArray[Any]]:
        """Everything that takes memory."""
        held = [*self.whole.values()]
        for pieces in self.pieces or []:
            held += pieces.values()
        return [array for blocks in held for array in blocks.arrays()]

    @classmethod
    def grown(
        cls, known: Sealed | None, spans: Sequence[Span], read: Callable[[int], Pieces]
    ) -> Sealed:
        """The blocks of some segments, reading only those that are new.

        Args:
            known: Those of a moment ago.
            spans: The segments now.
            read: Reads the segment at a place.
        """
        kept = _shared(known.spans, spans) if known is not None else 0
        parts: dict[int, list[Dense | Blocks]] = {}
        pieces: list[Pieces] = []
        ranges: list[dict[int, Steps]] = []
        counts: list[dict[int, int]] = []
        if known is not None and kept:
            ranges, counts = known.ranges[:kept], known.counts[:kept]
            if known.pieces is None:
                for phase, whole in known.whole.items():
                    length = sum(count.get(phase, 0) for count in counts)
                    if length and isinstance(whole, Dense):
                        parts[phase] = [whole.until(length)]
            else:
                pieces = known.pieces[:kept]
                for piece in pieces:
                    _add(parts, piece)
        fresh = [read(place) for place in range(kept, len(spans))]
        for piece in fresh:
            ranges.append({phase: steps_covered(blocks) for phase, blocks in piece.items()})
            counts.append({p: len(b.first) for p, b in piece.items() if isinstance(b, Dense)})
            _add(parts, piece)
        whole = {phase: together(blocks) for phase, blocks in parts.items()}
        dense = all(isinstance(blocks, Dense) for blocks in whole.values())
        if not dense and known is not None and known.pieces is None and kept:
            # From here on the pieces are needed, and the earlier ones were not kept.
            return cls.grown(None, spans, read)
        return cls(list(spans), whole, ranges, counts, None if dense else pieces + fresh)


def steps_covered(blocks: Dense | Blocks) -> Steps:
    """The first and the last step of blocks."""
    return (int(blocks.first.min()), int(blocks.last.max())) if len(blocks) else NONE


def _add(parts: dict[int, list[Dense | Blocks]], piece: Pieces) -> None:
    for phase, blocks in piece.items():
        parts.setdefault(phase, []).append(blocks)


def _shared(before: Sequence[Span], now: Sequence[Span]) -> int:
    count = 0
    for a, b in zip(before, now, strict=False):
        if a != b:
            break
        count += 1
    return count
