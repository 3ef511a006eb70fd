"""The page in a real browser: every view, light and dark, live, by keyboard, and for everyone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from browsing import go, open_page, wait, wait_drawn
from page_runs import EVIL, LAYERS, row, site, write
from page_server import start, stop

from fitscope.run import open_run
from fitscope.run.record import StepRecord

AXE = Path(__file__).parents[2] / "page" / "node_modules" / "axe-core" / "axe.min.js"
VIEWS = {
    "strip": "#/strip?run=sick",
    "layer": "#/layer?run=sick&site=conv_2",
    "findings": "#/findings?run=nan",
    "model": "#/model?run=sick",
    "values": "#/values?run=recorded&tensor=conv",
    "nothing recorded": "#/values?run=sick",
    "whole layer": "#/layer?run=recorded&site=dense",
    "runs": "#/runs",
    "compare": "#/strip?run=sick&other=well",
}
SEEN = {
    "strip": "conv_2",
    "layer": "Spread of the values",
    "findings": "Not finite",
    "model": "Sequential",
    "values": "the largest loss first",
    "nothing recorded": "no recorded values",
    "whole layer": "2 of 8 units are off",
    "runs": "interrupted",
    "compare": "well",
}


@pytest.fixture
def page(browser, server):
    yield from open_page(browser, server)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_shows_and_passes_axe(page, view, scheme):
    page.emulate_media(color_scheme=scheme)
    go(page, VIEWS[view])
    wait(page, "text => document.body.innerText.includes(text)", arg=SEEN[view])
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    # The policy of the page allows no script from elsewhere; the debugger's own way does.
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    told = [
        (each["id"], each["nodes"][0]["html"][:120], each["nodes"][0]["failureSummary"][:200])
        for each in found["violations"]
    ]
    assert told == []


def test_it_says_which_layer_is_unwell_and_since_when(page):
    go(page, "#/strip?run=sick")
    page.wait_for_selector(".verdict.warning")
    words = page.inner_text(".verdict")
    assert "conv_2" in words
    assert "since step 0" in words
    wait_drawn(page)
    # Until the user chooses, the statistic that shows it.
    assert page.input_value(".controls select") == "dead_fraction"


def test_nan_is_told_with_its_first_step(page):
    go(page, "#/strip?run=nan")
    page.wait_for_selector(".verdict.fault")
    assert "since step 150" in page.inner_text(".verdict")
    page.wait_for_selector(".loss .why")
    assert "from step 150 on" in page.inner_text(".loss .why")


def test_a_cause_outside_the_layers_says_which_layer_it_made_unwell(page):
    go(page, "#/strip?run=caused")
    page.wait_for_selector(".verdict.fault")
    words = page.inner_text(".verdict")
    assert "optimizer before the first step" in words
    assert "digit since step 12" in words
    links = page.eval_on_selector_all(".verdict button", "all => all.map(b => b.innerText)")
    assert links == ["digit"]  # there is no site "optimizer" to go to
    assert page.input_value(".controls select") == "nonfinite_fraction"
    page.click(".verdict button")
    wait(page, "text => document.body.innerText.includes(text)", "held 512 NaN")


def test_a_run_without_a_layer_offers_nothing_to_choose(page):
    go(page, "#/strip?run=empty")
    wait(
        page, "text => document.body.innerText.includes(text)", "No layer of this run was observed"
    )
    assert page.locator(".controls").count() == 0
    assert page.locator(".verdict").count() == 0


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("empty", "ended without an observed step"),
        ("killed", "The process that wrote this run is gone"),
        ("broken", "not valid JSON"),
        ("half", "has no layer yet"),
        ("nowhere", "no run is named"),
    ],
)
def test_a_run_in_a_bad_state_says_so(page, run, words):
    go(page, f"#/layer?run={run}" if run == "half" else f"#/strip?run={run}")
    wait(page, "text => document.body.innerText.includes(text)", arg=words)
    page.faults.clear()  # the browser reports the server's 404 by itself


def test_a_layer_named_as_markup_is_shown_as_text(page):
    go(page, "#/findings?run=evil")
    page.wait_for_selector(".finding")
    assert EVIL in page.inner_text(".finding")
    go(page, "#/runs")
    assert page.title() != "owned"
    assert page.evaluate("document.querySelectorAll('main script').length") == 0


def test_hovering_tells_the_exact_value(page, roots):
    go(page, "#/strip?run=sick&stat=mean&first=10&last=19")
    wait_drawn(page)
    box = page.locator(".strip canvas").bounding_box()
    gutter = min(220, round(1280 * 0.17))
    width = (box["width"] - gutter - 12) / 10
    page.mouse.move(box["x"] + gutter + 3.5 * width, box["y"] + 20)
    truth = open_run(roots / "sick").stats("conv_1", "mean", "train", 13).to_pandas()["value"][0]
    wait(
        page,
        "text => document.querySelector('.tip')?.innerText.includes(text)",
        arg=f"{float(f'{truth:.8g}')}",
    )
    assert "step 13" in page.inner_text(".tip")


def test_zoom_pan_and_the_cursor_by_keyboard(page):
    go(page, "#/strip?run=sick")
    wait_drawn(page)
    page.focus(".strip canvas")
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "+"):
        page.keyboard.press(key)
    wait(page, "location.hash.includes('first=')")
    assert "conv_2" in page.inner_text(".tip")
    zoomed = page.evaluate("location.hash")
    page.keyboard.press("PageDown")
    wait(page, "before => location.hash !== before", arg=zoomed)
    page.keyboard.press("0")
    wait(page, "!location.hash.includes('first=')")
    page.keyboard.press("Enter")
    page.wait_for_selector(".site-title")
    page.keyboard.press("j")
    wait(page, "location.hash.includes('site=dense')")
    page.keyboard.press("r")
    page.wait_for_selector("table")
    page.keyboard.press("?")
    page.wait_for_selector("dialog[open]")
    page.keyboard.press("Escape")


def test_the_wheel_zooms_where_the_pointer_is(page):
    go(page, "#/strip?run=sick")
    wait_drawn(page)
    box = page.locator(".strip canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    page.mouse.wheel(0, -600)
    wait(page, "location.hash.includes('first=')")
    query = dict(p.split("=") for p in page.evaluate("location.hash").split("?")[1].split("&"))
    assert int(query["first"]) > 60
    assert int(query["last"]) > 200


SLOW_PICTURES = """() => {
    const real = window.fetch;
    window.now = window.most = window.asked = 0;
    window.fetch = async (...given) => {
        if (!String(given[0]).startsWith("/api/strip")) return real(...given);
        window.asked++;
        window.most = Math.max(window.most, ++window.now);
        await new Promise((done) => setTimeout(done, 120));
        try { return await real(...given); } finally { window.now--; }
    };
}"""


def test_a_turning_wheel_asks_for_one_picture_at_a_time(page):
    go(page, "#/strip?run=sick")
    wait_drawn(page)
    # What stands above the chart moves it when it comes.
    page.wait_for_selector(".verdict.warning")
    page.wait_for_selector(".loss figure")
    page.wait_for_timeout(300)
    page.evaluate(SLOW_PICTURES)
    box = page.locator(".strip canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    for _ in range(10):
        page.mouse.wheel(0, -60)
        page.wait_for_timeout(20)
    # The picture of the last turn is the one that stands in the end.
    wait(
        page,
        """() => {
            const [, query] = location.hash.split("?");
            const asked = new URLSearchParams(query);
            const drawn = document.querySelector(".strip canvas").dataset.drawn;
            return asked.has("first") && drawn === `${asked.get("first")}-${asked.get("last")}`;
        }""",
    )
    assert page.evaluate("window.most") == 1
    assert 1 <= page.evaluate("window.asked") < 10


def test_a_link_leads_back_to_the_same_state(page, browser, server):
    address = "#/strip?run=sick&stat=rms&first=50&last=99&find=conv*&scale=start"
    go(page, address)
    wait_drawn(page)
    assert "conv_*" not in page.inner_text("main")
    assert page.input_value("input[type=search]") == "conv*"
    assert page.input_value(".controls select") == "rms"
    label = page.get_attribute(".strip canvas", "aria-label")
    assert label.startswith("rms of 2 sites over steps 50 to 99")


def test_two_runs_side_by_side_have_the_same_rows(page):
    go(page, "#/runs")
    page.check("input[aria-label='Compare sick']")
    page.check("input[aria-label='Compare well']")
    page.click("text=Compare the two chosen runs")
    # The same statistic in both: what shows what is wrong with the first, once that is known.
    wait(
        page,
        """() => {
          const all = [...document.querySelectorAll(".strip canvas")].map(c => c.ariaLabel);
          return all.length === 2 && all.every(l => l.startsWith("dead_fraction of 4 sites over "));
        }""",
    )
    assert page.eval_on_selector_all(".run-title", "all => all.map(t => t.innerText)") == [
        "sick",
        "well",
    ]


def test_the_graph_leads_to_the_layer(page):
    go(page, "#/model?run=sick")
    page.wait_for_selector("g.node")
    assert page.locator("g.node").count() == len(LAYERS)
    assert page.locator("path.edge").count() == len(LAYERS) - 1
    page.wait_for_selector("g.node.warning")
    assert page.locator("g.node.warning").count() == 1
    page.locator("g.node").nth(2).focus()
    page.keyboard.press("Enter")
    wait(page, "location.hash.includes('site=dense')")


def test_five_hundred_layers_and_a_narrow_window(page):
    page.set_viewport_size({"width": 390, "height": 800})
    go(page, "#/strip?run=big")
    wait_drawn(page)
    wait(page, "document.documentElement.scrollWidth <= 390")  # a chart follows its window's size
    # What is not drawn yet is seen for a while on a slow machine: it may not widen the page either.
    page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": 6})
    page.evaluate(
        """() => {
        window.wide = [];
        setInterval(() => {
            const width = document.documentElement.scrollWidth;
            if (width > 390) window.wide.push([location.hash, width]);
        }, 5);
        }"""
    )
    for address in VIEWS.values():
        go(page, address)
        page.wait_for_timeout(300)
    assert page.evaluate("window.wide") == []


def test_the_token_leaves_the_address(page):
    assert "token" not in page.evaluate("location.href")
    assert page.evaluate("document.cookie") == ""


def test_without_the_link_the_page_says_what_it_needs(browser, server):
    context = browser.new_context()
    shown = context.new_page()
    shown.goto(f"http://127.0.0.1:{server.port}/")
    assert "needs the link" in shown.inner_text("body")
    context.close()


def test_nothing_is_fetched_from_elsewhere(browser, server):
    context = browser.new_context()
    shown = context.new_page()
    asked = []
    shown.on("request", lambda request: asked.append(request.url))
    shown.goto(server.link)
    for address in VIEWS.values():
        go(shown, address)
        shown.wait_for_timeout(150)
    context.close()
    assert len(asked) > 10
    assert all(url.startswith((f"http://127.0.0.1:{server.port}/", "data:")) for url in asked)


def test_a_running_training_is_followed(browser, tmp_path):
    writer = write(tmp_path / "live", steps=0, close=False)
    started = start(tmp_path)
    context = browser.new_context()
    shown = context.new_page()
    try:
        shown.goto(started.link)
        wait(shown, "document.body.innerText.includes('holds no observed step yet')")
        rng = np.random.default_rng(0)
        indices = np.array(writer.add_sites([site(name) for name in LAYERS]))

        def append(first, last):
            for step in range(first, last):
                dead = [0.8 if name == "conv_2" else 0.0 for name in LAYERS]
                moments = np.stack([row(rng, dead=share) for share in dead])
                writer.append(StepRecord(step, 0, "train", indices, moments))
            writer.flush()

        append(0, 30)
        wait(shown, "document.body.innerText.includes('step 29, 30 observed')")
        shown.wait_for_selector(".verdict.warning")
        append(30, 90)
        wait(shown, "document.body.innerText.includes('step 89, 90 observed')")
        wait(shown, "document.querySelector('.strip canvas').ariaLabel.includes('0 to 89')")
        writer.close()
        wait(shown, "document.querySelector('.status').innerText.includes('finished')")
    finally:
        context.close()
        stop(started)


def test_an_empty_folder_says_so_and_shows_the_first_run_that_begins(browser, tmp_path):
    started = start(tmp_path)
    context = browser.new_context()
    shown = context.new_page()
    try:
        shown.goto(started.link)
        wait(shown, "document.body.innerText.includes('There is no run here yet')")
        write(tmp_path / "first", steps=60)
        wait(shown, "document.body.innerText.includes('step 59, 60 observed')")
        shown.wait_for_selector(".verdict.warning")
    finally:
        context.close()
        stop(started)


def test_the_build_is_of_the_source_and_carries_the_licences():
    static = Path(__file__).parents[2] / "src" / "fitscope" / "ui" / "static"
    text = (static / "licenses.txt").read_text()
    named = json.loads((static.parents[3] / "page" / "package.json").read_text())["dependencies"]
    assert all(f"{name} {version}" in text for name, version in named.items())
