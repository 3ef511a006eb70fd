"""The page's server as an application."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from fitscope.ui.api import Api
from fitscope.ui.guard import Guard
from fitscope.ui.opened import OpenRuns
from fitscope.ui.roots import Roots

STATIC = Path(__file__).parent / "static"

NOT_BUILT = (
    "The page itself is not built in this installation: it was installed from a clone on a machine "
    "without Node. Install Node 18 or newer and run `make page` in the clone, or install fitscope "
    "from a wheel. Everything else works: `fitscope show RUN` prints a run."
)


def is_built() -> bool:
    """Whether the page is there."""
    return (STATIC / "index.html").is_file()


def make_app(roots: Roots, *, token: str, hosts: Sequence[str], port: int) -> ASGIApp:
    """The application, guarded.

    Args:
        roots: Where runs may lie.
        token: The secret of this server.
        hosts: What `Host` may say, with port.
        port: The port.
    """
    api = Api(OpenRuns(roots))
    routes: list[Route | Mount] = [*api.routes(), Route("/", _index)]
    if is_built():
        routes.append(Mount("/assets", StaticFiles(directory=STATIC)))
    # Nothing is compressed: within one machine that would only take time.
    return Guard(Starlette(routes=routes), token=token, hosts=hosts, port=port)


def _index(_request: Request) -> Response:
    if not is_built():
        return HTMLResponse(f"<!doctype html><title>fitscope</title><p>{NOT_BUILT}</p>", 503)
    return HTMLResponse((STATIC / "index.html").read_text(encoding="utf-8"))
