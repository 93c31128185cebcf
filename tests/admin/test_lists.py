"""Lists of the console: a fixed number of queries, pages without a count, and searches that end."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.admin.executions import ExecutionAdmin
from sessions_app.models import Node
from tests.support.console_fixtures import (
    EXECUTION,
    FAILURE,
    HISTORY,
    MESSAGE,
    NODE,
    SANDBOX,
    SCHEDULE,
    SESSION,
    execution,
    list_page,
    session,
    shown,
    text_of,
)

pytestmark = pytest.mark.django_db


# ---- lists take a fixed number of queries


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (SESSION, 6),
        (EXECUTION, 8),
        (NODE, 3),
        (SANDBOX, 5),
        (SCHEDULE, 3),
        (MESSAGE, 4),
        (FAILURE, 3),
    ],
)
def test_an_admin_list_takes_so_many_queries(
    admin_client: Client, this: Node, python: Environment, model: str, count: int
) -> None:
    execution(session(python, this))
    admin_client.get(list_page(model))
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(list_page(model))
    assert len(queries) == count, [query["sql"][:200] for query in queries]
    assert model in HISTORY


# ---- lists without a count


@pytest.fixture
def five(this: Node, python: Environment) -> list[str]:
    ran = session(python, this)
    now = timezone.now()
    rows = [execution(ran, queued_at=now - timedelta(days=days)) for days in range(5)]
    return [str(row.pk) for row in rows]


def test_pages_follow_each_other_to_the_end(
    admin_client: Client, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExecutionAdmin, "list_per_page", 2)
    found = [shown(admin_client, EXECUTION, p=str(page)) for page in (1, 2, 3, 4)]
    assert found == [set(five[:2]), set(five[2:4]), set(five[4:]), set()]
    first = text_of(admin_client, list_page(EXECUTION))
    last = text_of(admin_client, list_page(EXECUTION), p="3")
    assert ('rel="next"' in first, 'rel="prev"' in first) == (True, False)
    assert ('rel="next"' in last, 'rel="prev"' in last) == (False, True)
    assert "1\u20132" in first
    assert "5\u20135" in last


@pytest.mark.parametrize("number", ["0", "-3", "99999999"])
def test_a_page_that_there_is_not_is_an_empty_or_the_first_one(
    admin_client: Client, five: list[str], number: str
) -> None:
    assert shown(admin_client, EXECUTION, p=number) in (set(), set(five))


def test_a_list_says_how_far_back_it_was_searched(
    admin_client: Client, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions_app.admin.executions.READ_CODES", 2)
    note = "Only the newest rows were searched"
    assert shown(admin_client, EXECUTION, q="print") == set(five[:2])
    assert note in text_of(admin_client, list_page(EXECUTION), q="print")
    day = f"{timezone.now() - timedelta(days=3):%Y-%m-%d}"
    assert shown(admin_client, EXECUTION, q="print", queued_at_to=day) == set(five[3:])
    chosen = {"q": "print", "queued_at_from": day, "queued_at_to": day}
    assert shown(admin_client, EXECUTION, **chosen) == {five[3]}
    assert note not in text_of(admin_client, list_page(EXECUTION), **chosen)
    assert note not in text_of(admin_client, list_page(EXECUTION))


def test_a_list_in_another_order_is_made_of_the_newest_rows(
    admin_client: Client, five: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExecutionAdmin, "read", 3)
    by_wall = str(ExecutionAdmin.list_display.index("wall") + 1)
    assert shown(admin_client, EXECUTION, o=by_wall) == set(five[:3])
    by_time = str(ExecutionAdmin.list_display.index("queued") + 1)
    assert shown(admin_client, EXECUTION, o=by_time) == set(five)
