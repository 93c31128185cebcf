"""The contract that clients rely on, through the real application: what holds for every call."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from uuid import UUID

import httpx
import pytest

from codeexec.db.async_database import async_database
from environments_app.models import Environment
from sessions_app.models import Execution, Node
from sessions_app.monitoring import health
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.patience import eventually

pytestmark = pytest.mark.django_db(transaction=True)

NOBODY = "00000000-0000-4000-8000-000000000000"
CALLS = [
    ("GET", "/health"),
    ("GET", "/environments"),
    ("GET", "/environments/python"),
    ("POST", "/execute"),
    ("GET", f"/executions/{NOBODY}"),
    ("GET", "/sessions"),
    ("POST", "/sessions"),
    ("GET", f"/sessions/{NOBODY}"),
    ("DELETE", f"/sessions/{NOBODY}"),
    ("POST", f"/sessions/{NOBODY}/execute"),
    ("GET", f"/sessions/{NOBODY}/executions"),
]


def error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error's body, which must be one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    assert isinstance(body["detail"], str)
    assert body["detail"]
    return body


@pytest.fixture
def session_id(api: Api) -> str:
    return str(api.post("/sessions", {"environment": "python"}).json()["session_id"])


# ---- addresses and methods


@pytest.mark.parametrize(
    "path", ["/nothing", "/sessions/7", "/sessions/", f"/sessions/{NOBODY}/nothing", "/%00"]
)
def test_what_is_not_there_is_a_404_in_json(path: str, api: Api) -> None:
    error(api.get(path), 404, "not_found")
    error(api.post(path, {}), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for method, path in CALLS if NOBODY in path],
)
def test_an_unknown_id_is_a_404(method: str, path: str, api: Api) -> None:
    body = {"code": "1"} if method == "POST" else None
    assert NOBODY in error(api.request(method, path, json=body), 404, "not_found")["detail"]


def test_a_method_that_is_not_there_is_a_405(api: Api) -> None:
    for path in {path for _, path in CALLS}:
        error(api.request("PUT", path, json={}), 405, "method_not_allowed")
    for path in ("/execute", f"/sessions/{NOBODY}/execute"):
        error(api.get(path), 405, "method_not_allowed")


def test_head_answers_as_get_without_the_body(api: Api) -> None:
    for path in ("/health", "/environments", "/sessions"):
        answer = api.request("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_another_kind_of_answer_is_not_asked_for_in_vain(api: Api) -> None:
    for headers in ({"accept": "text/html"}, {"accept": "application/xml"}):
        assert api.get("/environments", headers=headers).headers["content-type"] == (
            "application/json"
        )
    error(api.get("/environments?format=xml"), 400, "unknown_field")


# ---- bodies


POSTS = ["/sessions", "/execute", "/sessions/{}/execute"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"{'code': 1}",
        b"\xff\xfe",
        b'{"code": NaN}',
        b'{"code": ' + b"[" * 100_000,
        b'{"a": ' * 50_000,
        b'{"ttl": ' + b"9" * 5000 + b"}",
        b'"text"',
        b"[]",
        b"7",
        b"null",
    ],
    ids=lambda content: content[:12].decode(errors="replace"),
)
def test_a_body_that_is_no_json_object_is_a_400(
    path: str, content: bytes, api: Api, session_id: str
) -> None:
    headers = {"content-type": "application/json"}
    answer = api.request("POST", path.format(session_id), content=content, headers=headers)
    if content == b"null" and path == "/sessions":
        assert answer.status_code in (201, 400)
    else:
        error(answer, 400, "invalid_request")


def test_a_charset_that_is_none_means_the_one_of_json(api: Api) -> None:
    headers = {"content-type": "application/json; charset=klingon"}
    assert api.request("POST", "/sessions", content=b"{}", headers=headers).status_code == 201


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_a_415(path: str, kind: str, api: Api, session_id: str) -> None:
    headers = {"content-type": kind}
    answer = api.request("POST", path.format(session_id), content=b"code=1", headers=headers)
    error(answer, 415, "unsupported_media_type")


def test_no_body_is_an_empty_object(api: Api, session_id: str) -> None:
    assert api.request("POST", "/sessions").status_code == 201
    error(api.request("POST", f"/sessions/{session_id}/execute"), 400, "invalid_request")


@pytest.mark.parametrize("path", POSTS)
def test_max_request_size_is_the_setting(
    path: str, api: Api, session_id: str, settings: Any
) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2000
    body = {"code": "#" * 2000}
    error(api.post(path.format(session_id), body), 413, "request_too_large")
    error(api.post(path.format(session_id), {"code": "#" * 9000}), 413, "request_too_large")
    assert not Execution.objects.exists()
    assert api.post(f"/sessions/{session_id}/execute?wait=false", {"code": "1"}).status_code == 202


# ---- health


def test_health_is_healthy(api: Api) -> None:
    answer = api.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "healthy",
        "service": "code-executor",
        "checks": dict.fromkeys(("database", "workers", "environments", "isolation"), "ok"),
    }


def test_health_is_looked_at_once_for_all_who_ask_within_a_second(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    check = health.check_health
    monkeypatch.setattr(
        health, "check_health", lambda: (looks.append(time.monotonic()), check())[1]
    )

    async def ask() -> set[int]:
        answers = await asyncio.gather(*(api.send("GET", "/health") for _ in range(20)))
        return {answer.status_code for answer in answers}

    assert api.run(ask()) == {200}
    assert len(looks) == 1
    assert eventually(lambda: api.get("/health") and len(looks) == 2)
    assert looks[1] - looks[0] >= health.MAX_AGE_SECONDS


def test_health_without_the_event_loops_own_connections_is_a_503(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert api.get("/health/ready").status_code == 200
    monkeypatch.setattr(async_database, "_places", asyncio.Semaphore(0))
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
    assert "no connection" in answer.json()["checks"]["database"]


def test_health_without_workers_is_a_503(api: Api) -> None:
    Node.objects.all().delete()
    answer = api.get("/health")
    assert answer.status_code == 503
    assert (answer.json()["status"], answer.json()["service"]) == ("unhealthy", "code-executor")
    assert "run_worker" in answer.json()["checks"]["workers"]


def test_health_without_an_engine_is_a_503(api: Api) -> None:
    Node.objects.update(engine_error="The Docker Engine doesn't answer.")
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")


def test_health_with_a_part_missing_is_degraded(api: Api, other: Node) -> None:
    Node.objects.filter(pk=other.pk).update(engine_error="The Docker Engine doesn't answer.")
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "other" in answer.json()["checks"]["workers"]


def test_health_with_all_nodes_draining_is_degraded(api: Api, this: Node) -> None:
    Node.objects.filter(pk=this.pk).update(status=Node.Status.DRAINING)
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert "draining" in answer.json()["checks"]["workers"]


def test_health_without_a_database_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.db import OperationalError

    def away(*_arguments: object) -> None:
        raise OperationalError("connection refused\nIs the server running?")

    monkeypatch.setattr("sessions_app.monitoring.health.check_environments", away)
    answer = api.get("/health")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "connection refused"}


# ---- environments


def test_environments_are_a_plain_list_of_names(api: Api) -> None:
    answer = api.get("/environments")
    assert answer.status_code == 200
    assert answer.json() == ["node", "python", "python-ml", "rust"]


def test_environments_are_listed_with_what_an_editor_needs(api: Api) -> None:
    listed = api.get("/environments?detail=true").json()
    assert [each["name"] for each in listed] == ["node", "python", "python-ml", "rust"]
    names = {"name", "title", "version", "editor_mode", "sample", "default_filename", "limits"}
    for each in listed:
        assert set(each) == names | {"is_default"}
        assert all(each[name] for name in names), each
        alone = api.get(f"/environments/{each['name']}").json()
        assert {name: alone[name] for name in each} == each
    assert [each["name"] for each in listed if each["is_default"]] == ["python"]
    (node, *_others) = listed
    assert (node["title"], node["version"], node["editor_mode"]) == (
        *("Node.js 20", "20", "javascript"),
    )
    Environment.objects.filter(name="node").update(title="", version="", enabled=True)
    Environment.objects.filter(name="rust").update(enabled=False)
    listed = api.get("/environments?detail=1").json()
    assert [each["title"] for each in listed][:1] == ["node"]
    assert len(listed) == 3
    assert api.get("/environments?detail=false").json() == ["node", "python", "python-ml"]
    for wrong in ("detail=perhaps", "detail=", "detail=true&detail=true"):
        body = error(api.get(f"/environments?{wrong}"), 400, "invalid_request")
        assert body["field"] == "detail"


def test_the_shipped_sample_runs(api: Api, work: Work) -> None:
    code = api.get("/environments/python").json()["sample"]
    answer = api.post_while("/execute", {"environment": "python", "code": code}, work)
    assert answer.json()["stdout"] == "Hello, world!\n"


def test_one_environment_is_shown_in_full(api: Api, configure: Configure) -> None:
    configure(CONTAINER_MEMORY_LIMIT=128 * 1024 * 1024)
    body = api.get("/environments/python").json()
    assert (body["name"], body["default_filename"], body["revision"]) == ("python", "main.py", 1)
    assert body["limits"]["memory"] == 128 * 1024 * 1024
    assert set(body["limits"]) == {
        "memory",
        "cpu",
        "pids",
        "timeout",
        "interactive_timeout",
        "tmpfs",
        "output",
    }
    assert set(body["maxima"]) == set(body["limits"])
    assert body["image_digest"].startswith("sha256:")
    assert body["warm_pool_hit_rate"] is None
    assert (body["warm_pool_size"], body["warm_pool_max"]) == (0, 0)
    Environment.objects.filter(name="python").update(warm_pool_size=2)
    assert api.get("/environments/python").json()["warm_pool_max"] == 8


@pytest.mark.parametrize("name", ["cobol", "a%00b", "%F0%9F%A6%80", "UPPER"])
def test_an_unknown_environment_is_a_404(name: str, api: Api) -> None:
    error(api.get(f"/environments/{name}"), 404, "not_found")


def test_ids_are_lower_case_uuids(api: Api, session_id: str) -> None:
    assert str(UUID(session_id)) == session_id
    assert api.get(f"/sessions/{session_id}").json()["session_id"] == session_id


def test_answers_are_safe_to_open_in_a_browser(api: Api, session_id: str) -> None:
    for answer in (
        api.get("/environments"),
        api.post(f"/sessions/{session_id}/execute?wait=false", {"code": "1"}),
    ):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert int(answer.headers["content-length"]) == len(answer.content)
        json.loads(answer.content)
