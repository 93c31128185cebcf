"""However much history there is, nothing that people or the service look at again and again reads
more of it than it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.access.clients import create_client, create_key, require_room
from sessions_app.access.key_cache import Rows
from sessions_app.admin.executions import ExecutionAdmin
from sessions_app.admin.sessions import SessionAdmin
from sessions_app.models import Execution, Node, Session
from sessions_app.monitoring.health import check_health
from sessions_app.node import upkeep
from sessions_app.services.sessions import open_session
from tests import history
from tests.conftest import NODE as NODE_NAME
from tests.conftest import Configure, make_driver, make_environments, make_node
from tests.support.console_fixtures import (
    EXECUTION,
    SESSION,
    list_page,
)
from tests.support.emptying import truncate
from tests.support.fake_driver import FakeDriver
from tests.support.plans import history_read, rows_read

pytestmark = pytest.mark.django_db

SESSIONS, EXECUTIONS = 4_000, 40_000
SEARCHED = 500
MOST = 1_200
"""Rows that any query may look at: what is searched twice over, and a little. A scan of either
table is far more.
"""


@pytest.fixture(scope="module")
def year(
    django_db_setup: None, django_db_blocker: Any, definitions: Any
) -> Iterator[tuple[dict[str, Environment], Node]]:
    """A year of history, made once in a transaction. Each test goes back to it at its end."""
    with django_db_blocker.unblock():
        with transaction.atomic(), closing(make_driver(definitions)) as driver:
            cast = make_environments(definitions, driver), make_node()
            history.fill(sessions=SESSIONS, executions=EXECUTIONS, live=20)
            yield cast
            transaction.set_rollback(True)
        truncate()


@pytest.fixture
def environments(
    db: None, configure: Configure, driver: FakeDriver, year: tuple[dict[str, Environment], Node]
) -> dict[str, Environment]:
    return deepcopy(year[0])


@pytest.fixture
def this(db: None, configure: Configure, year: tuple[dict[str, Environment], Node]) -> Node:
    configure(NODE_NAME=NODE_NAME)
    return deepcopy(year[1])


@pytest.fixture
def grown(
    environments: dict[str, Environment], this: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists search less of the history than usual."""
    monkeypatch.setattr(SessionAdmin, "read", SEARCHED)
    monkeypatch.setattr(ExecutionAdmin, "read", SEARCHED)
    monkeypatch.setattr("sessions_app.admin.executions.READ_CODES", SEARCHED)


def queries_of_lists(rust: Environment, node: Node) -> Iterator[tuple[str, dict[str, Any]]]:
    day = f"{timezone.now() - timedelta(days=100):%Y-%m-%d}"
    days = {"from": day, "to": day}
    sessions = [{"status__exact": status} for status in Session.Status.values]
    sessions += [{"environment__id__exact": rust.pk}, {"node__id__exact": node.pk}]
    sessions += [{"environment__id__exact": rust.pk, "status__exact": "error"}]
    sessions += [{"one_shot__exact": 1}, {f"created_at_{end}": day for end in days}]
    sessions += [{"created_at_from": "2031-01-01"}, {"q": "Candidate 77"}, {"q": "nobody"}]
    executions = [{"status__exact": status} for status in Execution.Status.values]
    executions += [{"verdict__exact": verdict} for verdict in Execution.Verdict.values]
    executions += [{"session__environment__id__exact": rust.pk}, {"session__environment__id": 0}]
    executions += [{f"queued_at_{end}": day for end in days}, {"q": "line"}, {"q": "nowhere"}]
    executions += [{"verdict__exact": "memory_limit", "queued_at_to": day}]
    newest = Execution.objects.select_related("session").order_by("-queued_at")[2000]
    for row in (newest, newest.session):
        model = EXECUTION if row is newest else SESSION
        yield from ((model, {"q": text}) for text in (str(row.pk), str(row.pk)[:8], "abcdef0123"))
    yield EXECUTION, {"q": str(newest.session_id)}
    for model, queries, columns in ((SESSION, sessions, 8), (EXECUTION, executions, 10)):
        yield from ((model, query) for query in ({}, {"p": 5}, *queries))
        yield from ((model, {"o": number}) for number in range(1, columns + 1))


@pytest.mark.thorough
def test_no_admin_list_reads_history(
    grown: None, admin_client: Client, rust: Environment, this: Node
) -> None:
    for model, query in queries_of_lists(rust, this):
        read = history_read(partial(admin_client.get, list_page(model), query))
        worst = max(read, key=lambda sql: read[sql])
        assert read[worst] <= MOST, (model, query, read[worst], worst)


API_LISTS: list[dict[str, str]] = [
    *({"status": status} for status in Session.Status.values),
    {},
    {"environment": "rust"},
    {"environment": "cobol"},
    {"environment": "rust", "status": "error"},
    {"metadata.interview": "abc"},
    {"metadata.interview": "nothing"},
    {"metadata.origin": "tests.history"},
    {"metadata.position": "7"},
    {"status": "ready", "metadata.interview": "abc"},
]


def test_no_api_list_reads_history(grown: None, client: Client) -> None:
    for query in API_LISTS:
        read = history_read(partial(client.get, "/api/v1/sessions", query))
        assert 1 <= len(read) <= 2
        assert max(read.values()) <= MOST, (query, read)


def test_pages_of_the_api_read_no_more_the_further_they_go(grown: None, client: Client) -> None:
    url = "/api/v1/sessions"
    for _ in range(4):
        page = client.get(url).json()
        assert max(history_read(partial(client.get, url)).values()) <= MOST
        url = page["next"]
    back = client.get(url).json()["previous"]
    assert max(history_read(lambda: client.get(back)).values()) <= MOST


def test_a_client_that_has_few_sessions_reads_no_others(
    grown: None, client: Client, configure: Configure
) -> None:
    owner = create_client("small", max_live_sessions=100)
    headers = {"authorization": f"Api-Key {create_key(owner).key}"}
    few = Session.objects.order_by("created_at").values_list("pk", flat=True)[:20]
    Session.objects.filter(pk__in=list(few)).update(client=owner)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_session")
    configure(API_AUTH="key")
    for query in ("", "status=ready", "status=error", "environment=rust", "page_size=5"):
        read = history_read(partial(client.get, f"/api/v1/sessions?{query}", headers=headers))
        assert max(read.values()) <= 100, read
    known = Rows().client(owner.pk)
    assert known is not None
    with transaction.atomic():
        assert max(history_read(partial(require_room, known)).values()) <= 100


def test_a_timeline_reads_its_own_session(grown: None, client: Client) -> None:
    ran = Session.objects.filter(last_sequence__gt=0).order_by("created_at")[100]
    url = f"/api/v1/sessions/{ran.pk}/executions"
    assert max(history_read(lambda: client.get(url)).values()) <= 2 * ran.last_sequence + 1


EXECUTION_LISTS: list[dict[str, str]] = [
    {},
    {"page_size": "200"},
    *({"status": status} for status in Execution.Status.values),
    *({"verdict": verdict} for verdict in Execution.Verdict.values),
    {"environment": "rust"},
    {"environment": "cobol"},
    {"environment": "rust", "verdict": "memory_limit"},
    {"verdict": "cancelled", "status": "error"},
    {"verdict": "ok", "environment": "cobol"},
    {"since": "2031-01-01"},
    {"until": "2001-01-01"},
    {"until": "2001-01-01", "environment": "rust"},
    {"since": "2001-01-01", "environment": "rust", "status": "cancelled"},
    {"metadata.task": "7"},
    {"metadata.task": "nothing"},
    {"metadata.task": "7", "environment": "rust", "verdict": "ok"},
]


@pytest.mark.parametrize(
    "whose",
    [
        pytest.param("all", marks=pytest.mark.thorough),
        "few",
        "many",
        pytest.param("none", marks=pytest.mark.thorough),
    ],
)
def test_finding_executions_reads_no_history(
    grown: None,
    client: Client,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    whose: str,
) -> None:
    monkeypatch.setattr("sessions_app.api.execution_search.SEARCHED", SEARCHED)
    monkeypatch.setattr("sessions_app.api.execution_search.FEW", SEARCHED // 10)
    some = Execution.objects.order_by("queued_at").values_list("pk", flat=True)[:300:100]
    Execution.objects.filter(pk__in=list(some)).update(metadata={"task": 7})
    headers = {}
    if whose != "all":
        configure(API_AUTH="key")
        owner = create_client("owner")
        headers = {"authorization": f"Api-Key {create_key(owner).key}"}
        mine = Session.objects.order_by("created_at").values_list("pk", flat=True)
        count = {"few": 20, "many": SESSIONS // 4, "none": 0}[whose]
        Session.objects.filter(pk__in=list(mine[:count])).update(client=owner)
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE sessions_app_session, sessions_app_execution")
    for query in EXECUTION_LISTS:
        read = history_read(partial(client.get, "/api/v1/executions", query, headers=headers))
        # Where a page is empty, the sessions' last use is looked up: sessions only, and once.
        uses = [
            sql for sql in read if sql.startswith('SELECT MAX("sessions_app_session"."last_act')
        ]
        assert sum(read.pop(sql) for sql in uses) <= SESSIONS
        worst = max(read, key=lambda sql: read[sql])
        assert read[worst] <= MOST, (query, read[worst], worst)


def test_neither_dashboard_nor_upkeep_reads_history(
    grown: None, admin_client: Client, this: Node
) -> None:
    steps = [*upkeep._scheduler._steps, lambda: admin_client.get("/admin/"), check_health]
    for step in [*steps, lambda: open_session(environment_name="python")]:
        read = history_read(step)
        assert max(read.values(), default=0) <= MOST, (step, read)


def test_the_measure_itself_notices_a_scan(grown: None) -> None:
    rows = Execution.objects.filter(code__contains="nowhere").order_by("queued_at")[:1]
    assert rows_read(str(rows.query).replace("%nowhere%", "'%nowhere%'")) >= EXECUTIONS
    whole = Session.objects.filter(status="ready")  # without `closed_at`, which has the index
    assert rows_read(str(whole.query).replace("= ready", "= 'ready'")) >= SESSIONS


def test_what_an_execution_changes_in_its_session_is_in_no_index() -> None:
    """So that its UPDATEs write one row, and nothing into indexes (PostgreSQL's HOT)."""
    changed = ("status", "last_sequence", "last_activity_at", "last_execution_at", "expires_at")
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'sessions_app_session'")
        definitions = [row[0] for row in cursor.fetchall()]
    assert len(definitions) > 5
    assert [(d, column) for d in definitions for column in changed if column in d] == []
