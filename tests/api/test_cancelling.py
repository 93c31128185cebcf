"""Ending a run from outside: at once, with what it had written, and its session goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from codeexec.audit.actors import command_actor
from codeexec.audit.models import AuditEntry
from codeexec.sandbox import driver as sandbox_driver
from environments_app.models import Environment
from sessions_app.api import run_answers
from sessions_app.models import Event, Execution, Node, Session, run_queries
from sessions_app.models.run_queries import EventRow
from sessions_app.services.execution_end import abandon_executions_of
from sessions_app.services.executions import RunRequest, cancel_execution, submit_single_run
from tests.api.test_every_call import NOBODY, error
from tests.execution.test_executor import executing
from tests.support.api_client import Api
from tests.support.cast import claim, execution_in, session_in
from tests.support.fake_driver import FakeDriver
from tests.support.stack import eventually

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status
S = Session.Status
BY = command_actor("test")
WAITS = "import time; print('so far', flush=True); time.sleep(60)"


@pytest.fixture
def session_id(session_id: str, this: Node) -> Iterator[str]:
    """Its node has an executor."""
    with executing(this):
        yield session_id


def status_of(execution_id: str) -> str:
    return Execution.objects.get(pk=execution_id).status


def test_a_program_ends_at_once_and_its_session_goes_on(api: Api, session_id: str) -> None:
    path = f"/sessions/{session_id}/execute"
    cancelled = []

    def cancel() -> None:
        running = Execution.objects.get()
        assert eventually(lambda: Event.objects.filter(execution=running).exists())
        began = time.monotonic()
        cancel_execution(running.pk, by=BY)
        assert eventually(lambda: status_of(str(running.pk)) == E.CANCELLED)
        cancelled.append(time.monotonic() - began)

    answer = api.post_while(path, {"code": f"open('kept', 'w')\n{WAITS}"}, cancel).json()
    assert (answer["status"], answer["verdict"]) == ("cancelled", "cancelled")
    assert answer["stdout"] == "so far\n"
    assert cancelled[0] < 5
    after = api.post(path, {"code": "import os; print(os.path.exists('kept'))"}).json()
    assert after["stdout"] == "True\n"
    (entry,) = AuditEntry.objects.all()
    assert (entry.action, entry.actor_name) == ("execution.cancel", "test")


def test_the_call_answers_the_execution_when_it_has_ended(api: Api, session_id: str) -> None:
    queued = [
        api.post(f"/sessions/{session_id}/execute?wait=false", {"code": WAITS}).json()
        for _ in range(2)
    ]
    running, run_answers = (each["execution_id"] for each in queued)
    assert eventually(lambda: status_of(running) == E.RUNNING)
    for execution_id in (run_answers, running):
        answer = api.post(f"/executions/{execution_id}/cancel", {})
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["verdict"]) == ("cancelled", "cancelled")
        assert answer.json() == api.get(f"/executions/{execution_id}").json()
        assert api.post(f"/executions/{execution_id}/cancel", {}).json() == answer.json()
    assert AuditEntry.objects.count() == 2


def test_a_program_that_takes_long_to_end_is_answered_as_it_is(
    api: Api, python: Environment, this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_answers, "CANCEL_SECONDS", 0.2)
    running = execution_in(E.RUNNING, session_in(S.EXECUTING, python, this))
    answer = api.post(f"/executions/{running.pk}/cancel", {})
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    assert Execution.objects.get().cancel_requested_at is not None


def test_what_has_ended_stays_as_it_is(api: Api, session_id: str) -> None:
    done = api.post(f"/sessions/{session_id}/execute", {"code": "print(1)"}).json()
    again = api.post(f"/executions/{done['execution_id']}/cancel", {}).json()
    assert (again["status"], again["stdout"]) == ("completed", "1\n")
    assert not AuditEntry.objects.exists()
    error(api.post(f"/executions/{NOBODY}/cancel", {}), 404, "not_found")


def test_news_that_is_lost_is_found_in_the_row(
    api: Api, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox_driver, "FIRST_ASK_SECONDS", 0.05)
    path = f"/sessions/{session_id}/execute?wait=false"
    execution_id = api.post(path, {"code": WAITS}).json()["execution_id"]
    assert eventually(lambda: status_of(execution_id) == E.RUNNING)
    Execution.row(execution_id).update(cancel_requested_at="2026-01-01T00:00Z")
    assert eventually(lambda: status_of(execution_id) == E.CANCELLED)


def test_a_single_run_that_waits_takes_its_session_with_it(python: Environment, this: Node) -> None:
    execution = submit_single_run("python", RunRequest(code="1"))
    assert cancel_execution(execution.pk, by=BY).status == E.CANCELLED
    assert Session.objects.get().status != S.PENDING


# ---- what has no result keeps what was told


def test_what_a_dead_worker_had_told_is_the_output_of_its_run(
    python: Environment, this: Node
) -> None:
    execution = execution_in(E.QUEUED, session_in(S.READY, python, this))
    assert claim(execution, "this/4711")
    rows = [
        EventRow(
            execution_id=execution.pk,
            number=number,
            stage=stage,
            stream=stream,
            start=0,
            data=data,
        )
        for number, (stage, stream, data) in enumerate(
            [
                ("compile", "stderr", b"a warning"),
                ("run", "stdout", b"one "),
                ("run", "stderr", b"oops"),
                ("run", "stdout", b"two"),
            ],
            1,
        )
    ]
    run_queries.write_events(rows, [execution.session_id])
    abandon_executions_of("this/4711")
    execution.refresh_from_db()
    assert execution.status == E.ERROR
    assert bytes(execution.stdout) == b"one two"
    assert bytes(execution.stderr) == b"oops"
    assert bytes(execution.compile_stderr) == b"a warning"
    assert not Event.objects.exists()


def test_a_lost_sandbox_leaves_what_its_program_had_written(
    api: Api, session_id: str, driver: FakeDriver
) -> None:
    path = f"/sessions/{session_id}/execute?wait=false"
    execution_id = api.post(path, {"code": WAITS}).json()["execution_id"]
    assert eventually(lambda: Event.objects.exists())
    driver.lose(session_id)
    assert eventually(lambda: status_of(execution_id) == E.ERROR)
    assert api.get(f"/executions/{execution_id}").json()["stdout"] == "so far\n"


def test_rows_of_runs_that_have_ended_are_removed(python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    ended, running = (execution_in(each, session) for each in (E.COMPLETED, E.RUNNING))
    for execution in (ended, running):
        Event.objects.create(
            execution=execution, number=1, stage="run", stream="stdout", start=0, data=b"x"
        )
    Event.objects.of_ended_runs().delete()
    assert Event.objects.get().execution_id == running.pk
