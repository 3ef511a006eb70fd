"""Selections of sites: predicates that can be printed, compared and combined."""

from __future__ import annotations

import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fitscope.errors import SelectionError
from fitscope.select.naming import SiteName
from fitscope.select.pattern import Glob, compile_glob
from fitscope.select.site import Site

ACCEPTED = (
    "a pattern such as 'conv*' or 'encoder/*/attn', a layer class, a layer, a site, a function "
    "from Site to bool, a list of these, or a Selector"
)

_KERAS_PACKAGES = frozenset({"keras", "tf_keras", "keras_core"})


class Selector(ABC):
    """A set of sites, described. Combine with `&` (both), `|` (either) and `~` (all others).

    Whatever `select` accepts may stand on the other side of `&` and `|`. Selectors are immutable,
    hashable, equal when they are built alike, and print as the expression that builds them.

    Example:
        >>> select("encoder/**") & ~select("**:gradient")
        select('encoder/**') & ~select('**:gradient')
    """

    __slots__ = ()

    @abstractmethod
    def matches(self, site: Site) -> bool:
        """Whether the site is selected."""

    def may_match(self, site: Site) -> bool:
        """Whether a tensor of this layer and port may be selected.

        Args:
            site: A site whose call, leaf, shape and dtype are not known yet.
        """
        return self.matches(site)

    @property
    def settled(self) -> bool:
        """Whether path, class and port of a site are enough to decide."""
        return True

    def parts(self) -> Iterator[Selector]:
        """The selectors this one is made of, not those under `~`; itself when it is simple."""
        yield self

    def __and__(self, other: Any) -> Selector:
        return _joined(AllOf, self, select(other))

    def __rand__(self, other: Any) -> Selector:
        return _joined(AllOf, select(other), self)

    def __or__(self, other: Any) -> Selector:
        return _joined(AnyOf, self, select(other))

    def __ror__(self, other: Any) -> Selector:
        return _joined(AnyOf, select(other), self)

    def __invert__(self) -> Selector:
        return Not(self)

    def __bool__(self) -> bool:
        # `a and b` would silently drop a selection.
        raise SelectionError(
            f"{self!r} has no truth value. Combine selections with & | ~ instead of "
            "'and', 'or', 'not'."
        )


@dataclass(frozen=True, slots=True, repr=False)
class Pattern(Selector):
    """Sites whose name fits a glob pattern."""

    glob: Glob

    def matches(self, site: Site) -> bool:
        return self.glob.matches(site)

    def may_match(self, site: Site) -> bool:
        glob = self.glob
        port = glob.port is None or glob.port.fullmatch(site.port) is not None
        return port and glob.matches_path(site.path)

    @property
    def settled(self) -> bool:
        glob = self.glob
        return glob.call is None and not glob.leaf

    def __repr__(self) -> str:
        return f"select({self.glob.text!r})"


@dataclass(frozen=True, slots=True, repr=False)
class OfClass(Selector):
    """Sites of a layer class and its subclasses, by name where the layer is not at hand."""

    name: str
    layer_class: type[Any] | None = None

    def matches(self, site: Site) -> bool:
        if site.layer is not None and self.layer_class is not None:
            return isinstance(site.layer, self.layer_class)
        return self.name == site.layer_class or self.name in site.layer_classes

    def __repr__(self) -> str:
        return f"select({self.name})" if self.layer_class else f"of_class({self.name!r})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class OfLayer(Selector):
    """Sites of one layer object."""

    layer: Any

    def matches(self, site: Site) -> bool:
        return site.layer is self.layer

    # By identity: layers may define __eq__ on values, or be unhashable.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, OfLayer) and other.layer is self.layer

    def __hash__(self) -> int:
        return hash((OfLayer, id(self.layer)))

    def __repr__(self) -> str:
        return f"select(<{type(self.layer).__name__} {getattr(self.layer, 'name', '?')}>)"


@dataclass(frozen=True, slots=True, repr=False)
class OfSite(Selector):
    """Exactly one site."""

    site_name: SiteName

    def matches(self, site: Site) -> bool:
        name = self.site_name
        # While a step is traced, a layer's only call is still known as its first.
        return (site.path, site.call or 0, site.port, site.leaf) == (
            name.path,
            name.call or 0,
            name.port,
            name.leaf,
        )

    def may_match(self, site: Site) -> bool:
        return (site.path, site.port) == (self.site_name.path, self.site_name.port)

    @property
    def settled(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"select(SiteName.parse({str(self.site_name)!r}))"


@dataclass(frozen=True, slots=True, repr=False)
class Where(Selector):
    """Sites for which a function of the site is true."""

    predicate: Callable[[Site], object]

    def matches(self, site: Site) -> bool:
        try:
            return bool(self.predicate(site))
        except Exception as error:
            raise SelectionError(
                f"the predicate {_callable_name(self.predicate)} failed at site {site.name!r}: "
                f"{type(error).__name__}: {error}. Accepted is a function from Site to bool that "
                "answers for every site; Site.layer is None in a saved run."
            ) from error

    def may_match(self, site: Site) -> bool:
        del site  # the predicate may ask for a shape or dtype
        return True

    @property
    def settled(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"select({_callable_name(self.predicate)})"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class _Joined(Selector):
    members: tuple[Selector, ...]

    @property
    def settled(self) -> bool:
        return all(member.settled for member in self.members)

    def parts(self) -> Iterator[Selector]:
        for member in self.members:
            yield from member.parts()

    # The order of the members does not matter for what is selected.
    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and set(self.members) == set(other.members)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(self.members)))


class AnyOf(_Joined):
    """Sites that at least one member selects."""

    __slots__ = ()

    def matches(self, site: Site) -> bool:
        return any(member.matches(site) for member in self.members)

    def may_match(self, site: Site) -> bool:
        return any(member.may_match(site) for member in self.members)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.members))


class AllOf(_Joined):
    """Sites that every member selects."""

    __slots__ = ()

    def matches(self, site: Site) -> bool:
        return all(member.matches(site) for member in self.members)

    def may_match(self, site: Site) -> bool:
        return all(member.may_match(site) for member in self.members)

    def __repr__(self) -> str:
        return " & ".join(
            f"({member!r})" if isinstance(member, AnyOf) else repr(member)
            for member in self.members
        )


@dataclass(frozen=True, slots=True, repr=False)
class Not(Selector):
    """Sites that the member does not select."""

    member: Selector

    def matches(self, site: Site) -> bool:
        return not self.member.matches(site)

    def may_match(self, site: Site) -> bool:
        return not self.member.settled or self.matches(site)

    @property
    def settled(self) -> bool:
        return self.member.settled

    def parts(self) -> Iterator[Selector]:
        return iter(())

    def __invert__(self) -> Selector:
        return self.member

    def __repr__(self) -> str:
        return f"~({self.member!r})" if isinstance(self.member, _Joined) else f"~{self.member!r}"


def select(thing: Any) -> Selector:
    r"""Make a selector of anything that describes sites.

    A string is a pattern over site names, `path[#call][:port][leaf]`, case-sensitive:

    - `*` and `?` stay within one segment of the path, `**` crosses segments (any number, also
      none: `"encoder/**"` is encoder and all below it, `"encoder/*/**"` only what is below).
    - Without a slash, a pattern matches the last segment wherever it is nested: `"conv*"` finds
      `conv_1` and `encoder/conv_1`. With a slash it starts at the root model: `"encoder/conv*"`,
      and `"/conv*"` for the top level alone. `"**"` is everything.
    - `#call`, `:port` and `[leaf]` restrict; what is left out is not restricted. `"conv"` finds
      every port of conv, `"conv:output"` its output alone. `"x#0"` also finds the only call of
      x. `"x[0]"` also finds what is nested in that place, `x[0][mask]`. Port and leaf may hold
      wildcards too: `"dense:weight*"`, `"lstm[*]"`.
    - Brackets at the end are a place in an output, unless they read as a set of characters by a
      range or a negation (`"conv_[0-9]"`, `"conv_[!x]"`). Instead of `"conv_[12]"` write
      `["conv_1", "conv_2"]`.
    - A backslash takes the meaning from the character after it: `r"odd\:name"`. A name as
      fitscope prints it is a pattern for that site.

    Args:
        thing: A pattern, a layer class (with its subclasses), a layer object, a `Site` or
            `SiteName` (exactly that one), a function from `Site` to bool, a list or tuple of
            these (their union), or a `Selector`.

    Returns:
        The selector.

    Raises:
        SelectionError: `thing` is none of these, or a malformed pattern.

    Example:
        >>> select(["conv*", "encoder/*/attn"]) & ~select("conv_3:gradient")
        (select('conv*') | select('encoder/*/attn')) & ~select('conv_3:gradient')
    """
    if isinstance(thing, Selector):
        return thing
    if isinstance(thing, str):
        return Pattern(compile_glob(thing))
    if isinstance(thing, Site):
        return OfSite(thing.site_name)
    if isinstance(thing, SiteName):
        return OfSite(thing)
    if isinstance(thing, (list, tuple)):
        return _union(thing)  # pyright: ignore[reportUnknownArgumentType]
    if isinstance(thing, type):
        return OfClass(thing.__name__, thing)
    if _is_layer(thing):
        return OfLayer(thing)
    if callable(thing):
        return Where(thing)
    raise SelectionError(
        f"{thing!r} of type {type(thing).__name__} does not select sites. Accepted is {ACCEPTED}."
    )


def of_class(name: str) -> Selector:
    """Select by the name of a layer class, where the class itself is not at hand.

    Args:
        name: For example `"Conv2D"`; subclasses of a class of this name are selected too.

    Example:
        >>> of_class("Conv2D")
        of_class('Conv2D')
    """
    return OfClass(name)


def _union(things: list[Any] | tuple[Any, ...]) -> Selector:
    if not things:
        raise SelectionError(
            f"an empty {type(things).__name__} selects nothing. Accepted is {ACCEPTED}; "
            "'**' selects everything."
        )
    members = [select(thing) for thing in things]
    return members[0] if len(members) == 1 else _joined(AnyOf, *members)


def _joined(kind: type[_Joined], *members: Selector) -> Selector:
    flat: dict[Selector, None] = {}
    for member in members:
        flat.update(dict.fromkeys(member.members if type(member) is kind else (member,)))
    return next(iter(flat)) if len(flat) == 1 else kind(tuple(flat))


def _is_layer(thing: object) -> bool:
    # Keras layers are callable like predicates, and importing Keras to ask would choose a backend.
    if isinstance(thing, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return False
    return any(
        base.__name__ in ("Layer", "Operation")
        and base.__module__.partition(".")[0] in _KERAS_PACKAGES
        for base in type(thing).__mro__
    )


def _callable_name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
