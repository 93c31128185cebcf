"""Database connections that many threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from django.db import connection, transaction

from codeexec.db.connection_pool import ConnectionPool
from codeexec.db.postgres import connection_parameters
from tests.support.patience import LONG
from tests.support.racing import in_connection_of_its_own
from tests.support.stack import eventually

pytestmark = pytest.mark.django_db(transaction=True, available_apps=["django_q"])
LIMIT = 2


@pytest.fixture
def lender() -> Iterator[ConnectionPool]:
    lender = ConnectionPool(LIMIT)
    yield lender
    lender.close()


def backend() -> int:
    """The server process of this thread's connection, as it is now."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def lent_backend(lender: ConnectionPool) -> int:
    with lender.borrowed():
        return backend()


def backends() -> set[int]:
    """All there are but this thread's own."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        )
        return {row[0] for row in cursor.fetchall()}


def gone(pid: int) -> bool:
    """The server takes a moment to end what was closed."""
    return bool(eventually(lambda: pid not in backends()))


def end(pid: int) -> None:
    with psycopg.connect(**connection_parameters("test"), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])


def test_many_threads_share_few_connections(lender: ConnectionPool) -> None:
    with ThreadPoolExecutor(16) as pool:
        used = list(pool.map(lent_backend, [lender] * 200))
    assert len(set(used)) <= LIMIT
    assert set(used) <= backends()


def test_a_thread_waits_until_a_connection_is_free(lender: ConnectionPool) -> None:
    with ThreadPoolExecutor(1) as pool, lender.borrowed():
        mine = backend()
        with ThreadPoolExecutor(1) as elsewhere:
            holding, release = threading.Event(), threading.Event()

            def hold() -> None:
                with lender.borrowed():
                    holding.set()
                    release.wait(LONG)

            held = elsewhere.submit(hold)
            assert holding.wait(LONG)
            third = pool.submit(lent_backend, lender)
            with pytest.raises(TimeoutError):
                third.result(0.2)
            release.set()
            held.result(LONG)
            assert third.result(LONG) != mine


def test_the_last_used_is_lent_first(lender: ConnectionPool) -> None:
    assert len({lent_backend(lender) for _ in range(10)}) == 1


def test_a_thread_has_its_own_again_afterwards(lender: ConnectionPool) -> None:
    mine = backend()
    assert lent_backend(lender) != mine
    assert backend() == mine


def test_a_thread_that_only_borrows_opens_none(lender: ConnectionPool) -> None:
    lent_backend(lender)
    before = backends()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lent_backend, lender).result(LONG) in before
        assert backends() == before


def test_an_error_gives_it_back_and_undoes_what_was_begun(lender: ConnectionPool) -> None:
    for _ in range(LIMIT + 1):
        with pytest.raises(KeyError), lender.borrowed(), transaction.atomic():
            connection.cursor().execute("CREATE TABLE never (id int)")
            raise KeyError
    with lender.borrowed(), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('never')")
        assert cursor.fetchone() == (None,)


def test_one_that_the_server_has_ended_is_replaced(lender: ConnectionPool) -> None:
    ended = lent_backend(lender)
    end(ended)
    assert lent_backend(lender) not in (ended, None)


def test_one_that_ends_in_use_is_replaced_the_next_time(lender: ConnectionPool) -> None:
    with pytest.raises(Exception, match=r"terminat|closed"), lender.borrowed():
        pid = backend()
        end(pid)
        backend()
    assert lent_backend(lender) != pid


def test_closed_ones_come_back_on_use(lender: ConnectionPool) -> None:
    used = lent_backend(lender)
    lender.close()
    assert gone(used)
    assert lent_backend(lender) != used


def test_threads_that_end_leave_theirs_to_the_lender(lender: ConnectionPool) -> None:
    with ThreadPoolExecutor(1) as pool:
        borrowed = pool.submit(lent_backend, lender).result(LONG)
        own = pool.submit(in_connection_of_its_own, backend).result(LONG)
    assert gone(own)
    assert borrowed in backends()
    lender.close()
    assert gone(borrowed)
