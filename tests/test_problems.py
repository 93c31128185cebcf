"""What the service says is wrong with it, and to whom."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import Execution, Node
from sessions_app.services import problems
from sessions_app.services.problems import find_problems
from tests.cast import new_session
from tests.console_fixtures import UNSTARTED, execution, session


def told() -> str:
    return "\n".join(problem.text for problem in find_problems(lambda rows: True))


@pytest.fixture(autouse=True)
def roomy_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has."""
    monkeypatch.setattr(problems, "LEAST_FREE_BYTES", 0)
    monkeypatch.setattr(problems, "LEAST_FREE_SHARE", 0)


def test_nothing_is_wrong_with_a_service_that_works(this: Node, python: Environment) -> None:
    execution(session(python, this))
    assert told() == ""


def test_each_trouble_is_told(
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
    monkeypatch.setattr(problems, "LEAST_FREE_BYTES", 2**60)
    for expected in (
        "The Docker Engine of this can't be used: no answer",
        "The node gone is lost: nothing was heard of it for 3 min",
        "No image on this of python.",
        "1 run of ready sessions wait for a node, the oldest for 3 min",
        "1 session wait for a sandbox, the oldest for 3 min",
        "1 run failed through us within 10 min: It broke.",
        "The disk of",
    ):
        assert expected in told()


def test_without_a_node_nothing_is_run(this: Node, python: Environment) -> None:
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(hours=2))
    assert told() == "No worker node is up: nothing is run."


def test_a_problem_is_for_those_who_may_see_its_rows(this: Node, python: Environment) -> None:
    Node.objects.update(engine_error="no answer")
    assert find_problems(lambda rows: rows is Execution) == []
