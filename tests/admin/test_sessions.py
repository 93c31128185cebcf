"""The operators' pages of sessions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from codeexec.audit.models import AuditEntry
from codeexec.taskqueue.enqueue import node_queue
from environments_app.models import Environment
from sessions_app.models import Node, Sandbox
from sessions_app.services.sessions import open_session
from tests.support.console_fixtures import (
    SESSION,
    UNSTARTED,
    act,
    execution,
    list_page,
    messages,
    page,
    session,
    shown,
    staff,
    text_of,
)
from tests.support.working import Delivery, queued


def test_a_session_list_says_what_an_operator_asks_for(
    admin_client: Client, this: Node, python: Environment
) -> None:
    expires_at = timezone.now() + timedelta(minutes=29, seconds=30)
    busy = session(python, this, status="executing", expires_at=expires_at)
    execution(busy)
    execution(busy)
    text = text_of(admin_client, list_page(SESSION))
    for expected in ("executing", "python", this.name, str(busy.pk)[:8], "in 29 min"):
        assert expected in text
    cells = admin_client.get(list_page(SESSION)).context["results"][0]
    assert any('data-label="Executions">2<' in cell for cell in cells)


@pytest.mark.parametrize(
    "query",
    [
        {"status__exact": "stopped"},
        {"environment__id__exact": "rust"},
        {"node__id__exact": "other"},
        {"created_at_from": "2026-01-15", "created_at_to": "2026-01-15"},
    ],
    ids=["status", "environment", "node", "created"],
)
def test_sessions_are_filtered(
    admin_client: Client,
    this: Node,
    other: Node,
    python: Environment,
    rust: Environment,
    query: dict[str, str],
) -> None:
    session(python, this)
    january = timezone.now().replace(year=2026, month=1, day=15)
    wanted = session(rust, other, status="stopped", stop_reason="client", created_at=january)
    keys = {"rust": str(rust.pk), "other": str(other.pk)}
    given = {name: keys.get(value, value) for name, value in query.items()}
    assert shown(admin_client, SESSION, **given) == {str(wanted.pk)}


def test_sessions_are_found_by_id_container_and_metadata(
    admin_client: Client, this: Node, python: Environment
) -> None:
    session(python, this, id="bbbbbbbb-0000-4000-8000-000000000000")
    wanted = session(
        python,
        this,
        id="abcdef01-2345-4789-8abc-def012345678",
        container_id="0123456789ab" + "0" * 52,
        metadata={"candidate": "Ada L.", "position": {"title": "Backend"}},
    )
    for term in (str(wanted.pk), "abcdef01", "ABCDEF01-23", "0123456789ab", "ada l", "backend"):
        assert shown(admin_client, SESSION, q=term) == {str(wanted.pk)}, term
    assert shown(admin_client, SESSION, q="nobody") == set()


def test_a_search_by_a_whole_id_reads_the_primary_key_only(
    admin_client: Client, this: Node, python: Environment
) -> None:
    wanted = session(python, this)
    with CaptureQueriesContext(connection) as queries:
        assert shown(admin_client, SESSION, q=str(wanted.pk)) == {str(wanted.pk)}
    assert not [query for query in queries if "::text" in query["sql"]]


def test_selected_sessions_are_stopped_as_a_client_would_stop_them(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ready = session(python, this)
    waiting = execution(ready, **UNSTARTED)
    over = session(python, this, status="stopped", stop_reason="client")
    response = act(admin_client, "stop_sessions", [ready, over])
    ready.refresh_from_db()
    waiting.refresh_from_db()
    over.refresh_from_db()
    assert (ready.status, ready.stop_reason) == ("stopping", "operator")
    assert waiting.status == "cancelled"
    assert over.stop_reason == "client"
    assert queued(node_queue(this.name)) == [Delivery("stop_session", (str(ready.pk),))]
    assert messages(response) == ["1 asked to stop; 1 had ended or were stopping already."]


def test_the_worker_ends_a_session_that_an_operator_stopped(
    this: Node, python: Environment, work: Callable[[], list[Delivery]]
) -> None:
    opened = open_session(environment_name="python")
    work()
    User.objects.create_superuser("admin", password="a password of the test")
    client = Client()
    client.login(username="admin", password="a password of the test")
    act(client, "stop_sessions", [opened])
    work()
    opened.refresh_from_db()
    assert opened.status == "stopped"
    assert not Sandbox.objects.filter(pk=opened.pk).exists()


def test_one_session_is_stopped_from_its_page_after_a_question(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ready = session(python, this)
    url = reverse("admin:sessions_app_session_stop_this_session", args=[ready.pk])
    assert url in text_of(admin_client, page(ready))
    assert "Stop this session?" in text_of(admin_client, url)
    ready.refresh_from_db()
    assert ready.status == "ready", "asking stops nothing"
    answer = admin_client.post(url, {"_form_submitted": "True"})
    ready.refresh_from_db()
    assert ready.status == "stopping"
    assert answer.headers["HX-Redirect"] == page(ready)


def test_a_stop_is_in_the_audit_log_with_who_did_it(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ready = session(python, this)
    act(admin_client, "stop_sessions", [ready])
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_id) == ("session.stop", str(ready.pk))
    assert (entry.actor_kind, entry.actor_name) == ("user", "admin")


def test_who_may_only_look_stops_nothing(this: Node, python: Environment) -> None:
    ready = session(python, this)
    client = staff("view_session")
    assert "stop_sessions" not in text_of(client, list_page(SESSION))
    act(client, "stop_sessions", [ready])
    url = reverse("admin:sessions_app_session_stop_this_session", args=[ready.pk])
    assert client.post(url, {"_form_submitted": "True"}).status_code == 403
    ready.refresh_from_db()
    assert ready.status == "ready"


def test_who_may_stop_sessions_stops_them(this: Node, python: Environment) -> None:
    ready = session(python, this)
    act(staff("view_session", "stop_session"), "stop_sessions", [ready])
    ready.refresh_from_db()
    assert ready.status == "stopping"


def test_a_date_that_is_none_filters_nothing(
    admin_client: Client, this: Node, python: Environment
) -> None:
    row = session(python, this)
    assert shown(admin_client, SESSION, created_at_from="yesterday") == {str(row.pk)}
