"""A session's page tells what its candidate did, and lets operators steer it: each action with its
own permission, through the services that the API calls, and in the audit log.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from codeexec.audit.models import AuditEntry
from environments_app.models import Environment
from sessions_app.admin.timeline import COMPARED_LINES, RUNS_PER_PAGE, describe, stages, timeline
from sessions_app.models import Execution, Node, Session
from tests.support.console_fixtures import (
    HOSTILE,
    HOSTILE_ESCAPED,
    UNSTARTED,
    act,
    execution,
    messages,
    page,
    session,
    staff,
    text_of,
)

pytestmark = pytest.mark.django_db
SEND = {"_form_submitted": "True"}


def part(row: Session, name: str) -> str:
    return reverse(f"admin:sessions_app_session_{name}", args=[row.pk])


@pytest.fixture
def ready(this: Node, python: Environment) -> Session:
    return session(python, this, container_id="c" * 64, ready_at=timezone.now())


# ---- the timeline


def test_the_newest_run_comes_first(admin_client: Client, ready: Session) -> None:
    first, second = execution(ready), execution(ready, verdict="time_limit", exit_code=124)
    text = text_of(admin_client, page(ready))
    assert text.index(page(second)) < text.index(page(first))
    assert "time limit" in text


def test_a_run_is_told_by_what_was_changed_since_the_one_before(ready: Session) -> None:
    execution(ready, code="a = 1\nb = 2\nprint(a)\n")
    execution(ready, code="a = 1\nb = 3\nprint(a)\n")
    execution(ready, code="a = 1\nb = 3\nprint(a)\n")
    third, second, first = timeline(ready).runs
    assert "b = 2" in first.code
    assert not first.changes
    told = [(line.sign, line.text) for line in second.changes if line.look != "skipped"]
    assert told == [(" ", "a = 1"), ("-", "b = 2"), ("+", "b = 3"), (" ", "print(a)")]
    assert second.heading == "main.py: changed since run 1"
    assert third.heading == "main.py: as in run 2"
    assert not third.changes
    assert not third.code


def test_another_file_is_shown_whole(ready: Session) -> None:
    execution(ready, code="a = 1\n")
    execution(ready, code="b = 1\n", filename="other.py")
    run = timeline(ready).runs[0]
    assert (run.heading, run.changes) == ("other.py", [])
    assert "b = 1" in run.code


def test_a_change_deep_in_a_long_program_is_told_with_its_place(ready: Session) -> None:
    lines = [f"line_{number}()" for number in range(20_000)]
    old = execution(ready, code="\n".join(lines))
    new = execution(ready, code="\n".join([*lines[:9_999], "changed()", *lines[10_000:]]))
    changes = describe(new, old).changes
    assert changes[0].text == "line 9997"
    assert [line.text for line in changes if line.sign in "+-" and line.sign] == [
        "line_9999()",
        "changed()",
    ]
    assert len(changes) == 1 + 3 + 2 + 3


def test_much_changed_programs_are_not_compared_and_shown_whole(ready: Session) -> None:
    """What would take the square of a length that a candidate chooses."""
    lines = [f"common_{number % 7}()" for number in range(2 * COMPARED_LINES)]
    old = execution(ready, code="\n".join(lines))
    new = execution(ready, code="\n".join(f"{line} # {n % 2}" for n, line in enumerate(lines)))
    run = describe(new, old)
    assert not run.changes
    assert "much changed" in run.heading
    assert run.code


def test_a_timeline_reads_and_shows_no_more_than_the_beginning_of_what_is_large(
    admin_client: Client, ready: Session
) -> None:
    large = {"stdout": b"o" * 2_000_000, "stderr": b"e" * 2_000_000, "stdin": b"i" * 2_000_000}
    files = {"f.txt": "".join(str(number) for number in range(200_000))}
    for number in range(3):
        execution(ready, code=f"# {number}" + "c" * 2_000_000, files=files, **large)
    rows = [run.row for run in timeline(ready).runs]
    assert max(len(row.stdout) + len(row.stderr) + len(row.code) for row in rows) < 100_000
    assert [row.files for row in rows] == [{}, {}, {}]
    text = text_of(admin_client, part(ready, "timeline"))
    assert len(text) < 500_000
    assert text.count("This is the beginning of 1.9 MiB") == 12
    assert text.count("Too large to be shown here") == 3


def test_what_a_program_wrote_is_text_and_never_markup(
    admin_client: Client, ready: Session
) -> None:
    execution(ready, code=HOSTILE)
    execution(ready, code=f"{HOSTILE}\n2", stdout=HOSTILE.encode(), stdin=HOSTILE.encode())
    text = text_of(admin_client, page(ready))
    assert HOSTILE not in text
    assert text.count(HOSTILE_ESCAPED) >= 4


def test_what_was_not_compiled_shows_the_compilers_errors_once(ready: Session) -> None:
    wrote = {"compile_exit_code": 1, "compile_stderr": b"E0425", "stderr": b"E0425"}
    execution(ready, verdict="compile_error", exit_code=1, **wrote)
    (run,) = timeline(ready).runs
    assert [title for title, _ in run.outputs] == ["Compiler's errors"]


def test_stages_fill_the_time_from_request_to_result(ready: Session) -> None:
    row = execution(ready)
    Execution.row(row.pk).update(received_at=row.queued_at, claimed_at=row.queued_at)
    row.refresh_from_db()
    told = stages(row)
    assert [stage.name for stage in told] == ["start", "run"]
    assert sum(stage.width for stage in told) == pytest.approx(1000)
    assert told[1].x == told[0].width


def test_an_unfinished_run_has_a_place_for_what_it_writes(
    admin_client: Client, ready: Session
) -> None:
    waiting = execution(ready, **UNSTARTED)
    text = text_of(admin_client, part(ready, "timeline"))
    assert f'data-run="{waiting.pk}"' in text
    assert "data-stream" in text
    assert not timeline(ready).runs[0].outputs


def test_a_long_timeline_has_pages(admin_client: Client, ready: Session) -> None:
    rows = [execution(ready, code=f"print({number})") for number in range(RUNS_PER_PAGE + 1)]
    newest = text_of(admin_client, page(ready))
    assert page(rows[0]) not in newest
    assert "?runs=2#timeline" in newest
    oldest = text_of(admin_client, page(ready), runs="2")
    assert page(rows[0]) in oldest
    assert page(rows[-1]) not in oldest
    assert text_of(admin_client, page(ready), runs="nonsense").count("console-run") > 0


def test_however_many_runs_there_are_a_page_asks_as_often(
    admin_client: Client, ready: Session
) -> None:
    def asked() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert admin_client.get(page(ready)).status_code == 200
        return len(queries)

    execution(ready)
    asked()  # what Django looks up once in a process
    few = asked()
    for _ in range(RUNS_PER_PAGE + 5):
        execution(ready)
    assert asked() == few == 5


@pytest.mark.parametrize(("name", "count"), [("timeline", 4), ("now", 3)])
def test_a_part_asks_for_little(
    name: str, count: int, admin_client: Client, ready: Session
) -> None:
    for _ in range(RUNS_PER_PAGE + 5):
        execution(ready)
    with CaptureQueriesContext(connection) as queries:
        assert admin_client.get(part(ready, name)).status_code == 200
    assert len(queries) == count


def test_parts_keep_themselves_up_to_date_until_nothing_goes_on_any_more(
    admin_client: Client, ready: Session, this: Node, python: Environment
) -> None:
    assert "data-refresh-url" in text_of(admin_client, part(ready, "now"))
    over = session(python, this, status="stopped", stop_reason="client")
    for name in ("now", "timeline"):
        assert "data-refresh-url" not in text_of(admin_client, part(over, name))
    assert "stopped by the client" in text_of(admin_client, part(over, "now"))


def test_files_that_went_with_a_lost_sandbox_are_told_of(
    admin_client: Client, ready: Session
) -> None:
    told = "what those wrote is gone"
    assert told not in text_of(admin_client, part(ready, "now"))
    now = timezone.now()
    Session.row(ready.pk).update(last_execution_at=now, workspace_since=now + timedelta(days=1))
    assert told in text_of(admin_client, part(ready, "now"))


def test_who_may_not_see_executions_sees_no_timeline(ready: Session) -> None:
    execution(ready, code="secret_thing()")
    viewer = staff("view_session")
    assert "secret_thing" not in text_of(viewer, page(ready))
    assert viewer.get(part(ready, "timeline")).status_code == 403
    assert viewer.get(part(ready, "now")).status_code == 200
    stranger = staff("view_execution")
    assert stranger.get(part(ready, "now")).status_code == 403
    assert stranger.get(part(ready, "timeline")).status_code == 403


# ---- actions


def send(client: Client, action: str, row: Any, **form: str) -> Any:
    name = f"admin:{row._meta.app_label}_{row._meta.model_name}_{action}"
    return client.post(reverse(name, args=[row.pk]), SEND | form)


ACTIONS = {
    "stop_this_session": "stop_session",
    "extend_this_session": "extend_session",
    "reset_this_session": "reset_session",
    "cancel_its_run": "cancel_execution",
    "open_its_workspace": "read_workspace",
    "download_its_workspace": "read_workspace",
}


@pytest.mark.parametrize(("action", "permission"), ACTIONS.items())
def test_each_action_is_for_those_with_its_permission(
    action: str, permission: str, ready: Session
) -> None:
    others = sorted({*ACTIONS.values()} - {permission})
    without = staff("view_session", "change_session", *others)
    address = reverse(f"admin:sessions_app_session_{action}", args=[ready.pk])
    assert address not in text_of(without, page(ready))
    assert send(without, action, ready, ttl_seconds="900").status_code == 403
    assert not AuditEntry.objects.exists()
    assert address in text_of(staff("view_session", permission), page(ready))


def test_a_session_that_has_ended_has_no_actions(
    admin_client: Client, this: Node, python: Environment
) -> None:
    over = session(python, this, status="stopped", stop_reason="client")
    text = text_of(admin_client, page(over))
    for action in ACTIONS:
        assert reverse(f"admin:sessions_app_session_{action}", args=[over.pk]) not in text


def test_a_session_gets_more_time(ready: Session) -> None:
    operator = staff("view_session", "extend_session")
    answer = send(operator, "extend_this_session", ready, ttl_seconds="7200")
    assert answer.headers["HX-Redirect"] == page(ready)
    ready.refresh_from_db()
    assert ready.ttl_seconds == 7200
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details) == (
        "session.extend",
        {"ttl_seconds": 7200, "changes": {"ttl": [3600, 7200]}},
    )


def test_a_time_that_is_not_offered_changes_nothing(ready: Session) -> None:
    operator = staff("view_session", "extend_session")
    assert (
        "Select a valid choice"
        in send(operator, "extend_this_session", ready, ttl_seconds="99999999").content.decode()
    )
    ready.refresh_from_db()
    assert ready.ttl_seconds == 3600


def test_a_session_is_reset(ready: Session) -> None:
    waiting = execution(ready, **UNSTARTED)
    send(staff("view_session", "reset_session"), "reset_this_session", ready)
    ready.refresh_from_db()
    waiting.refresh_from_db()
    assert (ready.status, waiting.status) == ("pending", "cancelled")
    assert AuditEntry.objects.get().action == "session.reset"


def test_the_run_of_a_session_is_cancelled(ready: Session) -> None:
    operator = staff("view_session", "cancel_execution")
    waiting = execution(ready, **UNSTARTED)
    send(operator, "cancel_its_run", ready)
    waiting.refresh_from_db()
    assert waiting.status == "cancelled"
    assert AuditEntry.objects.get().action == "execution.cancel"
    send(operator, "cancel_its_run", ready)
    assert AuditEntry.objects.count() == 1


# ---- running again


def test_the_same_input_is_run_again_in_an_open_session(ready: Session) -> None:
    given = {"code": "print(input())", "stdin": b"x\n", "args": ["-v"], "env": {"A": "1"}}
    original = execution(ready, **given, files={"data.txt": "d"}, timeout_seconds=5)
    operator = staff("view_execution", "run_again_execution")
    answer = send(operator, "run_this_again", original)
    again = Execution.objects.exclude(pk=original.pk).get()
    assert answer.headers["HX-Redirect"] == page(again)
    assert (again.session_id, again.status) == (ready.pk, "queued")
    for name in ("code", "filename", "args", "env", "files", "timeout_seconds"):
        assert getattr(again, name) == getattr(original, name), name
    assert bytes(again.stdin) == b"x\n"
    assert again.repeats == original.pk
    assert page(original) in text_of(operator, page(again))
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_id) == ("execution.run_again", str(original.pk))
    assert entry.details == {"execution": str(again.pk)}


def test_what_ran_in_a_session_that_has_ended_is_run_again_by_itself(
    this: Node, python: Environment
) -> None:
    over = session(python, this, status="stopped", stop_reason="client")
    original = execution(over, code="print(2)")
    send(staff("view_execution", "run_again_execution"), "run_this_again", original)
    again = Execution.objects.exclude(pk=original.pk).select_related("session").get()
    assert again.session_id != over.pk
    assert again.session.one_shot
    assert again.session.environment == python
    assert again.code == "print(2)"


def test_a_file_that_was_given_among_the_files_stays_there(ready: Session) -> None:
    original = execution(ready, code="", files={"main.py": "print(3)"})
    send(staff("view_execution", "run_again_execution"), "run_this_again", original)
    again = Execution.objects.exclude(pk=original.pk).get()
    assert (again.code, again.files) == ("", {"main.py": "print(3)"})


def test_selected_executions_are_cancelled_and_run_again_by_who_may(ready: Session) -> None:
    over, waiting = execution(ready), execution(ready, **UNSTARTED)
    viewer = staff("view_execution", "change_execution")
    for action in ("cancel_executions", "run_again_executions"):
        act(viewer, action, [over, waiting])
    for action in ("cancel_this_execution", "run_this_again"):
        assert send(viewer, action, waiting).status_code == 403
    assert Execution.objects.count() == 2
    operator = staff("view_execution", "cancel_execution", "run_again_execution")
    told = messages(act(operator, "cancel_executions", [over, waiting]))
    assert told == ["1 cancelled; 1 had ended already."]
    assert messages(act(operator, "run_again_executions", [over, waiting])) == ["Queued again: 2."]
    assert Execution.objects.count() == 4


def test_what_cannot_be_run_again_says_why(
    admin_client: Client, this: Node, python: Environment
) -> None:
    over = session(python, this, status="stopped", stop_reason="client")
    original = execution(over)
    Environment.objects.update(is_default=False, enabled=False)
    told = messages(act(admin_client, "run_again_executions", [original]))
    assert len(told) == 1
    assert "There is no environment 'python'" in told[0]
    assert not AuditEntry.objects.exists()
