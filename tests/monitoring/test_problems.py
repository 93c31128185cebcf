"""What the console shows as wrong, and to which users."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from django_q.models import OrmQ

from codeexec.taskqueue.enqueue import SHARED_QUEUE, node_queue
from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import Execution, IsolationCheck, Node
from sessions_app.monitoring.diagnosis import storage
from sessions_app.monitoring.diagnosis.checks import find_problems
from sessions_app.monitoring.diagnosis.environments import check_prestart
from sessions_app.monitoring.diagnosis.findings import Severity
from sessions_app.monitoring.figures import Load
from sessions_app.monitoring.health import check_health
from tests.conftest import Configure
from tests.support.cast import new_session
from tests.support.console_fixtures import UNSTARTED, execution, session


def problems() -> str:
    return "\n".join(finding.text for _, finding in find_problems(lambda rows: True, Load()))


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(storage, "LITTLE_BYTES", 0)
    monkeypatch.setattr(storage, "LITTLE", 0)
    monkeypatch.setattr(storage, "TOO_LITTLE", 0)


def test_nothing_is_wrong_with_a_service_that_works(this: Node, python: Environment) -> None:
    execution(session(python, this))
    assert problems() == ""


def test_what_keeps_programs_from_being_prestarted_is_found(
    this: Node, python: Environment
) -> None:
    revisions = EnvironmentRevision.objects.filter(environment=python)
    revisions.update(prestart_problem="preload: x can't be imported")
    (finding,) = [each for _, each in find_problems(lambda rows: True, Load())]
    assert finding.severity is Severity.WARNING
    assert finding.text == (
        f"programs of python are not pre-started on {this.name}, so they begin later: preload: x "
        "can't be imported"
    )
    assert check_health().checks["environments"] == "ok", "the service does its job"
    Environment.objects.filter(pk=python.pk).update(enabled=False)
    assert list(check_prestart()) == []


def test_each_problem_is_found(
    this: Node, python: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    ago = timezone.now() - timedelta(minutes=3)
    Node.objects.filter(pk=this.pk).update(engine_error="no answer")
    Node.objects.create(name="gone", capacity=1, concurrency=1, heartbeat_at=ago)
    EnvironmentRevision.objects.filter(environment=python).delete()
    ran = session(python, this, revision=None)
    execution(ran, **UNSTARTED, queued_at=ago)
    new_session(python, created_at=ago)
    execution(ran, status="error", verdict="internal_error", error_reason="It broke.")
    monkeypatch.setattr(storage, "LITTLE_BYTES", 2**60)
    for expected in (
        "the Docker Engine of node this can't be used: no answer",
        "node gone is lost: no sign of life for 3 min",
        "node this has no image of python",
        "1 run of ready sessions is waiting, the oldest for 3 min",
        "1 session without a sandbox is waiting, the oldest for 3 min",
        "1 run failed in the service within 10 min: It broke.",
        "DATA_DIR (",
    ):
        assert expected in problems()


def test_without_a_node_nothing_is_run(this: Node, python: Environment) -> None:
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(hours=2))
    assert problems() == "no worker node is up: nothing can be run"


def test_where_all_nodes_are_draining_no_session_is_opened(this: Node, python: Environment) -> None:
    Node.objects.create(name="other", status="draining", capacity=1, concurrency=1)
    Node.objects.filter(pk=this.pk).update(status="draining")
    assert "all worker nodes are draining: no new session can be opened" in problems()
    Node.objects.filter(pk=this.pk).update(status="active")
    assert "draining" not in problems()


def test_without_an_environment_nothing_can_be_run(this: Node, python: Environment) -> None:
    Environment.objects.filter(is_default=False).update(enabled=False)
    assert problems() == ""
    Environment.objects.update(enabled=False, is_default=False)
    assert problems() == "no environment is enabled: nothing can be run"


def test_messages_that_are_not_taken_are_found(this: Node, python: Environment) -> None:
    old, later = (timezone.now() + timedelta(minutes=each) for each in (-3, 3))
    for moment in (old, old, later):
        OrmQ.objects.create(key=SHARED_QUEUE, payload="", lock=moment)
    text = f"2 messages of the queue {SHARED_QUEUE} are waiting, the oldest for 3 min 00 s"
    assert problems() == text
    OrmQ.objects.first().delete()
    assert problems() == text.replace("2 messages", "1 message").replace(" are ", " is ")


def test_messages_for_a_lost_node_are_no_further_problem(this: Node, python: Environment) -> None:
    old = timezone.now() - timedelta(minutes=3)
    OrmQ.objects.create(key=node_queue("gone"), payload="", lock=old)
    assert problems() == ""
    OrmQ.objects.create(key=node_queue(this.name), payload="", lock=old)
    assert problems().startswith(f"1 message of the queue {node_queue(this.name)} is waiting, ")


def test_sessions_that_failed_lately_are_found(this: Node, python: Environment) -> None:
    for minutes, reason in ((20, "Long ago."), (2, "No room."), (1, "No image.")):
        closed = timezone.now() - timedelta(minutes=minutes)
        ended = {"status": "error", "closed_at": closed, "created_at": closed}
        session(python, this, error_reason=reason, **ended)
    assert problems() == "2 sessions failed within 10 min: No image."


def test_isolation_that_does_not_hold_comes_before_what_is_overdue(
    this: Node, python: Environment
) -> None:
    now = timezone.now()
    made = {"node": this, "runtime": "runc", "complete": True}
    made |= {"started_at": now, "finished_at": now}
    IsolationCheck.objects.create(environment=python, held=3, escaped=1, **made)
    rust = Environment.objects.get(name="rust")
    made["finished_at"] = made["started_at"] = made["queued_at"] = now - timedelta(days=30)
    IsolationCheck.objects.create(environment=rust, held=4, **made)
    first, *others = problems().splitlines()
    assert first == "hostile code may not be held: python in runc on this: 1 escaped, 3 held"
    assert "the isolation check is overdue: rust in runc on this" in others
    assert not any("python" in text for text in others)


def test_isolation_that_is_not_proven_is_no_escape(this: Node, python: Environment) -> None:
    now = timezone.now()
    made = {"node": this, "runtime": "runc", "started_at": now, "finished_at": now}
    IsolationCheck.objects.create(environment=python, held=3, inconclusive=1, **made)
    assert "it is not proven that hostile code is held: python in runc on this: " in problems()


def test_a_problem_is_for_those_who_may_see_its_rows(this: Node, python: Environment) -> None:
    Node.objects.update(engine_error="no answer")
    assert find_problems(lambda rows: rows is Execution, Load()) == []


def test_a_node_that_is_draining_needs_no_images(this: Node, python: Environment) -> None:
    Node.objects.create(name="other", status="draining", capacity=1, concurrency=1)
    assert problems() == ""
    Node.objects.filter(name="other").update(status="active")
    assert problems().startswith("node other has no image of ")


# ---- of one node


def check_node() -> str:
    shown = StringIO()
    call_command("check_node", stdout=shown)
    return shown.getvalue()


def test_check_node_fails_only_if_the_worker_gives_no_sign_of_life(
    this: Node, configure: Configure
) -> None:
    configure(NODE_NAME="this")
    Node.objects.filter(pk=this.pk).update(engine_error="no answer", status="draining")
    assert check_node() == "this: draining\n"
    silent = timezone.now() - timedelta(days=2)
    Node.objects.filter(pk=this.pk).update(heartbeat_at=silent)
    with pytest.raises(CommandError) as raised:
        check_node()
    assert str(raised.value).startswith("node this is lost: no sign of life for 2 d. Look at ")
    configure(NODE_NAME="other")
    with pytest.raises(CommandError, match="No worker has run as node other yet"):
        check_node()
