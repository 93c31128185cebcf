"""What a call doesn't take is refused by name: a misspelt field would mean another thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from sessions_app.api.inputs import ANY_KEY, Inputs, nearest_name
from sessions_app.api.urls import urlpatterns
from sessions_app.models import Execution, Session
from tests.api.test_every_call import NOBODY, error
from tests.support.api_client import Api

pytestmark = pytest.mark.django_db(transaction=True)

TAKES_BODY = [
    ("POST", "/sessions", {}, "enviroment", "environment"),
    ("PATCH", "/sessions/{}", {}, "TTL", "ttl"),
    ("POST", "/sessions/{}/tokens", {"role": "viewer"}, "expiresIn", "expires_in"),
    ("POST", "/sessions/{}/execute", {"code": "1"}, "file_name", "filename"),
    ("POST", "/execute", {"code": "1"}, "Environment", "environment"),
]


@pytest.fixture
def session_id(api: Api) -> str:
    return str(api.post("/sessions", {"environment": "python"}).json()["session_id"])


@pytest.mark.parametrize(("method", "path", "body", "given", "meant"), TAKES_BODY)
def test_a_misspelt_field_is_answered_with_the_right_one(
    method: str, path: str, body: dict[str, Any], given: str, meant: str, api: Api, session_id: str
) -> None:
    answer = api.request(method, path.format(session_id), json={**body, given: None})
    found = error(answer, 400, "unknown_field")
    assert found["detail"] == f"{given} is not a field of this call. Did you mean {meant}?"
    assert (found["field"], list(found["errors"])) == (given, [given])
    assert not Execution.objects.exists()
    assert Session.objects.count() == 1


@pytest.mark.parametrize(
    ("path", "given", "meant"),
    [
        ("/sessions?enviroment=rust", "enviroment", "environment"),
        ("/sessions?metadata=7F3A", "metadata", "metadata.<key>"),
        ("/sessions?metadata_interview=7F3A", "metadata_interview", "metadata.<key>"),
        ("/sessions?pageSize=5", "pageSize", "page_size"),
        ("/sessions/{}/executions?Cursor=x", "Cursor", "cursor"),
        ("/sessions/{}/events?lastEventId=latest", "lastEventId", "last_event_id"),
        ("/sessions/{}/events?Last-Event-ID=latest", "Last-Event-ID", "last_event_id"),
        ("/sessions/{}?tokn=x", "tokn", "token"),
    ],
)
def test_a_misspelt_parameter_is_answered_with_the_right_one(
    path: str, given: str, meant: str, api: Api, session_id: str
) -> None:
    found = error(api.get(path.format(session_id)), 400, "unknown_field")
    assert found["detail"] == f"{given} is not a parameter of this call. Did you mean {meant}?"
    assert found["field"] == given


def test_what_is_like_no_name_is_answered_with_all_of_them(api: Api) -> None:
    found = error(api.get("/sessions?interview=7F3A"), 400, "unknown_field")
    assert found["detail"] == (
        "interview is not a parameter of this call; it takes cursor, environment, metadata.<key>, "
        "page_size, status, token."
    )
    found = error(api.post("/sessions", {"limits": {"memory": "1g"}}), 400, "unknown_field")
    assert found["detail"].endswith("it takes environment, metadata, runtime, ttl.")


def test_what_is_in_the_wrong_place_is_answered_with_the_right_one(
    api: Api, session_id: str
) -> None:
    run = f"/sessions/{session_id}/execute"
    for name in ("wait", "Wait"):
        found = error(api.post(run, {"code": "1", name: False}), 400, "unknown_field")
        assert found["field"] == name
        assert found["detail"].endswith("wait belongs in the address: ?wait=.")
    found = error(api.post(f"{run}?code=1", {"code": "1"}), 400, "unknown_field")
    assert found["detail"].endswith("code belongs in the body.")
    assert not Execution.objects.exists()


def routes() -> Iterator[tuple[str, str, Inputs]]:
    """Every call of `/api/v1`: method, an address, and what it takes."""
    values = {"name": "python", "path": "main.py"}
    for pattern in urlpatterns:
        view = getattr(pattern.callback, "__wrapped__", pattern.callback)
        address = re.sub(
            r"<\w+:(\w+)>", lambda found: values.get(found[1], NOBODY), str(pattern.pattern)
        )
        for method, action in [*view.actions.items()]:
            taken = getattr(getattr(view.cls, action), "inputs", Inputs())
            if method != "head":  # which a view adds to its "get"
                yield method.upper(), f"/{address}", taken


def test_every_call_refuses_what_it_does_not_take(api: Api) -> None:
    tried = 0
    for method, address, _taken in routes():
        found = error(api.request(method, f"{address}?qqq=1"), 400, "unknown_field")
        assert found["field"] == "qqq", (method, address)
        if method != "GET":
            found = error(api.request(method, address, json={"qqq": 1}), 400, "unknown_field")
            assert found["field"] == "qqq", (method, address)
        tried += 1
    assert tried >= 22


def test_every_name_that_a_call_takes_is_named_to_who_misspells_it(api: Api) -> None:
    tried = 0
    for method, address, taken in routes():
        for name in sorted(taken.fields):
            answer = api.request(method, address, json={f"{name}{name[-1]}": None})
            found = error(answer, 400, "unknown_field")
            assert found["detail"].endswith(f"Did you mean {name}?"), (method, address, name)
            tried += 1
        for name in sorted(taken.parameters):
            misspelt = "metadatta.a" if name.endswith(ANY_KEY) else f"{name}{name[-1]}"
            found = error(api.request(method, f"{address}?{misspelt}=1"), 400, "unknown_field")
            assert found["detail"].endswith(f"Did you mean {name}?"), (method, address, name)
            tried += 1
    assert tried >= 25


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/sessions/{}"),
        ("POST", "/sessions/{}/reset"),
        ("POST", f"/executions/{NOBODY}/cancel"),
    ],
)
def test_a_call_without_fields_takes_none(
    method: str, path: str, api: Api, session_id: str
) -> None:
    found = error(api.request(method, path.format(session_id), json={"force": True}), 400,
                  "unknown_field")  # fmt: skip
    assert found["detail"] == "force is not a field of this call; it takes none."
    error(api.request(method, f"{path.format(session_id)}?force=1"), 400, "unknown_field")
    assert Session.objects.get().is_open
    assert api.request(method, path.format(session_id), json={}).status_code in (200, 404)


def test_the_content_of_a_file_has_one_field(api: Api, session_id: str) -> None:
    for content in ({"base46": ""}, {"base64": "", "Base64": ""}, {"base64": "", "text": ""}):
        body = {"code": "1", "files": {"a.bin": content}}
        found = error(api.post(f"/sessions/{session_id}/execute", body), 400, "unknown_field")
        assert found["field"] == "files"
        assert "base64" in found["detail"]
        assert "'a.bin'" in found["detail"]


def test_keys_of_metadata_are_free(api: Api) -> None:
    body = {"metadata": {"enviroment": "x"}}
    session_id = api.post("/sessions", body).json()["session_id"]
    (found,) = api.get("/sessions?metadata.enviroment=x").json()["results"]
    assert found["session_id"] == session_id


def test_unknown_headers_are_no_mistake(api: Api) -> None:
    assert api.get("/environments", headers={"x-whatever": "1"}).status_code == 200


@pytest.mark.parametrize("name", ["\ud800", "\0", "x" * 100_000, "<b>", ""])
def test_a_name_is_shown_as_what_can_be_shown(name: str, api: Api) -> None:
    found = error(api.post("/sessions", {name: 1}), 400, "unknown_field")
    assert len(found["detail"]) < 300
    many = {f"{name[:100]}{number}": number for number in range(1000)}
    assert len(error(api.post("/sessions", many), 400, "unknown_field")["errors"]) <= 10


def test_the_nearest_name_is_near() -> None:
    known = ["environment", "page_size", "status"]
    assert nearest_name("PAGE-SIZE", known) == "page_size"
    assert nearest_name("stat", known) == "status"
    assert nearest_name("interview", known) is None
    assert nearest_name("", known) is None


def test_the_schema_says_so(api: Api) -> None:
    schemas = yaml.safe_load(api.get("/api/schema").text)["components"]["schemas"]
    requests = {name: of for name, of in schemas.items() if name.endswith("Request")}
    assert len(requests) == 6
    assert all(of["additionalProperties"] is False for of in requests.values())
