"""Connections that receive PostgreSQL's notifications: in a thread, in an event loop, for a
command.

A lost connection is replaced after a pause that grows with each failure. Notifications that were
sent meanwhile are lost, so callers learn of each new connection and read the rows again.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

import psycopg

from codeexec.db.postgres import BoundedAsyncConnection, connection_parameters
from codeexec.outages import Outage

PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Before the first, second, … attempt to connect again, and before all later ones."""

Connection = psycopg.Connection[Any]


class Event(Protocol):
    """An event that can be polled beside a connection, such as `ipc.SafeEvent`."""

    def fileno(self) -> int: ...

    def wait(self, timeout: float | None = None) -> bool: ...


class Reconnecting:
    """What the listeners share: pauses between attempts, and the log of outages."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self._failures = 0

    def failed(self, error: BaseException) -> float:
        """Returns how many seconds to wait before the next attempt. A connection that is replaced
        at the first attempt is no outage.
        """
        if self._failures:
            self._outage.failed(error)
        pause = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._failures += 1
        return pause

    def worked(self) -> None:
        self._failures = 0
        self._outage.worked()


class Listener:
    """For one thread, which may use the connection for statements of its own between two calls of
    `receive`. Connects when it is first used.
    """

    def __init__(
        self,
        name: str,
        *channels: str,
        outage: Outage,
        on_connect: Callable[[Connection], None] = lambda connection: None,
    ) -> None:
        """`name` is how PostgreSQL shows the connection. `on_connect` is called with each new
        connection that listens; what it raises counts as a failure to connect.
        """
        self._name, self._channels = name, channels
        self._on_connect = on_connect
        self._reconnecting = Reconnecting(outage)
        self._connection: Connection | None = None
        self._received: list[str] = []

    def connection(self) -> Connection:
        """Open, and listening. Raises psycopg.Error, OSError: then call `failed`."""
        return self._connection or self._connect()

    def receive(self, seconds: float | None, *, stop: Event | None = None) -> list[str] | None:
        """The payloads that have arrived since the last call. Where there are none they are waited
        for, `seconds` at most, or until `stop` is set.

        None, without any wait for notifications: the connection was lost or is new, so some may
        have been missed.
        """
        try:
            if self._connection is None:
                self._connect()
                self.worked()
                return None
            self._wait(self._connection, seconds, stop)
        except (psycopg.Error, OSError) as error:
            self.failed(error, stop=stop)
            return None
        received, self._received = self._received, []
        return received

    def worked(self) -> None:
        """The database did what was asked of it: an outage is over."""
        self._reconnecting.worked()

    def failed(self, error: BaseException, *, stop: Event | None = None) -> None:
        """Gives the connection up and waits a little, until `stop` is set at most."""
        self.close()
        pause = self._reconnecting.failed(error)
        if stop is None:
            time.sleep(pause)
        else:
            stop.wait(pause)

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self) -> Connection:
        connection = psycopg.connect(**connection_parameters(self._name), autocommit=True)
        try:
            # psycopg takes in what arrives during a statement.
            connection.add_notify_handler(lambda notify: self._received.append(notify.payload))
            for channel in self._channels:
                connection.execute(_listen(channel))
            self._on_connect(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _wait(self, connection: Connection, seconds: float | None, stop: Event | None) -> None:
        """Takes in all that has arrived: callers choose among all of it."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if stop is not None:
            poll.register(stop.fileno(), select.POLLIN)
        self._take_in(connection)
        milliseconds = None if seconds is None else 1000 * seconds
        while connection.fileno() in dict(poll.poll(0 if self._received else milliseconds)):
            connection.pgconn.consume_input()
            self._take_in(connection)
            milliseconds = 0

    def _take_in(self, connection: Connection) -> None:
        while notification := connection.pgconn.notifies():
            self._received.append(notification.extra.decode())


class AsyncListener:
    """For the event loop in which `notifications` is awaited."""

    def __init__(self, name: str, *channels: str, outage: Outage) -> None:
        self._name, self._channels = name, channels
        self._reconnecting = Reconnecting(outage)
        self.is_connected = False
        """May be read in any thread."""

    async def notifications(self) -> AsyncGenerator[psycopg.Notify | None]:
        """All of them, for ever. None stands for each new connection: some may have been missed."""
        while True:
            pause = 0.0
            try:
                async with await self._connect() as connection:
                    self._reconnecting.worked()
                    self.is_connected = True
                    yield None
                    async for notification in connection.notifies():
                        yield notification
            except (psycopg.Error, OSError) as error:
                pause = self._reconnecting.failed(error)
            finally:
                self.is_connected = False
            await asyncio.sleep(pause)

    async def _connect(self) -> BoundedAsyncConnection:
        parameters = connection_parameters(self._name)
        connection = await BoundedAsyncConnection.connect(**parameters, autocommit=True)
        try:
            for channel in self._channels:
                await connection.execute(_listen(channel))
        except BaseException:
            await connection.close()
            raise
        return connection


@contextmanager
def listening(name: str, channel: str) -> Iterator[Connection]:
    """For a command, which ends where its connection is lost. Raises psycopg.Error."""
    parameters = connection_parameters(name)
    with closing(psycopg.connect(**parameters, autocommit=True)) as connection:
        connection.execute(_listen(channel))
        yield connection


def _listen(channel: str) -> bytes:
    return f'LISTEN "{channel}"'.encode()
