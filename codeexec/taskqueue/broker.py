"""django-q2's queue on PostgreSQL's LISTEN/NOTIFY and FOR UPDATE SKIP LOCKED.

Messages are rows of django-q2's own table. One is taken in a transaction that ends when it has been
handed on: who dies before that gives it back by losing its connection. From then on it is locked
for `retry` seconds, and deleted when its task has ended.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, cast

import psycopg
from django.conf import settings
from django.db.models import QuerySet
from django.db.models.functions import Now
from django_q.brokers import Broker
from django_q.conf import Conf
from django_q.models import OrmQ

from codeexec.db.postgres import connection_parameters
from codeexec.taskqueue.enqueue import CHANNEL, SHARED_QUEUE, node_queue, send

logger = logging.getLogger(__name__)

Message = tuple[int, str]

WAIT_SECONDS = 0.5
"""How long `dequeue` waits: the pusher looks for its stop event between two calls."""
_BACKOFF_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)

# Out of the shared queue into the node's own: should all of the cluster die, the next one of this
# node knows what it had taken.
_CLAIM = """
    UPDATE django_q_ormq SET lock = now() + make_interval(secs => %s), key = %s
    WHERE id = (
        SELECT id FROM django_q_ormq
        WHERE key = ANY(%s) AND lock <= now()
        ORDER BY id LIMIT 1
        FOR UPDATE SKIP LOCKED
    )
    RETURNING id, payload
"""
_DELETE = "DELETE FROM django_q_ormq WHERE id = %s"
_RELEASE = "UPDATE django_q_ormq SET lock = now() WHERE key = %s AND lock > now()"

# Connections of a process that this one was forked from. They are kept, never closed: the end of
# the Python object would say goodbye to the server on the socket that the other process speaks on.
_inherited: list[psycopg.Connection[Any]] = []


class PostgresBroker(Broker):  # type: ignore[misc]
    """Writes to the queue `list_key`; takes from it, the shared queue's from this node's as well.

    Claims and acknowledgements go over a connection of the broker's own, which never raises out
    of here: a database that is away is waited for.
    """

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key or SHARED_QUEUE)
        self._reset()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._reset()

    def _reset(self) -> None:
        self._connection: psycopg.Connection[Any] | None = None
        self._listening = False
        self._process_id = os.getpid()
        self._failures = 0

    @property
    def keys(self) -> list[str]:
        """The queues that this broker takes from."""
        if self.list_key != SHARED_QUEUE:
            return [self.list_key]
        return [SHARED_QUEUE, node_queue(settings.CODE_EXECUTOR["NODE_NAME"])]

    def enqueue(self, task: str) -> int:
        return send(self.list_key, task)

    def dequeue(self) -> list[Message] | None:
        """The next message, waited for WAIT_SECONDS at most; None when there is none."""
        messages: list[Message] = []
        taken = self.take(messages.append)
        return messages if taken else None

    def take(self, hand_on: Callable[[Message], None]) -> bool:
        """The next message is handed on, if there is one within WAIT_SECONDS. Where this process
        dies before `hand_on` returns, or that raises, anybody may take it again at once.
        """
        try:
            connection = self._listen()
            taken = self._claim(connection, hand_on)
            if not taken and self._wait(connection):
                taken = self._claim(connection, hand_on)
        except (psycopg.Error, OSError) as error:
            self._database_failed(error)
            return False
        if self._failures:
            logger.warning("The queue's database is back")
            self._failures = 0
        return taken

    def acknowledge(self, task_id: int) -> None:
        """Delete a message. Where even a new connection fails, it comes again, and does nothing."""
        for _attempt in range(2):
            try:
                self._connect().execute(_DELETE, [task_id])
                return
            except (psycopg.Error, OSError) as error:
                self._disconnect()
                reason = error
        logger.warning("Message %s can't be deleted now: %s", task_id, reason)

    def delete(self, task_id: int) -> None:
        self.acknowledge(task_id)

    def fail(self, task_id: int) -> None:
        """A message that can't be read never will be: it is deleted."""
        self.acknowledge(task_id)

    def queue_size(self) -> int:
        return self._messages().filter(lock__lte=Now()).count()

    def lock_size(self) -> int:
        return self._messages().filter(lock__gt=Now()).count()

    def purge_queue(self) -> None:
        self._messages().delete()

    def delete_queue(self) -> None:
        self.purge_queue()

    def ping(self) -> bool:
        return True  # a cluster starts without its database as well, and waits for it

    def info(self) -> str:
        return "PostgreSQL LISTEN/NOTIFY"

    def close(self) -> None:
        self._disconnect()

    def _messages(self) -> QuerySet[Any]:
        messages: QuerySet[Any] = OrmQ.objects.filter(key__in=self.keys)
        return messages

    def _connect(self) -> psycopg.Connection[Any]:
        if self._process_id != os.getpid():
            if self._connection is not None:
                _inherited.append(self._connection)
            self._reset()
        if self._connection is None:
            parameters = connection_parameters("code-executor queue")
            self._connection = psycopg.connect(**parameters, autocommit=True)
            # What a crash of the server takes back here is a claim or a deletion: the message
            # comes again and does nothing. So nobody waits for a disk.
            self._connection.execute("SET synchronous_commit = off")
        return self._connection

    def _listen(self) -> psycopg.Connection[Any]:
        connection = self._connect()
        if not self._listening:
            connection.execute(f"LISTEN {CHANNEL}")
            self._listening = True
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None and self._process_id == os.getpid():
            self._connection.close()
        self._connection, self._listening = None, False

    def _claim(
        self, connection: psycopg.Connection[Any], hand_on: Callable[[Message], None]
    ) -> bool:
        with connection.transaction():
            row = connection.execute(_CLAIM, [Conf.RETRY, self.keys[-1], self.keys]).fetchone()
            if row is not None:
                hand_on(cast(Message, row))
        return row is not None

    def _wait(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether a message for one of the keys was announced in time."""
        keys = self.keys
        announced = connection.notifies(timeout=WAIT_SECONDS)
        return any(notification.payload in keys for notification in announced)

    def _database_failed(self, error: Exception) -> None:
        if not self._failures:
            logger.warning("The queue's database is away, waiting for it: %s", error)
        self._disconnect()
        time.sleep(_BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)])
        self._failures += 1


def release_claims(node_name: str) -> None:
    """Give back what the node's previous cluster had taken from the node's own queue.

    For a cluster that starts: nobody else takes from that queue, so its locks are those of the
    dead, of what they had taken from the shared queue, too.
    """
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, [node_queue(node_name)])
