"""The operators' pages of sessions, executions, sandboxes, nodes and the queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule, Success

from codeexec.queueing import enqueue, node_queue
from environments_app.models import Environment
from sessions_app.cleanup import schedule_clean_up
from sessions_app.models import Node, Sandbox, Session
from sessions_app.services.nodes import activate_node, drain_node
from sessions_app.services.sessions import open_session
from tests.console_fixtures import (
    HOSTILE,
    HOSTILE_ESCAPED,
    act,
    execution,
    list_page,
    messages,
    page,
    session,
    shown,
    staff,
)
from tests.working import Delivery, queued

SESSION = "sessions_app_session"
EXECUTION = "sessions_app_execution"
NODE = "sessions_app_node"
SANDBOX = "sessions_app_sandbox"
SCHEDULE = "django_q_schedule"
MESSAGE = "django_q_ormq"
FAILURE = "django_q_failure"
UNSTARTED = {
    "status": "queued",
    "verdict": "",
    "exit_code": None,
    "started_at": None,
    "finished_at": None,
}
HISTORY = (SESSION, EXECUTION, NODE, SANDBOX, SCHEDULE, MESSAGE, FAILURE)


def text_of(client: Client, url: str, **query: str) -> str:
    response = client.get(url, query)
    assert response.status_code == 200
    return str(response.content.decode())


def sandbox(environment: Environment, node: Node, **columns: Any) -> Sandbox:
    made = {"status": "idle", "container_id": "c" * 64, "token": "the-runner's-token"}
    return Sandbox.objects.create(environment=environment, node=node, **(made | columns))


def failed_task() -> Failure:
    now = timezone.now()
    return Failure.objects.create(
        id="f" * 32,
        name="clean up",
        func="sessions_app.tasks.clean_up_all_nodes",
        args=("this",),
        started=now,
        stopped=now,
        success=False,
        result=f"ValueError: {HOSTILE}",
    )


@pytest.fixture
def rows(this: Node, python: Environment) -> dict[str, Any]:
    """One row of everything that is history."""
    ran = session(python, this)
    enqueue("sessions_app.tasks.run_session", str(ran.pk), queue=node_queue(this.name))
    schedule_clean_up()
    return {
        SESSION: ran,
        EXECUTION: execution(ran),
        NODE: this,
        SANDBOX: sandbox(python, this),
        SCHEDULE: Schedule.objects.get(),
        MESSAGE: OrmQ.objects.get(),
        FAILURE: failed_task(),
    }


# Who sees and does what


@pytest.mark.parametrize("model", HISTORY)
def test_an_owner_sees_the_list_and_the_page(
    admin_client: Client, rows: dict[str, Any], model: str
) -> None:
    assert shown(admin_client, model) == {str(rows[model].pk)}
    assert admin_client.get(page(rows[model])).status_code == 200


@pytest.mark.parametrize("model", HISTORY)
def test_not_even_an_owner_adds_changes_or_deletes(
    admin_client: Client, rows: dict[str, Any], model: str
) -> None:
    row = rows[model]
    before = type(row).objects.filter(pk=row.pk).values().get()
    delete = reverse(f"admin:{model}_delete", args=[row.pk])
    assert admin_client.get(reverse(f"admin:{model}_add")).status_code == 403
    assert admin_client.post(page(row), {"func": "os.abort", "status": "lost"}).status_code == 403
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    act(admin_client, "delete_selected", [row])
    assert type(row).objects.filter(pk=row.pk).values().get() == before


@pytest.mark.parametrize("model", HISTORY)
def test_staff_without_the_permission_see_nothing(rows: dict[str, Any], model: str) -> None:
    client = staff()
    assert client.get(list_page(model)).status_code == 403
    assert client.get(page(rows[model])).status_code == 403


@pytest.mark.parametrize("model", HISTORY)
def test_staff_with_the_view_permission_see_it(rows: dict[str, Any], model: str) -> None:
    client = staff(f"view_{model.rpartition('_')[2]}")
    assert client.get(list_page(model)).status_code == 200
    assert client.get(page(rows[model])).status_code == 200


@pytest.mark.parametrize("model", HISTORY)
def test_anonymous_visitors_are_asked_to_log_in(
    client: Client, rows: dict[str, Any], model: str
) -> None:
    response = client.get(page(rows[model]))
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("admin:login"))


def test_successful_tasks_have_no_page() -> None:
    with pytest.raises(NoReverseMatch):
        reverse(f"admin:django_q_{Success._meta.model_name}_changelist")


def test_the_sidebar_has_what_its_reader_may_see(rows: dict[str, Any]) -> None:
    text = text_of(staff("view_session"), reverse("admin:index"))
    assert list_page(SESSION) in text
    assert list_page(EXECUTION) not in text
    assert reverse("admin:auth_user_changelist") not in text


# Sessions


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


def test_a_session_page_has_its_timeline_in_order(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    first, second = execution(ran), execution(ran, verdict="time_limit", exit_code=124)
    text = text_of(admin_client, page(ran))
    assert text.index(page(first)) < text.index(page(second))
    assert "time limit" in text


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


def test_a_stop_is_in_the_log_with_who_did_it(
    admin_client: Client, admin_user: User, this: Node, python: Environment
) -> None:
    ready = session(python, this)
    act(admin_client, "stop_sessions", [ready])
    entry = LogEntry.objects.get()
    assert (entry.user, entry.object_id) == (admin_user, str(ready.pk))


def test_who_may_only_look_stops_nothing(this: Node, python: Environment) -> None:
    ready = session(python, this)
    client = staff("view_session")
    assert "stop_sessions" not in text_of(client, list_page(SESSION))
    act(client, "stop_sessions", [ready])
    url = reverse("admin:sessions_app_session_stop_this_session", args=[ready.pk])
    assert client.post(url, {"_form_submitted": "True"}).status_code == 403
    ready.refresh_from_db()
    assert ready.status == "ready"


def test_who_may_change_sessions_stops_them(this: Node, python: Environment) -> None:
    ready = session(python, this)
    act(staff("view_session", "change_session"), "stop_sessions", [ready])
    ready.refresh_from_db()
    assert ready.status == "stopping"


def test_a_date_that_is_none_filters_nothing(
    admin_client: Client, this: Node, python: Environment
) -> None:
    row = session(python, this)
    assert shown(admin_client, SESSION, created_at_from="yesterday") == {str(row.pk)}


# Executions


def test_an_execution_list_shows_figures_in_units_that_people_read(
    admin_client: Client, this: Node, python: Environment
) -> None:
    execution(session(python, this), wall_seconds=1.25, cpu_seconds=0.0123)
    text = text_of(admin_client, list_page(EXECUTION))
    for expected in ("1.25 s", "12 ms", "9.0 MiB", "20 ms", "completed", "ok"):
        assert f">{expected}<" in text.replace("\n", ""), expected


@pytest.mark.parametrize(
    "query",
    [
        {"status__exact": "error"},
        {"verdict__exact": "internal_error"},
        {"session__environment__id__exact": "rust"},
        {"queued_at_from": "2026-01-15", "queued_at_to": "2026-01-15"},
    ],
    ids=["status", "verdict", "environment", "date"],
)
def test_executions_are_filtered(
    admin_client: Client,
    this: Node,
    python: Environment,
    rust: Environment,
    query: dict[str, str],
) -> None:
    execution(session(python, this))
    wanted = execution(
        session(rust, this),
        status="error",
        verdict="internal_error",
        error_reason="its worker died",
        queued_at=timezone.now().replace(year=2026, month=1, day=15),
    )
    given = {name: str(rust.pk) if value == "rust" else value for name, value in query.items()}
    assert shown(admin_client, EXECUTION, **given) == {str(wanted.pk)}


def test_executions_are_found_by_id_session_and_code(
    admin_client: Client, this: Node, python: Environment
) -> None:
    execution(session(python, this, id="bbbbbbbb-0000-4000-8000-000000000000"))
    wanted = execution(
        session(python, this, id="abcdef01-2345-4789-8abc-def012345678"),
        id="12345678-2345-4789-8abc-def012345678",
        code="from fractions import Fraction",
    )
    for term in (str(wanted.pk), "12345678", "abcdef01", str(wanted.session_id), "fractions"):
        assert shown(admin_client, EXECUTION, q=term) == {str(wanted.pk)}, term


def test_an_execution_page_shows_what_was_run_and_what_came_of_it(
    admin_client: Client, this: Node, rust: Environment
) -> None:
    shown_row = execution(
        session(rust, this),
        code="fn main() {}",
        stdin=b"a line of input",
        args=["--fast"],
        env={"LEVEL": "3"},
        files={"data/table.csv": "a,b"},
        stdout=b"before \xff after",
        stderr=b"a complaint",
        stderr_truncated=True,
        compile_exit_code=0,
        compile_stdout=b"compiled",
        compile_stderr=b"unused variable",
        compile_wall_seconds=0.4,
    )
    text = text_of(admin_client, page(shown_row))
    for expected in (
        "fn main() {}",
        "a line of input",
        "--fast",
        "LEVEL",
        "data/table.csv",
        "before \N{REPLACEMENT CHARACTER} after",
        "a complaint",
        "The rest was cut off",
        "compiled",
        "unused variable",
        "400 ms",
        str(shown_row.session_id),
    ):
        assert expected in text, expected


def test_a_page_says_why_we_failed_and_is_silent_about_what_there_was_not(
    admin_client: Client, this: Node, python: Environment
) -> None:
    failed = execution(
        session(python, this),
        status="error",
        verdict="internal_error",
        error_reason="The worker that ran it has died.",
        exit_code=None,
        wall_seconds=None,
        cpu_seconds=None,
        memory_peak_bytes=None,
    )
    text = text_of(admin_client, page(failed))
    assert "The worker that ran it has died." in text
    for absent in ("Compilation", "Standard input", "Arguments", "The rest was cut off"):
        assert absent not in text


def test_long_output_is_folded_away_and_its_page_stays_small(
    admin_client: Client, this: Node, python: Environment
) -> None:
    loud = execution(session(python, this), stdout=b"0123456789\n" * 200_000)
    text = text_of(admin_client, page(loud))
    assert "200000 lines" in text
    assert "<details" in text
    assert "2100000 more characters are not shown here" in text
    assert len(text) < 400_000


def test_nothing_that_a_program_or_a_client_wrote_becomes_markup(
    admin_client: Client, this: Node, python: Environment
) -> None:
    hostile = HOSTILE.encode()
    ran = session(
        python,
        this,
        status="error",
        metadata={"candidate": HOSTILE},
        error_reason=HOSTILE,
    )
    row = execution(
        ran,
        code=HOSTILE,
        filename=HOSTILE,
        stdin=hostile,
        args=[HOSTILE],
        env={HOSTILE: HOSTILE},
        files={HOSTILE: HOSTILE},
        stdout=hostile,
        stderr=hostile,
        compile_exit_code=0,
        compile_stdout=hostile,
        compile_stderr=hostile,
        worker=HOSTILE,
    )
    Node.objects.filter(pk=this.pk).update(engine_error=HOSTILE)
    task = failed_task()
    pages = [page(ran), page(row), page(this), page(task), reverse("admin:index")]
    lists = [list_page(model) for model in HISTORY]
    escaped = 0
    for url in pages + lists:
        text = text_of(admin_client, url)
        assert HOSTILE not in text, url
        escaped += text.count(HOSTILE_ESCAPED)
    assert escaped >= 15


# Reading no more than is shown


@pytest.mark.parametrize("model", [SESSION, EXECUTION, NODE, SANDBOX])
def test_a_list_takes_as_many_queries_for_many_rows_as_for_one(
    admin_client: Client, this: Node, python: Environment, rust: Environment, model: str
) -> None:
    def fill(environment: Environment, node: Node) -> None:
        ran = session(environment, node)
        execution(ran)
        execution(ran)
        sandbox(environment, node)

    fill(python, this)
    fill(rust, Node.objects.create(name="second", capacity=1, concurrency=1))
    admin_client.get(list_page(model))  # fills the cache of content types
    few = _queries(admin_client, list_page(model))
    for number in range(10):
        fill(python, Node.objects.create(name=f"more-{number}", capacity=1, concurrency=1))
    assert _queries(admin_client, list_page(model)) == few


def test_a_timeline_takes_as_many_queries_for_many_runs_as_for_one(
    admin_client: Client, this: Node, python: Environment
) -> None:
    ran = session(python, this)
    execution(ran)
    admin_client.get(page(ran))
    few = _queries(admin_client, page(ran))
    for _ in range(10):
        execution(ran)
    assert _queries(admin_client, page(ran)) == few


def _queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


@pytest.mark.parametrize("url", [list_page, None], ids=["list", "timeline"])
def test_lists_do_not_read_programs_and_their_output(
    admin_client: Client, this: Node, python: Environment, url: Any
) -> None:
    ran = session(python, this)
    execution(ran)
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(url(EXECUTION) if url else page(ran))
    read = [query["sql"] for query in queries if 'FROM "sessions_app_execution"' in query["sql"]]
    assert read
    for column in ("code", "stdin", "files", "stdout", "stderr", "compile_stderr"):
        assert not [sql for sql in read if f'"sessions_app_execution"."{column}"' in sql], column


def test_an_execution_page_reads_its_row_at_once(
    admin_client: Client, this: Node, python: Environment
) -> None:
    row = execution(session(python, this))
    with CaptureQueriesContext(connection) as queries:
        admin_client.get(page(row))
    assert sum('FROM "sessions_app_execution"' in query["sql"] for query in queries) == 1


def test_counting_stops_where_nobody_pages_to(
    admin_client: Client, this: Node, python: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions_app.admin.history.COUNTED", 3)
    ran = session(python, this)
    for _ in range(5):
        execution(ran)
    response = admin_client.get(list_page(EXECUTION))
    assert response.context["cl"].result_count == 3


# Sandboxes, nodes, the queue


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


def test_nodes_are_drained_and_activated(admin_client: Client, this: Node, other: Node) -> None:
    response = act(admin_client, "drain_nodes", [this])
    assert messages(response) == ["Now draining: this."]
    assert not Node.objects.active().filter(pk=this.pk).exists()
    response = act(admin_client, "activate_nodes", [this, other])
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
        (activate_node, "draining", "active"),
        (activate_node, "active", "active"),
        (activate_node, "lost", "lost"),
    ],
)
def test_a_lost_node_is_left_alone(
    this: Node, change: Callable[[Any], bool], status: str, result: str
) -> None:
    Node.objects.filter(pk=this.pk).update(status=status)
    assert change(this.pk) is (status != result)
    this.refresh_from_db()
    assert this.status == result


def test_a_draining_node_gets_no_new_session(
    this: Node, python: Environment, work: Callable[[], list[Delivery]]
) -> None:
    kept = open_session(environment_name="python")
    work()
    drain_node(this.pk)
    assert Node.objects.total_room() == 0
    kept.refresh_from_db()
    assert kept.status == Session.Status.READY


def test_a_queued_message_shows_function_and_id(admin_client: Client, rows: dict[str, Any]) -> None:
    text = text_of(admin_client, list_page(MESSAGE))
    assert "sessions_app.tasks.run_session" in text
    assert str(rows[SESSION].pk) in text
    assert "node:this" in text
