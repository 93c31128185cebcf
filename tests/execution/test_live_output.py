"""What programs write, on its way into rows: each row once and in order, in few statements, also
where the database was away meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from django.db import OperationalError, connection

from codeexec.db.connection_pool import ConnectionPool
from codeexec.db.notifications import CHANNEL
from codeexec.sandbox.driver import Output
from environments_app.models import Environment
from sessions_app.execution import live_output
from sessions_app.execution.live_output import ROW_BYTES, LiveOutput, RunOutput
from sessions_app.models import Event, Node, Session
from sessions_app.models.output_event import Stage
from tests.support.cast import claim, claim_of, new_execution, session_in
from tests.support.patience import LONG, SOON, eventually
from tests.support.working import notified_on

pytestmark = pytest.mark.django_db(transaction=True)
OUT, ERR = Output.STDOUT, Output.STDERR


class Database:
    """The way to the database, which a test may shut."""

    def __init__(self) -> None:
        self._pool = ConnectionPool(1)
        self._open = threading.Event()
        self._open.set()
        self.is_away = self.loses_answers = False
        self.uses = 0

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        assert self._open.wait(LONG)
        self.uses += 1
        if self.is_away:
            raise OperationalError("connection refused")
        with self._pool.borrowed():
            yield
        if self.loses_answers:
            raise OperationalError("server closed the connection unexpectedly")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Callers wait for it for the duration of the `with`."""
        self._open.clear()
        yield
        self._open.set()

    def fails_again(self, times: int) -> Callable[[], bool]:
        """Whether it has been tried so many times from now on."""
        then = self.uses + times
        return lambda: self.uses >= then

    def close(self) -> None:
        self._pool.close()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(live_output, "_RETRY_SECONDS", 0.02)
    database = Database()
    yield database
    database.close()


@pytest.fixture
def live(database: Database) -> Iterator[LiveOutput]:
    live = LiveOutput(database.borrowed)
    yield live
    database.is_away = database.loses_answers = False
    live.close()


NewRun = Callable[[], RunOutput]


@pytest.fixture
def new_run(live: LiveOutput, python: Environment, this: Node) -> NewRun:
    """Makes one that has written nothing yet."""

    def made() -> RunOutput:
        execution = new_execution(session_in(Session.Status.READY, python, this))
        assert claim(execution)
        return live.of(claim_of(execution))

    return made


@pytest.fixture
def run(new_run: NewRun) -> RunOutput:
    return new_run()


def rows(run: RunOutput) -> list[Event]:
    return list(Event.objects.filter(execution_id=run.execution_id).order_by("number"))


def written(run: RunOutput, stage: Stage = Stage.RUN, stream: Output = OUT) -> bytes:
    mine = [each for each in rows(run) if (each.stage, each.stream) == (stage, stream.value)]
    return b"".join(bytes(each.data) for each in mine)


def until_written(run: RunOutput, data: bytes) -> None:
    assert eventually(lambda: written(run) == data), written(run)[-100:]


# ---- rows


def test_rows_have_what_was_written_in_its_order(
    live: LiveOutput, database: Database, run: RunOutput
) -> None:
    with database.busy():
        for stage, stream, data in [
            (Stage.COMPILE, ERR, b"a warning\n"),
            (Stage.RUN, OUT, b"one "),
            (Stage.RUN, OUT, b"two "),  # goes with the one before
            (Stage.RUN, ERR, b"oh\n"),
            (Stage.RUN, OUT, b"three\n"),
        ]:
            live.write(run, stage, stream, data)
    until_written(run, b"one two three\n")
    assert [(r.number, r.stage, r.stream, r.start, bytes(r.data)) for r in rows(run)] == [
        (1, "compile", "stderr", 0, b"a warning\n"),
        (2, "run", "stdout", 0, b"one two "),
        (3, "run", "stderr", 0, b"oh\n"),
        (4, "run", "stdout", 8, b"three\n"),
    ]


def test_numbers_and_positions_go_on_from_one_statement_to_the_next(
    live: LiveOutput, run: RunOutput
) -> None:
    so_far = b""
    for number in range(5):
        live.write(run, Stage.RUN, OUT, b"line %d\n" % number)
        so_far += b"line %d\n" % number
        until_written(run, so_far)
    assert [(each.number, each.start) for each in rows(run)] == [(n + 1, 7 * n) for n in range(5)]


def test_a_row_has_no_more_bytes_than_it_may_and_no_half_characters(
    live: LiveOutput, database: Database, run: RunOutput
) -> None:
    text = ("я" * 100_001 + "a").encode()
    live.write(run, Stage.RUN, OUT, text)
    until_written(run, text)
    sizes = [len(bytes(each.data)) for each in rows(run)]
    assert max(sizes) <= ROW_BYTES and len(sizes) == 4
    assert all(bytes(each.data).decode() for each in rows(run))


def test_bytes_that_are_no_text_are_kept_as_they_are(live: LiveOutput, run: RunOutput) -> None:
    data = bytes(range(256)) * 1000
    live.write(run, Stage.RUN, OUT, data)
    until_written(run, data)


def test_what_many_runs_write_at_the_same_time_keeps_its_order(
    live: LiveOutput, new_run: NewRun
) -> None:
    runs = [new_run() for _ in range(8)]
    lines = [b"%d\n" % number for number in range(300)]

    def write(run: RunOutput) -> None:
        for line in lines:
            live.write(run, Stage.RUN, OUT, line)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    for run in runs:
        until_written(run, b"".join(lines))
        assert [each.number for each in rows(run)] == list(range(1, len(rows(run)) + 1))


# ---- statements


def test_what_comes_while_a_statement_is_sent_goes_with_the_next_one(
    live: LiveOutput, database: Database, new_run: NewRun
) -> None:
    runs = [new_run() for _ in range(3)]
    with database.busy():
        for _ in range(200):
            for run in runs:
                live.write(run, Stage.RUN, OUT, b"x")
    for run in runs:
        until_written(run, b"x" * 200)
        assert len(rows(run)) <= 2  # what came before the thread had begun may have its own
    assert database.uses <= 2


def test_a_statement_has_a_bound(
    live: LiveOutput, monkeypatch: pytest.MonkeyPatch, new_run: NewRun
) -> None:
    monkeypatch.setattr(live_output, "STATEMENT_BYTES", 1000)
    sizes, write = [], live_output.write_events

    def measured(events: list[live_output.EventRow], sessions: set[UUID]) -> None:
        sizes.append(sum(len(each.data) for each in events))
        write(events, sessions)

    monkeypatch.setattr(live_output, "write_events", measured)
    runs = [new_run() for _ in range(10)]
    with live._changed:  # all of it is there before any of it is written
        for run in runs:
            live.write(run, Stage.RUN, OUT, b"x" * 400)
    for run in runs:
        until_written(run, b"x" * 400)
    assert sizes == [1200, 1200, 1200, 400]


def test_watchers_are_notified_once_for_each_statement(live: LiveOutput, run: RunOutput) -> None:
    with notified_on(CHANNEL) as told:
        live.notify_running(run)
        assert eventually(lambda: told() == [str(run.session_id)])
        live.notify_running(run)  # once is enough
        live.write(run, Stage.RUN, OUT, b"x")
        until_written(run, b"x")
        assert told() == [str(run.session_id)]
    assert len(rows(run)) == 1


def test_a_run_that_has_ended_leaves_no_rows(live: LiveOutput, new_run: NewRun) -> None:
    ended, other = new_run(), new_run()
    for run in (ended, other):
        live.write(run, Stage.RUN, OUT, b"x")
        until_written(run, b"x")
    live.write(ended, Stage.RUN, OUT, b"never needed")
    live.forget(ended)
    assert eventually(lambda: not rows(ended))
    assert written(other) == b"x"


def test_what_there_is_can_be_written_by_the_calling_thread(
    live: LiveOutput, database: Database, run: RunOutput
) -> None:
    with database.busy():
        live.write(run, Stage.RUN, OUT, b"so far")
        live.flush()
        assert written(run) == b"so far"
    live.write(run, Stage.RUN, OUT, b", and more")
    until_written(run, b"so far, and more")


# ---- the database is away


def test_nothing_is_lost_and_nothing_written_twice_where_the_database_was_away(
    live: LiveOutput, database: Database, caplog: pytest.LogCaptureFixture, run: RunOutput
) -> None:
    live.write(run, Stage.RUN, OUT, b"before ")
    until_written(run, b"before ")
    with caplog.at_level(logging.WARNING):
        database.is_away = True
        for word in (b"mean", b"while "):
            live.write(run, Stage.RUN, OUT, word)
            assert eventually(database.fails_again(2))
        assert written(run) == b"before "
        database.is_away = False
        until_written(run, b"before meanwhile ")
        live.write(run, Stage.RUN, OUT, b"after")
        until_written(run, b"before meanwhile after")
    assert [each.number for each in rows(run)] == list(range(1, len(rows(run)) + 1))
    messages = [each.getMessage() for each in caplog.records]
    assert ["is away" in messages[0], "is back after" in messages[1]] == [True, True]
    assert len(messages) == 2


def test_a_statement_whose_answer_was_lost_is_repeated_without_harm(
    live: LiveOutput, database: Database, run: RunOutput
) -> None:
    database.loses_answers = True
    live.write(run, Stage.RUN, OUT, b"once ")
    until_written(run, b"once ")
    live.write(run, Stage.RUN, OUT, b"and again")
    database.loses_answers = False
    until_written(run, b"once and again")


def test_a_broken_connection_is_replaced(live: LiveOutput, run: RunOutput) -> None:
    live.write(run, Stage.RUN, OUT, b"one ")
    until_written(run, b"one ")
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    live.write(run, Stage.RUN, OUT, b"two")
    until_written(run, b"one two")


def test_rows_of_a_run_that_ended_while_the_database_was_away_go(
    live: LiveOutput, database: Database, run: RunOutput
) -> None:
    live.write(run, Stage.RUN, OUT, b"x")
    until_written(run, b"x")
    database.is_away = True
    live.forget(run)
    assert eventually(database.fails_again(2))
    assert rows(run)
    database.is_away = False
    assert eventually(lambda: not rows(run))


def test_it_ends_though_the_database_is_away_and_logs_it_once(
    caplog: pytest.LogCaptureFixture, database: Database, run: RunOutput
) -> None:
    database.is_away = True
    live = LiveOutput(database.borrowed)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            live.write(run, Stage.RUN, OUT, b"x\n")
            time.sleep(0.05)
        assert eventually(lambda: caplog.records)
        began = time.monotonic()
        live.close()
        assert time.monotonic() - began < SOON
    (record,) = caplog.records
    assert "is away" in record.getMessage()


def test_an_error_in_the_service_loses_what_it_was_about_and_no_more(
    live: LiveOutput,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    run: RunOutput,
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(live_output, "write_events", lambda *_: 1 / 0)
        live.write(run, Stage.RUN, OUT, b"lost ")
        assert eventually(lambda: "live output was lost" in caplog.text)
    live.write(run, Stage.RUN, OUT, b"kept")
    until_written(run, b"kept")
    assert [each.start for each in rows(run)] == [len(b"lost ")]
