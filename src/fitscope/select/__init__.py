"""Which tensors of a model are meant: site names, patterns and the algebra of selections."""

from fitscope.select.naming import PORTS as PORTS
from fitscope.select.naming import SiteName as SiteName
from fitscope.select.nearest import no_match as no_match
from fitscope.select.nearest import resolve as resolve
from fitscope.select.nearest import unmatched as unmatched
from fitscope.select.selector import Selector as Selector
from fitscope.select.selector import of_class as of_class
from fitscope.select.selector import select as select
from fitscope.select.site import Site as Site
from fitscope.select.unseen import Unseen as Unseen
