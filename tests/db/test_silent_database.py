"""A silent database (frozen, a lock held, a stalled disk) delays no request for long, and
what hung on it comes free.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from django.db import OperationalError, connection, transaction

from codeexec.db.postgres import ANSWER_SECONDS, begin_bounded_work
from codeexec.http.threads import in_thread, threads
from scripts.local_postgres import LocalPostgres
from tests.codeexec.test_deployment import api_process
from tests.conftest import Configure
from tests.support.databases import database_of_its_own, seeded
from tests.support.patience import SOON, eventually

TIMEOUT = 1.0
CALLS = [
    ("GET", "/sessions"),
    ("GET", "/environments"),
    ("GET", "/health"),
    ("GET", "/health/ready"),
    ("POST", "/sessions"),
    ("POST", "/execute"),
]
BODIES = {"/sessions": {"environment": "python"}, "/execute": {"code": "print(1)"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    """One of the tests' own, which they may stop."""
    folder = tmp_path_factory.mktemp("postgres")
    server = LocalPostgres(folder / "data", folder / "log", durable=False)
    (folder / "data").mkdir()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def database_url(server: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("DATABASE_URL", server.url)
    with database_of_its_own("silent", template=seeded()) as url:
        yield url


@pytest.fixture
def api(database_url: str, tmp_path: Path) -> Iterator[httpx.Client]:
    own = {"DATABASE_URL": database_url, "DATABASE_TIMEOUT": str(TIMEOUT), "API_AUTH": "open"}
    with api_process(tmp_path, **own) as client:
        assert eventually(lambda: status(client, "GET", "/sessions") == 200)
        yield client


@contextmanager
def frozen(server: LocalPostgres) -> Iterator[None]:
    assert server.part._process is not None
    main = psutil.Process(server.part._process.pid)
    main.send_signal(signal.SIGSTOP)
    stopped = [main, *main.children(recursive=True)]
    try:
        for process in stopped[1:]:
            process.send_signal(signal.SIGSTOP)
        yield
    finally:
        for process in reversed(stopped):
            process.send_signal(signal.SIGCONT)


@contextmanager
def locked(url: str, table: str) -> Iterator[None]:
    with psycopg.connect(url) as holding:
        holding.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")  # type: ignore[arg-type]
        yield


def ask(client: httpx.Client, method: str, path: str) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    body = BODIES[path] if method == "POST" else None
    answer = client.request(method, f"/api/v1{path}", json=body)
    return answer, time.monotonic() - begun


def status(client: httpx.Client, method: str, path: str) -> int:
    return ask(client, method, path)[0].status_code


@pytest.mark.thorough
def test_each_call_is_answered_503_and_all_is_well_again_afterwards(
    api: httpx.Client, server: LocalPostgres
) -> None:
    """Of twice as many at once as there are threads, each."""
    calls = CALLS * 4
    for _time in range(2):
        with frozen(server), ThreadPoolExecutor(len(calls)) as asking:
            answers = list(asking.map(lambda call: ask(api, *call), calls))
        assert {answer.status_code for answer, _seconds in answers} == {503}
        assert max(seconds for _answer, seconds in answers) < SOON
        assert eventually(lambda: status(api, "GET", "/sessions") == 200)
        assert eventually(lambda: status(api, "GET", "/health/ready") == 200)


@pytest.mark.thorough
def test_a_lock_holds_up_those_calls_alone_that_need_it(
    api: httpx.Client, database_url: str
) -> None:
    with locked(database_url, "sessions_app_session"):
        answer, seconds = ask(api, "GET", "/sessions")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_away")
        assert answer.json()["detail"].startswith("The database didn't answer in time")
        assert answer.headers["Retry-After"] == "5"
        assert TIMEOUT <= seconds < SOON
        assert status(api, "GET", "/environments") == 200
    assert status(api, "GET", "/sessions") == 200


# ---- the mechanism


@pytest.fixture
def bounded(configure: Configure) -> Iterator[None]:
    configure(DATABASE_TIMEOUT=TIMEOUT)
    yield
    threads.close()


def _statement_timeout() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SHOW statement_timeout")
        return str(cursor.fetchone()[0])


def _sleep(seconds: float) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(%s)", [seconds])


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("bounded")
class TestBound:
    def test_it_is_for_the_apis_threads_alone(self) -> None:
        """Migrations, upkeep and commands take as long as they take."""
        assert asyncio.run(in_thread(_statement_timeout)) == "1s"
        assert _statement_timeout() == "0"
        _sleep(TIMEOUT + ANSWER_SECONDS + 0.5)

    def test_the_server_ends_a_statement_and_the_connection_stays(self) -> None:
        def work() -> bool:
            pid = _backend()
            with pytest.raises(OperationalError, match="statement timeout"):
                _sleep(30)
            return _backend() == pid

        assert asyncio.run(in_thread(work))

    def test_a_transaction_that_meets_silence_is_given_up_with_its_connection(self) -> None:
        """As with a server that is frozen, which ends nothing itself."""

        pids: list[int] = []

        def work() -> None:
            pids.append(_backend())
            with pytest.raises(OperationalError, match="no answer"), transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET LOCAL statement_timeout TO 0")
                _sleep(30)
            begin_bounded_work()  # the next one in this thread
            pids.append(_backend())

        begun = time.monotonic()
        asyncio.run(in_thread(work))
        assert time.monotonic() - begun < SOON
        assert pids[0] != pids[1]
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", pids[:1])

    def test_a_piece_of_work_has_twice_that_for_all_its_statements(self) -> None:
        def work() -> None:
            for _statement in range(60):
                _sleep(TIMEOUT / 2)

        begun = time.monotonic()
        with pytest.raises(OperationalError):
            asyncio.run(in_thread(work))
        assert time.monotonic() - begun < SOON


def _backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])
