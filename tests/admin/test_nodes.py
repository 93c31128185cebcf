"""The operators' pages of nodes, their sandboxes and their queues."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from codeexec.audit.actors import ANYBODY
from codeexec.audit.models import AuditEntry
from environments_app.models import Environment
from sessions_app.admin.node_page import advice
from sessions_app.models import Node, Sandbox, Session
from sessions_app.node.sandboxes import fill_pools
from sessions_app.services.nodes import drain_node, recycle_pool, resume_node
from sessions_app.services.sessions import open_session
from tests.support.console_fixtures import (
    MESSAGE,
    NODE,
    SANDBOX,
    SESSION,
    act,
    history,
    list_page,
    messages,
    page,
    sandbox,
    shown,
    staff,
    text_of,
)
from tests.support.working import Delivery, queued

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
CONFIRMED = {"_form_submitted": "True"}


@pytest.fixture
def rows(this: Node, python: Environment) -> dict[str, Any]:
    return history(this, python)


def test_a_sandbox_page_keeps_the_runners_token_to_itself(
    admin_client: Client, this: Node, python: Environment
) -> None:
    row = sandbox(python, this, token="open-sesame")
    assert shown(admin_client, SANDBOX, q="cccccc") == {str(row.pk)}
    assert shown(admin_client, SANDBOX, q=str(row.pk)[:8]) == {str(row.pk)}
    assert "open-sesame" not in text_of(admin_client, page(row))
    assert "open-sesame" not in text_of(admin_client, list_page(SANDBOX))


def test_a_node_list_counts_its_sandboxes(
    admin_client: Client, this: Node, python: Environment
) -> None:
    for number in range(3):
        sandbox(python, this, status="in_use", container_id=str(number))
    sandbox(python, this)
    Node.objects.filter(pk=this.pk).update(engine_error="the Docker Engine is away")
    text = text_of(admin_client, list_page(NODE))
    assert 'data-label="In use">3<' in text
    assert 'data-label="Warm">1<' in text
    assert "the Docker Engine is away" in text


def test_nodes_are_drained_and_resumed(admin_client: Client, this: Node, other: Node) -> None:
    response = act(admin_client, "drain_nodes", [this])
    assert messages(response) == ["Now draining: this."]
    assert not Node.objects.active().filter(pk=this.pk).exists()
    response = act(admin_client, "resume_nodes", [this, other])
    assert messages(response) == ["Now active: this.", "Not made active: other (active)."]
    assert Node.objects.active().filter(pk=this.pk).exists()


def test_who_may_only_look_drains_nothing(this: Node) -> None:
    act(staff("view_node"), "drain_nodes", [this])
    this.refresh_from_db()
    assert this.status == "active"


@pytest.mark.parametrize(
    ("change", "status", "result"),
    [
        (drain_node, "active", "draining"),
        (drain_node, "draining", "draining"),
        (drain_node, "lost", "lost"),
        (resume_node, "draining", "active"),
        (resume_node, "active", "active"),
        (resume_node, "lost", "lost"),
    ],
)
def test_a_lost_node_is_left_alone(
    this: Node, change: Callable[[Any], bool], status: str, result: str
) -> None:
    Node.objects.filter(pk=this.pk).update(status=status)
    assert change(this.pk, by=ANYBODY) is (status != result)
    this.refresh_from_db()
    assert this.status == result


def test_a_draining_node_gets_no_new_session(
    this: Node, python: Environment, work: Callable[[], list[Delivery]]
) -> None:
    kept = open_session(environment_name="python")
    work()
    drain_node(this.pk, by=ANYBODY)
    assert not Node.objects.with_room().exists()
    kept.refresh_from_db()
    assert kept.status == Session.Status.READY


def detail(row: Node, action: str) -> str:
    return reverse(f"admin:sessions_app_node_{action}", args=[row.pk])


@pytest.mark.parametrize(
    ("permission", "action", "audited"),
    [
        ("drain_node", "drain_this_node", "node.drain"),
        ("resume_node", "resume_this_node", "node.resume"),
        ("recycle_node", "recycle_this_pool", "node.recycle"),
    ],
)
def test_each_action_asks_its_own_permission_and_is_in_the_audit_log(
    this: Node, python: Environment, permission: str, action: str, audited: str
) -> None:
    idle = sandbox(python, this)
    if permission == "resume_node":
        Node.objects.filter(pk=this.pk).update(status="draining")
    others = {"drain_node", "resume_node", "recycle_node", "change_node"} - {permission}
    refused = staff("view_node", *others).post(detail(this, action), CONFIRMED)
    assert refused.status_code == 403
    assert not AuditEntry.objects.exists() and Sandbox.objects.filter(pk=idle.pk).exists()
    client = staff("view_node", permission)
    assert client.post(detail(this, action), CONFIRMED).headers["HX-Redirect"] == page(this)
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_name, entry.actor_kind) == (audited, "this", "user")


def test_a_pool_is_recycled_and_no_sessions_sandbox_is_touched(
    this: Node, other: Node, python: Environment, rust: Environment
) -> None:
    used = sandbox(python, this, status="in_use", container_id="1")
    elsewhere = sandbox(python, other, container_id="2")
    old = [sandbox(each, this, container_id=each.name) for each in (python, rust)]
    assert recycle_pool(this.pk, by=ANYBODY) == 2
    assert set(Sandbox.objects.values_list("pk", flat=True)) == {used.pk, elsewhere.pk}
    assert queued("node:this") == [Delivery("remove_sandbox", (str(each.pk),)) for each in old]


def test_a_recycled_pool_is_filled_again(
    this: Node, python: Environment, work: Callable[[], list[Delivery]]
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    fill_pools(this)
    work()
    before = Sandbox.objects.idle().get()
    recycle_pool(this.pk, by=ANYBODY)
    fill_pools(this)
    work()
    assert Sandbox.objects.idle().get().pk != before.pk


def test_a_nodes_page_shows_what_is_there_and_what_to_do(
    admin_client: Client, this: Node, rows: dict[str, Any]
) -> None:
    text = text_of(admin_client, page(this))
    assert "All is well." in text
    for shown_row in (rows[SESSION], rows[SANDBOX]):
        assert str(shown_row.pk)[:8] in text
    assert "stop_session" in text  # waits in its queue
    assert "Nothing runs here." in text and "python" in text
    assert detail(this, "drain_this_node") in text
    assert detail(this, "resume_this_node") not in text


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"heartbeat_at": LONG_AGO}, "no sign of life for"),
        ({"engine_error": "The Docker Engine is away."}, "`manage.py check_stack` there says more"),
        ({"status": "draining"}, "Resume it afterwards"),
    ],
)
def test_what_is_wrong_with_a_node_is_said_with_what_to_do(
    this: Node, columns: dict[str, Any], said: str
) -> None:
    Node.objects.filter(pk=this.pk).update(**columns)
    [line] = advice(Node.objects.with_silence().get(pk=this.pk))
    assert said in line


def test_a_queued_message_shows_function_and_id(admin_client: Client, rows: dict[str, Any]) -> None:
    text = text_of(admin_client, list_page(MESSAGE))
    assert "sessions_app.node.tasks.stop_session" in text
    assert str(rows[SESSION].pk) in text
    assert "node:this" in text
