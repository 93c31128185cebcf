"""Liveness and readiness are two things: a process that can't serve now need not be killed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from django.db import OperationalError

from codeexec.db.async_database import async_database
from codeexec.db.notifications import hub
from codeexec.http.request_metrics import request_metrics
from codeexec.http.threads import threads
from sessions_app.models import Node
from sessions_app.monitoring import readiness
from tests.conftest import LONG, Configure
from tests.support.api_client import Api

pytestmark = pytest.mark.django_db(transaction=True)

ALL_WELL = dict.fromkeys(("accepting", "database", "notifications", "migrations"), "ok")


@pytest.fixture(autouse=True)
def nothing_is_known_of_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_known", readiness._Known())


async def away(*_arguments: Any, **_options: Any) -> None:
    raise OperationalError("the database is away")


def not_ready(api: Api) -> list[str]:
    """The parts that keep it from being ready."""
    answer = api.get("/health/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "not_ready")
    assert answer.headers["Retry-After"] == "5"
    return [part for part, check in answer.json()["checks"].items() if check != "ok"]


class TestReady:
    def test_a_process_that_can_serve_is_ready(self, api: Api) -> None:
        answer = api.get("/health/ready")
        assert (answer.status_code, answer.json()) == (200, {"status": "ready", "checks": ALL_WELL})

    def test_it_is_so_without_workers_which_no_other_process_has_either(self, api: Api) -> None:
        Node.objects.all().delete()
        assert api.get("/health").status_code == 503
        assert api.get("/health/ready").status_code == 200

    def test_not_without_a_database(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(async_database, "fetch_one", away)
        assert not_ready(api) == ["database", "migrations"]

    def test_not_while_it_does_not_hear_the_database(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(hub), "is_connected", False)
        assert not_ready(api) == ["notifications"]

    def test_not_before_the_migrations(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(readiness, "_nothing_to_migrate", lambda: False)
            assert not_ready(api) == ["migrations"]
        assert api.get("/health/ready").status_code == 200

    def test_migrations_are_looked_up_until_they_are_there(
        self, api: Api, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert api.get("/health/ready").status_code == 200
        monkeypatch.setattr(readiness, "_nothing_to_migrate", lambda: False)
        assert api.get("/health/ready").status_code == 200

    def test_only_changes_are_logged(
        self, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(async_database, "fetch_one", away)
            for _ in range(2):
                not_ready(api)
        for _ in range(2):
            api.get("/health/ready")
        lines = [record.getMessage() for record in caplog.records]
        assert [line for line in lines if "ready" in line] == [
            "not ready: database, migrations",
            "ready again",
        ]

    def test_not_while_it_shuts_down(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(request_metrics, "draining", True)
        assert not_ready(api) == ["accepting"]
        assert api.get("/environments").status_code == 503
        assert api.get("/health/live").status_code == 200


class TestLive:
    def test_it_answers(self, api: Api) -> None:
        answer = api.get("/health/live")
        assert (answer.status_code, answer.json()) == (200, {"status": "alive"})

    def test_it_touches_no_database(self, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(async_database, "fetch_one", away)
        monkeypatch.setattr("codeexec.db.django_backend.base.DatabaseWrapper.cursor", None)
        assert api.get("/health/live").status_code == 200

    def test_it_needs_no_thread(self, api: Api) -> None:
        """Those of a process whose database hangs are all taken."""
        end = threading.Event()
        taken = [threads.executor.submit(end.wait) for _ in range(threads.limit)]
        try:
            answer = api.run(asyncio.wait_for(api.send("GET", "/health/live"), LONG))
            assert answer.status_code == 200
        finally:
            end.set()
        assert all(future.result(10) for future in taken)


def test_both_are_public(api: Api, configure: Configure) -> None:
    configure(API_AUTH="key")
    for path in ("/health/live", "/health/ready"):
        assert api.get(path).status_code == 200
        headers = {"Authorization": "Api-Key wrong"}
        assert api.get(path, headers=headers).status_code == 200
