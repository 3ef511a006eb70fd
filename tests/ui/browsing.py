"""What tests do with a page in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def open_page(browser: Any, server: Any, **options: Any) -> Iterator[Any]:
    """A page of the server; it must not have had an error in the end."""
    opened = browser.new_context(viewport={"width": 1280, "height": 860}, **options)
    shown = opened.new_page()
    shown.faults = []
    shown.on("pageerror", lambda error: shown.faults.append(str(error)))
    shown.on(
        "console", lambda message: message.type == "error" and shown.faults.append(message.text)
    )
    shown.goto(server.link)
    shown.wait_for_selector("nav button")
    yield shown
    opened.close()
    assert shown.faults == []


def wait(page: Any, expression: str, arg: Any = None) -> None:
    """Wait until an expression holds.

    Playwright's own way evaluates it within the page, which the page's policy forbids.
    """
    for _ in range(200):
        if page.evaluate(expression, arg):
            return
        page.wait_for_timeout(75)
    raise AssertionError(f"{expression} with {arg!r} is not so: {page.inner_text('body')}")


def go(page: Any, address: str) -> None:
    """Follow a link within the page."""
    page.evaluate("hash => { location.hash = hash }", address)


def drawn(page: Any, selector: str = ".strip canvas") -> int:
    """How many colours a canvas shows."""
    page.wait_for_selector(selector)
    return page.evaluate(
        """selector => {
            const canvas = document.querySelector(selector);
            const pen = canvas.getContext("2d");
            const data = pen.getImageData(0, 0, canvas.width, canvas.height).data;
            const colours = new Set();
            for (let i = 0; i < data.length; i += 4) {
                colours.add(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
            }
            return colours.size;
        }""",
        selector,
    )


def wait_drawn(page: Any, selector: str = ".strip canvas") -> None:
    """Wait until a canvas shows something."""
    for _ in range(100):
        if drawn(page, selector) > 20:
            return
        page.wait_for_timeout(50)
    raise AssertionError("nothing was drawn")
