"""Sites and unseen sites on disk."""

import json

import pytest

from fitscope.errors import RunFormatError
from fitscope.select.naming import SiteName
from fitscope.select.site import Site
from fitscope.select.unseen import Unseen

SITE = Site.of(
    SiteName("enc/attn", 1, "gradient", (0, "mask")),
    layer_class="Attention",
    layer_classes=("Attention", "Layer"),
    shape=(None, 8, 4),
    dtype="bfloat16",
    activation="relu",
    layer=object(),
)


def test_a_site_survives_json_without_its_layer() -> None:
    read = Site.from_json({**json.loads(json.dumps(SITE.to_json())), "later": 1})
    assert read == SITE
    assert hash(read) == hash(SITE)
    assert read.layer is None


def test_an_unseen_site_survives_json() -> None:
    unseen = Unseen("rnn/cell", "It runs in a scan.", "Watch rnn.")
    assert Unseen.from_json(json.loads(json.dumps(unseen.to_json()))) == unseen
    assert str(unseen) == "rnn/cell: It runs in a scan. Watch rnn."


@pytest.mark.parametrize("kind", [Site, Unseen])
def test_a_missing_field_is_named(kind: type[Site] | type[Unseen]) -> None:
    with pytest.raises(RunFormatError, match="lacks"):
        kind.from_json({})
