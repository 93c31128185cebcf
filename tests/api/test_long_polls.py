"""`GET /executions/{id}?wait=`, and the address that a 202 gives."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from codeexec.db.async_database import async_database
from codeexec.http.request_metrics import request_metrics
from codeexec.http.threads import threads
from environments_app.models import Environment
from sessions_app.access.clients import revoke_key
from sessions_app.api import run_answers, stream_places
from sessions_app.models import Execution, Node, Session
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import execution_in, session_in
from tests.support.patience import LONG, SOON
from tests.support.platforms import api_key, bearer, platform, read_notifications
from tests.support.racing import in_connection_of_its_own

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status


@pytest.fixture
def queued(api: Api, session_id: str) -> str:
    path = f"/sessions/{session_id}/execute?wait=false"
    return str(api.post(path, {"code": "print(1)"}).json()["execution_id"])


def poll_while(api: Api, path: str, do: Any, count: int = 1, **options: Any) -> list[Any]:
    """The answers to some long polls, and `do` in a thread once all of them wait."""

    async def scene() -> list[Any]:
        polls = [asyncio.create_task(api.send("GET", path, **options)) for _ in range(count)]
        async with asyncio.timeout(LONG):
            while len(stream_places.stream_places) < count and not all(map(_done, polls)):
                await asyncio.sleep(0.005)
        await asyncio.to_thread(in_connection_of_its_own, do)
        return await asyncio.gather(*polls)

    answers = api.run(scene())
    assert not len(stream_places.stream_places)
    return answers


def _done(task: asyncio.Task[Any]) -> bool:
    return task.done()


def test_it_answers_when_the_run_has_ended(api: Api, queued: str, work: Work) -> None:
    begun = time.monotonic()
    (answer,) = poll_while(api, f"/executions/{queued}?wait=60", work)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    assert answer.json()["stdout"] == "1\n"
    assert answer.json() == api.get(f"/executions/{queued}?wait=60").json()
    assert time.monotonic() - begun < SOON


@pytest.mark.parametrize("most", ["asked", "REQUEST_TIMEOUT"])
def test_it_answers_after_that_many_seconds(
    api: Api, queued: str, most: str, configure: Configure
) -> None:
    if most == "REQUEST_TIMEOUT":
        configure(REQUEST_TIMEOUT=0.2)
    begun = time.monotonic()
    seconds = "0.2" if most == "asked" else "60"
    answer = api.get(f"/executions/{queued}?wait={seconds}")
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    assert 0.2 <= time.monotonic() - begun < SOON
    assert api.get(f"/executions/{queued}?wait=0").json()["status"] == "queued"


WRONG = [
    "-1",
    "60.1",
    "nan",
    "inf",
    "1e999",
    "",
    "true",
    "1_0",
    "%D9%A1",
    "+1",
    "1&wait=1",
    "9" * 5000,
]


def test_other_waits_are_a_400(api: Api, queued: str) -> None:
    for given in WRONG:
        body = error(api.get(f"/executions/{queued}?wait={given}"), 400, "invalid_request")
        assert body["field"] == "wait"
        assert "60" in body["detail"]


def test_many_that_wait_hold_no_thread_and_no_connection(api: Api, queued: str, work: Work) -> None:
    seen: list[int] = []

    def look_and_work() -> None:
        seen.extend(
            [threads.waiting, async_database.connections[0] - async_database.connections[1]]
        )
        work()

    answers = poll_while(api, f"/executions/{queued}?wait=60", look_and_work, 8 * threads.limit)
    assert {answer.json()["status"] for answer in answers} == {"completed"}
    assert seen == [0, 0]


def test_a_notification_that_is_lost_costs_a_while_and_no_answer(
    api: Api, queued: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_answers, "REREAD_SECONDS", 0.05)

    def end() -> None:
        Execution.objects.update(
            status=E.CANCELLED, verdict="cancelled", finished_at="2026-01-01T00:00Z"
        )

    (answer,) = poll_while(api, f"/executions/{queued}?wait=60", end)
    assert answer.json()["status"] == "cancelled"


def test_what_is_deleted_meanwhile_is_a_404(
    api: Api, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_answers, "REREAD_SECONDS", 0.05)
    (answer,) = poll_while(api, f"/executions/{queued}?wait=60", Execution.objects.all().delete)
    error(answer, 404, "not_found")


def test_a_process_that_stops_answers_with_what_there_is(
    api: Api, queued: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_answers, "REREAD_SECONDS", 0.05)

    def close() -> None:
        monkeypatch.setattr(request_metrics, "closing", True)

    (answer,) = poll_while(api, f"/executions/{queued}?wait=60", close)
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")


def test_what_was_sent_may_be_large(api: Api, session_id: str, work: Work) -> None:
    code = f"print(2)\n#{'x' * 70_000}"
    path = f"/sessions/{session_id}/execute?wait=false"
    execution_id = api.post(path, {"code": code}).json()["execution_id"]
    (answer,) = poll_while(api, f"/executions/{execution_id}?wait=60", work)
    assert (answer.json()["stdout"], answer.json()["code"]) == ("2\n", code)


# ---- whose


def test_polls_are_bounded_as_streams_are(
    api: Api, work: Work, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    session_id = own.open()
    work()
    run = f"/sessions/{session_id}/execute?wait=false"
    path = f"/executions/{own.call('POST', run, {'code': '1'}).json()['execution_id']}"
    error(other.call("GET", f"{path}?wait=60"), 404, "not_found")
    error(own.call("GET", f"/executions/{NOBODY}?wait=60"), 404, "not_found")
    read_notifications(api)
    monkeypatch.setattr(stream_places, "PER_TOKEN", 2)
    viewer = bearer(own.token(session_id, "viewer"))
    refused: list[Any] = []

    async def one_more() -> Any:
        return await api.send("GET", f"{path}?wait=60", headers=viewer)

    async def scene() -> list[Any]:
        polls = [asyncio.create_task(one_more()) for _ in range(2)]
        while len(stream_places.stream_places) < 2:
            await asyncio.sleep(0.005)
        refused.append(await one_more())
        polls.pop().cancel()  # its client hangs up, which makes room
        while len(stream_places.stream_places) > 1:
            await asyncio.sleep(0.005)
        polls.append(asyncio.create_task(one_more()))
        while len(stream_places.stream_places) < 2:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(in_connection_of_its_own, work)
        return await asyncio.gather(*polls)

    assert [answer.json()["status"] for answer in api.run(scene())] == ["completed"] * 2
    assert error(refused[0], 429, "too_many_streams")["streams"] == "session token"


def test_whose_key_is_revoked_waits_no_longer(api: Api, work: Work, configure: Configure) -> None:
    configure(API_AUTH="key")
    own = platform(api, "own")
    session_id = own.open()
    run = f"/sessions/{session_id}/execute?wait=false"
    path = f"/executions/{own.call('POST', run, {'code': '1'}).json()['execution_id']}?wait=60"
    read_notifications(api)
    begun = time.monotonic()
    (answer,) = poll_while(api, path, lambda: revoke_key(own.key), headers=api_key(own.key))
    error(answer, 401, "invalid_key")
    assert time.monotonic() - begun < SOON


# ---- Location


def test_a_202_says_where_the_result_will_be(
    api: Api,
    session_id: str,
    python: Environment,
    this: Node,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_answers, "CANCEL_SECONDS", 0.05)
    running = execution_in(E.RUNNING, session_in(Session.Status.EXECUTING, python, this))
    for path in (
        f"/sessions/{session_id}/execute?wait=false",
        "/execute?wait=false",
        f"/executions/{running.pk}/cancel",
    ):
        answer = api.post(path, {} if path.endswith("cancel") else {"code": "1"})
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/api/v1/executions/{answer.json()['execution_id']}"
        shown = api.get(answer.headers["location"]).json()
        assert shown["execution_id"] == answer.json()["execution_id"]
