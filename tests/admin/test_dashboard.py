"""The console's first page: its figures, and who sees which of them."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from codeexec.taskqueue.enqueue import enqueue
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.formats import duration, size
from sessions_app.models import Node, Sandbox, WarmPool
from sessions_app.monitoring.failures import cause_of
from tests.support.console_fixtures import (
    UNSTARTED,
    count_anew,
    execution,
    page,
    session,
    staff,
    text_of,
)

INDEX = "/admin/"


def figures(client: Client) -> Any:
    response = client.get(INDEX)
    assert response.status_code == 200
    return response.context


def test_live_sessions_are_counted_by_status(
    admin_client: Client, this: Node, python: Environment
) -> None:
    session(python, this)
    session(python, this)
    session(python, this, status="executing")
    session(python, this, status="stopped", stop_reason="client")
    counts = {badge["text"]: badge["count"] for badge in figures(admin_client)["live_sessions"]}
    assert counts == {"pending": 0, "creating": 0, "ready": 2, "executing": 1, "stopping": 0}


def test_the_runs_of_the_last_hour_are_counted_by_verdict(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    execution(ran)
    execution(ran)
    execution(ran, verdict="time_limit", exit_code=124)
    execution(ran, verdict="runtime_error", queued_at=timezone.now() - timedelta(minutes=61))
    count_anew()
    context = figures(admin_client)
    assert context["runs"] == 3
    assert context["unfinished"] == 0
    assert {badge["text"]: badge["count"] for badge in context["verdicts"]} == {
        "ok": 2,
        "time limit": 1,
    }


@pytest.mark.parametrize(("period", "bars"), [("hour", 60), ("day", 96), ("week", 168)])
def test_the_chart_has_a_bar_for_each_interval_of_the_chosen_period(
    admin_client: Client, this: Node, python: Environment, period: str, bars: int
) -> None:
    ran = session(python, this)
    now = timezone.now()
    for verdict in ("ok", "ok", "time_limit"):
        execution(ran, verdict=verdict, queued_at=now)
    failed = {"status": "error", "error_reason": "It broke.", "queued_at": now}
    execution(ran, verdict="internal_error", **failed)
    count_anew()
    context = admin_client.get(INDEX, {"period": period}).context
    chart = context["chart"]
    assert len(chart) == bars
    assert [chart[-1][part] for part in ("good", "bad", "failed")] == [48, 24, 24]
    assert "UTC: 4 runs, 2 of them not ok, 1 failed in the service" in chart[-1]["title"]
    assert [bar["interval"].runs for bar in chart[:-1]] == [0] * (bars - 1)
    assert f"Last {period}" in text_of(admin_client, INDEX, period=period)


def test_a_period_that_there_is_not_is_the_hour(admin_client: Client, db: None) -> None:
    assert admin_client.get(INDEX, {"period": "<b>"}).context["period"].name == "hour"


def test_times_are_told_by_stage(admin_client: Client, this: Node, python: Environment) -> None:
    execution(session(python, this), wall_seconds=2)
    count_anew()
    stages = {row["name"]: row for row in figures(admin_client)["latencies"]}
    assert len(stages) == 7
    assert (stages["Program"]["count"], stages["Compilation"]["median"]) == (1, "-")
    assert re.match(r"(1\.9|2)[\d.]* s", stages["Program"]["median"])


def test_failures_are_grouped_by_cause(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    failed = {"status": "error", "verdict": "internal_error"}
    for number in range(3):
        reason = f"The worker that ran it has died (n1:{number}); run it again."
        last = execution(ran, error_reason=reason, **failed)
    execution(ran, error_reason=f"No container {'ab12' * 16}.", **failed)
    session(python, this, status="error", error_reason=f"No image sha256:{'0f' * 32}")
    causes = [(row["cause"].count, row["kind"], row["cause"].text) for row in _causes(admin_client)]
    assert causes[0] == (3, "run", "The worker that ran it has died (n1:…); run it again.")
    assert sorted(causes[1:]) == [
        (1, "run", "No container …."),
        (1, "session", "No image sha256:…"),
    ]
    assert _causes(admin_client)[0]["address"] == page(last)


def _causes(client: Client) -> Any:
    return figures(client)["causes"]


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("Port 8080 of 10.0.0.7 is taken", "Port … of … is taken"),
        (f"Session {UUID(int=7)} has no node\nTraceback", "Session … has no node"),
        ("a decade of feedface", "a decade of feedface"),
        ("python3 is missing", "python3 is missing"),
        ("", ""),
    ],
)
def test_a_cause_is_a_reason_without_ids_and_numbers(reason: str, cause: str) -> None:
    assert cause_of(reason) == cause


def test_who_runs_what_is_shown_with_what_waits(
    admin_client: Client, this: Node, python: Environment
) -> None:
    now = timezone.now()
    owner = create_client("interviews")
    idle = session(python, this)
    busy = session(
        python, this, status="executing", client=owner, metadata={"candidate": "Ada", "room": 3}
    )
    began = {"started_at": now - timedelta(seconds=90), "lease_expires_at": now}
    running = execution(busy, **UNSTARTED | began | {"status": "running"})
    execution(busy, **UNSTARTED)
    context = figures(admin_client)
    first, second = context["sessions"]
    assert (first["row"], second["row"]) == (busy, idle)
    assert (first["running"], first["queued"], first["about"]) == (running, 1, "Ada")
    assert first["running_for"].startswith("1 min 3")
    assert [row["count"] for row in context["waiting"]] == [1, 0]
    text = _text(admin_client)
    for expected in (page(running), page(busy), "interviews", "no key", "1 running"):
        assert expected in text


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
    ago = timezone.now() - timedelta(minutes=1)
    for warm in (True, True, False):
        session(environments["python"], this, warm=warm, created_at=ago)
    count_anew()
    idle = {"status": "idle", "container_id": "c", "token": "t"}
    Sandbox.objects.create(node=this, environment=environments["python"], **idle)
    WarmPool.objects.create(node=this, environment=environments["python"], wanted=5)
    pools = {
        row["row"].name: (row["warm"], row["wanted"], row["hit_rate"])
        for row in figures(admin_client)["pools"]
    }
    assert (pools["node"], pools["python"]) == ((0, 2, "-"), (1, 5, "66 %"))
    for url in (
        reverse("admin:environments_app_environment_changelist"),
        page(environments["python"]),
    ):
        text = admin_client.get(url).content.decode()
        assert "66 %" in text
        assert "1, each node keeps 2 to 8" in text
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
    "view_session": {"live_sessions", "sessions", "waiting", "causes", "problems"},
    "view_execution": {"runs", "latest_executions", "waiting", "causes", "problems"},
    "view_node": {"nodes", "problems"},
    "view_environment": {"pools", "problems"},
    "view_isolationcheck": {"isolation", "problems"},
    "view_ormq": {"waiting", "problems"},
    "view_client": set(),
}
REGIONS = {
    "now": {"view_session", "view_execution", "view_node", "view_environment"}
    | {"view_isolationcheck", "view_ormq"},
    "period": {"view_session", "view_execution"},
    "machines": {"view_node", "view_environment", "view_isolationcheck"},
}


@pytest.mark.parametrize("permission", PARTS)
def test_each_part_is_for_those_who_may_see_its_rows(
    this: Node, python: Environment, permission: str
) -> None:
    row = execution(session(python, this))
    enqueue("sessions_app.node.tasks.stop_session", "x")
    client = staff(permission)
    context = figures(client)
    assert set(context.keys()) & set().union(*PARTS.values()) == PARTS[permission]
    assert (str(row.pk) in _text(client)) is (permission == "view_execution")


@pytest.mark.parametrize("permission", PARTS)
@pytest.mark.parametrize("name", REGIONS)
def test_a_region_is_for_those_who_may_see_some_of_it(
    this: Node, python: Environment, permission: str, name: str
) -> None:
    answer = staff(permission).get(f"{INDEX}dashboard/{name}")
    assert (answer.status_code == 200) is (permission in REGIONS[name])
    assert answer.status_code in (200, 403)
    assert (f'id="{name}"' in answer.content.decode()) is (permission in REGIONS[name])


@pytest.mark.parametrize("name", REGIONS)
def test_a_region_is_the_one_of_the_page(
    admin_client: Client, this: Node, python: Environment, name: str
) -> None:
    text = text_of(admin_client, f"{INDEX}dashboard/{name}")
    assert f'<div id="{name}" class="console" data-refresh-url="/admin/dashboard/{name}' in text
    assert "<html" not in text
    assert admin_client.post(f"{INDEX}dashboard/{name}").status_code == 405


def test_a_region_keeps_to_the_period_that_was_chosen(admin_client: Client, db: None) -> None:
    text = text_of(admin_client, f"{INDEX}dashboard/period", period="week")
    assert 'data-refresh-url="/admin/dashboard/period?period=week"' in text


def test_there_is_no_other_region(admin_client: Client, db: None) -> None:
    assert admin_client.get(f"{INDEX}dashboard/other").status_code == 404


def test_staff_without_permissions_are_told_so(this: Node, python: Environment) -> None:
    execution(session(python, this))
    text = _text(staff())
    assert "Your account may not see sessions, executions, nodes or environments" in text
    assert this.name not in text.partition('id="dashboard"')[2]


def test_a_region_asks_anonymous_visitors_to_log_in(client: Client, db: None) -> None:
    for name in REGIONS:
        answer = client.get(f"{INDEX}dashboard/{name}")
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(reverse("admin:login"))


def test_anonymous_visitors_are_asked_to_log_in(client: Client, db: None) -> None:
    response = client.get(INDEX)
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("admin:login"))


@pytest.mark.parametrize(
    ("url", "count"),
    [
        (INDEX, 38),
        (f"{INDEX}?period=week", 38),
        (f"{INDEX}dashboard/now", 23),
        (f"{INDEX}dashboard/period", 7),
        (f"{INDEX}dashboard/period?period=week", 7),
        (f"{INDEX}dashboard/machines", 12),
    ],
)
def test_the_page_and_each_region_take_so_many_queries_however_many_rows_there_are(
    admin_client: Client, this: Node, python: Environment, rust: Environment, url: str, count: int
) -> None:
    execution(session(python, this))
    count_anew()
    admin_client.get(url)
    with CaptureQueriesContext(connection) as few:
        admin_client.get(url)
    for number in range(10):
        node = Node.objects.create(name=f"more-{number}", capacity=1, concurrency=1)
        execution(session(rust, node), verdict="time_limit", exit_code=124)
    count_anew()
    with CaptureQueriesContext(connection) as many:
        admin_client.get(url)
    assert (len(few), len(many)) == (count, count), [query["sql"][:150] for query in many]


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
