"""Recorded tensors in a real browser: maps, attention, bars, the batch, and units."""

from __future__ import annotations

import numpy as np
import pytest
from browsing import go, open_page, wait, wait_drawn
from recorded_run import EVERY, LABELS, LOSSES, OFF, PREDICTED, STEPS, tensors


@pytest.fixture
def page(browser, server):
    yield from open_page(browser, server)


def text(page, selector="main"):
    return page.inner_text(selector)


def test_feature_maps_are_a_grid_of_channels(page):
    go(page, "#/values?run=recorded&tensor=conv")
    wait(page, "text => document.body.innerText.includes(text)", "4 channels, row downwards")
    wait_drawn(page, ".card canvas")
    assert page.input_value("label:has-text('One map') select") == "last"


def test_attention_is_a_map_for_each_head(page):
    go(page, "#/values?run=recorded&tensor=mha%5B1%5D&step=20&sample=2")
    wait(page, "text => document.body.innerText.includes(text)", "2 heads, query downwards")
    wait_drawn(page, ".card canvas")
    # The pointer tells the number under it.
    box = page.locator(".fan canvas").bounding_box()
    page.mouse.move(box["x"] + 8 + 3 * 16, box["y"] + 14 + 8 + 16)
    truth = tensors(20)["mha[1]"][1][2, 0, 1, 3]
    wait(page, "() => document.querySelector('.read').innerText.includes('head 0, query 1, key 3')")
    told = float(text(page, ".read").split(":")[1])
    np.testing.assert_allclose(told, truth, rtol=1e-6)
    # And so do the arrow keys.
    page.mouse.move(5, 5)
    page.focus(".fan canvas")
    for key in ("ArrowRight", "ArrowDown", *["ArrowRight"] * 5):
        page.keyboard.press(key)
    wait(page, "() => document.querySelector('.read').innerText.includes('head 1, query 1, key 0')")
    # The other reading of the axes is part of the address.
    page.select_option("label:has-text('One map') select", "last")
    wait(page, "location.hash.includes('axes=last')")
    wait(page, "text => document.body.innerText.includes(text)", "5 channels")


def test_a_sequence_runs_to_the_right(page):
    go(page, "#/values?run=recorded&tensor=lstm")
    wait(page, "text => document.body.innerText.includes(text)", "position to the right")


def test_steps_by_slider_by_key_and_by_link(page):
    go(page, f"#/values?run=recorded&tensor=dense&step={2 * EVERY}")
    wait(page, "text => document.body.innerText.includes(text)", "Step 20, train (3 of 6 recorded)")
    page.keyboard.press(".")
    wait(page, "location.hash.includes('step=30')")
    page.keyboard.press(",")
    page.keyboard.press(",")
    wait(page, "location.hash.includes('step=10')")
    page.keyboard.press("]")
    wait(page, "location.hash.includes('sample=1')")
    page.locator(".slide input").first.fill("0")
    wait(page, "location.hash.includes('step=0')")
    # A step between recordings leads to the one closest to it.
    go(page, "#/values?run=recorded&tensor=dense&step=38")
    wait(page, "text => document.body.innerText.includes(text)", "Step 40, train")


def test_the_batch_stands_by_loss_with_what_was_predicted(page):
    go(page, "#/values?run=recorded&tensor=@batch/y_pred")
    page.wait_for_selector("table.batch")
    rows = page.eval_on_selector_all(
        "table.batch tbody tr", "all => all.map(r => [...r.cells].map(c => c.innerText.trim()))"
    )
    order = np.argsort(-LOSSES, kind="stable")
    assert [int(row[0]) for row in rows] == order.tolist()
    assert [row[2] for row in rows] == [str(LABELS[i]) for i in order]
    wrong = PREDICTED.argmax(1) != LABELS
    assert [row[3].startswith("✗") for row in rows] == wrong[order].tolist()
    assert [float(row[4]) for row in rows] == pytest.approx(LOSSES[order].tolist(), rel=1e-2)
    assert f"{(~wrong).sum()} of {len(LABELS)} right" in text(page)
    assert page.locator("table.batch td:nth-child(2) canvas").count() == len(LABELS)
    # A sample of the table is that of the picture above.
    page.click("table.batch tbody tr:first-child button")
    wait(page, "location.hash.includes('sample=1')")


def test_the_layer_tells_which_units_are_off_and_since_when(page):
    go(page, "#/layer?run=recorded&site=dense")
    wait(page, "text => document.body.innerText.includes(text)", "2 of 8 units are off")
    told = text(page, ".units")
    assert "since step 0, the first that was recorded: unit 3" in told
    assert f"since step {OFF[5]}: unit 5" in told
    wait_drawn(page, "section:has(.units) canvas")


def test_units_are_those_of_the_recording(server):
    from test_pictures import binary

    header, on = binary(server.get("/api/units?run=recorded&site=dense").body)
    assert header["steps"] == list(range(0, STEPS, EVERY))
    assert {u: s for u, s in enumerate(header["since"]) if s >= 0} == OFF
    truth = [(tensors(step)["dense"][1] != 0).mean(0) for step in header["steps"]]
    np.testing.assert_allclose(on.reshape(8, -1), np.transpose(truth))
    header, on = binary(server.get("/api/units?run=recorded&site=conv_9").body)
    assert header["steps"] == []
    assert len(on) == 0


def test_a_layer_that_was_not_recorded_says_how_to_see_its_units(page):
    go(page, "#/layer?run=sick&site=conv_2")
    wait(page, "text => document.body.innerText.includes(text)", 'fs.record("conv_2", every=100)')
    # And which of its tensors are not watched.
    wait(page, "text => document.body.innerText.includes(text)", 'of=["output", "gradient"')


def test_gradient_weights_and_update_ratio_stand_beside_the_output(page):
    go(page, "#/layer?run=recorded&site=dense")
    for words in ("Gradient beside output", "Weights", "Update ratio"):
        wait(page, "text => document.body.innerText.includes(text)", words)
    wait(
        page,
        "() => [...document.querySelectorAll('figure')].some("
        "f => f.ariaLabel === 'Update ratio of dense: update[kernel] 0.00159')",
    )
    assert "Not watched here" not in text(page)
