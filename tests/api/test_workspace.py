"""The API's calls about a session's workspace, its time and its metadata."""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from collections.abc import Callable
from contextlib import aclosing, suppress
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from django.utils import timezone

from codeexec.audit.models import AuditEntry
from codeexec.sandbox.errors import EngineUnavailable, SandboxLost
from environments_app.models import Environment
from sessions_app.models import Node, Session, WorkspaceQuery, WorkspaceQueryPiece
from sessions_app.models.workspace_query import KEPT, LATEST
from sessions_app.services import workspace_queries
from sessions_app.services.workspace_queries import ask, drop_needless, sandbox_figures
from tests.api.test_every_call import NOBODY, error
from tests.conftest import Work
from tests.support.api_client import Api
from tests.support.cast import session_in
from tests.support.fake_driver import FakeDriver
from tests.support.patience import eventually
from tests.support.working import answer_asked, lose_messages, working

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status

WRITES = """
import os
os.makedirs('out/deep')
open('out/deep/data.bin', 'wb').write(bytes(range(256)) * 5000)
open('out/ünicode <b>.txt', 'w').write('text')
open('line\\rbreak', 'w').write('x')
os.symlink('/etc/passwd', 'link')
"""
DATA = bytes(range(256)) * 5000


@pytest.fixture
def session_id(api: Api, work: Work, session_id: str) -> str:
    """It has run WRITES."""
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": WRITES})
    work()
    return session_id


def get(api: Api, path: str) -> httpx.Response:
    with working():
        return api.get(path)


def nothing_is_left() -> bool:
    return not WorkspaceQuery.objects.exists() and not WorkspaceQueryPiece.objects.exists()


# ---- files


def test_the_files_of_a_workspace(api: Api, session_id: str) -> None:
    body = get(api, f"/sessions/{session_id}/files").json()
    assert (body["session_id"], body["truncated"]) == (session_id, False)
    kinds = {file["path"]: (file["type"], file["size"]) for file in body["files"]}
    assert kinds["main.py"] == ("file", len(WRITES.encode()))
    assert kinds["out/deep/data.bin"] == ("file", len(DATA))
    assert kinds["out/ünicode <b>.txt"] == ("file", 4)
    assert (kinds["out"][0], kinds["link"][0]) == ("directory", "symlink")
    assert list(kinds) == sorted(kinds)
    changed = datetime.fromisoformat(body["files"][0]["modified_at"])
    assert abs(timezone.now() - changed) < timedelta(minutes=1)
    assert nothing_is_left()


def test_one_file_is_a_download(api: Api, session_id: str) -> None:
    answer = get(api, f"/sessions/{session_id}/files/out/deep/data.bin")
    assert (answer.status_code, answer.content) == (200, DATA)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["content-disposition"] == 'attachment; filename="data.bin"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert nothing_is_left()


def test_a_file_may_be_called_anything(api: Api, session_id: str) -> None:
    named = get(api, f"/sessions/{session_id}/files/out/%C3%BCnicode%20%3Cb%3E.txt")
    assert named.content == b"text"
    assert "filename*=utf-8''%C3%BCnicode" in named.headers["content-disposition"]
    broken = get(api, f"/sessions/{session_id}/files/line%0Dbreak")
    assert broken.content == b"x"
    assert broken.headers["content-disposition"] == 'attachment; filename="line_break"'


def test_all_files_as_an_archive(api: Api, session_id: str) -> None:
    answer = get(api, f"/sessions/{session_id}/archive")
    assert answer.headers["content-type"] == "application/gzip"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert f'filename="session-{session_id}.tar.gz"' in answer.headers["content-disposition"]
    assert "x-workspace-truncated" not in answer.headers
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
        top = f"session-{session_id[:8]}"
        names = archive.getnames()
        assert f"{top}/link" not in names
        data = archive.extractfile(f"{top}/out/deep/data.bin")
        assert data is not None
        assert data.read() == DATA
    assert all(name == top or name.startswith(f"{top}/") for name in names)
    assert nothing_is_left()


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("nothing", 404, "file_not_found"),
        ("main.py/x", 404, "file_not_found"),
        ("out", 409, "file_unreadable"),
        ("link", 409, "file_unreadable"),
        pytest.param("x" * 4000, 404, "file_not_found", id="too long"),
        ("a/..%2F..%2Fetc/passwd", 400, "invalid_path"),
        ("%2Fetc/passwd", 400, "invalid_path"),
        ("a%00b", 400, "invalid_path"),
    ],
)
def test_what_is_no_file_is_an_error(
    api: Api, session_id: str, path: str, status: int, code: str
) -> None:
    error(get(api, f"/sessions/{session_id}/files/{path}"), status, code)
    assert nothing_is_left()


def test_a_file_that_is_larger_than_a_workspace_is_not_read(
    api: Api, session_id: str, work: Work
) -> None:
    code = "import os; open('hole', 'w').close(); os.truncate('hole', 1 << 40)"
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": code})
    work()
    body = error(get(api, f"/sessions/{session_id}/files/hole"), 409, "file_unreadable")
    assert "larger than a workspace" in body["detail"]
    assert get(api, f"/sessions/{session_id}/archive").status_code == 200


# ---- nodes that can't answer

ASKING = ("files", "files/main.py", "archive")


@pytest.mark.parametrize("what", ASKING)
@pytest.mark.parametrize(
    ("status", "code"),
    [(S.PENDING, "no_sandbox"), (S.STOPPING, "session_closed"), (S.ERROR, "session_closed")],
)
def test_a_session_without_a_sandbox_is_a_409_at_once(
    api: Api, python: Environment, this: Node, what: str, status: S, code: str
) -> None:
    session = session_in(status, python, this)
    error(api.get(f"/sessions/{session.pk}/{what}"), 409, code)
    error(api.get(f"/sessions/{NOBODY}/{what}"), 404, "not_found")
    assert nothing_is_left()


def test_a_node_that_is_lost_or_has_no_engine_is_not_waited_for(
    api: Api, session_id: str, this: Node
) -> None:
    Node.objects.update(engine_error="The Docker Engine doesn't answer.")
    body = error(api.get(f"/sessions/{session_id}/files"), 503, "sandbox_unreachable")
    assert "doesn't answer" in body["detail"]
    Node.objects.update(engine_error="", heartbeat_at=timezone.now() - timedelta(minutes=1))
    answer = api.get(f"/sessions/{session_id}/files")
    error(answer, 503, "sandbox_unreachable")
    assert answer.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (SandboxLost("gone"), 409, "no_sandbox"),
        (EngineUnavailable("away"), 503, "sandbox_unreachable"),
    ],
)
def test_a_sandbox_that_turns_out_to_be_gone_is_told(
    api: Api,
    session_id: str,
    driver: FakeDriver,
    failure: Any,
    status: int,
    code: str,
) -> None:
    driver.fail_next("open_workspace", failure)
    error(get(api, f"/sessions/{session_id}/archive"), status, code)
    assert nothing_is_left()


def test_a_node_that_never_answers_is_waited_for_so_long_and_no_longer(
    api: Api, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace_queries, "ANSWER_SECONDS", 0.1)
    error(api.get(f"/sessions/{session_id}/files"), 503, "sandbox_unreachable")


def test_a_question_that_comes_too_late_or_twice_is_not_answered(session_id: str) -> None:
    ask(session_id, WorkspaceQuery.About.ARCHIVE)
    WorkspaceQuery.objects.update(asked_at=timezone.now() - LATEST)
    answer_asked()
    assert WorkspaceQuery.objects.get().status == WorkspaceQuery.Status.ASKED
    WorkspaceQuery.objects.update(asked_at=timezone.now())
    answer_asked()
    pieces = WorkspaceQueryPiece.objects.count()
    assert pieces > 0
    answer_asked()
    assert WorkspaceQueryPiece.objects.count() == pieces


def test_an_answer_that_nobody_fetches_goes(session_id: str) -> None:
    ask(session_id, WorkspaceQuery.About.ARCHIVE)
    answer_asked()
    drop_needless()
    assert not nothing_is_left()
    WorkspaceQuery.objects.update(asked_at=timezone.now() - KEPT)
    WorkspaceQueryPiece.objects.update(written_at=timezone.now() - KEPT)
    drop_needless()
    assert nothing_is_left()


def test_who_waits_is_woken_though_the_answer_came_before(
    api: Api, session_id: str, this: Node
) -> None:
    asked = ask(session_id, WorkspaceQuery.About.FILES)
    answer_asked()
    found = api.run(workspace_queries.answer(asked))
    assert "main.py" in {file["path"] for file in found.value["files"]}


LONG_PATHS = r"""
import os
for _ in range(12):
    os.mkdir(b'\xff' * 255)
    os.chdir(b'\xff' * 255)
for number in range(2500): open(f'{number}', 'w').close()
"""


def test_a_listing_is_bounded_in_bytes_and_says_that_there_is_more(
    api: Api, session_id: str, work: Work
) -> None:
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": LONG_PATHS})
    work()
    answer = get(api, f"/sessions/{session_id}/files")
    assert len(answer.content) < 4 * 1024 * 1024
    body = answer.json()
    assert (body["session_id"], body["truncated"]) == (session_id, True)
    assert len(body["files"]) > 100
    assert nothing_is_left()


def test_who_gives_an_archive_up_leaves_nothing_of_it_behind(
    api: Api, session_id: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nfor n in range(8): open(f'{n}', 'wb').write(os.urandom(2**20))"
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": code})
    work()
    genuine = WorkspaceQueryPiece.keep
    kept: list[int] = []

    def keep_slowly(query: WorkspaceQuery, number: int, data: bytes) -> bool:
        kept.append(number)
        time.sleep(0.1)
        return genuine(query, number, data)

    monkeypatch.setattr(WorkspaceQueryPiece, "keep", keep_slowly)
    with working():
        api.run(_given_up(api, f"/sessions/{session_id}/archive", lambda: bool(kept)))
        assert eventually(lambda: _is_quiet(kept))
    assert 0 < len(kept) < 8
    assert nothing_is_left()


async def _given_up(api: Api, path: str, when: Callable[[], bool]) -> None:
    asking = asyncio.create_task(api.send("GET", path))
    while not when():
        await asyncio.sleep(0.01)
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking


def _is_quiet(kept: list[int]) -> bool:
    before = len(kept)
    time.sleep(0.4)
    return len(kept) == before


def test_who_stops_reading_an_archive_leaves_nothing_of_it_behind(
    api: Api, session_id: str, work: Work
) -> None:
    code = "import os\nopen('x', 'wb').write(os.urandom(2**22))"
    api.post(f"/sessions/{session_id}/execute?wait=false", {"code": code})
    work()
    asked = ask(session_id, WorkspaceQuery.About.ARCHIVE)
    answer_asked()

    async def read_one() -> None:
        async with aclosing(
            workspace_queries.pieces(await workspace_queries.answer(asked))
        ) as found:
            async for piece in found:
                assert piece
                return

    api.run(read_one())
    assert nothing_is_left()
    asked = ask(session_id, WorkspaceQuery.About.ARCHIVE)
    answer_asked()
    staff = workspace_queries.read_pieces(workspace_queries.wait_for_answer(asked))
    assert next(staff)
    staff.close()
    assert nothing_is_left()


# ---- figures


def test_figures_of_a_sandbox(session_id: str, python: Environment) -> None:
    with working():
        figures = sandbox_figures(session_id)
    limits = python.limits()
    assert 0 < figures["memory_bytes"] < figures["memory_limit_bytes"] == limits.memory_bytes
    assert (figures["pids"], figures["pids_limit"]) == (0, limits.pids)
    assert 0 <= figures["cpu"] < 64
    assert figures["cpu_limit"] == limits.cpus
    assert figures["runtime"] == ""


# ---- time, metadata, reset


def test_a_session_is_given_another_hour_and_other_metadata(api: Api, session_id: str) -> None:
    fields = {"ttl": 3700, "metadata": {"interview": "7F3B"}}
    body = api.request("PATCH", f"/sessions/{session_id}", json=fields).json()
    assert (body["ttl"], body["metadata"]) == (3700, {"interview": "7F3B"})
    left = datetime.fromisoformat(body["expires_at"]) - timezone.now()
    assert timedelta(seconds=3600) < left <= timedelta(seconds=3700)
    assert api.get(f"/sessions/{session_id}").json() == body
    said = AuditEntry.objects.values_list("action", "actor_kind").order_by("pk")
    assert list(said) == [("session.extend", "anybody"), ("session.describe", "anybody")]


@pytest.mark.parametrize("fields", [{}, {"ttl": None, "metadata": None}])
def test_a_change_of_nothing_changes_nothing(
    api: Api, session_id: str, fields: dict[str, Any]
) -> None:
    before = api.get(f"/sessions/{session_id}").json()
    answer = api.request("PATCH", f"/sessions/{session_id}", json=fields)
    assert (answer.status_code, answer.json()) == (200, before)
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("fields", [{"ttl": 0}, {"ttl": 10**9}, {"ttl": "x"}, {"metadata": []}])
def test_a_change_that_can_not_be_is_a_400(
    api: Api, session_id: str, fields: dict[str, Any]
) -> None:
    answer = api.request("PATCH", f"/sessions/{session_id}", json=fields)
    error(answer, 400, "invalid_request")


def test_a_reset_session_has_no_files(api: Api, session_id: str, work: Work) -> None:
    before = api.get(f"/sessions/{session_id}").json()
    body = api.post(f"/sessions/{session_id}/reset", None).json()
    assert (body["session_id"], body["status"]) == (session_id, "pending")
    assert (body["workspace_since"], body["container_id"]) == (None, None)
    work()
    after = api.get(f"/sessions/{session_id}").json()
    assert after["status"] == "ready"
    assert after["workspace_since"] > before["last_execution"] > before["workspace_since"]
    assert get(api, f"/sessions/{session_id}/files").json()["files"] == []


@pytest.mark.parametrize(
    "call", [lambda api, path: api.post(f"{path}/reset", None), lambda api, path: _patch(api, path)]
)
def test_a_session_that_has_ended_is_not_changed(
    api: Api, session_id: str, call: Callable[[Api, str], httpx.Response]
) -> None:
    api.delete(f"/sessions/{session_id}")
    lose_messages()
    error(call(api, f"/sessions/{session_id}"), 409, "session_closed")
    error(call(api, f"/sessions/{NOBODY}"), 404, "not_found")


def _patch(api: Api, path: str) -> httpx.Response:
    return api.request("PATCH", path, json={"ttl": 60})
