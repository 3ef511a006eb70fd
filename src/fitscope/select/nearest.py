"""Resolving a selection, and the help when it matches nothing."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from fitscope.errors import SelectionError
from fitscope.select.naming import split
from fitscope.select.pattern import Glob
from fitscope.select.selector import OfClass, OfLayer, Pattern, Selector, select
from fitscope.select.site import Site

_SHOWN = 5


def resolve(selector: Selector, sites: Sequence[Site]) -> list[Site]:
    """The selected sites, in their order.

    Args:
        selector: Also anything that `select` accepts.
        sites: All sites there are.

    Raises:
        SelectionError: No site is selected; the message names the nearest.

    Example:
        >>> from fitscope.select.naming import SiteName
        >>> sites = [Site.of(SiteName("conv_1"), layer_class="Conv2D")]
        >>> [site.name for site in resolve(select("conv*"), sites)]
        ['conv_1']
    """
    selector = select(selector)
    found = [site for site in sites if selector.matches(site)]
    if not found:
        raise no_match(selector, sites)
    return found


def unmatched(selector: Selector, sites: Sequence[Site]) -> list[Selector]:
    """The parts of a selection that find no site on their own, for a report of likely typos."""
    return [
        part for part in select(selector).parts() if not any(part.matches(site) for site in sites)
    ]


def no_match(selector: Selector, sites: Sequence[Site]) -> SelectionError:
    """The error for a selection that matches nothing.

    Args:
        selector: The selection.
        sites: All sites there are.

    Returns:
        An error that names up to five nearest sites, and for a class the classes present.
    """
    if not sites:
        return SelectionError(
            f"{selector!r} matches nothing: there are no sites. Build the model first, by calling "
            "it on a batch or with model.build(shape)."
        )
    said = [f"{selector!r} matches none of the {len(sites)} sites."]
    for part in unmatched(selector, sites)[:3]:
        said.extend(_advice(part, sites))
    if len(said) == 1:
        said.append(_names("Among the sites are", [site.name for site in sites]))
    said.append("Use '**' for every site.")
    return SelectionError(" ".join(said))


def _advice(part: Selector, sites: Sequence[Site]) -> list[str]:
    if isinstance(part, Pattern):
        return _pattern_advice(part.glob, sites)
    if isinstance(part, OfClass):
        present = sorted({site.layer_class for site in sites})
        near = difflib.get_close_matches(part.name, present, n=1)
        hint = [f"Did you mean {near[0]}?"] if near else []
        return [*hint, f"The layer classes present are {', '.join(present)}."]
    if isinstance(part, OfLayer) and all(site.layer is None for site in sites):
        name = getattr(part.layer, "name", "its name")
        return [f"A saved run holds no layer objects: select by name, as {name!r}."]
    return []


def _pattern_advice(glob: Glob, sites: Sequence[Site]) -> list[str]:
    here = [site for site in sites if glob.matches_path(site.path)]
    if here:
        return [_names("Its path is right; there is", [site.name for site in here])]
    said: list[str] = []
    if any(site.layer_class == glob.text or glob.text in site.layer_classes for site in sites):
        said.append(
            f"{glob.text} is a layer class: pass the class itself, or of_class({glob.text!r})."
        )
    if glob.leaf:
        said.append(
            "Brackets at the end are a place in an output; for a set of characters list the names, "
            "or write a range such as [0-9]."
        )
    return [*said, _names("The nearest are", _nearest(glob.text, sites)[:_SHOWN])]


def _nearest(text: str, sites: Sequence[Site]) -> list[str]:
    tokens = split(text).path.tokens
    core = "".join(t.char for t in tokens if not t.special or t.char not in "*?[]!").strip("/")
    core = core.lower()
    if not core:
        return [site.name for site in sites]

    def distance(path: str) -> float:
        whole, last = path.lower(), path.rpartition("/")[2].lower()
        scores = [difflib.SequenceMatcher(None, core, text).ratio() for text in (whole, last)]
        return -max(*scores, 0.9 if core in whole else 0.0)

    # Ports and leaves of one layer share the path: it is compared once.
    distances = {path: distance(path) for path in {site.path for site in sites}}
    return [site.name for site in sorted(sites, key=lambda site: distances[site.path])]


def _names(lead: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{lead} {shown}" + (f" and {more} more." if more > 0 else ".")
