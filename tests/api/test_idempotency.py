"""A call with an `Idempotency-Key` that is repeated is not done again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import httpx
import pytest
from django.db import OperationalError, connection, transaction
from django.db.models import F

from codeexec.http.threads import threads
from sessions_app.callers import OPERATOR, Caller
from sessions_app.models import Execution, IdempotencyKey, Node, Session
from sessions_app.services import idempotency
from sessions_app.services.sessions import stop_session
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Configure, Work
from tests.models.test_run_queries import recorded
from tests.support.api_client import Api
from tests.support.cast import known
from tests.support.platforms import api_key, bearer, platform, read_notifications
from tests.support.racing import blocked_by
from tests.support.working import working

pytestmark = pytest.mark.django_db(transaction=True)
CODE = {"code": "print(1)"}


async def send(api: Api, path: str, body: Any, key: str = "k", **headers: str) -> httpx.Response:
    return await api.send("POST", path, json=body, headers={"idempotency-key": key, **headers})


def post(api: Api, path: str, body: Any, key: str = "k", **headers: str) -> httpx.Response:
    return api.run(send(api, path, body, key, **headers))


def both(api: Api, path: str, body: Any) -> list[httpx.Response]:
    """The answers to two calls at the same time."""

    async def scene() -> list[httpx.Response]:
        return await asyncio.gather(*(send(api, path, body) for _ in range(2)))

    return api.run(scene())


# ---- done once


@pytest.mark.parametrize("call", ["/sessions/{}/execute", "/execute"])
def test_a_run_is_done_once_and_answered_as_often_as_it_is_asked_for(
    api: Api, session_id: str, call: str
) -> None:
    path = call.format(session_id)
    with working():
        first, second = both(api, path, CODE)
        third = post(api, path, {"code": "print(1)"})
    assert [each.status_code for each in (first, second, third)] == [200] * 3
    assert first.json()["stdout"] == "1\n"
    assert first.json() == second.json() == third.json()
    assert Execution.objects.count() == 1
    with working():
        other = post(api, path, CODE, key="another")
    assert other.json()["execution_id"] != first.json()["execution_id"]


@pytest.mark.parametrize("call", ["/sessions/{}/execute", "/execute"])
def test_who_does_not_wait_gets_the_same_202_again(
    api: Api, session_id: str, work: Work, call: str
) -> None:
    path = call.format(session_id)
    answers = both(api, f"{path}?wait=false", CODE)
    work()
    answers.append(post(api, f"{path}?wait=false", CODE))
    assert [each.status_code for each in answers] == [202] * 3
    assert [each.json() for each in answers] == [answers[0].json()] * 3
    assert answers[0].json()["status"] == "queued"
    assert {each.headers["location"] for each in answers} == {answers[0].headers["location"]}
    waited = post(api, path, CODE)  # whoever waits now gets its result
    assert (waited.status_code, waited.json()["stdout"]) == (200, "1\n")
    assert waited.json()["execution_id"] == answers[0].json()["execution_id"]
    assert Execution.objects.count() == 1


def test_a_session_is_opened_once(api: Api) -> None:
    body = {"environment": "python", "metadata": {"a": 1}}
    first, second = both(api, "/sessions", body)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    session = Session.objects.get()
    stop_session(session.pk)
    assert post(api, "/sessions", body).json() == first.json()
    assert Session.objects.count() == 1
    assert post(api, "/sessions", body, key="another").json()["session_id"] != str(session.pk)


def test_a_result_that_came_too_late_is_waited_for_again(
    api: Api, session_id: str, configure: Configure, work: Work
) -> None:
    path = f"/sessions/{session_id}/execute"
    configure(REQUEST_TIMEOUT=0.05)
    pending = error(post(api, path, CODE), 504, "result_pending")
    again = error(post(api, path, CODE), 504, "result_pending")
    assert pending["execution_id"] == again["execution_id"]
    work()
    assert post(api, path, CODE).json()["execution_id"] == pending["execution_id"]


def test_a_run_that_was_deleted_is_not_done_again(api: Api, session_id: str) -> None:
    path = f"/sessions/{session_id}/execute"
    assert post(api, f"{path}?wait=false", CODE).status_code == 202
    Execution.objects.all().delete()
    error(post(api, f"{path}?wait=false", CODE), 404, "not_found")
    error(post(api, path, CODE), 404, "not_found")


def test_a_second_call_waits_for_the_first_ones_transaction(transactional_db: None) -> None:
    this = idempotency.once("k", OPERATOR, "a call", {})

    def first() -> None:
        idempotency.do_once(this, lambda: None, execution_id=UUID(int=1))

    def second() -> Any:
        try:
            return idempotency.do_once(this, lambda: "done", execution_id=UUID(int=2))
        except idempotency.AlreadyDone as done:
            return done.execution_id

    undo = partial(transaction.set_rollback, True)
    assert blocked_by(first, second, undo) == "done"
    IdempotencyKey.objects.all().delete()
    assert blocked_by(first, second) == UUID(int=1)


# ---- another body


def test_another_body_is_a_409_and_nothing_is_run(api: Api, session_id: str) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"
    assert post(api, path, {"code": "1", "stdin": "a"}).status_code == 202
    assert post(api, path, {"stdin": "a", "code": "1"}).status_code == 202
    second = api.post("/sessions", {}).json()["session_id"]
    for other, body in (
        (path, {"code": "2", "stdin": "a"}),
        (path, {"code": "1"}),
        (f"/sessions/{second}/execute?wait=false", {"code": "1", "stdin": "a"}),
        ("/execute?wait=false", {"code": "1", "stdin": "a"}),
        ("/sessions", {}),
    ):
        assert "new key" in error(post(api, other, body), 409, "idempotency_conflict")["detail"]
    assert Execution.objects.count() == 1
    assert Session.objects.count() == 2


# ---- what was not done


def test_a_call_that_was_refused_does_not_use_up_its_key(
    api: Api, session_id: str, configure: Configure
) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"
    error(post(api, path, {"code": 1}), 400, "invalid_request")
    error(post(api, path, {"code": "1", "timeout": 9999}), 400, "limit_exceeded")
    error(post(api, f"/sessions/{NOBODY}/execute", {"code": "2"}), 404, "not_found")
    configure(MAX_STORAGE_PER_SESSION=1)
    error(post(api, path, {"code": "3"}), 409, "storage_full")
    error(post(api, "/execute?wait=false", {"environment": "cobol", "code": "1"}), 400,
          "unknown_environment")  # fmt: skip
    Node.objects.update(capacity=0)
    error(post(api, "/execute?wait=false", CODE), 503, "no_capacity")
    error(post(api, "/sessions", {}), 503, "no_capacity")
    assert not IdempotencyKey.objects.exists()
    configure(MAX_STORAGE_PER_SESSION=10**6)
    assert post(api, path, {"code": "4"}).status_code == 202


@pytest.mark.parametrize("call", ["/sessions/{}/execute?wait=false", "/execute?wait=false"])
def test_a_database_that_goes_away_in_the_middle_leaves_nothing_that_blocks(
    api: Api, session_id: str, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The key has been inserted, and the connection ends before its transaction does."""
    take, path = idempotency._take, call.format(session_id)

    def take_and_break(*given: Any) -> None:
        take(*given)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_take", take_and_break)
        patch.setattr("sessions_app.api.run_answers.ACCEPTED_SECONDS", 0.2)
        assert post(api, path, CODE).status_code == 503
    assert not IdempotencyKey.objects.exists()
    assert post(api, path, CODE).status_code == 202
    assert Execution.objects.count() == 1


def test_an_opening_that_breaks_leaves_nothing_either(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_given: Any) -> None:
        raise OperationalError("the connection was lost")

    with monkeypatch.context() as patch:
        patch.setattr("sessions_app.api.views.keep_answer", away)
        patch.setattr("sessions_app.services.sessions.OPENED_SECONDS", 0.1)
        assert post(api, "/sessions", {}).status_code == 503
    assert not IdempotencyKey.objects.exists()
    assert post(api, "/sessions", {}).status_code == 201
    assert Session.objects.count() == 1


# ---- whose


def test_each_client_has_its_own_keys_and_so_have_tokens(
    api: Api, configure: Configure, work: Work
) -> None:
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    mine, theirs = own.open(), other.open()
    work()
    token = bearer(own.token(mine, "candidate"))
    path = f"/sessions/{mine}/execute?wait=false"
    first = post(api, path, CODE, **api_key(own.key)).json()
    assert post(api, path, CODE, **api_key(own.key)).json() == first
    others = post(api, f"/sessions/{theirs}/execute?wait=false", CODE, **api_key(other.key))
    candidates = post(api, path, CODE, **token)
    assert (others.status_code, candidates.status_code) == (202, 202)
    assert post(api, path, CODE, **token).json() == candidates.json()
    assert len({each["execution_id"] for each in (first, others.json(), candidates.json())}) == 3
    # Whoever may not see the session learns nothing by a key.
    error(post(api, path, CODE, key="new", **api_key(other.key)), 404, "not_found")


@pytest.mark.parametrize("call", ["/sessions/{}/execute?wait=false", "/execute?wait=false"])
def test_calls_that_wait_for_a_key_leave_threads_to_other_clients(
    api: Api, configure: Configure, work: Work, call: str
) -> None:
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    path = call.format(own.open())
    work()
    read_notifications(api)
    this = idempotency.once("k", Caller(client=known(own.client)), "another call", {})

    async def scene() -> list[asyncio.Task[httpx.Response]]:
        calls = [send(api, path, CODE, **api_key(own.key)) for _ in range(2 * threads.limit)]
        waiting = [asyncio.create_task(each) for each in calls]
        await asyncio.sleep(0.1)
        others = await api.send("GET", "/sessions", headers=api_key(other.key))
        assert others.status_code == 200
        assert not any(each.done() for each in waiting)
        return waiting

    async def answers(waiting: list[asyncio.Task[httpx.Response]]) -> list[httpx.Response]:
        return await asyncio.gather(*waiting)

    with transaction.atomic():
        idempotency._take(this, None)
        waiting = api.run(scene())
        transaction.set_rollback(True)
    found = api.run(answers(waiting))
    assert {each.status_code for each in found} == {202}
    assert len({each.json()["execution_id"] for each in found}) == 1


# ---- bounds


def test_another_key_is_a_400(api: Api, session_id: str) -> None:
    for key in ["", " ", "a b", "k" * 256, "é", "\x7f", "a\tb"]:
        for path in (f"/sessions/{session_id}/execute", "/execute", "/sessions"):
            headers = {"idempotency-key": key.encode("latin-1")}
            body = {} if path == "/sessions" else CODE
            answer = api.run(api.send("POST", path, json=body, headers=headers))
            assert error(answer, 400, "invalid_request")["field"] == "Idempotency-Key", key
    assert not Execution.objects.exists()


def test_keys_are_bounded_for_a_client_and_for_the_tokens_of_a_session(
    api: Api, configure: Configure, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "MOST_OF_CLIENT", 3)
    monkeypatch.setattr(idempotency, "MOST_OF_SESSION", 2)
    configure(API_AUTH="key")
    own, other = platform(api, "own"), platform(api, "other")
    mine, theirs = own.open(), other.open()
    work()
    path = f"/sessions/{mine}/execute?wait=false"
    for headers, most in ((bearer(own.token(mine, "candidate")), 2), (api_key(own.key), 3)):
        keys = [f"k{number}" for number in range(most)]
        assert {post(api, path, CODE, key, **headers).status_code for key in keys} == {202}
        body = error(post(api, path, CODE, "more", **headers), 429, "too_many_idempotency_keys")
        assert body["maximum"] == most
        assert post(api, path, CODE, "k0", **headers).status_code == 202
    assert Execution.objects.count() == 5
    answer = post(api, f"/sessions/{theirs}/execute?wait=false", CODE, **api_key(other.key))
    assert answer.status_code == 202


def test_a_key_is_kept_for_a_day(api: Api, session_id: str) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"

    def age(**ago: float) -> None:
        IdempotencyKey.objects.update(created_at=F("created_at") - timedelta(**ago))

    first = post(api, path, CODE).json()
    age(hours=23.9)
    assert idempotency.forget_old_keys() == 0
    assert post(api, path, CODE).json() == first
    age(hours=0.2)
    second = post(api, path, {"code": "2"}).json()  # though nothing has deleted it
    assert second["sequence"] == first["sequence"] + 1
    assert post(api, path, {"code": "2"}).json() == second
    assert idempotency.forget_old_keys() == 0
    age(hours=25)
    assert idempotency.forget_old_keys() == 1
    assert not IdempotencyKey.objects.exists()


def test_calls_without_a_key_send_nothing_about_keys(
    api: Api, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with recorded(monkeypatch) as sent:
        for path in (f"/sessions/{session_id}/execute?wait=false", "/execute?wait=false"):
            assert api.post(path, CODE).status_code == 202
        assert api.post("/sessions", {}).status_code == 201
        assert not any("idempotency" in str(query) for query in sent)
        assert post(api, "/sessions", {}).status_code == 201
    assert any("idempotency" in str(query) for query in sent)
