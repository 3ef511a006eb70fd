"""What selects what."""

import functools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitscope.errors import SelectionError
from fitscope.select.naming import SiteName
from fitscope.select.nearest import no_match, resolve, unmatched
from fitscope.select.selector import Selector, of_class, select
from fitscope.select.site import Site


class Layer:
    __module__ = "keras.src.layers.layer"

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, x: object) -> object:
        return x


class Conv(Layer):
    pass


class Conv2D(Conv):
    pass


class Dense(Layer):
    pass


def site(text: str, kind: type[Layer] = Dense, *, live: bool = True) -> Site:
    name = SiteName.parse(text)
    classes = tuple(base.__name__ for base in kind.__mro__)
    layer = kind(name.path) if live else None
    return Site.of(name, layer_class=kind.__name__, layer_classes=classes, layer=layer)


SITES = [
    site("conv_1", Conv2D),
    site("conv_1:gradient", Conv2D),
    site("conv_x", Conv),
    site("encoder"),
    site("encoder/conv_1", Conv2D),
    site("encoder/block_1/attn"),
    site("encoder/block_2/attn:gradient"),
    site("shared#0"),
    site("shared#1"),
    site("lstm[0]"),
    site("lstm[1]"),
    site("lstm1"),
    site("nest[0][mask]"),
    site("dense:weight[kernel]"),
    site("dense:weight_gradient[kernel]"),
]


def names(thing: object) -> list[str]:
    return [found.name for found in SITES if select(thing).matches(found)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("conv*", ["conv_1", "conv_1:gradient", "conv_x", "encoder/conv_1"]),
        ("/conv*", ["conv_1", "conv_1:gradient", "conv_x"]),
        ("conv_[0-9]", ["conv_1", "conv_1:gradient", "encoder/conv_1"]),
        ("conv_[!0-9]", ["conv_x"]),
        ("conv_?:output", ["conv_1", "conv_x", "encoder/conv_1"]),
        ("*:gradient", ["conv_1:gradient", "encoder/block_2/attn:gradient"]),
        ("encoder/*/attn", ["encoder/block_1/attn", "encoder/block_2/attn:gradient"]),
        ("encoder/block_[12]/attn:output", ["encoder/block_1/attn"]),
        ("encoder/*", ["encoder/conv_1"]),
        ("encoder/**", [s.name for s in SITES if s.path.startswith("encoder")]),
        ("encoder/*/**", [s.name for s in SITES if s.path.startswith("encoder/")]),
        ("enc**", [s.name for s in SITES if s.path.startswith("encoder")]),
        ("**/attn", ["encoder/block_1/attn", "encoder/block_2/attn:gradient"]),
        ("encoder/**/attn:output", ["encoder/block_1/attn"]),
        ("**", [s.name for s in SITES]),
        ("**/**", [s.name for s in SITES]),
        ("*", [s.name for s in SITES]),
        ("/*/**", [s.name for s in SITES]),
        ("shared", ["shared#0", "shared#1"]),
        ("shared#1", ["shared#1"]),
        ("shared#*", ["shared#0", "shared#1"]),
        ("lstm1", ["lstm1"]),
        ("lstm#0", ["lstm[0]", "lstm[1]"]),
        ("lstm[1]", ["lstm[1]"]),
        ("lstm[*]", ["lstm[0]", "lstm[1]"]),
        ("nest[0]", ["nest[0][mask]"]),
        ("nest[0][mask]", ["nest[0][mask]"]),
        ("dense:weight", ["dense:weight[kernel]"]),
        ("dense:weight*", ["dense:weight[kernel]", "dense:weight_gradient[kernel]"]),
        ("Conv*", []),
        ("conv_1/**", ["conv_1", "conv_1:gradient"]),
    ],
)
def test_patterns(pattern: str, found: list[str]) -> None:
    assert names(pattern) == found


@given(
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=2, max_size=5),
    st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
)
def test_paths_match_as_segment_lists_do(pattern: list[str], path: list[str]) -> None:
    def fits(globs: list[str], parts: list[str]) -> bool:
        if not globs:
            return not parts
        if globs[0] == "**":
            return any(fits(globs[1:], parts[n:]) for n in range(len(parts) + 1))
        return bool(parts) and globs[0] in ("*", parts[0]) and fits(globs[1:], parts[1:])

    found = select("/".join(pattern)).matches(site("/".join(path)))
    assert found == fits(pattern, path)


def test_classes_take_subclasses_in_live_and_in_saved_models() -> None:
    saved = [site("c", Conv2D, live=False), site("d", Dense, live=False)]
    assert [s.name for s in saved if select(Conv).matches(s)] == ["c"]
    assert [s.name for s in saved if of_class("Conv").matches(s)] == ["c"]
    assert names(Conv2D) == ["conv_1", "conv_1:gradient", "encoder/conv_1"]
    assert names(Conv) == [*names(Conv2D)[:2], "conv_x", "encoder/conv_1"]


def test_a_layer_is_not_taken_for_a_predicate() -> None:
    layer = SITES[3].layer
    assert names(layer) == ["encoder"]
    assert repr(select(layer)) == "select(<Dense encoder>)"


def test_a_site_selects_itself_alone() -> None:
    assert names(SITES[0]) == ["conv_1"]
    assert names(SITES[0].site_name) == ["conv_1"]


def test_predicates_and_their_failures() -> None:
    def first(s: Site) -> bool:
        return s.call == 0

    assert names(first) == ["shared#0"]
    assert names(functools.partial(lambda call, s: s.call == call, 1)) == ["shared#1"]
    with pytest.raises(SelectionError, match=r"conv_1.*ZeroDivisionError"):
        resolve(select(lambda _: 1 / 0), SITES)


SELECTORS = st.recursive(
    st.sampled_from(["conv*", "**:gradient", "shared#1", "encoder/**"]).map(select)
    | st.sampled_from([Conv, Dense]).map(select),
    lambda inner: (
        inner.map(lambda s: ~s)
        | st.tuples(inner, inner).map(lambda p: p[0] & p[1])
        | st.tuples(inner, inner).map(lambda p: p[0] | p[1])
    ),
    max_leaves=6,
)


@given(SELECTORS, SELECTORS)
def test_the_algebra_is_that_of_sets(a: Selector, b: Selector) -> None:
    left, right, everything = set(names(a)), set(names(b)), set(names("**"))
    assert set(names(a & b)) == left & right
    assert set(names(a | b)) == set(names([a, b])) == left | right
    assert set(names(~a)) == everything - left
    assert ~~a == a
    assert (a & b) == (b & a)
    assert hash(a | b) == hash(b | a)
    assert eval(repr(a), {"select": select, "Conv": Conv, "Dense": Dense}) == a


NARROW = SELECTORS | st.sampled_from(SITES).map(select)
NARROW |= st.just(select(lambda s: s.call == 1 or s.leaf == (1,)))


@given(st.recursive(NARROW, lambda inner: inner.map(lambda s: ~s) | st.builds(
    lambda a, b: a & b, inner, inner)), st.sampled_from(SITES))  # fmt: skip
def test_a_place_is_not_ruled_out_before_its_calls_and_leaves_are_known(
    selector: Selector, found: Site
) -> None:
    place = replace(found, name="", call=None, leaf=(), shape=(), dtype="")
    if selector.matches(found):
        assert selector.may_match(place)
    if selector.settled:
        assert selector.matches(found) == selector.may_match(place)


def test_whatever_select_takes_may_stand_on_either_side() -> None:
    assert names("conv*" & select(Conv2D)) == names(Conv2D)
    assert ("a" | select("b")) == (select("b") | "a") == select(["a", "b"])
    assert select(["a"]) == select("a") != select("b")


@pytest.mark.parametrize(
    "thing", [None, 3, {"a": 1}, [], (), "", "a//b", "a:nope", "a#x", "[", "a/"]
)
def test_what_cannot_be_read_is_refused(thing: object) -> None:
    with pytest.raises(SelectionError):
        select(thing)


@pytest.mark.parametrize("pattern", ["a[b/c]d", "a[/]b", "x[z-a]y", "x[a--b]y"])
def test_sets_of_characters_that_make_no_sense(pattern: str) -> None:
    with pytest.raises(SelectionError):
        resolve(select(pattern), SITES)


def test_and_between_selectors_is_refused() -> None:
    with pytest.raises(SelectionError, match="&"):
        bool(select("a"))


def test_resolve_keeps_order_and_names_the_nearest() -> None:
    assert [s.name for s in resolve(select(["lstm*", "conv_x"]), SITES)][:2] == [
        "conv_x",
        "lstm[0]",
    ]
    with pytest.raises(SelectionError, match="encoder/block_1/attn"):
        resolve(select("encoder/block_1/atn"), SITES)
    with pytest.raises(SelectionError, match=r"path is right.*conv_x"):
        resolve(select("conv_x:update"), SITES)
    with pytest.raises(SelectionError, match="layer class"):
        resolve(select("Conv2D"), SITES)
    with pytest.raises(SelectionError, match="Conv, Conv2D, Dense"):
        resolve(of_class("LSTM"), SITES)
    with pytest.raises(SelectionError, match="range"):
        resolve(select("conv_[1x]"), SITES)
    with pytest.raises(SelectionError, match="saved run"):
        resolve(select(Dense("d")), [site("d", live=False)])
    with pytest.raises(SelectionError, match="no sites"):
        resolve(select("**"), [])
    assert str(no_match(select(lambda _: False), SITES)).count(",") == 4


def test_the_parts_that_find_nothing_are_told() -> None:
    assert unmatched(select(["conv*", "dnese"]), SITES) == [select("dnese")]
