"""The leases of what a process runs, and how it learns that a run is not wanted any more."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from environments_app.models import Environment
from sessions_app.execution import leases as module
from sessions_app.execution.leases import Leases
from sessions_app.models import Execution, Node, Session
from tests.support.cast import execution_in, session_in

pytestmark = pytest.mark.django_db
S = Session.Status


@pytest.fixture
def running(python: Environment, this: Node) -> list[Execution]:
    return [
        execution_in(Execution.Status.RUNNING, session_in(S.EXECUTING, python, this))
        for _ in range(3)
    ]


def test_what_is_held_is_renewed_by_one_statement(running: list[Execution]) -> None:
    leases = Leases()
    Execution.objects.update(lease_expires_at=timezone.now())
    one, another = leases.held(running[0].pk), leases.held(running[1].pk)
    with one, another, CaptureQueriesContext(connection) as sent:
        leases.renew()
    assert len(sent) == 1
    soon = timezone.now() + timedelta(seconds=1)
    renewed = set(Execution.objects.filter(lease_expires_at__gt=soon))
    assert renewed == set(running[:2])


@pytest.mark.parametrize("how", ["stop", "fail"])
def test_a_run_that_is_no_longer_wanted_learns_so(how: str, running: list[Execution]) -> None:
    leases = Leases()
    with leases.held(running[0].pk) as one_goes_on, leases.held(running[1].pk) as other_goes_on:
        leases.renew()
        assert one_goes_on() and other_goes_on()
        if how == "stop":
            assert running[0].session.request_stop(Session.StopReason.CLIENT)
        else:
            assert running[0].fail("It was given up.")
        assert one_goes_on()  # not asked yet
        leases.renew()
        assert not one_goes_on()
        assert other_goes_on()


def test_nothing_is_held_after_the_end_even_of_a_run_that_failed(running: list[Execution]) -> None:
    leases = Leases()
    with pytest.raises(KeyError), leases.held(running[0].pk):
        assert leases.any()
        raise KeyError
    assert not leases.any()


def test_a_run_that_begins_during_a_renewal_is_wanted(
    running: list[Execution], monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases()
    begun: list[Any] = []

    def renew_while_another_begins(execution_ids: list[UUID]) -> set[UUID]:
        lease = leases.held(running[1].pk)
        begun.append((lease, lease.__enter__()))
        return set()

    monkeypatch.setattr(module, "renew_leases", renew_while_another_begins)
    with leases.held(running[0].pk) as one_goes_on:
        leases.renew()
        assert not one_goes_on()
        ((lease, other_goes_on),) = begun
        assert other_goes_on()
        lease.__exit__(None, None, None)


def test_the_next_run_of_the_same_id_starts_wanted(running: list[Execution]) -> None:
    leases = Leases()
    assert running[0].fail("It was given up.")
    with leases.held(running[0].pk) as goes_on:
        leases.renew()
        assert not goes_on()
    with leases.held(running[0].pk) as goes_on:
        assert goes_on()
