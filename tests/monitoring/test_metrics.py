"""What is exported at /metrics: counters that only grow, whatever happens to rows and processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from codeexec import __version__
from codeexec.http.request_metrics import BOUNDS, Histogram, request_metrics
from codeexec.sandbox.errors import SandboxStartFailed
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app.models import (
    ApiProcess,
    Execution,
    Node,
    Sandbox,
    Session,
    Total,
    TotalMark,
    WarmPool,
)
from sessions_app.models.statistics import Addition, add
from sessions_app.monitoring import metrics, process_report, statistics
from sessions_app.monitoring.statistics import count_up, counted_start
from sessions_app.node import upkeep
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.cast import new_execution, new_session, session_in
from tests.support.platforms import platform, read_notifications
from tests.support.racing import while_held

pytestmark = pytest.mark.django_db

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape() -> Samples:
    return parsed(metrics.exposition().decode())


def value(name: str, samples: Samples | None = None, **labels: str) -> float | None:
    found = scrape() if samples is None else samples
    return found.get((f"code_executor_{name}", frozenset(labels.items())))


def only_counters(samples: Samples) -> Samples:
    suffixes = ("_total", "_count", "_sum", "_bucket")
    return {name: number for name, number in samples.items() if name[0].endswith(suffixes)}


@pytest.fixture(autouse=True)
def nothing_is_counted(db: None) -> Iterator[None]:
    """Neither that of the migration nor that of other tests."""
    TotalMark.objects.all().delete()
    request_metrics.take()
    yield
    request_metrics.take()


@pytest.fixture
def session(python: Environment, this: Node) -> Session:
    return session_in(Session.Status.READY, python, this)


def ended(session: Session, verdict: str = "ok", **columns: Any) -> Execution:
    """An execution that waited for 20 ms, began after 3 ms more, and took 100 ms in all."""
    now = timezone.now()
    ago = {"received_at": 100, "queued_at": 98, "claimed_at": 78, "started_at": 75}
    times = {name: now - timedelta(milliseconds=each) for name, each in ago.items()}
    done = {"status": "completed", "exit_code": 0, "wall_seconds": 0.06, "finished_at": now}
    return new_execution(session, **{**times, **done, "verdict": verdict, **columns})


def long_ended(session: Session) -> Session:
    """The session with an execution that ended a year ago, as it did itself."""
    times = ("received_at", "queued_at", "claimed_at", "started_at", "finished_at")
    year_ago = timezone.now() - timedelta(days=365)
    ended(session, **dict.fromkeys(times, year_ago))
    Session.row(session.pk).update(
        status="stopped", stop_reason="client", created_at=year_ago, closed_at=year_ago
    )
    return session


class TestExecutions:
    def test_are_counted_by_verdict_once(self, session: Session) -> None:
        for verdict in ("ok", "ok", "time_limit"):
            ended(session, verdict)
        for _ in range(2):
            samples = scrape()
            assert value("executions_total", samples, environment="python", verdict="ok") == 2
            assert (
                value("executions_total", samples, environment="python", verdict="time_limit") == 1
            )

    def test_are_counted_by_how_their_programs_started(self, session: Session) -> None:
        for prestarted in (True, True, False):
            ended(session, prestarted=prestarted)
        ended(session, "internal_error", status="error", error_reason="x", exit_code=None)
        samples = scrape()
        started = {
            word: value("runs_total", samples, environment="python", prestarted=word)
            for word in ("true", "false")
        }
        assert started == {"true": 2, "false": 1}
        assert value("execution_stage_seconds_count", samples, environment="python", stage="whole")

    def test_have_their_stages_in_histograms(self, session: Session) -> None:
        ended(session)
        samples = scrape()
        expected = {"queue_wait": 0.02, "start": 0.003, "run": 0.06, "whole": 0.1}
        for stage, seconds in expected.items():
            labels = {"environment": "python", "stage": stage}
            total = value("execution_stage_seconds_sum", samples, **labels)
            assert total == pytest.approx(seconds, abs=1e-4)
            assert value("execution_stage_seconds_count", samples, **labels) == 1
            for bound in BOUNDS:
                bucket = value("execution_stage_seconds_bucket", samples, **labels, le=str(bound))
                assert bucket == (seconds <= bound + 1e-4), (stage, bound)
        compiled = {"environment": "python", "stage": "compile"}
        assert value("execution_stage_seconds_count", samples, **compiled) is None

    def test_a_bound_belongs_to_its_bucket(self) -> None:
        """In SQL as in Python: what took 50 ms took no longer than 50 ms."""
        histogram = Histogram()
        for seconds in (0.0, 0.001, 0.05, 0.050001, 300.0, 301.0):
            histogram.observe(seconds)
            with connection.cursor() as cursor:
                bounds = [-bound for bound in reversed(BOUNDS)]
                cursor.execute("SELECT width_bucket(-%s::float8, %s::float8[])", [seconds, bounds])
                (place,) = cursor.fetchone()
            one = Histogram()
            one.observe(seconds)
            assert one.buckets.index(1) == len(BOUNDS) - place
        assert histogram.buckets[-1] == 1
        assert sum(histogram.buckets[:2]) == 2

    def test_a_failed_compilation_is_no_run(self, session: Session) -> None:
        times = {"compile_wall_seconds": 0.5, "wall_seconds": 0.5, "compile_exit_code": 1}
        ended(session, "compile_error", exit_code=1, **times)
        samples = scrape()
        stages = {
            stage: value(
                "execution_stage_seconds_count", samples, environment="python", stage=stage
            )
            for stage in statistics.STAGES
        }
        ran = {"queue_wait": 1, "start": 1, "compile": 1, "run": None, "keep": 1, "whole": 1}
        assert stages == ran

    def test_what_has_not_ended_is_counted_when_it_has(self, session: Session) -> None:
        execution = new_execution(session)
        assert value("executions_total", environment="python", verdict="cancelled") == 0
        assert TotalMark.objects.get(pk=statistics.EXECUTIONS).left == [execution.pk]
        assert execution.cancel()
        assert value("executions_total", environment="python", verdict="cancelled") == 1
        assert TotalMark.objects.get(pk=statistics.EXECUTIONS).left == []

    @pytest.mark.django_db(transaction=True)
    def test_what_is_committed_late_is_counted_all_the_same(self, session: Session) -> None:
        """Its time is that of its beginning, and others that were counted had come after it."""
        late: list[Execution] = []

        def submit_late() -> None:
            Session.objects.select_for_update().get(pk=session.pk)
            late.append(ended(session, queued_at=timezone.now()))

        def count_meanwhile() -> None:
            count_up()
            with transaction.atomic():
                Session.objects.select_for_update().get(pk=session.pk)

        with while_held(submit_late, count_meanwhile) as counting:
            counting.result()
        assert TotalMark.objects.get(pk=statistics.EXECUTIONS).until < late[0].queued_at
        assert value("executions_total", environment="python", verdict="ok") == 1

    def test_nothing_goes_back_when_history_is_pruned(self, session: Session) -> None:
        long_ended(session)
        before = only_counters(scrape())
        call_command("prune_history", "--older-than", "1d", "--pause", "0")
        assert not Session.objects.exists()
        after = only_counters(scrape())
        assert {name: after[name] for name in before} == before
        assert value("executions_total", after, environment="python", verdict="ok") == 1

    def test_what_is_pruned_is_counted_first(self, session: Session) -> None:
        long_ended(session)
        call_command("prune_history", "--older-than", "1d", "--pause", "0")
        samples = scrape()
        assert value("executions_total", samples, environment="python", verdict="ok") == 1
        assert value("sessions_closed_total", samples, environment="python", reason="client") == 1

    def test_upkeep_counts_before_it_prunes(self) -> None:
        steps = list(upkeep._scheduler._steps)
        assert steps.index(upkeep.count_up) < steps.index(upkeep.prune_by_setting)

    def test_counting_reads_no_more_than_what_is_new(self, session: Session) -> None:
        """By the index on the time that they were queued: a million others cost nothing."""
        count_up()
        ended(session)
        with CaptureQueriesContext(connection) as queries:
            count_up()
        (counting,) = (query["sql"] for query in queries if "width_bucket" in query["sql"])
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL enable_seqscan TO off")
            cursor.execute(f"EXPLAIN {counting}")
            plan = "\n".join(row[0] for row in cursor.fetchall())
        assert "execution_newest" in plan
        assert "Seq Scan on sessions_app_execution" not in plan


class TestSessions:
    EARLIER = 2 * statistics.CLOCK_SKEW

    def test_are_counted_when_they_are_opened(self, python: Environment) -> None:
        earlier = timezone.now() - self.EARLIER
        for warm, runtime in ((True, ""), (True, ""), (False, ""), (False, "runsc")):
            new_session(python, warm=warm, runtime=runtime, created_at=earlier)
        for _ in range(2):
            samples = scrape()
            opened = {
                kind: value("sessions_opened_total", samples, environment="python", sandbox=kind)
                for kind in ("warm", "cold", "chosen")
            }
            assert opened == {"warm": 2, "cold": 1, "chosen": 1}

    def test_one_whose_host_has_a_slow_clock_is_counted(self, python: Environment) -> None:
        count_up()
        new_session(python, warm=True, created_at=timezone.now() - statistics.CLOCK_SKEW / 2)
        assert value("sessions_opened_total", environment="python", sandbox="warm") == 0
        mark = TotalMark.objects.get(pk=statistics.SESSIONS_OPENED)
        assert mark.until < Session.objects.get().created_at

    def test_are_counted_when_they_end(self, python: Environment, this: Node) -> None:
        session_in(Session.Status.STOPPED, python, this)
        session_in(Session.Status.ERROR, python, this)
        session_in(Session.Status.READY, python, this)
        for _ in range(2):
            samples = scrape()
            closed = {
                why: value("sessions_closed_total", samples, environment="python", reason=why)
                for why in ("client", "error", "expired")
            }
            assert closed == {"client": 1, "error": 1, "expired": 0}

    def test_those_that_live_are_shown_by_status(self, python: Environment, this: Node) -> None:
        for status in (Session.Status.READY, Session.Status.STOPPING, Session.Status.STOPPED):
            session_in(status, python, this)
        samples = scrape()
        live = {
            status: value("sessions", samples, environment="python", status=status)
            for status in ("pending", "ready", "stopping", "stopped")
        }
        assert live == {"pending": 0, "ready": 1, "stopping": 1, "stopped": None}


class TestPresent:
    def test_the_queue_has_a_depth_and_an_age(self, session: Session) -> None:
        new_execution(session, queued_at=timezone.now() - timedelta(seconds=40))
        new_execution(session)
        samples = scrape()
        assert value("executions_queued", samples) == 2
        assert value("queue_oldest_seconds", samples) == pytest.approx(40, abs=5)
        assert value("executions_running", samples) == 0

    def test_an_empty_queue_has_no_age(self, this: Node) -> None:
        samples = scrape()
        assert (value("executions_queued", samples), value("queue_oldest_seconds", samples)) == (
            0,
            0,
        )

    def test_a_node_is_exported_with_all_that_it_has(self, python: Environment, this: Node) -> None:
        Node.objects.update(engine_error="no Docker", capacity=7)
        for status in ("in_use", "in_use"):
            Sandbox.objects.create(node=this, environment=python, status=status)
        samples = scrape()
        gauges = {
            name: value(f"node_{name}", samples, node="this")
            for name in ("up", "accepting", "engine_up", "capacity")
        }
        assert gauges == {"up": 1, "accepting": 1, "engine_up": 0, "capacity": 7}
        assert value("node_sandboxes", samples, node="this", status="in_use") == 2

    def test_a_silent_node_is_down_and_a_draining_one_takes_nothing(
        self, this: Node, other: Node
    ) -> None:
        Node.objects.filter(pk=this.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=5))
        Node.objects.filter(pk=other.pk).update(status=Node.Status.DRAINING)
        samples = scrape()
        gauges = {
            node: (
                value("node_up", samples, node=node),
                value("node_accepting", samples, node=node),
            )
            for node in ("this", "other")
        }
        assert gauges == {"this": (0, 0), "other": (1, 0)}
        age = value("node_heartbeat_age_seconds", samples, node="this")
        assert age == pytest.approx(300, abs=10)

    def test_a_pool_is_compared_with_what_it_should_have(
        self, python: Environment, this: Node
    ) -> None:
        Environment.objects.filter(pk=python.pk).update(warm_pool_size=3)
        Sandbox.objects.create(
            node=this, environment=python, status="idle", container_id="c", token="t"
        )
        samples = scrape()
        assert value("warm_pool_target", samples, environment="python") == 3
        WarmPool.objects.create(node=this, environment=python, wanted=5)
        assert value("warm_pool_target", scrape(), environment="python") == 5
        assert value("warm_pool_sandboxes", samples, environment="python", status="idle") == 1

    def test_the_size_of_tables_is_exported(self) -> None:
        samples = scrape()
        assert value("table_bytes", samples, table="sessions_app_execution") is not None
        assert value("table_rows", samples, table="django_q_ormq") is not None
        assert (value("database_connections_max", samples) or 0) > 0

    def test_the_version_is_exported(self) -> None:
        name = "code_executor_build_info"
        (labels,) = (dict(labels) for found, labels in scrape() if found == name)
        assert labels["version"] == __version__


class TestSandboxStarts:
    def test_are_timed_where_they_succeed_and_where_not(self) -> None:
        with counted_start("python", "this"):
            pass
        with pytest.raises(SandboxStartFailed), counted_start("python", "this"):
            raise SandboxStartFailed("no")
        samples = scrape()
        for outcome in ("started", "failed"):
            where = {"environment": "python", "node": "this", "outcome": outcome}
            assert value("sandbox_start_seconds_count", samples, **where) == 1


class TestProcesses:
    ROUTE = "api/v1/sessions/<uuid:session_id>"

    def answered(self, times: int = 1) -> None:
        scope = {"method": "GET", "headers": []}
        for _ in range(times):
            with request_metrics.answering(scope) as answering:
                answering.route, answering.status = self.ROUTE, 200

    def requests(self) -> float | None:
        return value("http_requests_total", route=self.ROUTE, method="GET", status="200")

    def test_requests_of_several_processes_are_added_up(self) -> None:
        """Each adds what it has answered; whichever is asked knows of all."""
        self.answered(2)
        process_report.report()
        labels = (self.ROUTE, "GET", "200")
        add([Addition(name=process_report.HTTP_REQUESTS, labels=labels, count=5)])
        self.answered()
        assert self.requests() == 8
        assert self.requests() == 8

    def test_nothing_is_lost_while_the_database_is_away(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.answered(2)

        def away(_additions: object) -> None:
            raise OperationalError("the database is away")

        with monkeypatch.context() as patch:
            patch.setattr(process_report, "add", away)
            with pytest.raises(OperationalError):
                process_report.report()
        self.answered()
        assert self.requests() == 3
        seconds = {"route": self.ROUTE, "method": "GET"}
        assert value("http_request_duration_seconds_count", **seconds) == 3

    def test_a_process_that_starts_anew_goes_on_with_the_totals(self) -> None:
        self.answered()
        before = only_counters(scrape())
        process_report._report_at_exit()
        self.answered()
        after = only_counters(scrape())
        assert all(after[name] >= before[name] for name in before)
        assert self.requests() == 2

    def test_only_those_that_reported_lately_count(self) -> None:
        process_report.report()
        (row,) = ApiProcess.objects.all()
        assert row.name == process_report.process_name()
        assert row.memory_bytes > 1_000_000
        row.pk, row.streams = "other:1", 4
        row.save(force_insert=True)
        row.pk, row.streams = "silent:1", 100
        row.seen_at = timezone.now() - 2 * ApiProcess.LOST_AFTER
        row.save(force_insert=True)
        samples = scrape()
        assert (value("api_processes", samples), value("api_streams", samples)) == (2, 4)

    def test_rows_of_processes_that_died_are_forgotten(self) -> None:
        process_report.report()
        row = ApiProcess.objects.get()
        row.pk, row.seen_at = "silent:1", timezone.now() - 2 * upkeep.FORGOTTEN_AFTER
        row.save(force_insert=True)
        upkeep.forget_gone_processes()
        assert ApiProcess.objects.get().name == process_report.process_name()

    def test_a_process_that_ends_says_goodbye(self) -> None:
        process_report.report()
        self.answered()
        process_report._report_at_exit()
        assert not ApiProcess.objects.exists()
        assert Total.objects.filter(name=process_report.HTTP_REQUESTS).exists()


class TestRoutes:
    """Over HTTP: what is counted is a route, never an address."""

    @pytest.mark.django_db(transaction=True)
    def test_addresses_become_routes(self, api: Api) -> None:
        session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
        api.get(f"/sessions/{session_id}")
        for unknown in ("/nothing/1", "/nothing/2"):
            assert api.get(unknown).status_code == 404
        text = api.get("http://testserver/metrics").text
        samples = parsed(text)
        route = {"route": "api/v1/sessions/<uuid:session_id>", "method": "GET", "status": "200"}
        assert value("http_requests_total", samples, **route) == 1
        unknown_route = {"route": "unknown", "method": "GET", "status": "404"}
        assert value("http_requests_total", samples, **unknown_route) == 2
        assert session_id not in text

    @pytest.mark.django_db(transaction=True)
    def test_an_unknown_method_is_no_label(self, api: Api) -> None:
        for method in ("BREW", "PROPFIND"):
            api.request(method, "/health/live")
        labels = {"route": "api/v1/health/live", "method": "other", "status": "405"}
        assert value("http_requests_total", **labels) == 2


class TestAccess:
    @pytest.mark.django_db(transaction=True)
    def test_a_key_needs_the_scope(self, api: Api, configure: Configure) -> None:
        configure(API_AUTH="key")
        address = "http://testserver/metrics"
        usual, prometheus = platform(api, "usual"), platform(api, "p", scopes=["metrics"])
        read_notifications(api)
        assert api.get(address).status_code == 401
        assert usual.call("GET", address).status_code == 403
        answer = prometheus.call("GET", address)
        assert answer.status_code == 200
        assert "code_executor_build_info" in answer.text

    def test_a_database_that_is_away_is_a_503(
        self, client: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> None:
            raise OperationalError("the database is away")

        monkeypatch.setattr(metrics, "count_up", away)
        answer = client.get("/metrics")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_away")


class TestBuilds:
    @pytest.fixture
    def build(self, python: Environment) -> EnvironmentBuild:
        return EnvironmentBuild.objects.create(environment=python, dockerfile="FROM scratch")

    def test_are_exported_by_status_and_how_long_the_last_took(
        self, python: Environment, build: EnvironmentBuild
    ) -> None:
        now = timezone.now()
        for seconds, ended in ((90, now), (5, now - timedelta(hours=1))):
            each = EnvironmentBuild.objects.create(environment=python, dockerfile="FROM scratch")
            began = ended - timedelta(seconds=seconds)
            made = {"status": "passed", "image_id": "sha256:1"}
            each.nodes.create(node="n", started_at=began, finished_at=ended, **made)
        build.nodes.create(node="n", status="cancelled", finished_at=now)
        build.nodes.create(node="m")
        samples = scrape()
        stand = {"passed": 2, "cancelled": 1, "queued": 1, "failed": 0, "running": 0}
        for status, count in stand.items():
            labels = {"environment": "python", "status": status}
            assert value("environment_builds", samples, **labels) == count
        labels = {"environment": "python", "node": "n"}
        assert value("environment_build_seconds", samples, **labels, outcome="passed") == 90
        assert value("environment_build_seconds", samples, **labels, outcome="cancelled") is None

    def test_a_failed_build_of_what_was_promoted_is_exported(
        self, python: Environment, build: EnvironmentBuild
    ) -> None:
        made = build.nodes.create(node="n", status="failed", finished_at=timezone.now())
        labels = {"environment": "python", "node": "n"}
        assert value("environment_promoted_build_failed", **labels) is None
        Environment.objects.filter(pk=python.pk).update(build=build)
        assert value("environment_promoted_build_failed", **labels) == 1
        NodeBuild.objects.filter(pk=made.pk).update(status="passed", image_id="sha256:1")
        assert value("environment_promoted_build_failed", **labels) == 0


MOST_STATEMENTS = 40


def test_a_scrape_takes_few_statements_however_much_there_is(
    session: Session, this: Node, other: Node
) -> None:
    counts = []
    for _ in range(2):
        for _ in range(3):
            ended(session)
            new_session(session.environment)
        with CaptureQueriesContext(connection) as queries:
            scrape()
        counts.append(len([q for q in queries if "SAVEPOINT" not in q["sql"]]))
    assert max(counts) <= MOST_STATEMENTS


def test_names_follow_the_conventions(session: Session) -> None:
    """Base units, the suffixes of each kind, and a sentence for each."""
    ended(session)
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        assert family.name.startswith("code_executor_"), family.name
        assert family.documentation.endswith("."), family.name
        assert not family.name.endswith(("_ms", "_milliseconds", "_minutes", "_mb", "_count"))
        suffixes = [sample.name.removeprefix(family.name) for sample in family.samples]
        if family.type == "counter":
            assert set(suffixes) <= {"_total"}, family.name
