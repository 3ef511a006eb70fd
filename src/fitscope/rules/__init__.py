"""Rules read a run's statistics and give findings.

One rule a file, each a function from a run to findings. The registry lists them.
"""

from fitscope.rules.finding import Finding as Finding
from fitscope.rules.registry import RULES as RULES
from fitscope.rules.registry import findings as findings
