"""The run directory: written while training, read by everything else, also meanwhile."""

from fitscope.run.reader import Run as Run
from fitscope.run.reader import open_run as open_run
from fitscope.run.record import PHASES as PHASES
from fitscope.run.record import StepRecord as StepRecord
from fitscope.run.recovery import recover as recover
from fitscope.run.sites import SiteTable as SiteTable
from fitscope.run.table import Table as Table
from fitscope.run.writer import RunWriter as RunWriter
