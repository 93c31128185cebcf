"""Typing into a running program: each byte once and in order, and within bounds."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.utils import timezone

from codeexec.bounds import STDIN_BYTES, STDIN_PIECE_BYTES, STDIN_WAITING_BYTES
from environments_app.models import Environment
from sessions_app.execution import typed_input
from sessions_app.models import Event, Execution, InputPiece, Node, Session
from sessions_app.node.pruning import prune
from sessions_app.services.program_input import add_input
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Configure
from tests.execution.test_executor import executing
from tests.support.api_client import Api
from tests.support.cast import execution_in, session_in
from tests.support.stack import eventually

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status
S = Session.Status
ASKS = """
import sys
sum = 0
for name in ("first", "second"):
    print(name, end="? ", flush=True)
    sum += int(sys.stdin.readline())
print(sum, repr(sys.stdin.read()))
"""


@pytest.fixture
def running(api: Api, session_id: str, this: Node) -> Iterator[str]:
    """The id of an execution whose program asks twice; its node has an executor."""
    with executing(this):
        yield begun(api, session_id, ASKS)


def begun(api: Api, session_id: str, code: str, **more: Any) -> str:
    body = {"code": code, "interactive": True, **more}
    answer = api.post(f"/sessions/{session_id}/execute?wait=false", body).json()
    return str(answer["execution_id"])


def typed(api: Api, execution_id: str, data: Any = "", **more: Any) -> Any:
    return api.post(f"/executions/{execution_id}/stdin", {"data": data, **more})


def written(execution_id: str) -> str:
    rows = Event.objects.filter(execution=execution_id).order_by("number")
    return b"".join(bytes(row.data) for row in rows).decode()


def interactive(status: str, session: Session) -> Execution:
    execution = execution_in(status, session)
    Execution.row(execution.pk).update(interactive=True)
    return execution


def ended(api: Api, execution_id: str) -> Any:
    assert eventually(lambda: Execution.objects.get(pk=execution_id).is_finished)
    return api.get(f"/executions/{execution_id}").json()


def test_a_program_that_asks_is_answered(api: Api, running: str) -> None:
    assert eventually(lambda: written(running) == "first? ")
    answer = typed(api, running, "1\n")
    assert (answer.status_code, answer.json()) == (
        200,
        {"execution_id": running, "offset": 2, "open": True},
    )
    assert eventually(lambda: written(running) == "first? second? ")
    typed(api, running, {"base64": base64.b64encode(b"41\nrest").decode()}, offset=2)
    assert typed(api, running, eof=True).json()["open"] is False
    assert ended(api, running)["stdout"] == "first? second? 42 'rest'\n"
    assert [bytes(piece.data) for piece in InputPiece.objects.all()] == [b"1\n", b"41\nrest", b""]


def test_what_is_sent_before_the_program_runs_waits_for_it(
    api: Api, session_id: str, this: Node
) -> None:
    execution_id = begun(api, session_id, ASKS, stdin="4")
    typed(api, execution_id, "0\n2\n", eof=True)
    with executing(this):
        assert ended(api, execution_id)["stdout"] == "first? second? 42 ''\n"


def test_a_repeated_call_adds_nothing_and_a_gap_is_named(api: Api, running: str) -> None:
    typed(api, running, "1\n", offset=0)
    assert typed(api, running, "1\n", offset=0).json()["offset"] == 2
    assert typed(api, running, "1\n2", offset=0).json()["offset"] == 3
    gap = typed(api, running, "x", offset=9)
    assert error(gap, 409, "stdin_gap")["offset"] == 3
    typed(api, running, "\n", offset=3, eof=True)
    assert ended(api, running)["stdout"] == "first? second? 3 ''\n"
    # Its client may not have had the answer.
    assert typed(api, running, "\n", offset=3, eof=True).json() == {
        "execution_id": running,
        "offset": 4,
        "open": False,
    }


def test_where_nothing_can_be_typed_it_says_so(api: Api, running: str, session_id: str) -> None:
    typed(api, running, "1\n2\n", eof=True)
    assert "eof" in error(typed(api, running, "x"), 409, "stdin_closed")["detail"]
    ended(api, running)
    assert "ended" in error(typed(api, running, "x"), 409, "stdin_closed")["detail"]
    plain = api.post(f"/sessions/{session_id}/execute", {"code": "print(1)"}).json()
    why = error(typed(api, plain["execution_id"], "x"), 409, "stdin_closed")["detail"]
    assert "interactive" in why
    error(typed(api, NOBODY, "x"), 404, "not_found")


def test_a_session_that_has_no_node_yet_takes_input(
    api: Api, python: Environment, this: Node
) -> None:
    execution = interactive(E.QUEUED, session_in(S.PENDING, python, this))
    assert typed(api, str(execution.pk), "x").json()["offset"] == 1


def test_input_is_bounded(api: Api, python: Environment, this: Node) -> None:
    execution = interactive(E.QUEUED, session_in(S.READY, python, this))
    path = str(execution.pk)
    refused = error(typed(api, path, "x" * (STDIN_PIECE_BYTES + 1)), 400, "invalid_request")
    assert refused["maximum"] == STDIN_PIECE_BYTES
    piece = "x" * (STDIN_WAITING_BYTES // 2)
    for _ in range(2):
        assert typed(api, path, piece).status_code == 200
    full = typed(api, path, "x")
    assert error(full, 429, "stdin_full")["offset"] == STDIN_WAITING_BYTES
    assert full.headers["Retry-After"] == "1"
    Execution.row(path).update(stdin_read=STDIN_BYTES)
    InputPiece.objects.create(execution=execution, start=STDIN_BYTES - 1, data=b"x")
    assert error(typed(api, path, "x"), 400, "limit_exceeded")["maximum"] == STDIN_BYTES
    assert Session.objects.get().stored_bytes == 2 * len(piece)


def test_what_is_typed_counts_as_stored(
    api: Api, python: Environment, this: Node, configure: Configure
) -> None:
    execution = interactive(E.QUEUED, session_in(S.READY, python, this))
    configure(MAX_STORAGE_PER_SESSION=10)
    assert typed(api, str(execution.pk), "x" * 10).status_code == 200
    refused = error(typed(api, str(execution.pk), "x"), 409, "storage_full")
    assert (refused["storage"], refused["used"]) == ("session", 10)


def test_a_program_that_reads_makes_room(api: Api, session_id: str, this: Node) -> None:
    code = "import sys\nprint(len(sys.stdin.read()))"
    piece = "x" * STDIN_PIECE_BYTES
    with executing(this):
        execution_id = begun(api, session_id, code)
        for start in (0, 1, 2, 3):
            offset = start * STDIN_PIECE_BYTES
            while (answer := typed(api, execution_id, piece, offset=offset)).status_code == 429:
                time.sleep(0.05)
            assert answer.json()["offset"] == offset + STDIN_PIECE_BYTES
        typed(api, execution_id, eof=True)
        assert ended(api, execution_id)["stdout"] == f"{4 * len(piece)}\n"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"data": 1}, "data"),
        ({"data": {"base64": "?"}}, "data"),
        ({"data": {}}, "data"),
        ({"data": "x", "offset": -1}, "offset"),
        ({"data": "x", "eof": "maybe"}, "eof"),
        ({"data": "x", "ofset": 1}, "ofset"),
    ],
)
def test_a_mistake_is_named(
    api: Api, python: Environment, this: Node, body: dict[str, Any], field: str
) -> None:
    execution = interactive(E.QUEUED, session_in(S.READY, python, this))
    answer = api.post(f"/executions/{execution.pk}/stdin", body)
    assert answer.status_code == 400
    assert field in answer.json()["detail"]


def test_of_two_calls_at_the_same_time_each_byte_is_accepted_once(
    api: Api, python: Environment, this: Node
) -> None:
    execution = interactive(E.QUEUED, session_in(S.READY, python, this))

    def add(letter: bytes) -> None:
        for _ in range(20):
            add_input(execution.pk, letter)
        connection.close()

    threads = [threading.Thread(target=add, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pieces = list(InputPiece.objects.order_by("start"))
    assert [piece.start for piece in pieces] == list(range(40))
    assert sorted(bytes(piece.data) for piece in pieces) == 20 * [b"a"] + 20 * [b"b"]


def test_a_lost_notification_is_made_up_for(
    api: Api, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(typed_input, "LOOK_SECONDS", 0.1)
    assert eventually(lambda: written(running) == "first? ")
    InputPiece.objects.create(execution_id=UUID(running), start=0, data=b"1\n2\n", ends=True)
    assert ended(api, running)["stdout"] == "first? second? 3 ''\n"


def test_a_lost_connection_loses_no_input(api: Api, running: str) -> None:
    assert eventually(lambda: written(running) == "first? ")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'code-executor typed input'"
        )
    typed(api, running, "1\n2\n", eof=True)
    assert ended(api, running)["stdout"] == "first? second? 3 ''\n"


def test_the_clock_of_an_interactive_run_is_its_own_and_work_is_bounded(
    api: Api, session_id: str, this: Node, python: Environment
) -> None:
    with executing(this):
        waits = begun(api, session_id, "import time; time.sleep(1); print(1)", timeout=0.5)
        assert ended(api, waits)["verdict"] == "ok"
        works = begun(api, session_id, "while True: pass", timeout=0.5)
        assert ended(api, works)["verdict"] == "time_limit"
        Environment.objects.update(interactive_seconds=0.5)
        idle = begun(api, session_id, "input()")
        assert ended(api, idle)["verdict"] == "time_limit"


def test_what_was_typed_goes_with_its_execution(api: Api, python: Environment, this: Node) -> None:
    session = session_in(S.READY, python, this)
    done = interactive(E.COMPLETED, session)
    assert session.request_stop(Session.StopReason.CLIENT) and session.mark_stopped()
    InputPiece.objects.create(execution=done, start=0, data=b"x")
    kept = interactive(E.QUEUED, session_in(S.READY, python, this))
    InputPiece.objects.create(execution=kept, start=0, data=b"x")
    assert done.finished_at is not None

    list(prune(timezone.now()))
    assert [piece.execution_id for piece in InputPiece.objects.all()] == [kept.pk]
