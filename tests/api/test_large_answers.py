"""However much is stored, an answer takes little memory, and leaves nothing out unsaid."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from codeexec.bounds import FIELD_BYTES, PAGE_BYTES
from codeexec.http.json_answer import render_json
from codeexec.http.serving import Application
from environments_app.models import Environment
from sessions_app.api.large_answers import compact
from sessions_app.models import Execution, Node, Session, large_fields
from tests.conftest import Work
from tests.support.api_client import Api
from tests.support.cast import new_execution, new_session, session_in
from tests.support.event_streams import names_of, texts, watching

pytestmark = pytest.mark.django_db(transaction=True)

OVER = FIELD_BYTES + 1
AWKWARD = 'ab\0\n"\\/\u2028жё€😀' * 30_000
"""Characters of each length, over the borders of pieces, and those that JSON has to escape."""
LARGE: dict[str, Any] = {
    "code": AWKWARD.replace("\0", ""),
    "stdin": b"\xff\xfe" + AWKWARD.encode(),
    "args": ["ж" * 40_000, "x" * 60_000],
    "env": {"A": "x" * OVER},
    "files": {"a.txt": AWKWARD.replace("\0", ""), "b": {"base64": "QUJD" * 100_000}},
    "stdout": AWKWARD.encode() + b"\xf0\x9f\x98",
    "stderr": b"\xff" * OVER,
    "compile_stdout": b"c" * OVER,
    "compile_stderr": AWKWARD.encode(),
}
OMITTED = [
    "code", "stdin", "args", "env", "files", "stdout", "stderr", "compile.stdout", "compile.stderr",
]  # fmt: skip


def ended(session: Session, **columns: Any) -> Execution:
    """A run that has ended, with these in its row."""
    execution = new_execution(session)
    told = {"status": "completed", "verdict": "ok", "exit_code": 0, "compile_exit_code": 0}
    now = execution.queued_at
    times = {"claimed_at": now, "started_at": now, "finished_at": now, "wall_seconds": 0.5}
    Execution.row(execution.pk).update(**told, **times, **columns)
    Session.row(session.pk).update(last_sequence=execution.sequence)
    execution.refresh_from_db()
    return execution


@pytest.fixture
def session(python: Environment) -> Session:
    return new_session(python)


def pages(api: Api, path: str, link: str = "next") -> Iterator[dict[str, Any]]:
    address: str | None = path
    while address:
        answer = api.get(address)
        assert answer.status_code == 200, answer.text
        assert len(answer.content) < 7 * PAGE_BYTES  # a byte may take six in JSON
        yield answer.json()
        address = answer.json()[link]


def text(data: bytes) -> str:
    return data.decode(errors="replace")


# ---- lists


def test_a_page_ends_by_bytes_too_and_the_next_one_goes_on(api: Api, session: Session) -> None:
    for _ in range(50):
        ended(session, stdout=b"\0" * 50_000, stderr=b"\0" * 10)
    there = list(pages(api, f"/sessions/{session.pk}/executions?page_size=200"))
    assert [len(page["results"]) for page in there] == [20, 20, 10]
    runs = [run for page in there for run in page["results"]]
    assert [run["sequence"] for run in runs] == list(range(1, 51))
    assert {run["stdout"] for run in runs} == {"\0" * 50_000}
    assert {tuple(run["omitted"]) for run in runs} == {()}
    last = api.get(f"/sessions/{session.pk}/executions?page_size=200")
    while following := last.json()["next"]:
        last = api.get(following)
    back = list(pages(api, str(last.request.url), "previous"))
    assert [run["sequence"] for page in reversed(back) for run in page["results"]] == [
        run["sequence"] for run in runs
    ]


def test_what_is_large_is_left_out_of_a_list_which_says_so(api: Api, session: Session) -> None:
    ended(session, stdout=b"small")
    ended(session, **LARGE)
    small, large = api.get(f"/sessions/{session.pk}/executions").json()["results"]
    assert (small["stdout"], small["omitted"]) == ("small", [])
    assert large["omitted"] == OMITTED
    assert (large["code"], large["stdin"], large["stdout"], large["stderr"]) == ("", "", "", "")
    assert (large["args"], large["env"], large["files"]) == ([], {}, {})
    assert (large["compile"]["stdout"], large["compile"]["stderr"]) == ("", "")


def test_a_list_has_whatever_is_as_large_as_is_listed(api: Api, session: Session) -> None:
    at_most = {"a": "x" * (FIELD_BYTES - len('{"a": ""}'))}
    ended(session, code="c" * FIELD_BYTES, stdout=b"o" * FIELD_BYTES, files=at_most)
    (run,) = api.get(f"/sessions/{session.pk}/executions").json()["results"]
    assert (run["code"], run["stdout"]) == ("c" * FIELD_BYTES, "o" * FIELD_BYTES)
    assert (run["files"], run["omitted"]) == (at_most, [])


def test_a_list_of_sessions_ends_by_bytes_too(api: Api, python: Environment) -> None:
    made = [str(new_session(python, metadata={"x": "ж" * 7_000}).pk) for _ in range(100)]
    there = list(pages(api, "/sessions?page_size=200"))
    assert [len(page["results"]) for page in there] == [74, 26]
    assert sorted(each["session_id"] for page in there for each in page["results"]) == sorted(made)


# ---- one execution


def test_one_execution_has_all_of_it(api: Api, session: Session) -> None:
    answer = api.get(f"/executions/{ended(session, **LARGE).pk}")
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    for name in ("code", "args", "env", "files"):
        assert body[name] == LARGE[name], name
    for name in ("stdin", "stdout", "stderr"):
        assert body[name] == text(LARGE[name]), name
    assert body["compile"]["stdout"] == text(LARGE["compile_stdout"])
    assert body["compile"]["stderr"] == text(LARGE["compile_stderr"])


def test_a_large_answer_has_what_a_small_one_has(api: Api, session: Session) -> None:
    small = api.get(f"/executions/{ended(session, stdout=b'x').pk}").json()
    large = api.get(f"/executions/{ended(session, stdout=b'x' * OVER).pk}").json()
    assert list(large) == list(small)
    assert {name: type(value) for name, value in large.items()} == {
        name: type(value) for name, value in small.items()
    }
    assert large["stdout"] == "x" * OVER


@pytest.mark.parametrize("count", [1, 2, 3, 5, 1000])
def test_json_of_the_database_has_the_form_of_all_answers(count: int) -> None:
    value = {"a: b": [1, "x, y", 'q"\\", : ', "\\"], "ж": {"c": "", "d\\": ", "}, "e": []}
    written = json.dumps(value, ensure_ascii=False).encode()
    found = (written[at : at + count] for at in range(0, len(written), count))
    assert b"".join(compact(found)) == render_json(value)


def test_no_piece_is_large(session: Session) -> None:
    execution = ended(session, stdout=b"\0" * 1_000_000, files={"a": "x" * 3_000_000})
    for name in ("stdout", "files"):
        read = list(large_fields.pieces(execution, name))
        assert len(read) > 2
        assert max(map(len, read)) <= 4 * large_fields.PIECE_BYTES


def test_the_call_that_ran_it_answers_all_of_it(api: Api, work: Work, python: Environment) -> None:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    work()
    code = "import sys\nfor s in sys.stdout, sys.stderr: s.write('жё€😀' * 20_000)"
    answer = api.post_while(f"/sessions/{session_id}/execute", {"code": code}, work)
    assert (answer.status_code, answer.json()["verdict"]) == (200, "ok")
    assert answer.json()["stdout"] == answer.json()["stderr"] == "жё€😀" * 20_000
    assert "run;dur=" in answer.headers["server-timing"]
    kept = api.get(f"/executions/{answer.json()['execution_id']}").json()
    assert {name: kept[name] for name in answer.json()} == answer.json()


def test_to_cancel_a_run_of_large_code_answers_when_it_has_ended(
    api: Api, session: Session
) -> None:
    execution = new_execution(session, code="#" * OVER)
    body = api.post(f"/executions/{execution.pk}/cancel", None).json()
    assert (body["status"], body["code"]) == ("cancelled", "#" * OVER)


def test_who_hangs_up_half_way_has_no_more_of_it_read(
    api: Api, application: Application, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = ended(session, stdout=b"x" * 10_000_000)
    read: list[int] = []
    ending: list[str] = []
    genuine = large_fields.pieces

    def counted(*arguments: Any) -> Iterator[bytes]:
        try:
            for piece in genuine(*arguments):
                read.append(len(piece))
                yield piece
        finally:
            ending.append("given back")

    monkeypatch.setattr("sessions_app.api.large_answers.pieces", counted)
    api.run(_leave_after_a_piece(application, f"/api/v1/executions/{execution.pk}"))
    assert 0 < len(read) <= 3
    assert ending == ["given back"]


async def _leave_after_a_piece(application: Application, path: str) -> None:
    gone = asyncio.Event()
    asked: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if len(message.get("body", b"")) >= FIELD_BYTES:
            gone.set()
        await asyncio.sleep(0.05)  # as a slow client

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "path": path, "raw_path": path.encode(), "query_string": b"", "scheme": "http",
        "headers": [(b"host", b"localhost")], "server": ("localhost", 80), "root_path": "",
        "client": ("127.0.0.1", 5),
    }  # fmt: skip
    await application(scope, receive, send)


# ---- streams


def test_a_stream_of_an_ended_run_has_all_output_once_and_a_result_that_says_what_it_lacks(
    api: Api, application: Application, python: Environment, this: Node
) -> None:
    output = ("жё€😀" * 80_000).encode()
    session = session_in(Session.Status.STOPPED, python, this)
    run = ended(session, stdout=output, stderr=b"e" * OVER, compile_stdout=b"c" * 70_000)

    async def scene() -> None:
        async with watching(application, f"/executions/{run.pk}/events") as viewer:
            events = await viewer.until()
        assert names_of(events)[:2] == ["queued", "running"]
        assert max(len(event.data.get("text", "")) for event in events) <= FIELD_BYTES
        assert texts(events, stage="compile") == "c" * 70_000
        assert texts(events) == output.decode()
        assert texts(events, "stderr") == "e" * OVER
        assert names_of(events)[-2:] == ["completed", "result"]
        result = events[-1].data
        assert result["omitted"] == ["compile.stdout", "stdout", "stderr"]
        assert (result["stdout"], result["verdict"]) == ("", "ok")

    api.run(scene())
