"""The loss above the strip chart, also of trainings that name theirs otherwise."""

from __future__ import annotations

import math

import pytest
from browsing import go, open_page, wait


@pytest.fixture
def page(browser, server):
    yield from open_page(browser, server)


def test_the_losses_of_a_gan_are_drawn(page, roots):
    go(page, "#/strip?run=gan")
    last = math.exp(-239 / 80)
    wait(
        page,
        "words => document.querySelector('.loss figure')?.ariaLabel.includes(words)",
        f"d_loss {last:.3g}".rstrip("0"),
    )
    assert "g_loss" in page.get_attribute(".loss figure", "aria-label")
    assert "accuracy" not in page.get_attribute(".loss figure", "aria-label")
