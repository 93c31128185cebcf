"""The broker on a real PostgreSQL: what is sent arrives once, at once, where it should."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction
from django_q.brokers import get_broker
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import SignedPackage
from django_q.tasks import async_task

from codeexec.taskqueue.broker import PostgresBroker, release_claims
from codeexec.taskqueue.enqueue import SHARED_QUEUE, enqueue, node_queue
from tests.support.patience import LONG, SOON, eventually
from tests.support.racing import together

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["django_q"])

WAIT_SECONDS = 0.25
HERE = settings.CODE_EXECUTOR["NODE_NAME"]


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codeexec.taskqueue.broker.WAIT_SECONDS", WAIT_SECONDS)


@pytest.fixture
def long_wait(short_wait: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than anything takes that ends a wait."""
    monkeypatch.setattr("codeexec.taskqueue.broker.WAIT_SECONDS", LONG)


@pytest.fixture
def broker() -> Iterator[PostgresBroker]:
    made = PostgresBroker()
    yield made
    made.close()


@pytest.fixture
def other() -> Iterator[PostgresBroker]:
    made = PostgresBroker()
    yield made
    made.close()


def took(broker: PostgresBroker) -> list[str]:
    """First arguments of everything that can be taken now."""
    names = []
    while some := took_some(broker):
        names += some
    return names


def took_some(broker: PostgresBroker) -> list[str]:
    """What it takes at one time."""
    return [SignedPackage.loads(payload)["args"][0] for _id, payload in broker.dequeue() or ()]


def backend_pid(broker: PostgresBroker) -> int:
    broker._leave_inherited()
    return broker._listener.connection().info.backend_pid


def terminate(pid: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert cursor.fetchone() == (True,)


def test_is_what_django_q_uses_and_its_schedules_send_to_the_shared_queue() -> None:
    assert isinstance(get_broker(), PostgresBroker)
    assert get_broker().list_key == Conf.CLUSTER_NAME == SHARED_QUEUE


def test_takes_messages_in_order_from_the_shared_and_its_nodes_queue(
    broker: PostgresBroker,
) -> None:
    enqueue("a.task", "1")
    enqueue("a.task", "2", queue=node_queue(HERE))
    enqueue("a.task", "elsewhere", queue=node_queue("another-node"))
    enqueue("a.task", "3")
    assert took(broker) == ["1", "2", "3"]


def test_a_broker_of_another_queue_takes_from_that_one_only() -> None:
    enqueue("a.task", "shared")
    enqueue("a.task", "there", queue=node_queue("there"))
    there = get_broker(node_queue("there"))
    assert took(there) == ["there"]
    there.close()


def test_a_task_of_django_qs_own_function_arrives_too(broker: PostgresBroker) -> None:
    async_task("a.task", "scheduled")
    assert took(broker) == ["scheduled"]


def test_a_message_names_what_to_run_and_leaves_no_row_when_it_succeeds() -> None:
    enqueue("a.task", "some-id", "more")
    package = SignedPackage.loads(OrmQ.objects.get().payload)
    assert package["func"] == "a.task"
    assert package["args"] == ("some-id", "more")
    assert package["save"] is False
    assert package["timeout"] == -1


def test_nothing_is_sent_when_the_transaction_is_rolled_back(broker: PostgresBroker) -> None:
    with transaction.atomic():
        enqueue("a.task", "never")
        transaction.set_rollback(True)
    assert took(broker) == []


def test_a_waiting_broker_is_woken_by_the_commit(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broker.dequeue() is None  # listens now
    monkeypatch.setattr("codeexec.taskqueue.broker.WAIT_SECONDS", LONG)
    received: list[float] = []
    waiting = threading.Thread(target=lambda: received.append(_received_at(broker)))
    waiting.start()
    with transaction.atomic():
        enqueue("a.task", "1")
        assert not received
    sent = time.monotonic()
    waiting.join(LONG)
    assert received[0] - sent < SOON


def _received_at(broker: PostgresBroker) -> float:
    while not broker.dequeue():
        pass
    return time.monotonic()


def test_other_queues_messages_dont_cut_the_wait_short(broker: PostgresBroker) -> None:
    assert broker.dequeue() is None
    enqueue("a.task", "1", queue=node_queue("another-node"))
    started = time.monotonic()
    assert broker.dequeue() is None
    assert time.monotonic() - started >= WAIT_SECONDS * 0.9


@pytest.mark.usefixtures("long_wait")
def test_what_was_sent_before_anybody_listened_is_taken_at_once(broker: PostgresBroker) -> None:
    enqueue("a.task", "1")
    started = time.monotonic()
    assert broker.dequeue()
    assert time.monotonic() - started < SOON


def test_two_brokers_never_take_the_same_message(
    broker: PostgresBroker, other: PostgresBroker
) -> None:
    for number in range(200):
        enqueue("a.task", str(number))
    both_have_some = threading.Barrier(2)

    def take(one: PostgresBroker) -> list[str]:
        first = took_some(one)
        both_have_some.wait(LONG)
        return first + took(one)

    ones, others = together(partial(take, broker), partial(take, other))
    assert sorted(map(int, ones + others)) == list(range(200))
    assert ones
    assert others


def test_a_message_that_another_process_is_taking_is_skipped(broker: PostgresBroker) -> None:
    enqueue("a.task", "1")
    enqueue("a.task", "2")
    with transaction.atomic():
        OrmQ.objects.select_for_update().order_by("id").first()
        assert took(broker) == ["2"]


def test_a_taken_message_comes_again_only_after_its_lock(
    broker: PostgresBroker, other: PostgresBroker
) -> None:
    enqueue("a.task", "1")
    assert broker.dequeue()
    assert other.dequeue() is None
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_q_ormq SET lock = lock - make_interval(secs => %s)",
                       [Conf.RETRY])  # fmt: skip
    assert took(other) == ["1"]


def test_what_a_process_takes_that_is_killed_before_it_has_handed_it_on_is_there_at_once(
    broker: PostgresBroker, other: PostgresBroker
) -> None:
    enqueue("a.task", "1")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            broker.take(lambda _message: (os.write(writing, b"taken"), time.sleep(LONG)))
        finally:
            os._exit(1)
    assert os.read(reading, 5) == b"taken"
    assert other.dequeue() is None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert eventually(lambda: took(other) == ["1"], seconds=SOON)


def test_what_can_not_be_handed_on_is_not_taken(broker: PostgresBroker) -> None:
    enqueue("a.task", "1")

    def refuse(_message: object) -> None:
        raise RuntimeError("no room")

    with pytest.raises(RuntimeError):
        broker.take(refuse)
    assert took(broker) == ["1"]


def test_an_acknowledged_message_is_gone(broker: PostgresBroker) -> None:
    enqueue("a.task", "1")
    [(message_id, _payload)] = broker.dequeue() or []
    broker.acknowledge(message_id)
    assert not OrmQ.objects.exists()
    broker.acknowledge(message_id)  # and once more does no harm


def test_counts_and_purges_the_queues_that_it_serves(broker: PostgresBroker) -> None:
    for queue in (SHARED_QUEUE, node_queue(HERE), node_queue("another-node")):
        enqueue("a.task", "1", queue=queue)
    assert broker.queue_size() == 2
    broker.dequeue()
    assert (broker.queue_size(), broker.lock_size()) == (1, 1)
    broker.purge_queue()
    assert (broker.queue_size(), broker.lock_size()) == (0, 0)
    assert OrmQ.objects.get().key == node_queue("another-node")


def test_a_node_takes_back_what_its_last_cluster_had_taken(
    broker: PostgresBroker, other: PostgresBroker
) -> None:
    enqueue("a.task", "mine", queue=node_queue(HERE))
    enqueue("a.task", "anyones")
    took(broker)
    release_claims(HERE)
    assert took(other) == ["mine", "anyones"]


def test_goes_on_when_its_connection_is_terminated(broker: PostgresBroker) -> None:
    terminate(backend_pid(broker))
    enqueue("a.task", "1")
    assert broker.dequeue() is None  # notices, logs it, and doesn't raise
    assert took(broker) == ["1"]


def test_goes_on_when_its_connection_is_terminated_while_it_waits(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = backend_pid(broker)
    monkeypatch.setattr("codeexec.taskqueue.broker.WAIT_SECONDS", LONG)
    ender = threading.Timer(0.1, terminate_from_elsewhere, [pid])
    ender.start()
    started = time.monotonic()
    assert broker.dequeue() is None
    assert time.monotonic() - started < SOON
    ender.join()
    monkeypatch.setattr("codeexec.taskqueue.broker.WAIT_SECONDS", WAIT_SECONDS)
    enqueue("a.task", "1")
    assert took(broker) == ["1"]


def terminate_from_elsewhere(pid: int) -> None:
    parameters = {
        name: value
        for name, value in connection.get_connection_params().items()
        if name not in ("context", "cursor_factory")
    }
    with psycopg.connect(**parameters) as another:
        another.execute("SELECT pg_terminate_backend(%s)", [pid])


def test_a_database_that_is_away_is_waited_for(
    broker: PostgresBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setitem(connection.settings_dict, "HOST", "/nowhere")
        for _call in range(3):
            assert broker.dequeue() is None
        broker.acknowledge(1)
    enqueue("a.task", "1")
    assert took(broker) == ["1"]


def test_an_acknowledgement_survives_a_lost_connection(broker: PostgresBroker) -> None:
    enqueue("a.task", "1")
    [(message_id, _payload)] = broker.dequeue() or []
    broker.acknowledge(0)  # no message has this id
    terminate(backend_pid(broker))
    terminate(broker._connect().info.backend_pid)
    broker.acknowledge(message_id)
    assert not OrmQ.objects.exists()


def test_a_copy_and_a_fork_have_connections_of_their_own(broker: PostgresBroker) -> None:
    mine = backend_pid(broker)
    copy = pickle.loads(pickle.dumps(broker))  # noqa: S301
    assert backend_pid(copy) != mine
    copy.close()
    enqueue("a.task", "1")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, f"{backend_pid(broker)} {took(broker)}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as report:
        assert report.read().split(maxsplit=1)[1:] == ["['1']"]
    os.waitpid(child, 0)
    assert backend_pid(broker) == mine  # and the parent's still works
    enqueue("a.task", "2")
    assert took(broker) == ["2"]


def test_taking_a_message_uses_an_index() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'django_q_ormq'")
        definitions = [row[0] for row in cursor.fetchall()]
    assert any(definition.endswith("(key, lock)") for definition in definitions)
