"""What is computed of a tensor, and how it is merged and read on the host."""

from fitscope.statistics.activation import Zones as Zones
from fitscope.statistics.activation import zones as zones
from fitscope.statistics.descriptions import ALL as ALL
from fitscope.statistics.descriptions import describe as describe
from fitscope.statistics.effective_rank import EffectiveRank as EffectiveRank
from fitscope.statistics.histogram import Histogram as Histogram
from fitscope.statistics.moments import COLUMNS as COLUMNS
from fitscope.statistics.moments import DERIVED as DERIVED
from fitscope.statistics.statistic import Statistic as Statistic
