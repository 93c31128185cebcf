"""The history that tests of growth, and measurements, are made with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from environments_app.models import Environment
from sessions_app.models import Execution, Node, Session
from tests import history
from tests.support.console_fixtures import (
    execution,
    session,
)

pytestmark = pytest.mark.django_db


def test_history_is_filled_in_and_taken_out_again(this: Node, python: Environment) -> None:
    ours = execution(session(python, this, metadata={"origin": "elsewhere"}))
    history.fill(sessions=40, executions=400, live=3)
    assert (Session.objects.count(), Execution.objects.count()) == (41, 401)
    assert Session.objects.live().count() == 4
    assert Execution.objects.values("verdict").distinct().count() > 4
    history.remove()
    assert list(Execution.objects.values_list("pk", flat=True)) == [ours.pk]
    assert Session.objects.count() == 1


@pytest.mark.thorough
def test_the_history_can_be_made_from_the_command_line() -> None:
    command = [sys.executable, "-m", "tests.history", "--help"]
    environ = {key: text for key, text in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--executions" in done.stdout
