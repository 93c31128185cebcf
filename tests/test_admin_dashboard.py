"""The console's first page: its figures, and who sees which of them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.admin.dashboard import chart, last_hour
from sessions_app.admin.display import duration, size
from sessions_app.models import Node, Sandbox
from tests.console_fixtures import execution, page, session, staff

INDEX = "/admin/"


def figures(client: Client) -> Any:
    response = client.get(INDEX)
    assert response.status_code == 200
    return response.context


def waited(ran: Any, milliseconds: float, **columns: Any) -> Any:
    queued_at = timezone.now() - timedelta(minutes=5)
    started_at = queued_at + timedelta(milliseconds=milliseconds)
    return execution(ran, queued_at=queued_at, started_at=started_at, **columns)


def test_live_sessions_are_counted_by_status(
    admin_client: Client, this: Node, python: Environment
) -> None:
    session(python, this)
    session(python, this)
    session(python, this, status="executing")
    session(python, this, status="stopped", stop_reason="client")
    counts = {badge.text: badge.count for badge in figures(admin_client)["live_sessions"]}
    assert counts == {"pending": 0, "creating": 0, "ready": 2, "executing": 1, "stopping": 0}


def test_the_runs_of_the_last_hour_are_counted_by_verdict(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    execution(ran)
    execution(ran)
    execution(ran, verdict="time_limit", exit_code=124)
    execution(ran, verdict="runtime_error", queued_at=timezone.now() - timedelta(minutes=61))
    context = figures(admin_client)
    assert context["runs"] == 3
    assert context["unfinished"] == 0
    assert {badge.text: badge.count for badge in context["verdicts"]} == {"ok": 2, "time limit": 1}


def test_percentiles_are_those_of_the_rows(this: Node, python: Environment) -> None:
    ran = session(python, this)
    for number in range(1, 22):  # 1 … 21: the median is 11, the 95th percentile 20
        waited(ran, milliseconds=number * 10, wall_seconds=number / 10)
    latencies = last_hour(timezone.now())["latencies"]
    assert latencies == [("Wait in the queue", "110 ms", "200 ms"), ("Run", "1.1 s", "2 s")]


def test_without_runs_there_are_no_percentiles(db: None) -> None:
    latencies = last_hour(timezone.now())["latencies"]
    assert latencies == [("Wait in the queue", "-", "-"), ("Run", "-", "-")]


def test_the_chart_has_a_bar_for_each_minute(this: Node, python: Environment) -> None:
    now = datetime(2026, 5, 4, 12, 30, 30, tzinfo=timezone.get_default_timezone())
    ran = session(python, this)
    for verdict in ("ok", "ok", "ok", "time_limit"):
        execution(ran, verdict=verdict, queued_at=now - timedelta(minutes=10))
    execution(ran, queued_at=now)
    bars = chart(now)
    assert len(bars) == 60
    assert [number for number, bar in enumerate(bars) if bar.good] == [49, 59]
    assert (bars[49].good, bars[49].bad) == (48, 16)
    assert bars[49].title == "12:20 UTC: 4 runs, 1 of them not ok"
    assert (bars[59].good, bars[59].bad) == (16, 0)


def test_nodes_are_shown_with_their_state(
    admin_client: Client, this: Node, python: Environment
) -> None:
    Sandbox.objects.create(node=this, environment=python, status="in_use")
    Node.objects.filter(pk=this.pk).update(capacity=4, engine_error="the Docker Engine is away")
    context = figures(admin_client)
    assert [row["used_percent"] for row in context["nodes"]] == [25]
    text = admin_client.get(INDEX).content.decode()
    for expected in ("1 of 4 in use, 0 warm", "the Docker Engine is away", page(this)):
        assert expected in text


def test_warm_pools_are_shown_with_their_hit_rates(
    admin_client: Client, this: Node, environments: dict[str, Environment]
) -> None:
    Environment.objects.filter(name__in=["node", "python"]).update(warm_pool_size=2)
    for warm in (True, True, False):
        session(environments["python"], this, warm=warm)
    idle = {"status": "idle", "container_id": "c", "token": "t"}
    Sandbox.objects.create(node=this, environment=environments["python"], **idle)
    pools = {
        row["row"].name: (row["warm"], row["wanted"], row["hit_rate"])
        for row in figures(admin_client)["pools"]
    }
    assert (pools["node"], pools["python"]) == ((0, 2, "-"), (1, 2, "66 %"))
    for url in (
        reverse("admin:environments_app_environment_changelist"),
        page(environments["python"]),
    ):
        assert "66 %" in admin_client.get(url).content.decode()
    add = admin_client.get(reverse("admin:environments_app_environment_add"))
    assert add.status_code == 200


def test_the_latest_ten_executions_are_shown_newest_first(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    rows = [
        execution(ran, queued_at=timezone.now() - timedelta(minutes=age)) for age in range(1, 13)
    ]
    links = re.findall(r'href="(/admin/sessions_app/execution/[^"]+/change/)"', _text(admin_client))
    assert links == [page(row) for row in rows[:10]]


def _text(client: Client) -> str:
    return str(client.get(INDEX).content.decode())


def test_an_empty_service_says_what_to_do_next(admin_client: Client, db: None) -> None:
    text = _text(admin_client)
    assert "No worker node has ever started" in text
    assert "Nothing has been run yet" in text


PARTS = {
    "view_session": {"live_sessions"},
    "view_execution": {"runs", "latest_executions"},
    "view_node": {"nodes"},
    "view_environment": {"pools"},
}


@pytest.mark.parametrize("permission", PARTS)
def test_each_part_is_for_those_who_may_see_its_rows(
    this: Node, python: Environment, permission: str
) -> None:
    row = execution(session(python, this))
    client = staff(permission)
    context = figures(client)
    assert set(context.keys()) & set().union(*PARTS.values()) == PARTS[permission]
    assert (str(row.pk) in _text(client)) is (permission == "view_execution")


def test_staff_without_permissions_are_told_so(this: Node, python: Environment) -> None:
    execution(session(python, this))
    text = _text(staff())
    assert "Your account may not see sessions, executions, nodes or environments" in text
    assert this.name not in text.partition('id="dashboard"')[2]


def test_anonymous_visitors_are_asked_to_log_in(client: Client, db: None) -> None:
    response = client.get(INDEX)
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("admin:login"))


def test_the_dashboard_takes_as_many_queries_for_many_rows_as_for_one(
    admin_client: Client, this: Node, python: Environment, rust: Environment
) -> None:
    execution(session(python, this))
    admin_client.get(INDEX)
    few = _queries(admin_client)
    for number in range(10):
        node = Node.objects.create(name=f"more-{number}", capacity=1, concurrency=1)
        execution(session(rust, node), verdict="time_limit", exit_code=124)
    assert _queries(admin_client) == few


def _queries(client: Client) -> int:
    with CaptureQueriesContext(connection) as queries:
        client.get(INDEX)
    return len(queries)


def test_the_dashboard_reads_no_output(
    admin_client: Client, this: Node, python: Environment
) -> None:
    execution(session(python, this))
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(INDEX)
    assert not [query for query in queries if '"stdout"' in query["sql"]]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 ms"),
        (0.0051234, "5.12 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1 s"),
        (1.25, "1.25 s"),
        (59.99, "60 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (345_600, "4 d"),
    ],
)
def test_durations_are_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (512, "512 B"),
        (9_600, "9.4 KiB"),
        (268_435_456, "256 MiB"),
        (3 * 1024**4, "3072 GiB"),
    ],
)
def test_sizes_are_read_at_a_glance(size_bytes: int | None, text: str) -> None:
    assert size(size_bytes) == text
