"""Tensors that could not be measured: why, and what the user can do."""

from __future__ import annotations

from typing import NamedTuple

from fitscope.select.unseen import Unseen


class StatisticFailedError(Exception):
    """A user's statistic raised an error, which is the cause of this one."""


class Failure(NamedTuple):
    """Why a tensor could not be measured, and what to do."""

    reason: str
    remedy: str = "report this layer"

    def at(self, site: str) -> Unseen:
        """The report of the site."""
        return Unseen(site, self.reason, self.remedy)


def failure(error: Exception) -> Failure:
    """What to say of a tensor at which measuring raised `error`."""
    if isinstance(error, StatisticFailedError):
        return Failure(str(error), "mend that statistic's update, or watch without it")
    return Failure(f"could not be measured: {type(error).__name__}: {error}")


SEVERAL_SCALES = Failure(
    "was not measured: several optimizers scale their losses in one step, and which of them a "
    "gradient belongs to is not known",
    "watch its output",
)
