"""The scope of `fitscope doctor train.py`: it watches all that the rules look at."""

from __future__ import annotations

from typing import Any

from fitscope.launch.quiet_scope import QuietScope
from fitscope.scope.instructions import watch
from fitscope.statistics.effective_rank import EffectiveRank

PORTS = ("gradient", "weight", "weight_gradient", "update")
"""What is watched beside outputs; the script is run for it, so truth goes before cost."""


class DoctorScope(QuietScope):
    """Watches outputs, their rank, gradients, weights and updates; outputs alone where that fails.

    Args:
        every: Observe every n-th step.
    """

    def __init__(self, every: int = 1) -> None:
        outputs = watch("**", statistics=[EffectiveRank()])
        super().__init__(outputs, watch("**", of=PORTS), every=every)
        self._fallback = (outputs,)

    @property
    def without_gradients(self) -> str | None:
        """Why gradients, weights and updates were not watched; None where they were."""
        session: Any = self._session
        return None if session is None else session.given_up
