"""Who is refused: foreign names, no token, other sites, other paths."""

from __future__ import annotations

import json
import urllib.parse

import pytest
from page_runs import EVIL
from page_server import TOKEN


def test_the_link_is_answered_with_a_cookie_that_scripts_cannot_read(server):
    answer = server.get(f"/?token={TOKEN}", token=False)
    cookie = answer.headers["set-cookie"]
    assert answer.status == 303
    assert answer.headers["location"] == "/"
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in answer.headers["location"]


@pytest.mark.parametrize("path", ["/", "/assets/page.js", "/api/runs", "/api/strip?run=sick"])
@pytest.mark.parametrize("cookie", [None, "wrong", TOKEN[:-1], ""])
def test_without_the_token_nothing_is_read(server, path, cookie):
    headers = {} if cookie is None else {"Cookie": f"fitscope-{server.port}={cookie}"}
    answer = server.get(path, token=False, **headers)
    assert answer.status == 401
    assert b"sick" not in answer.body


def test_a_wrong_token_in_the_link_gives_no_cookie(server):
    answer = server.get("/?token=wrong", token=False)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example:{port}", "localhost", "127.0.0.1:1", ""]
)
def test_a_foreign_host_is_refused_even_with_the_token(server, host):
    answer = server.get("/api/runs", Host=host.format(port=server.port))
    assert answer.status == 421
    assert b"sick" not in answer.body


def test_its_own_names_are_answered(server):
    for name in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert server.get("/api/runs", Host=f"{name}:{server.port}").status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:{port}"])
def test_another_origin_is_refused(server, origin):
    assert server.get("/api/runs", Origin=origin.format(port=server.port)).status == 403


def test_a_fetch_from_another_site_is_refused(server):
    assert server.get("/api/runs", Sec_Fetch_Site="cross-site").status == 403
    assert server.get("/api/runs", Sec_Fetch_Site="same-site").status == 403
    assert server.get("/api/runs", Sec_Fetch_Site="same-origin").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_it_only_answers_questions(server, method):
    answer = server.get("/api/runs", method=method)
    assert answer.status == 405
    assert "access-control-allow-origin" not in answer.headers


def test_every_answer_carries_the_strict_headers(server):
    for path in ("/", "/api/runs", "/assets/page.js", "/nowhere", "/api/run?run=nowhere"):
        headers = server.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "name",
    ["../outside", "..", "/etc", "link", "sick/../../outside", "sick/rank=00000", "%2e%2e/outside"],
)
def test_a_run_is_found_by_name_and_never_by_path(server, name):
    answer = server.get(f"/api/run?run={urllib.parse.quote(name, safe='')}")
    assert answer.status == 404
    assert "no run is named" in json.loads(answer.body)["problem"]


@pytest.mark.parametrize(
    "path", ["/assets/../app.py", "/assets/..%2fapp.py", "/assets/%2e%2e/app.py", "//etc/passwd"]
)
def test_assets_do_not_lead_out(server, path):
    assert server.get(path).status == 404


def test_a_layer_named_as_markup_stays_text(server):
    answer = server.get("/api/run?run=evil")
    assert answer.headers["content-type"] == "application/json"
    assert EVIL in [site["name"] for site in json.loads(answer.body)["sites"]]


@pytest.mark.parametrize(
    "query",
    [
        "strip?run=sick&statistic=nothing",
        "strip?run=sick&phase=nothing",
        "strip?run=sick&mode=nothing",
        "strip?run=sick&first=x",
        "strip?run=sick&sites=a-b",
        "strip?run=sick&sites=0-99999999",
        "cell?run=sick&site=nothing",
        "fan?run=sick&site=nothing",
        "run?run=broken",
        "run",
    ],
)
def test_a_bad_question_is_answered_with_a_sentence(server, query):
    answer = server.get(f"/api/{query}")
    assert answer.status == 404
    assert json.loads(answer.body)["problem"]
