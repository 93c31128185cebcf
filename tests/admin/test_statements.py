"""Whatever the console offers takes a few statements, however many rows a page has."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from django_q.models import OrmQ, Schedule

from codeexec.audit.actors import command_actor
from codeexec.audit.record import record
from environments_app.models import Environment
from sessions_app.access.clients import create_client, create_key
from sessions_app.models import FailedLogin, IsolationCheck, Node
from tests import history
from tests.pages import Walk

pytestmark = pytest.mark.django_db

ROWS = 60
"""More than a list shows on a page."""
MOST = 40


@pytest.fixture
def full(this: Node, python: Environment) -> None:
    """Every list has a page that is full."""
    history.fill(sessions=ROWS, executions=10 * ROWS, live=ROWS)
    moment: Any = timezone.now()
    for number in range(ROWS):
        Node.objects.create(name=f"node-{number}", capacity=5, concurrency=1)
        create_key(create_client(f"client-{number}"))
        python.builds.create(dockerfile=f"FROM nothing:{number}\n")
        IsolationCheck.objects.create(
            node=this, environment=python, runtime="runc", started_at=moment, finished_at=moment
        )
        record(command_actor("drain_node"), "node.drain", this)
        FailedLogin.objects.create(username=f"user-{number}", address="192.0.2.1")
        Schedule.objects.create(name=f"schedule-{number}", func="a.task")
        OrmQ.objects.create(key="shared", payload="", lock=moment)


def test_no_page_takes_a_statement_for_each_row(full: None, admin_client: Client) -> None:
    pages = Walk(admin_client, rows_of_a_kind=1, queries=False).run()
    assert len({page.view for page in pages}) > 40
    assert [page for page in pages if page.status >= 400] == []
    assert [str(page) for page in pages if page.statements > MOST] == []
