"""The console's pages of a session's workspace, and its figures."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from codeexec.audit.models import AuditEntry
from environments_app.models import Environment
from sessions_app.models import Node, Session, WorkspaceQuery
from sessions_app.services.executions import RunRequest, submit_execution
from sessions_app.services.sessions import open_session, stop_session
from tests.api.test_every_call import NOBODY
from tests.conftest import Work
from tests.support.console_fixtures import HOSTILE, HOSTILE_ESCAPED, page, session, staff
from tests.support.working import working

pytestmark = pytest.mark.django_db(transaction=True)

WRITES = f"""
import os
os.mkdir('out')
open('out/hello.txt', 'w').write({HOSTILE!r})
open('out/picture.png', 'wb').write(b'\\x89PNG\\0')
open('out/<b>&"\\'.txt', 'w').close()
open(b'out/\\xff', 'w').close()
os.symlink('/etc/passwd', 'link')
"""
PAGES = ("workspace", "workspace_file", "archive", "figures")


@pytest.fixture
def run(python: Environment, this: Node, work: Work) -> Iterator[Session]:
    """A session that has run WRITES, and a node that answers."""
    opened = open_session(environment_name="python")
    submit_execution(opened.pk, RunRequest(code=WRITES))
    work()
    with working():
        yield Session.objects.get(pk=opened.pk)


def address(of: Any, what: str) -> str:
    return reverse(f"admin:sessions_app_session_{what}", args=(of,))


def body(answer: Any) -> bytes:
    return b"".join(answer.streaming_content)


def opened() -> list[tuple[str, str, dict[str, Any]]]:
    entries = AuditEntry.objects.order_by("pk")
    return [(entry.action, entry.target_id, entry.details) for entry in entries]


def test_the_page_lists_the_files_and_leads_to_them(admin_client: Client, run: Session) -> None:
    answer = admin_client.get(address(run.pk, "workspace"))
    text = answer.content.decode()
    for name in ("main.py", "out/hello.txt", "out/picture.png", "out/&lt;b&gt;&amp;&quot;&#x27;"):
        assert name in text
    assert text.count("symbolic link") == 1
    assert address(run.pk, "archive") in text
    assert page(run) in text
    files = {file["path"]: file for file in answer.context["files"]}
    shown = admin_client.get(files["out/<b>&\"'.txt"]["address"])
    assert "The file is empty." in shown.content.decode()
    assert (files["out/\ufffd"]["address"], files["link"]["address"]) == ("", "")
    assert answer.headers["Cache-Control"].startswith("max-age=0")


def test_a_text_is_shown_and_never_obeyed(admin_client: Client, run: Session) -> None:
    answer = admin_client.get(address(run.pk, "workspace_file"), {"path": "out/hello.txt"})
    text = answer.content.decode()
    assert HOSTILE_ESCAPED in text
    assert HOSTILE not in text
    assert "download=1" in text


def test_what_is_no_text_is_for_downloading(admin_client: Client, run: Session) -> None:
    query = {"path": "out/picture.png"}
    assert (
        "It is no text"
        in admin_client.get(address(run.pk, "workspace_file"), query).content.decode()
    )
    answer = admin_client.get(address(run.pk, "workspace_file"), query | {"download": "1"})
    assert body(answer) == b"\x89PNG\0"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="picture.png"'


def test_everything_is_an_archive(admin_client: Client, run: Session) -> None:
    answer = admin_client.get(address(run.pk, "archive"))
    with tarfile.open(fileobj=io.BytesIO(body(answer))) as archive:
        assert f"session-{str(run.pk)[:8]}/out/hello.txt" in archive.getnames()
    assert not WorkspaceQuery.objects.exists()


def test_who_opened_what_is_in_the_audit_log(admin_client: Client, run: Session) -> None:
    admin_client.get(address(run.pk, "workspace"))
    admin_client.get(address(run.pk, "workspace_file"), {"path": "main.py"})
    body(admin_client.get(address(run.pk, "archive")))
    admin_client.get(address(run.pk, "figures"))
    key = str(run.pk)
    assert opened() == [
        ("workspace.read", key, {"about": "files"}),
        ("workspace.read", key, {"about": "file", "path": "main.py"}),
        ("workspace.read", key, {"about": "archive"}),
    ]
    assert AuditEntry.objects.first().actor_name == "admin"


def test_figures_are_json(admin_client: Client, run: Session, python: Environment) -> None:
    figures = admin_client.get(address(run.pk, "figures")).json()
    assert figures["memory_limit_bytes"] == python.limits().memory_bytes
    assert figures.keys() == {
        "memory_bytes",
        "memory_limit_bytes",
        "cpu",
        "cpu_limit",
        "pids",
        "pids_limit",
        "runtime",
    }


@pytest.mark.parametrize("path", ["nothing", "", "../x", "out", "link", "a\0b"])
def test_what_is_no_file_is_said(admin_client: Client, run: Session, path: str) -> None:
    answer = admin_client.get(address(run.pk, "workspace_file"), {"path": path})
    assert answer.status_code in (200, 400, 404)
    assert 'role="alert"' in answer.content.decode()
    assert opened() == []


def test_a_session_without_a_sandbox_says_so(
    admin_client: Client, python: Environment, this: Node, run: Session
) -> None:
    stop_session(run.pk)
    starting = session(python, this, status="creating", lease_expires_at=run.created_at)
    for of in (run, starting):
        for what in ("workspace", "archive"):
            answer = admin_client.get(address(of.pk, what))
            text = answer.content.decode()
            assert answer.status_code == 200
            assert "There is no sandbox, so there are no files" in text
            assert page(of) in text
        figures = admin_client.get(address(of.pk, "figures"))
        assert figures.status_code == 200
        assert "memory_bytes" not in figures.json()
        assert figures.json()["code"] in ("no_sandbox", "session_closed")
    assert opened() == []


def test_files_of_a_workspace_that_was_replaced_are_said_to_be_gone(
    admin_client: Client, run: Session
) -> None:
    assert (
        "what they wrote is gone"
        not in admin_client.get(address(run.pk, "workspace")).content.decode()
    )
    Session.row(run.pk).update(workspace_since=run.last_execution_at)
    assert (
        "what they wrote is gone" in admin_client.get(address(run.pk, "workspace")).content.decode()
    )


@pytest.mark.parametrize("what", PAGES)
def test_a_candidates_files_are_for_those_who_may_read_them(
    client: Client, python: Environment, this: Node, what: str
) -> None:
    closed = session(python, this, status="stopped", stop_reason="client", closed_at=timezone.now())
    url = address(closed.pk, what)
    assert client.get(url).status_code == 302
    assert staff("view_execution").get(url).status_code == 403
    needed = "view_session" if what == "figures" else "read_workspace"
    other = "read_workspace" if what == "figures" else "view_session"
    assert staff(other).get(url).status_code == 403
    allowed = staff(needed)
    assert allowed.get(url).status_code != 403
    assert allowed.get(address(NOBODY, what)).status_code == 404
    assert allowed.post(url).status_code == 405
