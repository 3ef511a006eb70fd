"""Rules say what is wrong with a training.

Those in `contract/` read what is known before the first step, the others what a run recorded. One
rule a file; the registry lists them.
"""

from fitscope.rules.finding import Finding as Finding
from fitscope.rules.finding import Findings as Findings
from fitscope.rules.registry import RULES as RULES
from fitscope.rules.registry import contract as contract
from fitscope.rules.registry import findings as findings
from fitscope.rules.rule import Rule as Rule
from fitscope.rules.rule import Sign as Sign
from fitscope.rules.rule import rule as rule
