"""Users of the console, and history for its pages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django_q.models import Failure, OrmQ, Schedule

from codeexec.taskqueue.enqueue import enqueue, node_queue
from environments_app.models import Environment
from sessions_app.models import (
    Execution,
    IntervalCounts,
    Node,
    Sandbox,
    Session,
    Total,
    TotalMark,
)
from sessions_app.monitoring.statistics import count_up
from sessions_app.node.cleanup import schedule_clean_up

HOSTILE = "<script>alert('from a program')</script>"
HOSTILE_ESCAPED = "&lt;script&gt;alert(&#x27;from a program&#x27;)&lt;/script&gt;"

SESSION = "sessions_app_session"
EXECUTION = "sessions_app_execution"
NODE = "sessions_app_node"
SANDBOX = "sessions_app_sandbox"
SCHEDULE = "django_q_schedule"
MESSAGE = "django_q_ormq"
FAILURE = "django_q_failure"
HISTORY = (SESSION, EXECUTION, NODE, SANDBOX, SCHEDULE, MESSAGE, FAILURE)
UNSTARTED = {
    "status": "queued",
    "verdict": "",
    "exit_code": None,
    "started_at": None,
    "finished_at": None,
}


def staff(*permissions: str) -> Client:
    """Logged in as a user of the console, with permissions such as `view_session`."""
    user = User.objects.create_user(f"staff{User.objects.count()}", is_staff=True)
    ours = Permission.objects.exclude(content_type__app_label="sessions")  # Django's log-ins
    found = ours.filter(codename__in=permissions)
    assert len(found) == len(permissions)
    user.user_permissions.set(found)
    client = Client()
    client.force_login(user)
    return client


def session(environment: Environment, node: Node | None, **columns: Any) -> Session:
    """A ready one, unless `columns` say something else."""
    now = timezone.now()
    made: dict[str, Any] = {
        "status": "ready",
        "ttl_seconds": 3600,
        "expires_at": now + timedelta(hours=1),
        "revision": environment.current_revision,
    }
    if columns.get("status") in ("stopped", "error"):
        made["closed_at"] = now
    return Session.objects.create(environment=environment, node=node, **(made | columns))


def count_anew() -> None:
    """Counts all rows that there are, those of before the migration, too."""
    for counted in (TotalMark, Total, IntervalCounts):
        counted.objects.all().delete()
    count_up()


def execution(session: Session, **columns: Any) -> Execution:
    """One that ended well 40 ms after it began, unless `columns` say something else."""
    queued_at = columns.pop("queued_at", timezone.now() - timedelta(minutes=5))
    Session.row(session.pk).update(last_sequence=session.last_sequence + 1)
    session.refresh_from_db(fields=["last_sequence"])
    made: dict[str, Any] = {
        "sequence": session.last_sequence,
        "status": "completed",
        "verdict": "ok",
        "exit_code": 0,
        "code": "print(1)",
        "filename": "main.py",
        "timeout_seconds": 30,
        "stdout": b"1\n",
        "wall_seconds": 0.04,
        "cpu_seconds": 0.03,
        "memory_peak_bytes": 9 * 1024**2,
        "queued_at": queued_at,
        "started_at": queued_at + timedelta(milliseconds=20),
        "finished_at": queued_at + timedelta(milliseconds=60),
    }
    return Execution.objects.create(session=session, **(made | columns))


def list_page(model: str) -> str:
    return reverse(f"admin:{model}_changelist")


def page(row: Any) -> str:
    name = f"{row._meta.app_label}_{row._meta.model_name}"
    return reverse(f"admin:{name}_change", args=[row.pk])


def shown(client: Client, model: str, **query: str) -> set[str]:
    """Primary keys of the rows that a list shows."""
    response = client.get(list_page(model), query)
    assert response.status_code == 200
    return {str(row.pk) for row in response.context["cl"].result_list}


def act(client: Client, action: str, rows: Sequence[Any]) -> Any:
    """Choose rows in a list and send an action."""
    model = f"{rows[0]._meta.app_label}_{rows[0]._meta.model_name}"
    chosen = {"action": action, "_selected_action": [str(row.pk) for row in rows]}
    return client.post(list_page(model), chosen, follow=True)


def messages(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


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
        func="sessions_app.node.tasks.clean_up_all_nodes",
        args=("this",),
        started=now,
        stopped=now,
        success=False,
        result=f"ValueError: {HOSTILE}",
    )


def history(this: Node, python: Environment) -> dict[str, Any]:
    """One row of everything that is history, by its list's name."""
    ran = session(python, this)
    enqueue("sessions_app.node.tasks.stop_session", str(ran.pk), queue=node_queue(this.name))
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
