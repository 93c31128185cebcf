"""`/sessions`: opening, reading, listing and ending them over HTTP."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIRequestFactory

from environments_app.models import Environment
from sessions_app.api.views import SessionViewSet
from sessions_app.models import Node, Session
from sessions_app.node.sandboxes import fill_pools
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Work
from tests.support.api_client import Api
from tests.support.cast import new_session, session_in

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status
STARTING = "Session created. Container is starting..."


def open_session(api: Api, **fields: Any) -> dict[str, Any]:
    answer = api.post("/sessions", fields)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [session["session_id"] for session in answer.json()["results"]]


# ---- POST /sessions


def test_a_session_without_a_warm_sandbox_is_pending(api: Api) -> None:
    body = open_session(api, environment="python")
    expires_at = datetime.fromisoformat(body.pop("expires_at"))
    assert expires_at > timezone.now()
    assert body == {
        "session_id": str(Session.objects.get().pk),
        "status": "pending",
        "environment": "python",
        "message": STARTING,
    }


def test_a_session_on_a_warm_sandbox_is_ready(api: Api, work: Work, this: Node) -> None:
    Environment.objects.filter(name="python").update(warm_pool_size=1)
    fill_pools(this)
    work()
    body = open_session(api, environment="python")
    assert (body["status"], body["message"]) == ("ready", "Session is ready.")
    read = api.get(f"/sessions/{body['session_id']}").json()
    assert (read["status"], len(read["container_id"])) == ("ready", 64)


@pytest.mark.parametrize("name", ["cobol", "rust", "", "PYTHON", "a/b"])
def test_an_environment_that_is_not_offered_names_those_that_are(name: str, api: Api) -> None:
    Environment.objects.filter(name="rust").update(enabled=False)
    for path, fields in (("/sessions", {}), ("/execute", {"code": "1"})):
        answer = api.post(path, {"environment": name, **fields})
        body = error(answer, 400, "unknown_environment")
        assert body["environments"] == ["node", "python", "python-ml"]
        assert "python, python-ml" in body["detail"]


def test_no_environment_means_the_default_one(api: Api) -> None:
    for fields in ({}, {"environment": None}):
        assert open_session(api, **fields)["environment"] == "python"


@pytest.mark.parametrize("path", ["/sessions", "/execute"])
def test_no_capacity_says_when_to_come_again(path: str, api: Api) -> None:
    Node.objects.all().delete()
    fields = {"environment": "python"} if path == "/sessions" else {"code": "1"}
    answer = api.post(path, fields)
    error(answer, 503, "no_capacity")
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("path", ["/sessions", "/execute"])
def test_what_will_not_come_by_waiting_has_no_time_to_wait(
    path: str, api: Api, python: Environment, this: Node
) -> None:
    fields = {} if path == "/sessions" else {"code": "1"}
    Environment.objects.filter(pk=python.pk).update(runtime="kata")
    answer = api.post(path, fields)
    assert "kata" in error(answer, 503, "no_capacity")["detail"]
    assert "retry-after" not in answer.headers
    Environment.objects.filter(pk=python.pk).update(runtime="")
    python.revisions.all().delete()
    answer = api.post(path, fields)
    assert "build_environments" in error(answer, 503, "no_capacity")["detail"]
    assert "retry-after" not in answer.headers


WRONG = [
    {"environment": 7},
    {"environment": ["python"]},
    {"environment": "\0"},
    {"environment": "\ud800"},
    {"environment": True},
    {"ttl": 0},
    {"ttl": -1},
    {"ttl": "soon"},
    {"ttl": 1.5},
    {"ttl": 10**9},
    {"ttl": True},
    {"ttl": []},
    {"metadata": []},
    {"metadata": "text"},
    {"metadata": {"a": "\0"}},
    {"metadata": {"\0": "a"}},
    {"metadata": {"a": "\ud800"}},
    {"metadata": {"\udfff": 1}},
    {"metadata": {"a": "x" * 20_000}},
]


def test_a_field_that_can_not_be_is_a_400(api: Api) -> None:
    for fields in WRONG:
        body = error(api.post("/sessions", fields), 400, "invalid_request")
        (name,) = fields
        assert body["detail"].startswith(name), fields
        assert name in body["errors"]
    assert not Session.objects.exists()


def test_metadata_that_is_nested_too_deeply_is_a_400(api: Api) -> None:
    for depth in (900, 20_000):
        content = b'{"metadata": ' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        headers = {"content-type": "application/json"}
        answer = api.request("POST", "/sessions", content=content, headers=headers)
        assert answer.status_code in (201, 400), depth
    assert answer.status_code == 400


def test_optional_fields_may_be_null(api: Api) -> None:
    session_id = open_session(api, environment=None, ttl=None, metadata=None)["session_id"]
    read = api.get(f"/sessions/{session_id}").json()
    assert (read["ttl"], read["metadata"]) == (3600, {})


def test_metadata_comes_back_as_it_was(api: Api) -> None:
    metadata = {"a": [1, 2.5, None, True], "é": {"b": "\\u0000 as six characters"}}
    session_id = open_session(api, metadata=metadata, ttl=90)["session_id"]
    read = api.get(f"/sessions/{session_id}").json()
    assert (read["metadata"], read["ttl"]) == (metadata, 90)


# ---- GET /sessions/{id}


def test_a_session_that_starts(api: Api) -> None:
    session_id = open_session(api, environment="python")["session_id"]
    body = api.get(f"/sessions/{session_id}").json()
    assert datetime.fromisoformat(body.pop("created_at")).tzinfo is not None
    assert datetime.fromisoformat(body.pop("expires_at")) > timezone.now()
    assert body == {
        "session_id": session_id,
        "status": "pending",
        "environment": "python",
        "runtime": "",
        "container_id": None,
        "last_execution": None,
        "ready_at": None,
        "workspace_since": None,
        "closed_at": None,
        "ttl": 3600,
        "stored_bytes": 0,
        "metadata": {},
        "stop_reason": None,
        "error": None,
    }


def test_a_session_that_has_run_something(api: Api, work: Work) -> None:
    session_id = open_session(api, environment="python")["session_id"]
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": "1"})
    work()
    body = api.get(f"/sessions/{session_id}").json()
    assert (body["status"], len(body["container_id"])) == ("ready", 64)
    assert datetime.fromisoformat(body["last_execution"]) <= timezone.now()


def test_a_session_that_was_given_up_says_why(api: Api, python: Environment, this: Node) -> None:
    session = session_in(S.ERROR, python, this)
    body = api.get(f"/sessions/{session.pk}").json()
    assert (body["status"], body["error"]) == ("error", "It was given up.")
    assert body["container_id"] is None


# ---- DELETE /sessions/{id}


@pytest.mark.parametrize("status", list(S))
def test_a_session_is_asked_to_stop(status: str, api: Api, python: Environment, this: Node) -> None:
    session = session_in(status, python, this)
    expected = {
        "session_id": str(session.pk),
        "status": "stopping",
        "message": "Session is being stopped...",
    }
    for _ in range(2):
        answer = api.delete(f"/sessions/{session.pk}")
        assert (answer.status_code, answer.json()) == (200, expected)


def test_a_stopped_session_takes_no_code(api: Api, work: Work) -> None:
    session_id = open_session(api)["session_id"]
    api.delete(f"/sessions/{session_id}")
    work()
    assert api.get(f"/sessions/{session_id}").json()["status"] == "stopped"
    body = error(api.post(f"/sessions/{session_id}/execute", {"code": "1"}), 409, "session_closed")
    assert body["status"] == "stopped"


def test_an_expired_session_takes_no_code(api: Api) -> None:
    session_id = open_session(api)["session_id"]
    Session.objects.update(expires_at=timezone.now())
    body = error(api.post(f"/sessions/{session_id}/execute", {"code": "1"}), 409, "session_closed")
    assert "expired" in body["detail"]


# ---- GET /sessions


@pytest.fixture
def listed(python: Environment, rust: Environment) -> list[str]:
    """Ten sessions, the newest first; the last five are of `rust`."""
    now = timezone.now()
    sessions = [
        new_session(
            python if number < 5 else rust,
            created_at=now - timedelta(minutes=number),
            metadata={"number": number, "7": "seven", "who": f"candidate {number % 2}"},
        )
        for number in range(10)
    ]
    return [str(session.pk) for session in sessions]


def test_the_newest_sessions_come_first(api: Api, listed: list[str]) -> None:
    answer = api.get("/sessions")
    assert names(answer) == listed
    assert set(answer.json()) == {"next", "previous", "results"}
    assert (answer.json()["next"], answer.json()["previous"]) == (None, None)


@pytest.mark.parametrize("size", [1, 3, 10])
def test_pages_hold_every_session_once(size: int, api: Api, listed: list[str]) -> None:
    found, page = [], api.get(f"/sessions?page_size={size}")
    pages = [page]
    while page.json()["next"]:
        page = api.get(page.json()["next"])
        pages.append(page)
    for each in pages:
        assert len(names(each)) <= size
        found += names(each)
    assert found == listed
    found = names(page)
    while page.json()["previous"]:
        page = api.get(page.json()["previous"])
        found = names(page) + found
    assert found == listed


def test_page_sizes_that_can_not_be_are_the_default(api: Api, listed: list[str]) -> None:
    for size in ("0", "-1", "many", "1000"):
        assert names(api.get("/sessions", params={"page_size": size})) == listed


@pytest.mark.parametrize(
    "cursor", ["nonsense", "cD14eXo=", "cD0A", "bz0tMQ==", "cD0yMDI2", "%00", "cD3tsICA"]
)
def test_a_cursor_that_is_none_is_a_400(cursor: str, api: Api, listed: list[str]) -> None:
    session = listed[0]
    for path in ("/sessions", f"/sessions/{session}/executions"):
        answer = api.get(f"{path}?cursor={cursor}")
        if answer.status_code != 200:
            error(answer, 400, "invalid_request")


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({"environment": "python"}, {0, 1, 2, 3, 4}),
        ({"environment": "cobol"}, set()),
        ({"status": "pending"}, set(range(10))),
        ({"status": "ready"}, set()),
        ({"metadata.number": "7"}, {7}),
        ({"metadata.7": "seven"}, set(range(10))),
        ({"metadata.who": "candidate 1"}, {1, 3, 5, 7, 9}),
        ({"metadata.who": "candidate 1", "environment": "rust"}, {5, 7, 9}),
        ({"metadata.who": "candidate 1", "metadata.number": "3"}, {3}),
        ({"metadata.nothing": "x"}, set()),
        ({"metadata.a'b\"c%s": "x' OR 1=1"}, set()),
    ],
)
def test_sessions_are_filtered(
    filters: dict[str, str], numbers: set[int], api: Api, listed: list[str]
) -> None:
    found = api.get("/sessions", params=filters).json()["results"]
    assert {session["metadata"]["number"] for session in found} == numbers


@pytest.mark.parametrize(
    ("value", "text", "others"),
    [
        ("7F3A", "7F3A", ["7F3", "7F3A0", ["7F3A"], {"7F3A": "7F3A"}]),
        (7, "7", ["70", 70, [7], True]),
        ("7", "7", ["7.5", 7.5]),
        (-1.25, "-1.25", [1.25, "1.25"]),
        (12345678901234567890, "12345678901234567890", [12345678901234567891]),
        (True, "true", [False, "True", 1]),
        ("null", "null", [None]),
        ({"a": 1}, '{"a": 1}', [{"a": 1, "b": 2}, {"a": 2}]),
        ([1, 2], "[1, 2]", [[1, 2, 3], [2, 1]]),
        ("NaN", "NaN", [None]),
        ("1e999", "1e999", ["1e99"]),
        ("9" * 5000, "9" * 5000, [9]),
        ("[" * 5000, "[" * 5000, ["["]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_metadata_is_found_by_what_it_says(
    value: Any, text: str, others: list[Any], api: Api, python: Environment
) -> None:
    wanted = new_session(python, metadata={"key": value})
    for other in others:
        new_session(python, metadata={"key": other})
    new_session(python, metadata={"other": value})
    assert names(api.get("/sessions", params={"metadata.key": text})) == [str(wanted.pk)]


def test_a_filter_that_can_not_be_is_a_400(api: Api) -> None:
    assert "pending" in error(api.get("/sessions?status=fine"), 400, "invalid_request")["detail"]
    for query in ("environment=a%00", "metadata.a=%00", "metadata.%00=a", "status=%00"):
        error(api.get(f"/sessions?{query}"), 400, "invalid_request")


def test_a_page_costs_the_same_however_many_are_on_it(listed: list[str]) -> None:
    view = SessionViewSet.as_view({"get": "index"})
    counts = []
    for size in (1, 10):
        with CaptureQueriesContext(connection) as queries:
            view(APIRequestFactory().get("/", {"page_size": size})).render()
        counts.append(len(queries))
    assert counts == [1, 1]


def test_the_id_of_nobody_is_nobodys(api: Api) -> None:
    error(api.get(f"/sessions/{NOBODY}"), 404, "not_found")


@pytest.mark.parametrize("field", ["limits", "files"])
def test_a_wish_that_would_be_lost_is_a_400(api: Api, python: Environment, field: str) -> None:
    answer = api.post("/sessions", {"environment": "python", field: {"memory": "1g"}})
    assert field in error(answer, 400, "unknown_field")["errors"]
