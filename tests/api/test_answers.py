"""One form for all answers: their JSON, their times, their errors; ids in any case."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from rest_framework.renderers import JSONRenderer

from codeexec import bounds
from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import execution_in, session_in

pytestmark = pytest.mark.django_db(transaction=True)
S, E = Session.Status, Execution.Status
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?Z")


def assert_one_form(answer: httpx.Response) -> None:
    """As REST framework's renderer writes it with the project's settings."""
    assert answer.content == JSONRenderer().render(answer.json()), answer.content


def times(value: Any) -> list[str]:
    """Every text in it that begins as a moment does."""
    if isinstance(value, dict):
        return [found for each in value.values() for found in times(each)]
    if isinstance(value, list):
        return [found for each in value for found in times(each)]
    return [value] if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value) else []


def test_every_answer_has_the_json_of_all_others(
    api: Api, session_id: str, work: Work, configure: Configure
) -> None:
    run = f"/sessions/{session_id}/execute"
    ran = api.post_while(run, {"code": "print('é')"}, work)
    answers = [
        ran,
        api.get("/health"),
        api.get("/sessions"),
        api.get(f"/sessions/{session_id}"),
        api.get(f"/sessions/{session_id}/executions"),
        api.get(f"/executions/{ran.json()['execution_id']}"),
        api.post(f"{run}?wait=false", {"code": "1"}),
        api.post(f"{run}?wait=maybe", {"code": "1"}),
        api.post(run, {}),
        api.post(run, {"cöde": "1"}),
        api.get("/nothing"),
        api.get(f"/sessions/{NOBODY}"),
        api.get(f"/sessions/{NOBODY}/files"),
        api.get("/sessions?x=" + "x" * bounds.QUERY_BYTES),
        api.request("PUT", "/sessions", json={}),
    ]
    for answer in answers:
        assert_one_form(answer)
    assert len({answer.status_code for answer in answers}) >= 5
    for answer in answers[:7]:
        assert all(TIME.fullmatch(time) for time in times(answer.json())), answer.text


def test_a_listing_of_files_has_it_too(api: Api, session_id: str, work: Work) -> None:
    api.post_while(f"/sessions/{session_id}/execute", {"code": "print(1)"}, work)
    listed = api.run(_while_working(api, f"/sessions/{session_id}/files", work))
    assert_one_form(listed)
    found = times(listed.json())
    assert found
    assert all(TIME.fullmatch(time) for time in found)


async def _while_working(api: Api, path: str, work: Work) -> httpx.Response:
    import asyncio

    from tests.support.racing import in_connection_of_its_own

    answer = asyncio.create_task(api.send("GET", path))
    while not answer.done():
        await asyncio.to_thread(in_connection_of_its_own, work)
        await asyncio.sleep(0.01)
    return await answer


@pytest.mark.parametrize(
    ("send", "field"),
    [
        (lambda api, run: api.post(run, {"code": 1}), "code"),
        (lambda api, run: api.post(run, {"code": "x" * (bounds.CODE_BYTES + 1)}), "code"),
        (lambda api, run: api.post(run, {"code": "1", "filename": "../x"}), "filename"),
        (lambda api, run: api.post(run, {"code": "1", "timeout": 3000}), "timeout"),
        (lambda api, run: api.post(run, {"code": "1", "x": 1}), "x"),
        (lambda api, run: api.post(f"{run}?wait=maybe", {"code": "1"}), "wait"),
        (lambda api, run: api.post("/sessions", {"environment": "cobol"}), "environment"),
        (lambda api, run: api.post("/sessions", {"runtime": "none"}), "runtime"),
        (lambda api, run: api.get("/sessions?status=x"), "status"),
        (lambda api, run: api.get("/sessions?cursor=x"), "cursor"),
        (lambda api, run: api.get("/sessions?status=ready&status=ready"), "status"),
    ],
)
def test_where_a_field_is_to_blame_errors_has_it(
    send: Callable[[Api, str], httpx.Response], field: str, api: Api, session_id: str
) -> None:
    answer = send(api, f"/sessions/{session_id}/execute")
    assert answer.status_code == 400
    body = answer.json()
    assert body["field"] == field
    (said,) = body["errors"][field]
    assert said
    assert body["detail"] in (said, f"{field}: {said}")


def test_ids_may_be_in_capitals(
    api: Api, session_id: str, work: Work, this: Node, python: Environment
) -> None:
    run = execution_in(E.COMPLETED, session_in(S.READY, python, this))
    for path in (
        f"/sessions/{session_id.upper()}",
        f"/sessions/{session_id.upper()}/executions",
        f"/executions/{str(run.pk).upper()}",
    ):
        assert api.get(path).status_code == 200, path
    address = f"/sessions/{session_id.upper()}/execute?wait=false"
    assert api.post(address, {"code": "1"}).json()["session_id"] == session_id
    cancelled = api.post(f"/executions/{str(run.pk).upper()}/cancel", {})
    assert cancelled.json()["execution_id"] == str(run.pk)
    assert api.delete(f"/sessions/{session_id.upper()}").json()["session_id"] == session_id
    closed = api.post(f"/sessions/{session_id.upper()}/execute", {"code": "1"})
    error(closed, 409, "session_closed")


@pytest.mark.parametrize("reason", ["expired", "finished"])
def test_a_session_that_had_ended_by_itself_is_stopped(
    reason: str, api: Api, python: Environment, this: Node
) -> None:
    session = session_in(S.STOPPED, python, this)
    Session.row(session.pk).update(stop_reason=reason)
    body = api.delete(f"/sessions/{session.pk}").json()
    assert body["status"] == "stopped"
    assert "being stopped" not in body["message"]


@pytest.mark.parametrize("status", [E.QUEUED, E.RUNNING, E.ERROR, E.CANCELLED])
def test_exit_code_is_null_until_there_is_one(
    status: str, api: Api, python: Environment, this: Node
) -> None:
    run = execution_in(status, session_in(S.READY, python, this))
    assert api.get(f"/executions/{run.pk}").json()["exit_code"] is None


def test_a_file_of_the_workspace_is_run_by_its_name(api: Api, session_id: str, work: Work) -> None:
    run = f"/sessions/{session_id}/execute"
    api.post_while(run, {"code": "print(6 * 7)"}, work)
    api.post_while(run, {"code": "print('another')", "filename": "other.py"}, work)
    for fields in ({"filename": "main.py"}, {"filename": "./main.py", "code": None, "files": {}}):
        body = api.post_while(run, fields, work).json()
        assert (body["stdout"], body["verdict"]) == ("42\n", "ok")
    shown = api.get(f"/executions/{body['execution_id']}").json()
    assert (shown["code"], shown["filename"], shown["files"]) == ("", "main.py", {})


def test_a_file_that_is_not_there_is_the_interpreters_to_complain_of(
    api: Api, session_id: str, work: Work
) -> None:
    body = api.post_while(f"/sessions/{session_id}/execute", {"filename": "absent.py"}, work).json()
    assert (body["status"], body["verdict"]) == ("completed", "runtime_error")
    assert "absent.py" in body["stderr"]


def test_a_fresh_sandbox_has_no_file_to_run(api: Api) -> None:
    body = error(api.post("/execute", {"filename": "main.py"}), 400, "invalid_request")
    assert body["detail"].startswith("Nothing to run")
    assert json.dumps(body)
