"""What is logged: one form for all, each line with the ids that lead through a press of Run, and
never what is nobody's business.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
from collections.abc import Iterator
from contextvars import copy_context
from datetime import datetime
from typing import Any

import pytest
from django.db import IntegrityError

from codeexec.http.threads import in_thread
from codeexec.logs import (
    JsonFormatter,
    TextFormatter,
    bind_log,
    configuration,
    log_context,
    logs_with,
    redacted,
    subject,
)
from sessions_app.models import Execution, Session
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.cast import execution_in, session_in
from tests.support.platforms import api_key, platform, read_notifications

Lines = list[dict[str, Any]]


class Log:
    """All that this process logs, as a service writes it whose LOG_FORMAT is json."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(JsonFormatter(node="this"))

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> Lines:
        return [json.loads(line) for line in self.text.splitlines()]

    def with_id(self, **ids: str) -> Lines:
        return [line for line in self.lines if ids.items() <= line.items()]


@pytest.fixture
def log() -> Iterator[Log]:
    log, root = Log(), logging.getLogger()
    level = root.level
    root.addHandler(log.handler)
    root.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        root.removeHandler(log.handler)
        root.setLevel(level)


logger = logging.getLogger("tests.log")


class TestLines:
    def test_a_line_is_one_object(self, log: Log) -> None:
        logger.warning("two\nlines, %s", "ünïcode")
        (line,) = log.lines
        assert line["message"] == "two\nlines, ünïcode"
        assert (line["level"], line["logger"], line["node"]) == ("WARNING", "tests.log", "this")
        assert isinstance(line["process"], int)
        moment = datetime.fromisoformat(line["time"])
        assert moment.utcoffset() is not None
        assert line["time"].endswith("Z")

    def test_an_exception_is_a_member(self, log: Log) -> None:
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logger.exception("it failed")
        (line,) = log.lines
        assert line["exception"].startswith("Traceback (most recent call last):\n")
        assert line["exception"].endswith("RuntimeError: broken")

    def test_people_get_text_with_the_ids_behind_it(self) -> None:
        record = logging.LogRecord("a.b", logging.INFO, "", 0, "said %s", ("it",), None)
        assert TextFormatter().format(record).endswith(" INFO a.b: said it")
        with log_context(request_id="r1"):
            assert TextFormatter().format(record).endswith(": said it (request_id=r1)")

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_every_logger_of_the_service_has_the_one_form(self, log_format: str) -> None:
        """Django's, django-q2's and uvicorn's too: none of them has a handler of another form."""
        made = configuration(log_format=log_format, level="INFO", node="this")
        handlers = {name for each in made["loggers"].values() for name in each.get("handlers", ())}
        assert handlers == {"console"}
        configurator = logging.config.DictConfigurator(made)
        formatter = configurator.configure_formatter(made["formatters"]["line"])
        kinds = {"text": TextFormatter, "json": JsonFormatter}
        assert isinstance(formatter, kinds[log_format])


class TestSubjects:
    def test_ids_are_those_of_what_is_around(self, log: Log) -> None:
        with log_context(request_id="r", session_id=None):
            bind_log(session_id="s")
            with log_context(execution_id="e"):
                logger.info("inside")
            logger.info("outside")
        logger.info("elsewhere")
        ids = [{name: line[name] for name in line if name.endswith("_id")} for line in log.lines]
        assert ids == [
            {"request_id": "r", "session_id": "s", "execution_id": "e"},
            {"request_id": "r", "session_id": "s"},
            {},
        ]

    def test_what_a_thread_finds_out_is_known_after_it(self) -> None:
        async def request() -> tuple[str, str]:
            with log_context(request_id="r"):
                there = await in_thread(self.find_out)
                return there, subject("session_id")

        assert asyncio.run(request()) == ("r", "s")

    @staticmethod
    def find_out() -> str:
        bind_log(session_id="s")
        return subject("request_id")

    def test_requests_side_by_side_keep_theirs(self) -> None:
        async def request(name: str, turn: asyncio.Barrier) -> str:
            with log_context(request_id=name):
                await turn.wait()
                bind_log(session_id=f"of {name}")
                await turn.wait()
                return subject("session_id")

        async def both() -> list[str]:
            turn = asyncio.Barrier(2)
            return await asyncio.gather(request("a", turn), request("b", turn))

        assert asyncio.run(both()) == ["of a", "of b"]

    def test_nothing_is_noted_where_nothing_is_told_of(self) -> None:
        copy_context().run(bind_log, session_id="s")
        assert subject("session_id") == ""

    def test_a_task_is_about_its_first_argument(self) -> None:
        @logs_with("session_id")
        def task(session_id: str) -> str:
            return subject("session_id")

        assert task("s") == "s"


class TestSecrets:
    KEY = "cex_0123abcd_" + "f" * 64
    TOKEN = "cet_eyJzIjoi.abc:1abc:XYZ-_"

    def test_keys_and_tokens_are_taken_out(self) -> None:
        text = f"key {self.KEY}, token {self.TOKEN}, GET /x?a=1&token={self.TOKEN}&b=2"
        assert redacted(text) == "key cex_0123abcd_…, token cet_…, GET /x?a=1&token=…&b=2"

    def test_a_row_that_the_database_refuses_is_taken_out(self, log: Log) -> None:
        """PostgreSQL shows it: the candidate's code is a part of it."""
        shown = "violates\nDETAIL:  Failing row contains (1, print('a secret'),\n).\n..., null)."
        try:
            try:
                raise ValueError(shown)
            except ValueError as error:
                raise IntegrityError(shown) from error
        except IntegrityError:
            logger.exception("it failed: %s", shown)
        assert "a secret" not in log.text
        (line,) = log.lines
        assert line["exception"].count("DETAIL:  (left out)") == 2
        assert "The above exception was the direct cause" in line["exception"]


@pytest.mark.django_db(transaction=True)
class TestRequests:
    def test_a_request_is_a_line_with_its_route(self, api: Api, log: Log) -> None:
        opened = api.post("/sessions", {"environment": "python"})
        session_id, request_id = opened.json()["session_id"], opened.headers["X-Request-ID"]
        (line,) = [line for line in log.with_id(request_id=request_id) if "route" in line]
        assert (line["logger"], line["level"]) == ("codeexec.access", "INFO")
        assert (line["method"], line["route"], line["status"]) == ("POST", "api/v1/sessions", 201)
        assert line["milliseconds"] > 0
        assert line["session_id"] == session_id
        assert line["message"].startswith("POST api/v1/sessions: 201 in ")

    def test_an_id_that_comes_with_a_request_is_kept(self, api: Api, log: Log) -> None:
        answer = api.get("/environments", headers={"X-Request-ID": "platform-7.a_B"})
        assert answer.headers["X-Request-ID"] == "platform-7.a_B"
        assert log.with_id(request_id="platform-7.a_B")

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "a\tb", "é", "../../etc"])
    def test_one_that_can_be_none_is_replaced(self, api: Api, given: str) -> None:
        answer = api.get("/environments", headers={"X-Request-ID": given.encode()})
        made = answer.headers["X-Request-ID"]
        assert len(made) == 32
        assert made.isalnum()

    @pytest.mark.parametrize("path", ["/nothing", "/sessions?cursor=%ff", "/sessions/x", "/health"])
    def test_every_answer_tells_its_id(self, api: Api, path: str) -> None:
        first, second = (api.get(path).headers["X-Request-ID"] for _ in range(2))
        assert first != second

    def test_pages_of_other_origins_may_read_it(self, api: Api, settings: Any) -> None:
        settings.CORS_ALLOWED_ORIGINS = ["https://app.example.org"]
        answer = api.get("/environments", headers={"Origin": "https://app.example.org"})
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]

    @pytest.mark.parametrize("path", ["/health", "/health/live", "http://testserver/metrics"])
    def test_what_machines_ask_all_the_time_is_no_news(self, api: Api, log: Log, path: str) -> None:
        request_id = api.get(path).headers["X-Request-ID"]
        (line,) = [line for line in log.with_id(request_id=request_id) if "route" in line]
        assert line["level"] == "DEBUG"

    def test_its_client_is_named_and_no_secret_is(
        self, api: Api, log: Log, configure: Configure, work: Work
    ) -> None:
        configure(API_AUTH="key")
        own = platform(api, "own")
        read_notifications(api)
        session_id = own.open()
        own.run(session_id, work)
        token = own.token(session_id, "viewer")
        answer = api.get(f"/sessions/{session_id}?token={token}")
        assert answer.status_code == 200
        other_end = "1" if own.key.endswith("0") else "0"
        wrong = api_key(own.key[:-1] + other_end)
        assert api.get("/sessions", headers=wrong).status_code == 401
        (line,) = [
            line
            for line in log.with_id(request_id=answer.headers["X-Request-ID"])
            if "route" in line
        ]
        assert (line["client"], line["session_id"]) == ("own", session_id)
        secrets = (own.key, token, token.removeprefix("cet_"), "a secret", own.key[13:])
        assert [secret for secret in secrets if secret in log.text] == []


@pytest.mark.django_db(transaction=True)
class TestPressOfRun:
    def test_one_id_leads_from_the_request_to_the_result(
        self, api: Api, log: Log, work: Work
    ) -> None:
        session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
        work()
        sent = {"json": {"code": "print('a secret')"}, "headers": {"X-Request-ID": "press-1"}}
        path = f"/sessions/{session_id}/execute?wait=false"
        execution_id = api.request("POST", path, **sent).json()["execution_id"]
        assert Execution.objects.get(pk=execution_id).request_id == "press-1"
        work()
        lines = log.with_id(request_id="press-1", execution_id=execution_id, session_id=session_id)
        assert {"codeexec.access", "sessions_app.execution.run_execution"} <= {
            line["logger"] for line in lines
        }
        assert "a secret" not in log.text

    def test_what_was_asked_for_by_no_request_has_no_id(
        self, python: Any, this: Any, log: Log
    ) -> None:
        execution = execution_in(
            Execution.Status.QUEUED, session_in(Session.Status.READY, python, this)
        )
        assert execution.request_id == ""
