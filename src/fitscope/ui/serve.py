"""Running the page's server: the address, the token, the link."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
import threading
import urllib.parse
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from fitscope.errors import FitscopeError

TOKEN_VARIABLE = "FITSCOPE_TOKEN"  # noqa: S105 - the name of a variable
SHORTEST_TOKEN = 16
DEFAULT_PORT = 6510
_TRIED = 20


class PageError(FitscopeError):
    """The page cannot be served as asked."""


def serve(
    roots: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    names: Sequence[str] = (),
    open_browser: bool = False,
    run: str | None = None,
    end_with_stdin: bool = False,
    beside: bool = False,
) -> None:
    """Serve the page until interrupted.

    Args:
        roots: Folders with runs, or runs.
        host: The address to listen on. Another one than loopback needs a token that the user
            chose, in `FITSCOPE_TOKEN`.
        port: The port; without one the first free one from 6510 on, 0 for any.
        names: More names that `Host` may say.
        open_browser: Whether to open the link in a browser.
        run: The run that the link opens.
        end_with_stdin: Whether to end when the standard input does: with the process that started
            this one.
        beside: See `Roots`.

    Raises:
        PageError: The page is not built, a package is missing, or the address is not allowed.
        RunError: A root is not there.
    """
    token = _token(host)
    try:
        import uvicorn

        from fitscope.ui.app import NOT_BUILT, is_built, make_app
        from fitscope.ui.roots import Roots
    except ImportError as error:
        raise PageError(
            f"The page needs starlette and uvicorn, and {error.name} is not installed. Install "
            "them with `pip install 'fitscope[ui]'`."
        ) from error
    if not is_built():
        raise PageError(NOT_BUILT)
    found = Roots(roots, beside=beside)
    listening = _listen(host, port)
    number = int(listening.getsockname()[1])
    app = make_app(found, token=token, hosts=_hosts(host, number, names), port=number)
    link = _link(host, number, token, run)
    print(f"fitscope page: {link}", flush=True)
    if sys.stdout.isatty():
        print("The link holds a token; Ctrl-C ends the page.", flush=True)
    config = uvicorn.Config(
        app,
        # Nobody reads what a page that was started by a training says.
        log_level="critical" if end_with_stdin else "warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    if end_with_stdin:
        threading.Thread(target=_watch_stdin, args=(server,), daemon=True).start()
    if open_browser:
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # Ctrl-C is how a page ends
    finally:
        listening.close()


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _token(host: str) -> str:
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and len(given) < SHORTEST_TOKEN:
        raise PageError(
            f"{TOKEN_VARIABLE} has {len(given)} characters; a token has at least {SHORTEST_TOKEN}."
        )
    if not given and not is_loopback(host):
        raise PageError(
            f"--host {host} can be reached from other machines, and the page shows what is in the "
            f"runs to whoever has its token. Choose a token of {SHORTEST_TOKEN} characters or more "
            f"and set {TOKEN_VARIABLE} to it, or keep 127.0.0.1 and reach it through "
            "`ssh -L`. The connection itself is not encrypted."
        )
    return given or secrets.token_urlsafe(32)


def _listen(host: str, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(DEFAULT_PORT, DEFAULT_PORT + _TRIED) if port is None else [port]
    problem: OSError | None = None
    for number in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            # Before the link is printed: whoever reads it may come at once.
            listening.listen(128)
        except OSError as error:
            listening.close()
            problem = error
            continue
        listening.set_inheritable(False)
        return listening
    raise PageError(
        f"The page cannot listen on {host}:{ports[0]} ({problem}). Choose another port with "
        "--port, or --port 0 for any."
    )


def _hosts(host: str, port: int, names: Sequence[str]) -> list[str]:
    known = ["127.0.0.1", "localhost", "[::1]"]
    known.append(f"[{host}]" if ":" in host else host)
    return [f"{name}:{port}" for name in (*known, *names)] + [n for n in names if ":" in n]


def _link(host: str, port: int, token: str, run: str | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    where = "" if run is None else f"#/strip?{urllib.parse.urlencode({'run': run})}"
    return f"http://{shown}:{port}/?token={token}{where}"


def _watch_stdin(server: object) -> None:
    sys.stdin.buffer.read()
    server.should_exit = True  # type: ignore[attr-defined]
