"""What a seeded fault is, and the list that each family of them makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.doctor.program import Program

Seed = Callable[[Program], "bool | None"]


@dataclass(frozen=True)
class Fault:
    """One kind of fault.

    `seed` changes a program, and returns False where the kind does not apply. `causes` are the
    rules that name the cause; `sites` where it is, as prefixes, or empty where it has no place.
    """

    name: str
    seed: Seed
    causes: frozenset[str]
    sites: tuple[str, ...] = ()


class Family(list[Fault]):
    """The kinds of one family, in the order in which they stand in its file."""

    def fault(self, *causes: str, at: tuple[str, ...] = ()) -> Callable[[Seed], Seed]:
        """Add the function below as a kind that goes by its name."""

        def keep(seed: Seed) -> Seed:
            self.append(Fault(seed.__name__, seed, frozenset(causes), at))
            return seed

        return keep
