"""Running code over HTTP: what is asked for, what is answered, and who waits how long."""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import datetime
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from codeexec.sandbox.errors import SandboxLost
from environments_app.models import Environment
from sessions_app.models import Execution, Session
from sessions_app.services.execution_end import fail_execution
from sessions_app.services.sessions import stop_session
from tests.api.test_every_call import error
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import claim_of, new_session
from tests.support.fake_driver import FakeDriver
from tests.support.patience import SOON
from tests.support.working import working

pytestmark = pytest.mark.django_db(transaction=True)
E = Execution.Status


@pytest.fixture
def execute(api: Api, work: Work, session_id: str) -> Any:
    """The answer to a run in that session, done while the request waits for it."""

    def run(**fields: Any) -> dict[str, Any]:
        answer = api.post_while(f"/sessions/{session_id}/execute", fields, work)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    return run


# ---- the answer


def test_the_answer_has_the_names_and_types_that_clients_know(
    execute: Any, session_id: str
) -> None:
    body = execute(code="print('hello')")
    assert body["session_id"] == session_id
    assert body["stdout"] == "hello\n"
    assert body["stderr"] == ""
    assert body["status"] == "completed"
    assert type(body["exit_code"]) is int
    assert body["exit_code"] == 0
    assert type(body["execution_time"]) is float
    assert 0 < body["execution_time"] < 20


def test_every_run_explains_itself(execute: Any) -> None:
    body = execute(code="print(1)")
    assert set(body) == {
        "session_id", "execution_id", "sequence", "status", "verdict", "stdout", "stderr",
        "exit_code", "execution_time", "signal", "cpu_time", "memory_peak", "prestarted",
        "stdout_truncated", "stderr_truncated", "compile", "error", "revision", "image_digest",
        "queued_at", "started_at", "finished_at",
    }  # fmt: skip
    UUID(body["execution_id"])
    assert (body["sequence"], body["verdict"]) == (1, "ok")
    assert (body["signal"], body["compile"], body["error"]) == (None, None, None)
    assert (body["stdout_truncated"], body["stderr_truncated"]) == (False, False)
    assert body["prestarted"] is False
    assert (type(body["cpu_time"]), type(body["memory_peak"])) == (float, int)
    times = [
        datetime.fromisoformat(body[name]) for name in ("queued_at", "started_at", "finished_at")
    ]
    assert times == sorted(times)
    assert execute(code="print(2)")["sequence"] == 2


@pytest.mark.parametrize(
    ("code", "verdict", "exit_code", "signal"),
    [
        ("import sys; sys.exit(3)", "runtime_error", 3, None),
        ("raise ValueError", "runtime_error", 1, None),
        ("import os; os.kill(os.getpid(), 11)", "runtime_error", 139, "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "runtime_error", 137, "SIGKILL"),
        ("while True: pass", "time_limit", 124, "SIGKILL"),
    ],
)
def test_however_it_ends_it_was_completed(
    code: str, verdict: str, exit_code: int, signal: str | None, execute: Any
) -> None:
    body = execute(code=code, timeout=0.5 if verdict == "time_limit" else 30)
    assert (body["status"], body["verdict"]) == ("completed", verdict)
    assert (body["exit_code"], body["signal"]) == (exit_code, signal)


def test_undecodable_bytes_are_replaced(execute: Any) -> None:
    body = execute(code=r"import sys; sys.stdout.buffer.write(b'a\xff\0b')")
    assert body["stdout"] == "a\ufffd\0b"


def test_a_failure_of_ours_is_an_error_with_its_reason(execute: Any, driver: FakeDriver) -> None:
    driver.fail_next("run", SandboxLost("The container is gone."))
    body = execute(code="print(1)")
    assert (body["status"], body["verdict"]) == ("error", "internal_error")
    assert body["error"].startswith("The container is gone.")
    assert (body["stdout"], body["stderr"]) == ("", "")
    assert (body["exit_code"], body["execution_time"]) == (None, 0.0)
    assert (body["cpu_time"], body["memory_peak"], body["prestarted"]) == (None, None, None)


def test_a_compilation_is_shown(execute: Any) -> None:
    Environment.objects.filter(name="python").update(
        compile_command="python -m py_compile {file_path}"
    )
    body = execute(code="print(1)")
    assert body["compile"] == {
        "stdout": "",
        "stderr": "",
        "exit_code": 0,
        "execution_time": body["compile"]["execution_time"],
        "stdout_truncated": False,
        "stderr_truncated": False,
        "reused": False,
    }
    failed = execute(code="print(")
    assert (failed["status"], failed["verdict"]) == ("completed", "compile_error")
    assert "SyntaxError" in failed["stderr"]
    assert failed["compile"]["exit_code"] == failed["exit_code"] == 1


# ---- what can be asked for


def test_input_arguments_variables_and_files_reach_the_program(execute: Any) -> None:
    body = execute(
        code="import os, sys; from lib import x; print(input(), sys.argv[1:], os.environ['A'], x,"
        " open('b.bin', 'rb').read())",
        filename="pkg/main.py",
        stdin="in\n",
        args=["a b", ""],
        env={"A": "é"},
        files={"pkg/lib.py": "x = 1", "b.bin": {"base64": base64.b64encode(b"\0\xff").decode()}},
    )
    assert body["stdout"] == "in ['a b', ''] é 1 b'\\x00\\xff'\n"


def test_the_program_may_come_as_a_file(execute: Any) -> None:
    assert execute(files={"main.py": "print(3)"})["stdout"] == "3\n"
    assert execute(filename="x.py", files={"x.py": "print(4)"})["stdout"] == "4\n"


def test_optional_fields_may_be_null(execute: Any) -> None:
    names = ("filename", "stdin", "args", "env", "files", "timeout")
    assert execute(code="print(5)", **dict.fromkeys(names))["stdout"] == "5\n"


def test_code_may_be_empty(execute: Any) -> None:
    assert execute(code="")["verdict"] == "ok"


PATHS = [
    "../x", "a/../../b", "a/..", "..", "/etc/passwd", "/", "", ".", "./", "a/", "a\\b", "a\0b",
    "a\nb", "\x7f", "x" * 256, "é" * 128, "/".join("abcdefghijklmnopq"), "\ud800", "\udfffa.py",
]  # fmt: skip


def test_a_path_that_leaves_the_workspace_is_a_400(api: Api, session_id: str) -> None:
    address = f"/sessions/{session_id}/execute"
    for path in PATHS:
        for fields in (
            {"code": "1", "filename": path},
            {"code": "1", "files": {path: "x"}},
            {"code": "1", "files": {path: {"base64": "eA=="}}},
        ):
            body = error(api.post(address, fields), 400, "invalid_path")
            assert isinstance(body["path"], str)
    assert not Execution.objects.exists()


def test_paths_come_in_their_plainest_form(api: Api, session_id: str) -> None:
    fields = {"code": "1", "filename": "./a//b.py", "files": {"c/./d e ü.txt": "x"}}
    assert api.post(f"/sessions/{session_id}/execute?wait=false", fields).status_code == 202
    execution = Execution.objects.get()
    assert (execution.filename, execution.files) == ("a/b.py", {"c/d e ü.txt": "x"})


def test_two_files_in_one_place_are_a_400(api: Api, session_id: str) -> None:
    address = f"/sessions/{session_id}/execute"
    error(api.post(address, {"code": "1", "files": {"a": "", "a/b": ""}}), 400, "invalid_path")
    fields = {"code": "1", "filename": "a/b.py", "files": {"a": ""}}
    error(api.post(address, fields), 400, "invalid_path")
    fields = {"code": "1", "files": {"a": "1", "./a": "2"}}
    error(api.post(address, fields), 400, "invalid_request")
    error(api.post(address, {"code": "1", "files": {"main.py": ""}}), 400, "invalid_request")


WRONG: list[dict[str, Any]] = [
    {},
    {"code": None},
    {"code": 1},
    {"code": True},
    {"code": ["1"]},
    {"code": "\0"},
    {"code": "\ud800"},
    {"files": {"other.py": "1"}},
    {"code": "1", "filename": 7},
    {"code": "1", "filename": ["a"]},
    {"code": "1", "stdin": 7},
    {"code": "1", "stdin": "\udc00"},
    {"code": "1", "args": "a"},
    {"code": "1", "args": [1]},
    {"code": "1", "args": [None]},
    {"code": "1", "args": ["\0"]},
    {"code": "1", "args": ["\ud800"]},
    {"code": "1", "args": ["x" * 70_000]},
    {"code": "1", "args": ["x"] * 1001},
    {"code": "1", "args": {"0": "a"}},
    {"code": "1", "args": ["x" * 60_000] * 2, "env": {"A": "x" * 60_000, "B": "x" * 60_000}},
    {"code": "1", "env": ["A=1"]},
    {"code": "1", "env": {"A": 1}},
    {"code": "1", "env": {"A": None}},
    {"code": "1", "env": {"A=B": "1"}},
    {"code": "1", "env": {"": "1"}},
    {"code": "1", "env": {"1A": "1"}},
    {"code": "1", "env": {"A\n": "1"}},
    {"code": "1", "env": {"A": "\0"}},
    {"code": "1", "env": {"\ud800": "1"}},
    {"code": "1", "files": ["a"]},
    {"code": "1", "files": "a"},
    {"code": "1", "files": {"a": 1}},
    {"code": "1", "files": {"a": None}},
    {"code": "1", "files": {"a": "\0"}},
    {"code": "1", "files": {"a": "\ud800"}},
    {"code": "1", "files": {"a": {}}},
    {"code": "1", "files": {"a": {"base64": 1}}},
    {"code": "1", "files": {"a": {"base64": "?"}}},
    {"code": "1", "files": {"a": {"base64": "a"}}},
    {"code": "1", "files": {"a": {"base64": "é"}}},
    {"code": "1", "timeout": 0},
    {"code": "1", "timeout": -1},
    {"code": "1", "timeout": "nan"},
    {"code": "1", "timeout": "5"},
    {"code": "1", "timeout": True},
    {"code": "1", "timeout": []},
]


def test_a_field_that_can_not_be_is_a_400(api: Api, session_id: str) -> None:
    for fields in WRONG:
        for path in (f"/sessions/{session_id}/execute", "/execute"):
            error(api.post(path, fields), 400, "invalid_request")
    assert not Execution.objects.exists()
    assert Session.objects.count() == 1


def test_a_limit_above_the_maximum_is_a_400(
    api: Api, session_id: str, configure: Configure
) -> None:
    configure(EXECUTION_TIMEOUT=20, TMPFS_SIZE=1024 * 1024)
    path = f"/sessions/{session_id}/execute"
    body = error(api.post(path, {"code": "1", "timeout": 21}), 400, "limit_exceeded")
    assert (body["limit"], body["maximum"]) == ("timeout", 20)
    huge = b'{"code": "1", "timeout": 1e999}'
    headers = {"content-type": "application/json"}
    answer = api.request("POST", path, content=huge, headers=headers)
    error(answer, 400, "invalid_request")
    body = error(api.post(path, {"code": "#" * 1024 * 1025}), 400, "limit_exceeded")
    assert (body["limit"], body["maximum"]) == ("tmpfs", 1024 * 1024)


# ---- waiting


def test_an_execution_waits_for_its_session_to_start(api: Api, work: Work) -> None:
    session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
    answer = api.post_while(f"/sessions/{session_id}/execute", {"code": "print(1)"}, work)
    assert (answer.status_code, answer.json()["stdout"]) == (200, "1\n")


def test_nobody_has_to_wait(api: Api, session_id: str) -> None:
    for number, value in enumerate(("false", "False", "0", "no"), 1):
        answer = api.post(f"/sessions/{session_id}/execute?wait={value}", {"code": "1"})
        assert answer.status_code == 202
        body = answer.json()
        execution = Execution.objects.get(sequence=number)
        assert body == {
            "execution_id": str(execution.pk),
            "status": "queued",
            "session_id": session_id,
            "sequence": number,
        }


def test_request_timeout_is_how_long_a_request_waits(
    api: Api, session_id: str, configure: Configure
) -> None:
    configure(REQUEST_TIMEOUT=0.2)
    begun = time.monotonic()
    body = error(
        api.post(f"/sessions/{session_id}/execute", {"code": "print(1)"}), 504, "result_pending"
    )
    assert 0.2 <= time.monotonic() - begun < SOON
    assert body["execution_id"] == str(Execution.objects.get().pk)


def test_a_result_that_came_too_late_can_be_read(
    api: Api, session_id: str, work: Work, configure: Configure
) -> None:
    configure(REQUEST_TIMEOUT=0.05)
    pending = api.post(f"/sessions/{session_id}/execute", {"code": "print(1)"}).json()
    work()
    body = api.get(f"/executions/{pending['execution_id']}").json()
    assert (body["status"], body["stdout"]) == ("completed", "1\n")


def test_a_run_that_a_crash_of_the_database_undid_is_to_be_sent_again(
    api: Api, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions_app.api.run_answers.REREAD_SECONDS", 0.1)

    def undo() -> None:
        Execution.objects.all().delete()

    answer = api.post_while(f"/sessions/{session_id}/execute", {"code": "print(1)"}, undo)
    error(answer, 503, "database_away")
    assert answer.headers["Retry-After"]


def test_a_lost_notification_costs_a_while_and_no_answer(
    api: Api, session_id: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions_app.models.execution.publish", lambda _id: None)
    monkeypatch.setattr("sessions_app.api.run_answers.REREAD_SECONDS", 0.1)
    answer = api.post_while(f"/sessions/{session_id}/execute", {"code": "print(1)"}, work)
    assert answer.json()["stdout"] == "1\n"


def test_a_stop_answers_whoever_waits(api: Api, session_id: str) -> None:
    answer = api.post_while(
        f"/sessions/{session_id}/execute", {"code": "1"}, lambda: stop_session(session_id)
    )
    assert answer.status_code == 200
    body = answer.json()
    assert (body["status"], body["verdict"], body["exit_code"]) == ("cancelled", "cancelled", None)


def test_the_death_of_a_worker_answers_whoever_waits(api: Api, session_id: str) -> None:
    def die() -> None:
        fail_execution(claim_of(Execution.objects.get()), "The worker that ran it has died.")

    answer = api.post_while(f"/sessions/{session_id}/execute", {"code": "1"}, die)
    assert (answer.status_code, answer.json()["status"]) == (200, "error")
    assert answer.json()["error"] == "The worker that ran it has died."


def test_everybody_gets_the_own_answer_in_order(api: Api, session_id: str, work: Work) -> None:
    async def all_at_once() -> list[dict[str, Any]]:
        path = f"/sessions/{session_id}/execute"
        codes = [{"code": f"print({number})"} for number in range(12)]
        answers = await asyncio.gather(*(api.send("POST", path, json=code) for code in codes))
        return [answer.json() for answer in answers]

    with working(workers=3):
        bodies = api.run(all_at_once())
    assert [body["stdout"] for body in bodies] == [f"{number}\n" for number in range(12)]
    assert sorted(body["sequence"] for body in bodies) == list(range(1, 13))
    in_order = sorted(bodies, key=lambda body: int(body["sequence"]))
    for before, after in pairwise(in_order):
        assert before["finished_at"] <= after["started_at"]


def test_sessions_do_not_wait_for_each_other(api: Api, work: Work) -> None:
    async def run(number: int) -> tuple[int, str]:
        opened = (await api.send("POST", "/sessions", json={"environment": "python"})).json()
        path = f"/sessions/{opened['session_id']}/execute"
        codes = [f"print({number * 10 + each})" for each in range(3)]
        answers = [await api.send("POST", path, json={"code": code}) for code in codes]
        return number, "".join(answer.json()["stdout"] for answer in answers)

    async def all_at_once() -> list[tuple[int, str]]:
        return await asyncio.gather(*(run(number) for number in range(4)))

    with working(workers=3):
        answered = api.run(all_at_once())
    assert answered == [
        (number, "".join(f"{number * 10 + each}\n" for each in range(3))) for number in range(4)
    ]


# ---- POST /execute


def test_a_single_run(api: Api, work: Work, driver: FakeDriver) -> None:
    fields = {"environment": "python", "code": "print(input())", "stdin": "x"}
    answer = api.post_while("/execute", fields, work)
    assert (answer.status_code, answer.json()["stdout"]) == (200, "x\n")
    session = api.get(f"/sessions/{answer.json()['session_id']}").json()
    assert (session["status"], session["stop_reason"]) == ("stopped", "finished")
    assert driver.sandboxes == {}
    assert api.post("/execute?wait=false", {"code": "1"}).status_code == 202


# ---- reading


def test_one_execution_is_shown_with_what_was_asked_for(
    api: Api, session_id: str, work: Work
) -> None:
    fields: dict[str, Any] = {
        "code": "print(1)",
        "filename": "a/b.py",
        "stdin": "in",
        "args": ["x"],
        "env": {"A": "1"},
        "files": {"f": "g"},
        "timeout": 5.0,
    }
    path = f"/sessions/{session_id}/execute?wait=false"
    execution_id = api.post(path, fields).json()["execution_id"]
    before = api.get(f"/executions/{execution_id}").json()
    assert {name: before[name] for name in fields} == fields
    assert (before["status"], before["verdict"], before["exit_code"]) == ("queued", None, None)
    work()
    after = api.get(f"/executions/{execution_id}").json()
    assert (after["status"], after["stdout"]) == ("completed", "1\n")


def test_the_timeline_is_in_order(api: Api, session_id: str, work: Work) -> None:
    for number in range(5):
        code = {"code": f"print({number})"}
        api.post(f"/sessions/{session_id}/execute?wait=false", code)
    work()
    page = api.get(f"/sessions/{session_id}/executions?page_size=2").json()
    seen = page["results"]
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += page["results"]
    assert [each["sequence"] for each in seen] == [1, 2, 3, 4, 5]
    assert [each["stdout"] for each in seen] == [f"{number}\n" for number in range(5)]
    assert [each["code"] for each in seen] == [f"print({number})" for number in range(5)]


def test_a_session_without_executions_has_an_empty_timeline(api: Api, python: Environment) -> None:
    empty = new_session(python)
    assert api.get(f"/sessions/{empty.pk}/executions").json()["results"] == []
