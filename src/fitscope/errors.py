"""The errors fitscope raises, in one tree.

Every message says what was received, what is accepted, and what to do next.
"""


class FitscopeError(Exception):
    """Root of every error raised by fitscope."""


class SelectionError(FitscopeError, ValueError):
    """A selection cannot be read, or matches no site."""


class StatisticError(FitscopeError, ValueError):
    """A statistic is unknown, or a user's statistic breaks its contract."""


class EditError(FitscopeError, ValueError):
    """An edit or an objective cannot do what it was asked to, where it was asked to."""


class UnsupportedError(FitscopeError, RuntimeError):
    """The model, backend or Keras version cannot be observed."""


class RunError(FitscopeError):
    """A run directory cannot be written or read."""


class RunExistsError(RunError, FileExistsError):
    """The run directory already holds a run."""


class RunFormatError(RunError, ValueError):
    """The directory is not a run, or a run of an unknown format."""
