"""Whose sandbox is started next, where many sessions wait for theirs."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from codeexec.audit.actors import command_actor
from codeexec.taskqueue.enqueue import SHARED_QUEUE, node_queue
from environments_app.models import Environment
from sessions_app.access.clients import create_client
from sessions_app.models import Client, Node, Session
from sessions_app.node import tasks
from sessions_app.node.sandboxes import reserve_sandbox
from sessions_app.node.tasks import more_urgent
from sessions_app.services.sessions import open_session, reset_session
from tests.conftest import Work
from tests.support.fake_driver import FakeDriver
from tests.support.working import Delivery, lose_messages, queued

pytestmark = pytest.mark.django_db(transaction=True)
S = Session.Status


@pytest.fixture
def clients(db: None) -> tuple[Client, Client]:
    return create_client("greedy"), create_client("other")


def opened(client: Client | None, count: int = 1) -> list[Session]:
    sessions = [open_session(environment_name="python") for _ in range(count)]
    Session.objects.filter(pk__in=[each.pk for each in sessions]).update(client=client)
    return list(
        Session.objects.filter(pk__in=[each.pk for each in sessions]).order_by("created_at")
    )


def status_of(session: Session) -> str:
    return Session.objects.get(pk=session.pk).status


def test_another_clients_first_start_goes_before_the_rest_of_a_burst(
    python: Environment, this: Node, driver: FakeDriver, clients: tuple[Client, Client], work: Work
) -> None:
    greedy, other = clients
    burst = opened(greedy, 5)
    late, last = opened(other)[0], opened(None)[0]
    assert reserve_sandbox(burst[0], this)  # another process starts it at this moment
    tasks.start_session(str(burst[1].pk))
    assert (status_of(late), status_of(burst[1])) == (S.READY, S.PENDING)
    tasks.start_session(str(burst[2].pk))
    assert (status_of(last), status_of(burst[2])) == (S.READY, S.PENDING)
    tasks.start_session(str(burst[3].pk))
    assert status_of(burst[3]) == S.READY
    work()
    assert {status_of(each) for each in (*burst[1:], late, last)} == {S.READY}


def test_clients_with_as_many_starts_going_on_keep_the_order_of_arrival(
    python: Environment, this: Node, clients: tuple[Client, Client]
) -> None:
    greedy, other = clients
    burst, others = opened(greedy, 2), opened(other, 2)
    assert more_urgent(burst[1]) is None  # nothing is started
    for session in (burst[0], others[0]):
        assert reserve_sandbox(session, this)
    assert more_urgent(burst[1]) is None
    assert more_urgent(others[1]) is None


def test_a_client_alone_pays_two_statements(python: Environment, this: Node) -> None:
    burst = opened(None, 3)
    assert reserve_sandbox(burst[0], this)
    with CaptureQueriesContext(connection) as sent:
        assert more_urgent(burst[1]) is None
    assert len(sent) == 2


def test_where_the_urgent_one_finds_no_room_the_other_is_started(
    python: Environment, this: Node, driver: FakeDriver, clients: tuple[Client, Client]
) -> None:
    greedy, other = clients
    burst, late = opened(greedy, 2), opened(other)[0]
    Session.row(late.pk).update(runtime="runsc")  # which this node lacks
    assert reserve_sandbox(burst[0], this)
    tasks.start_session(str(burst[1].pk))
    assert (status_of(late), status_of(burst[1])) == (S.PENDING, S.READY)


def test_one_that_was_reset_stays_with_its_node(
    python: Environment, this: Node, driver: FakeDriver, clients: tuple[Client, Client], work: Work
) -> None:
    greedy, other = clients
    first, second = opened(greedy, 2)
    work()
    lose_messages()
    reset_session(second.pk, by=command_actor("test"))
    late = opened(other)[0]
    lose_messages()
    Session.row(first.pk).update(status=S.CREATING, lease_expires_at=late.lease_expires_at)
    tasks.start_session(str(second.pk))
    assert status_of(late) == S.READY
    assert queued(node_queue("this")) == [Delivery("start_session", (str(second.pk),))]
    assert queued(SHARED_QUEUE) == []
