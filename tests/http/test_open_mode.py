"""A service that asks for no key, and the browser that reaches it too; and CORS, in both modes."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import yaml
from django.conf import settings as django_settings

from sessions_app.access.clients import revoke_key
from tests.api.test_every_call import error
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.platforms import platform, read_notifications

pytestmark = pytest.mark.django_db(transaction=True)

APP = "https://app.example.org"
EVIL = "https://evil.example"
CALLS = [("GET", "/sessions"), ("POST", "/sessions"), ("POST", "/execute"), ("GET", "/health")]
"""Synchronous views and an asynchronous one."""


def send(api: Api, method: str, path: str, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.request(method, path, headers=named)


@pytest.fixture
def app_may_call(settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = [APP]


# ---- other sites' pages


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.nip.io", "localhost.evil.example"])
def test_a_name_that_was_rebound_to_loopback_is_refused(
    method: str, path: str, host: str, api: Api
) -> None:
    error(send(api, method, path, host=host), 403, "foreign_host")


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000", "testserver"]
)
def test_loopback_names_and_those_of_allowed_hosts_are_answered(host: str, api: Api) -> None:
    assert send(api, "GET", "/health", host=host).status_code == 200


def test_pages_under_a_foreign_name_are_refused_as_well(api: Api) -> None:
    answer = api.get("http://testserver/docs", headers={"host": "evil.example"})
    error(answer, 403, "foreign_host")


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": "http://testserver:1"},
        {"origin": "https://testserver"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"origin": "http://testserver", "sec_fetch_site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_is_refused(
    method: str, path: str, headers: dict[str, str], api: Api
) -> None:
    error(send(api, method, path, **headers), 403, "foreign_origin")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "http://testserver"},
        {"origin": "http://testserver", "sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
    ],
)
def test_its_own_pages_and_programs_may_call_it(headers: dict[str, str], api: Api) -> None:
    assert send(api, "GET", "/environments", **headers).status_code == 200


def test_a_page_that_cors_origins_names_may_call_it(app_may_call: None, api: Api) -> None:
    answer = send(api, "GET", "/environments", origin=APP, sec_fetch_site="cross-site")
    assert answer.status_code == 200
    error(send(api, "GET", "/environments", origin=EVIL), 403, "foreign_origin")


def test_a_service_that_asks_for_keys_leaves_it_at_that(api: Api, configure: Configure) -> None:
    configure(API_AUTH="key")
    answer = send(api, "GET", "/sessions", host="code.example.org", origin=EVIL)
    error(answer, 401, "not_authenticated")


# ---- CORS


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_preflight_of_a_named_origin_is_answered_without_a_key(
    method: str, path: str, app_may_call: None, api: Api, configure: Configure
) -> None:
    configure(API_AUTH="key")
    asked = {"access_control_request_method": method}
    asked["access_control_request_headers"] = "authorization,content-type"
    answer = send(api, "OPTIONS", path, origin=APP, **asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == APP
    allowed = answer.headers["access-control-allow-headers"]
    assert {"authorization", "content-type"} <= set(allowed.split(", "))
    assert method in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_preflight_of_another_origin_allows_nothing(
    method: str, path: str, app_may_call: None, api: Api, configure: Configure
) -> None:
    configure(API_AUTH="key")
    answer = send(api, "OPTIONS", path, origin=EVIL, access_control_request_method=method)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(("method", "path"), CALLS[:3])
def test_errors_can_be_read_by_a_page_too(
    method: str, path: str, app_may_call: None, api: Api, configure: Configure
) -> None:
    configure(API_AUTH="key")
    answer = send(api, method, path, origin=APP)
    error(answer, 401, "not_authenticated")
    assert answer.headers["access-control-allow-origin"] == APP
    exposed = answer.headers["access-control-expose-headers"]
    assert {"Retry-After", "Server-Timing"} <= set(exposed.split(", "))


def test_so_can_that_a_body_is_too_large(app_may_call: None, api: Api, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000
    answer = api.request("POST", "/execute", json={"code": "x" * 2000}, headers={"origin": APP})
    error(answer, 413, "request_too_large")
    assert answer.headers["access-control-allow-origin"] == APP


def test_a_star_is_any_origin_and_never_credentials(
    api: Api, settings: Any, configure: Configure
) -> None:
    settings.CORS_ALLOW_ALL_ORIGINS = True
    configure(API_AUTH="key")
    own = platform(api, "own")
    read_notifications(api)
    headers = {"origin": EVIL, "authorization": f"Api-Key {own.key}"}
    answer = api.get("/environments", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in answer.headers


def test_no_page_may_call_it_by_default(api: Api, configure: Configure) -> None:
    assert django_settings.CORS_ALLOWED_ORIGINS == []
    configure(API_AUTH="key")
    answer = send(api, "GET", "/health", origin=APP)
    assert "access-control-allow-origin" not in answer.headers


def test_what_is_announced_to_pages_is_what_there_is(api: Api, settings: Any) -> None:
    settings.CORS_ALLOWED_ORIGINS = [APP]
    asked = {"access_control_request_method": "GET"}
    answer = send(api, "OPTIONS", "/sessions", origin=APP, **asked)
    methods = set(answer.headers["access-control-allow-methods"].split(", "))
    paths = yaml.safe_load(api.get("http://testserver/api/schema").text)["paths"]
    assert methods - {"OPTIONS"} == {method.upper() for path in paths.values() for method in path}
    assert "idempotency-key" in answer.headers["access-control-allow-headers"]


# ---- credentials that are not needed


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": "Api-Key wrong"}, "invalid_key"),
        ({"authorization": f"Api-Key cex_0123abcd_{'0' * 64}"}, "invalid_key"),
        ({"authorization": "Bearer wrong"}, "invalid_token"),
        ({"authorization": "Bearer cet_wrong"}, "invalid_token"),
    ],
)
@pytest.mark.parametrize(("method", "path"), CALLS[:3])
def test_a_credential_that_is_brought_must_be_right(
    api: Api, method: str, path: str, headers: dict[str, str], code: str
) -> None:
    error(send(api, method, path, **headers), 401, code)


def test_a_right_key_is_its_client_and_no_other(api: Api) -> None:
    operators = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    own = platform(api, "own")
    read_notifications(api)
    session_id = own.open()
    listed = own.call("GET", "/sessions").json()["results"]
    assert [each["session_id"] for each in listed] == [session_id]
    error(own.call("GET", f"/sessions/{operators}"), 404, "not_found")
    assert api.get(f"/sessions/{session_id}").status_code == 200
    revoke_key(own.key)
    read_notifications(api)
    error(own.call("GET", "/sessions"), 401, "invalid_key")


def test_a_proxys_credentials_are_no_api_key(api: Api) -> None:
    assert send(api, "GET", "/sessions", authorization="Basic dTpw").status_code == 200


# ---- the page at /


def test_the_page_asks_for_a_key_where_the_api_does(api: Api, configure: Configure) -> None:
    page = "http://testserver/"
    assert 'id="key"' not in api.get(page).text
    configure(API_AUTH="key")
    assert 'id="key"' in api.get(page).text
