"""django-q2's queue on PostgreSQL's LISTEN/NOTIFY and FOR UPDATE SKIP LOCKED.

Messages are rows of django-q2's own table. A message is taken in a transaction that ends when it
has been handed on: a process that dies before that loses its connection, which gives the message
back. From then on it is locked for `retry` seconds, and it is deleted when its task has ended.
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

from codeexec.db.listener import Listener
from codeexec.db.postgres import connection_parameters
from codeexec.outages import Outage
from codeexec.taskqueue.enqueue import CHANNEL, SHARED_QUEUE, node_queue, send

logger = logging.getLogger(__name__)

Message = tuple[int, str]

WAIT_SECONDS = 0.5
"""How long `dequeue` waits: the pusher checks its stop event between two calls."""

# Moves a message from the shared queue to the node's own: should the whole cluster die, this node's
# next one knows which messages it had taken.
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

# Connections of the process that this one was forked from. They are kept and never closed: closing
# one would end the session that the other process uses.
_inherited: list[Any] = []


class PostgresBroker(Broker):  # type: ignore[misc]
    """Writes to the queue `list_key`; takes from it, the shared queue's from this node's as well.

    Claims and acknowledgements use connections of the broker's own. Their errors are never raised
    from here: a database that is away is waited for.
    """

    def __init__(self, list_key: str | None = None) -> None:
        super().__init__(list_key or SHARED_QUEUE)
        self._reset()

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self._reset()

    def _reset(self) -> None:
        self._process_id = os.getpid()
        self._listener = Listener(
            "code-executor queue", CHANNEL, outage=_outage, on_connect=_without_waiting_for_disks
        )
        self._connection: psycopg.Connection[Any] | None = None
        """For processes that acknowledge and don't take: they must not listen, for they would never
        read what they are sent.
        """

    @property
    def keys(self) -> list[str]:
        """The queues that this broker takes from."""
        if self.list_key != SHARED_QUEUE:
            return [self.list_key]
        return [SHARED_QUEUE, node_queue(settings.CODE_EXECUTOR["NODE_NAME"])]

    def enqueue(self, task: str) -> int:
        return send(self.list_key, task)

    def dequeue(self) -> list[Message] | None:
        """The next message; None when none comes within WAIT_SECONDS."""
        messages: list[Message] = []
        taken = self.take(messages.append)
        return messages if taken else None

    def take(self, hand_on: Callable[[Message], None]) -> bool:
        """Call `hand_on` with the next message, if there is one within WAIT_SECONDS. Where this
        process dies before `hand_on` returns, or that raises, the message can be taken again at
        once.
        """
        self._leave_inherited()
        try:
            taken = self._claim(hand_on) or (self._is_announced() and self._claim(hand_on))
        except (psycopg.Error, OSError) as error:
            self._listener.failed(error)
            return False
        self._listener.worked()
        return taken

    def acknowledge(self, task_id: int) -> None:
        """Delete a message. If that fails over a new connection too, the message is delivered
        again, and does nothing.
        """
        self._leave_inherited()
        for _attempt in range(2):
            try:
                self._connect().execute(_DELETE, [task_id])
                return
            except (psycopg.Error, OSError) as error:
                self._disconnect()
                reason = error
        logger.warning("Message %s can't be deleted now: %s", task_id, reason)

    delete = acknowledge
    fail = acknowledge  # what can't be read never can be

    def queue_size(self) -> int:
        return self._messages().filter(lock__lte=Now()).count()

    def lock_size(self) -> int:
        return self._messages().filter(lock__gt=Now()).count()

    def purge_queue(self) -> None:
        self._messages().delete()

    delete_queue = purge_queue

    def ping(self) -> bool:
        return True  # a cluster may start before its database

    def info(self) -> str:
        return "PostgreSQL LISTEN/NOTIFY"

    def close(self) -> None:
        self._leave_inherited()
        self._disconnect()
        self._listener.close()

    def _messages(self) -> QuerySet[Any]:
        messages: QuerySet[Any] = OrmQ.objects.filter(key__in=self.keys)
        return messages

    def _leave_inherited(self) -> None:
        if self._process_id != os.getpid():
            _inherited.extend((self._listener, self._connection))
            self._reset()

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            parameters = connection_parameters("code-executor queue")
            self._connection = psycopg.connect(**parameters, autocommit=True)
            _without_waiting_for_disks(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _claim(self, hand_on: Callable[[Message], None]) -> bool:
        connection = self._listener.connection()
        with connection.transaction():
            row = connection.execute(_CLAIM, [Conf.RETRY, self.keys[-1], self.keys]).fetchone()
            if row is not None:
                hand_on(cast(Message, row))
        return row is not None

    def _is_announced(self) -> bool:
        """Whether a message for one of the keys was announced in time."""
        keys, deadline = set(self.keys), time.monotonic() + WAIT_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            announced = self._listener.receive(left)
            if announced is None:
                return False  # the next call claims what was announced meanwhile
            if keys.intersection(announced):
                return True
        return False


_outage = Outage(logger, "The queue's database")


def _without_waiting_for_disks(connection: psycopg.Connection[Any]) -> None:
    """A crash of the server may undo a claim or a deletion: then the message is delivered again and
    does nothing.
    """
    connection.execute("SET synchronous_commit = off")


def release_claims(node_name: str) -> None:
    """Unlock the messages that the node's previous cluster had taken.

    For a cluster that starts. Only the node's cluster takes from the node's queue, so all its locks
    are left from processes that have died.
    """
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(_RELEASE, [node_queue(node_name)])
