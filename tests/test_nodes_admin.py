"""The operators' pages of nodes, their sandboxes and their queues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from codeexec.audit.actors import ANYBODY
from environments_app.models import Environment
from sessions_app.models import Node, Session
from sessions_app.services.nodes import drain_node, resume_node
from sessions_app.services.sessions import open_session
from tests.console_fixtures import (
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
from tests.working import Delivery


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


def test_a_queued_message_shows_function_and_id(admin_client: Client, rows: dict[str, Any]) -> None:
    text = text_of(admin_client, list_page(MESSAGE))
    assert "sessions_app.tasks.stop_session" in text
    assert str(rows[SESSION].pk) in text
    assert "node:this" in text
