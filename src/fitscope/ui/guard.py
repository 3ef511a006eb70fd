"""Who may talk to the page's server: the browser that was given the link, on this machine."""

from __future__ import annotations

import hmac
import html
import urllib.parse
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' data:; "
    "connect-src 'self'; "
    "base-uri 'none'; "
    "form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_METHODS = ("GET", "HEAD")


class Guard:
    """Refuses every request that does not come from the page itself.

    In this order: the method must only read; `Host` must be one that this server answers to (a
    foreign name that resolves to this machine does not pass); `Origin` and `Sec-Fetch-Site` must
    not name another site; and the token must be in the cookie. The link that was printed carries
    the token once, and is answered with the cookie and without the token.

    Args:
        app: What is guarded.
        token: The secret of this server.
        hosts: What `Host` may say, with port.
        port: The port, for the cookie's name: cookies do not tell ports apart.
    """

    def __init__(self, app: ASGIApp, *, token: str, hosts: Sequence[str], port: int) -> None:
        self._app = app
        self._token = token
        self._hosts = frozenset(host.lower() for host in hosts)
        self.cookie = f"fitscope-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        answer = self._refusal(scope) or self._welcome(scope)
        await (answer or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if scope["method"] not in _METHODS:
            return _page(405, "This server only answers questions: GET and HEAD.")
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or host not in self._hosts:
            return _page(
                421,
                f"This server does not answer to the name {host or '(none)'}. "
                "Open the link that fitscope printed.",
            )
        origin = headers.get("origin")
        if origin is not None and origin.lower() not in {f"http://{h}" for h in self._hosts}:
            return _page(403, "The request comes from another site.")
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        if foreign and headers.get("sec-fetch-mode") != "navigate":
            return _page(403, "The request comes from another site.")
        return None

    def _welcome(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        query = urllib.parse.parse_qs(scope.get("query_string", b"").decode("latin-1"))
        given = query.get("token", [])
        if scope["path"] == "/" and given:
            if not self._is_token(given[0]):
                return _page(401, _NEED_LINK)
            answer: Response
            if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
                # A strict cookie is not sent along a redirect that another site began.
                answer = HTMLResponse('<meta http-equiv="refresh" content="0;url=/">')
            else:
                answer = RedirectResponse("/", 303)
            answer.set_cookie(self.cookie, self._token, httponly=True, samesite="strict", path="/")
            return answer
        if self._is_token(self._from_cookie(headers)):
            return None
        return _page(401, _NEED_LINK)

    def _from_cookie(self, headers: Headers) -> str:
        for line in headers.getlist("cookie"):
            try:
                morsel = SimpleCookie(line).get(self.cookie)
            except CookieError:
                continue
            if morsel is not None:
                return morsel.value
        return ""

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._token.encode())


_NEED_LINK = (
    "This page needs the link with the token that fitscope printed when it started the server. "
    "Open that link once in this browser."
)


def _page(status: int, sentence: str) -> Response:
    body = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>fitscope</title>'
        f"<h1>fitscope</h1><p>{html.escape(sentence)}</p></html>"
    )
    return HTMLResponse(body, status)
