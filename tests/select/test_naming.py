"""Names of sites: written and read back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitscope.errors import SelectionError
from fitscope.select.naming import PORTS, SiteName
from fitscope.select.selector import select
from fitscope.select.site import Site

SEGMENTS = st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1, max_size=8)
SEGMENTS |= st.text(r"\#:[]*?!-0a", min_size=1, max_size=6)
KEYS = st.integers(0, 99) | st.text(r"\#:[]*?!-0a/é", min_size=1, max_size=6)
NAMES = st.builds(
    SiteName,
    st.lists(SEGMENTS, min_size=1, max_size=4).map("/".join),
    st.none() | st.integers(0, 9),
    st.sampled_from(PORTS),
    st.lists(KEYS, max_size=3).map(tuple),
)


@given(NAMES)
def test_reading_is_the_inverse_of_writing(name: SiteName) -> None:
    assert SiteName.parse(str(name)) == name


@given(NAMES)
def test_a_printed_name_is_a_pattern_for_its_site(name: SiteName) -> None:
    assert select(str(name)).matches(Site.of(name, layer_class="Dense"))


@given(st.text(r"ab/#:[]0*\ ", max_size=12))
def test_any_text_is_read_or_refused_with_a_selection_error(text: str) -> None:
    for read in (SiteName.parse, select):
        try:
            read(text)
        except SelectionError as error:
            assert len(str(error)) > 40


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("encoder/block_1/attn", ("encoder/block_1/attn", None, "output", ())),
        ("shared_dense#2", ("shared_dense", 2, "output", ())),
        ("conv_3:gradient", ("conv_3", None, "gradient", ())),
        ("lstm[1]", ("lstm", None, "output", (1,))),
        ("enc:input[0]", ("enc", None, "input", (0,))),
        ("head[logits]", ("head", None, "output", ("logits",))),
        ("x[0][mask]", ("x", None, "output", (0, "mask"))),
        ("a/b#0:update[k][3]", ("a/b", 0, "update", ("k", 3))),
    ],
)
def test_the_grammar(text: str, parts: tuple[object, ...]) -> None:
    name = SiteName.parse(text)
    assert (name.path, name.call, name.port, name.leaf) == parts
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "a//b", "#1", ":input", "[0]", "a#", "a#x", "a#-1", "a:nope", "a[", "a[]", "a]",
     "a:input#1", "a#1#2", "a*", "a[*]"],
)  # fmt: skip
def test_malformed_names_are_refused(text: str) -> None:
    with pytest.raises(SelectionError):
        SiteName.parse(text)


def test_a_misspelt_port_is_corrected() -> None:
    with pytest.raises(SelectionError, match="gradient"):
        SiteName.parse("conv:gradent")
