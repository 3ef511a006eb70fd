"""The benchmark's tables, in Markdown."""

from __future__ import annotations

import platform
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from benchmarks.doctor.measure import Outcome, summary

_WORDS = {
    "faulty": "faulty trainings",
    "detected": "detected (any fault or warning)",
    "cause_first": "cause named first",
    "cause_told": "cause named anywhere",
    "site_right": "site right, where the cause was named",
    "median_first_right_step": "median steps until the first right finding",
    "healthy": "healthy trainings, hard ones included",
    "healthy_with_fault": "healthy with any finding of severity fault",
    "healthy_with_warning": "healthy with any warning",
    "alarms_per_healthy_run": "faults and warnings per healthy training",
    "seconds_per_training": "seconds per training",
    "doctor_seconds": "of these, seconds in rules",
}


def write(outcomes: list[Outcome], backend: str, folder: Path | None, *, jit: bool = True) -> None:
    """Print the tables, and write them into a folder.

    Args:
        outcomes: What was measured.
        backend: The backend.
        folder: Where `<backend>.md` goes; None prints only.
        jit: Whether models were compiled as Keras does by default.
    """
    import keras

    # A run that was cut short has not all trainings of each seed.
    seeds = ", ".join(
        f"seed {s}: {n}" for s, n in sorted(Counter(o.seed for o in outcomes).items())
    )
    text = [
        f"# The doctor on seeded faults: {backend}",
        "",
        (
            f"Keras {keras.__version__}, {platform.machine()}, trainings by {seeds}, every step "
            f"observed{'' if jit else ', jit_compile=False'}. Made by `python -m "
            "benchmarks.doctor`; see README.md for the command."
        ),
        "",
        *_table(("", ""), [(_WORDS[k], _shown(k, v)) for k, v in summary(outcomes).items()]),
        "",
        "## By fault",
        "",
        *_table(
            ("fault", "trainings", "detected", "cause first", "cause told", "most told first"),
            _by_fault(outcomes),
        ),
        "",
        "## Healthy trainings",
        "",
        *_table(
            ("training", "seeds", "faults", "warnings", "told"),
            _healthy(outcomes),
        ),
    ]
    joined = "\n".join(text) + "\n"
    print(joined)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{backend}.md").write_text(joined)


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in ("faulty", "healthy"):
        return str(value)
    if "step" in key or "seconds" in key or "per_" in key:
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    return f"{value:.0%}"


def _by_fault(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.fault is not None:
            groups[outcome.fault].append(outcome)
    rows = []
    for name, group in groups.items():
        firsts = [o.rules[0][0] if o.rules else "nothing" for o in group]
        most = max(set(firsts), key=firsts.count)
        rows.append(
            (
                name,
                str(len(group)),
                str(sum(o.detected for o in group)),
                str(sum(o.cause_first for o in group)),
                str(sum(o.cause_told for o in group)),
                most,
            )
        )
    return rows


def _healthy(outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.fault is None:
            groups[outcome.program].append(outcome)
    return [
        (
            name,
            str(len(group)),
            str(sum(o.faults for o in group)),
            str(sum(o.warnings for o in group)),
            ", ".join(sorted({f"{r} ({s})" for o in group for r, s, _ in o.rules})) or "nothing",
        )
        for name, group in groups.items()
    ]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows)]
