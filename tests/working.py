"""Doing a worker's work in a test, one message after the other and in the calling thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from django.db import connections
from django.utils.module_loading import import_string
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from codeexec.broker import PostgresBroker
from codeexec.queueing import SHARED_QUEUE


@dataclass(frozen=True)
class Delivery:
    """A message: the task's function, without its module, and the id that it carries."""

    task: str
    ids: tuple[str, ...]


def read(payload: str) -> tuple[str, tuple[str, ...]]:
    message = SignedPackage.loads(payload)
    return message["func"], tuple(message["args"])


def delivery(payload: str) -> Delivery:
    function, ids = read(payload)
    return Delivery(function.rpartition(".")[2], ids)


def queued(key: str | None = None) -> list[Delivery]:
    """What the queue holds now, the oldest first."""
    messages = OrmQ.objects.order_by("pk")
    if key is not None:
        messages = messages.filter(key=key)
    return [delivery(message.payload) for message in messages]


def lose_messages() -> None:
    """A worker took them and died."""
    OrmQ.objects.all().delete()


def deliver(payload: str) -> None:
    function, ids = read(payload)
    import_string(function)(*ids)


def work_off() -> list[Delivery]:
    """Take each message there is, and those that follow from it; what they were, in order."""
    done = []
    with closing(PostgresBroker(SHARED_QUEUE)) as broker:
        while messages := broker.dequeue():
            for number, payload in messages:
                deliver(payload)
                broker.acknowledge(number)
                done.append(delivery(payload))
    return done


@contextmanager
def working(workers: int = 1) -> Iterator[None]:
    """Threads that do what comes, each with a broker and a database connection of its own."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while not stop.is_set():
                work_off()
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
