"""Clients, keys and tokens: how they are made and end, what they cost, and how far limits reach."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from django.core import signing
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

import sessions_app.access.key_cache
from codeexec.db.notifications import hub
from codeexec.errors import RateLimited, TooManySessions
from environments_app.models import Environment
from sessions_app.access import tokens
from sessions_app.access.clients import (
    KEY_PATTERN,
    ClientError,
    create_client,
    create_key,
    digest_of,
    revoke_key,
)
from sessions_app.access.key_cache import KeyCache, Snapshot, key_cache
from sessions_app.access.rate_limits import RateLimits
from sessions_app.callers import OPERATOR, Caller, KnownClient, Scope
from sessions_app.management.commands.create_client import EXPLANATION
from sessions_app.models import ApiKey, Client, ClientAllowance, Execution, Node, Session
from sessions_app.services.executions import RunRequest, submit_single_run
from sessions_app.services.sessions import open_session
from tests.api.test_every_call import error
from tests.conftest import Configure, Work
from tests.execution.test_executor import executing
from tests.models.test_run_queries import no_live_output, recorded
from tests.support.api_client import Api
from tests.support.cast import known, new_session
from tests.support.platforms import Platform, api_key, bearer, platform, read_notifications
from tests.support.racing import together

pytestmark = pytest.mark.django_db(transaction=True)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


@pytest.fixture
def own(api: Api, configure: Configure) -> Platform:
    configure(API_AUTH="key")
    own = platform(api, "own")
    read_notifications(api)
    return own


# ---- keys


def test_a_key_has_a_form_that_scanners_find_and_only_its_digest_is_kept() -> None:
    new = create_key(create_client("a"))
    assert KEY_PATTERN.fullmatch(new.key)
    assert new.key.startswith(f"cex_{new.row.prefix}_")
    row = ApiKey.objects.values().get()
    assert bytes(row.pop("digest")) == digest_of(new.key)
    assert new.key[13:] not in repr(row)
    assert new.key[13:] not in str(new.row)


def test_two_keys_are_never_alike() -> None:
    client = create_client("a")
    assert len({create_key(client).key[13:] for _ in range(20)}) == 20


def test_a_client_changes_keys_without_an_outage(own: Platform) -> None:
    second = create_key(own.client)
    read_notifications(own.api)
    for key in (own.key, second.key):
        assert own.api.get("/sessions", headers=api_key(key)).status_code == 200
    revoke_key(own.key)
    read_notifications(own.api)
    error(own.call("GET", "/sessions"), 401, "invalid_key")
    assert own.api.get("/sessions", headers=api_key(second.key)).status_code == 200


def test_the_use_of_a_key_is_noted_down_once_a_minute(own: Platform) -> None:
    own.call("GET", "/sessions")
    first = ApiKey.objects.get().last_used_at
    assert first is not None
    own.call("GET", "/sessions")
    assert ApiKey.objects.get().last_used_at == first


def test_a_client_has_known_scopes_and_a_rate_above_zero() -> None:
    for columns in ({"scopes": ["all"]}, {"requests_per_minute": 0}, {"name": ""}):
        with pytest.raises(IntegrityError):
            Client.objects.create(**{"name": "a", **columns})


# ---- commands


def test_create_client_shows_a_key_that_works_and_says_how(api: Api, configure: Configure) -> None:
    configure(API_AUTH="key")
    said = command("create_client", "acme", "--expires-in", "30")
    key = said.splitlines()[0]
    assert f"Authorization: Api-Key {key}" in said
    assert "can't be shown again" in said
    assert api.get("/sessions", headers=api_key(key)).status_code == 200
    assert ApiKey.objects.get().expires_at is not None


def test_create_client_takes_scopes_and_limits() -> None:
    limits = ("--requests-per-minute", "60", "--max-live-sessions", "5")
    said = json.loads(command("create_client", "a", "--scope", "metrics", *limits, "--json"))
    client = Client.objects.get()
    assert (client.scopes, client.requests_per_minute) == (["metrics"], 60)
    assert client.max_live_sessions == 5
    assert said["client"] == "a"
    assert said["expires_at"] is None
    assert said["key"].split("_")[1] == said["prefix"]


def test_a_second_client_of_a_name_is_refused_and_the_way_to_another_key_named() -> None:
    command("create_client", "a")
    with pytest.raises(CommandError, match=r"manage\.py create_key a"):
        command("create_client", "a")
    assert (Client.objects.count(), ApiKey.objects.count()) == (1, 1)
    command("create_key", "a")
    assert ApiKey.objects.count() == 2


def test_create_key_makes_a_client_only_where_it_is_told_to() -> None:
    with pytest.raises(CommandError, match="no client 'a'"):
        command("create_key", "a")
    command("create_key", "a", "--create")
    command("create_key", "a", "--create")
    assert (Client.objects.count(), ApiKey.objects.count()) == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--expires-in", "0"),
        ("--expires-in", "nan"),
        ("--requests-per-minute", "-1"),
        ("--max-live-sessions", "many"),
        ("--scope", "all"),
    ],
)
def test_options_that_can_not_be_make_nothing(wrong: tuple[str, str]) -> None:
    with pytest.raises(CommandError):
        command("create_client", "a", *wrong)
    assert not Client.objects.exists()


def test_revoke_key_says_whether_it_did_anything() -> None:
    new = create_key(create_client("a"))
    assert command("revoke_key", new.row.prefix).endswith("of the client a is revoked\n")
    assert command("revoke_key", f"cex_{new.row.prefix}_…").endswith(
        "of the client a was revoked before\n"
    )
    with pytest.raises(ClientError):
        revoke_key("00000000")
    with pytest.raises(CommandError, match=r"manage\.py clients"):
        command("revoke_key", "nothing")


def test_clients_lists_everybody_and_no_secret() -> None:
    assert "create_client" in command("clients")
    new = create_key(create_client("a", max_live_sessions=3))
    revoke_key(new.row.prefix)
    listed = command("clients")
    assert f"cex_{new.row.prefix}_…  revoked" in listed
    assert "live sessions: 0 of 3" in listed
    (told,) = json.loads(command("clients", "--json"))
    assert (told["name"], told["keys"][0]["state"]) == ("a", "revoked")
    assert new.key[13:] not in listed + command("clients", "--json")


# ---- what a call costs


def test_an_execution_with_a_key_takes_no_other_statements(
    own: Platform, this: Node, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_id = own.open()
    work()
    token = own.token(session_id, "candidate")
    path = f"/sessions/{session_id}/execute"
    no_live_output(monkeypatch)
    with executing(this):
        assert own.call("POST", path, {"code": "1"}).status_code == 200
        with recorded(monkeypatch) as sent:
            assert own.call("POST", path, {"code": "1"}).status_code == 200
            answer = own.api.request("POST", path, json={"code": "1"}, headers=bearer(token))
            assert answer.status_code == 200
    assert sent == ["submit", "claim", "finish"] * 2


def test_wrong_keys_ask_the_database_nothing(
    own: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    own.call("GET", "/sessions")
    with recorded(monkeypatch) as sent:
        for number in range(50):
            key = f"cex_00000000_{number:064x}"
            error(own.api.get("/sessions", headers=api_key(key)), 401, "invalid_key")
    assert sent == []


def test_clients_tells_no_sessions_from_any_number_of_them() -> None:
    create_client("stopped", max_live_sessions=0)
    assert "live sessions: 0 of 0" in command("clients")


# ---- what this process knows


def _changes(own: Platform) -> Iterator[tuple[str, Any]]:
    yield "revoked by a service", lambda: revoke_key(own.key)
    yield "revoked by SQL", lambda: _execute("UPDATE sessions_app_apikey SET revoked_at = now()")
    yield "expired by SQL", lambda: _execute("UPDATE sessions_app_apikey SET expires_at = now()")
    yield "disabled", lambda: Client.objects.update(enabled=False)
    yield "deleted", lambda: own.client.delete()


def _execute(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.parametrize("number", range(5))
def test_a_change_counts_as_soon_as_the_database_has_told_it(number: int, own: Platform) -> None:
    assert own.call("GET", "/sessions").status_code == 200
    assert key_cache.at_hand() is not None
    _name, change = list(_changes(own))[number]
    change()
    read_notifications(own.api)
    error(own.call("GET", "/sessions"), 401, "invalid_key")


def test_a_key_expires_by_the_clock_though_nothing_changes(
    own: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = create_key(own.client)
    ApiKey.objects.filter(pk=short.row.pk).update(expires_at=timezone.now() + timedelta(hours=1))
    read_notifications(own.api)
    assert own.api.get("/sessions", headers=api_key(short.key)).status_code == 200
    later = SimpleNamespace(now=lambda: timezone.now() + timedelta(hours=1))
    monkeypatch.setattr("sessions_app.access.key_cache.timezone", later)
    error(own.api.get("/sessions", headers=api_key(short.key)), 401, "invalid_key")


def test_nothing_is_trusted_while_nobody_listens(own: Platform) -> None:
    assert key_cache.at_hand() is None  # no request yet
    own.call("GET", "/sessions")
    assert key_cache.at_hand() is not None
    own.api.run(hub.stop())
    assert key_cache.at_hand() is None
    revoke_key(own.key)
    error(own.call("GET", "/sessions"), 401, "invalid_key")


def test_what_was_read_while_a_change_was_told_is_not_kept(
    own: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = sessions_app.access.key_cache._read_everything

    def read_and_hear_of_a_change(**known: int) -> Any:
        snapshot = read(**known)
        key_cache.forget()
        return snapshot

    key_cache.forget()
    monkeypatch.setattr(
        sessions_app.access.key_cache, "_read_everything", read_and_hear_of_a_change
    )
    assert own.call("GET", "/sessions").status_code == 200
    assert key_cache.at_hand() is None


def test_a_change_that_is_told_of_in_the_last_moment_counts_too(own: Platform) -> None:
    class LateNews(KeyCache):
        """Told of a change after it has read everything, just before it keeps that."""

        def __setattr__(self, name: str, value: Any) -> None:
            if isinstance(value, Snapshot):
                self.forget()
            super().__setattr__(name, value)

    own.call("GET", "/sessions")
    ring = LateNews()
    assert ring.known().key(digest_of(own.key)) is not None
    assert ring.at_hand() is None


def test_what_is_old_is_read_again(own: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    own.call("GET", "/sessions")
    monkeypatch.setattr("sessions_app.access.key_cache.MAX_AGE_SECONDS", 0)
    assert key_cache.at_hand() is None
    assert own.call("GET", "/sessions").status_code == 200


# ---- tokens


def test_a_token_ends_with_its_time(own: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = own.open()
    token = own.token(session_id, "viewer", expires_in=3600)
    assert own.api.get(f"/sessions/{session_id}", headers=bearer(token)).status_code == 200
    later = SimpleNamespace(time=lambda: time.time() + 3600)
    monkeypatch.setattr("sessions_app.access.tokens.time", later)
    error(own.api.get(f"/sessions/{session_id}", headers=bearer(token)), 401, "token_expired")


def test_a_token_ends_with_its_client(own: Platform) -> None:
    session_id = own.open()
    token = own.token(session_id, "viewer")
    Client.objects.update(enabled=False)
    read_notifications(own.api)
    error(own.api.get(f"/sessions/{session_id}", headers=bearer(token)), 401, "invalid_token")


def test_a_token_only_looks_once_its_session_has_ended(own: Platform, work: Work) -> None:
    session_id = own.open()
    headers = bearer(own.token(session_id, "candidate"))
    own.call("DELETE", f"/sessions/{session_id}")
    work()
    assert own.api.get(f"/sessions/{session_id}", headers=headers).status_code == 200
    path = f"/sessions/{session_id}/execute"
    answer = own.api.request("POST", path, json={"code": "1"}, headers=headers)
    error(answer, 409, "session_closed")
    answer = own.call("POST", f"/sessions/{session_id}/tokens", {"role": "interviewer"})
    assert "viewer" in error(answer, 409, "session_closed")["detail"]
    viewer = bearer(own.token(session_id, "viewer"))
    assert own.api.get(f"/sessions/{session_id}/executions", headers=viewer).status_code == 200


@pytest.mark.parametrize(
    "wrong", [{}, {"role": "admin"}, {"role": "viewer", "expires_in": 0}, {"role": None}]
)
def test_a_token_that_can_not_be_is_a_400(wrong: dict[str, Any], own: Platform) -> None:
    answer = own.call("POST", f"/sessions/{own.open()}/tokens", wrong)
    error(answer, 400, "invalid_request")


def test_a_token_lives_a_day_at_most(own: Platform) -> None:
    path = f"/sessions/{own.open()}/tokens"
    body = {"role": "viewer", "expires_in": tokens.MAX_SECONDS + 1}
    error(own.call("POST", path, body), 400, "invalid_request")


def test_a_token_with_another_signature_is_refused(own: Platform) -> None:
    session_id = own.open()
    token = own.token(session_id, "viewer")
    said = signing.loads(token.removeprefix("cet_"), salt="code-executor session token 1")
    forged = [
        token[:-2] + ("A" if token[-2] != "A" else "B") + token[-1],
        "cet_" + signing.dumps({**said, "r": "interviewer"}, salt="something else"),
        "cet_" + signing.dumps(said, salt=tokens._SALT, key="another key"),
        "cet_",
        "cet_" + "x" * 10_000,
    ]
    for each in forged:
        error(own.api.get(f"/sessions/{session_id}", headers=bearer(each)), 401, "invalid_token")


def test_a_token_in_the_address_counts_for_reading_only(own: Platform) -> None:
    session_id = own.open()
    token = own.token(session_id, "interviewer")
    address = f"/sessions/{session_id}?token={token}"
    assert own.api.get(address).status_code == 200
    error(own.api.delete(address), 401, "not_authenticated")
    run = f"/sessions/{session_id}/execute?token={token}"
    error(own.api.post(run, {"code": "1"}), 401, "not_authenticated")


def test_no_answer_is_kept_by_what_lies_between(own: Platform, work: Work) -> None:
    session = own.open()
    work()
    token = own.token(session, "viewer")
    for path in (f"/sessions/{session}?token={token}", f"/sessions/{uuid4()}?token={token}"):
        assert own.api.get(path).headers["cache-control"] == "no-store"
    ran = own.call("POST", f"/sessions/{session}/execute?wait=false", {"code": "1"})
    assert ran.headers["cache-control"] == "no-store"


def test_only_a_client_is_told_what_is_wrong_with_the_service(own: Platform, this: Node) -> None:
    session = own.open()
    Node.objects.update(engine_error="unix:///secret/docker.sock doesn't answer")
    told = own.call("GET", "/health")
    assert "secret" in told.json()["checks"]["workers"]
    for headers in ({}, api_key("cex_wrong"), bearer(own.token(session, "viewer"))):
        answer = own.api.get("/health", headers=headers)
        assert (answer.status_code, answer.json()["status"]) == (503, "unhealthy")
        assert answer.json()["checks"]["workers"] == "not ok"
        assert answer.json()["checks"]["database"] == "ok"


def test_a_token_does_no_more_than_its_clients_scopes(own: Platform) -> None:
    session_id = own.open()
    token = own.token(session_id, "candidate")
    Client.objects.update(scopes=["read"])
    read_notifications(own.api)
    path = f"/sessions/{session_id}/execute"
    answer = own.api.request("POST", path, json={"code": "1"}, headers=bearer(token))
    error(answer, 403, "insufficient_scope")
    assert own.api.get(f"/sessions/{session_id}", headers=bearer(token)).status_code == 200


def test_an_open_services_token_counts_there_alone(api: Api, configure: Configure) -> None:
    session_id = api.post("/sessions", {}).json()["session_id"]
    other = api.post("/sessions", {}).json()["session_id"]
    token = api.post(f"/sessions/{session_id}/tokens", {"role": "viewer"}).json()["token"]
    headers = bearer(token)
    assert api.get(f"/sessions/{session_id}", headers=headers).status_code == 200
    error(api.get(f"/sessions/{other}", headers=headers), 404, "not_found")
    error(api.get("/sessions", headers=headers), 403, "forbidden_for_role")
    configure(API_AUTH="key")
    error(api.get(f"/sessions/{session_id}", headers=headers), 401, "invalid_token")


def test_no_secret_is_logged(own: Platform, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="codeexec")
    caplog.set_level(logging.DEBUG, logger="django")
    caplog.set_level(logging.DEBUG, logger="sessions_app")
    session_id = own.open()
    token = own.token(session_id, "viewer")
    own.api.get(f"/sessions/{session_id}?token={token}")
    own.api.get(f"/nothing?token={token}")
    own.api.get(f"/sessions/{session_id}?token={token}x")
    own.api.get("/sessions", headers=api_key(own.key[:-1] + "x"))
    assert own.key[13:-1] not in caplog.text
    assert token[:60] not in caplog.text


# ---- limits


def test_over_its_rate_a_client_waits_as_long_as_it_is_told(own: Platform) -> None:
    Client.objects.update(requests_per_minute=5)
    read_notifications(own.api)
    statuses = [own.call("GET", "/sessions").status_code for _ in range(8)]
    assert statuses == [200] * 5 + [429] * 3
    answer = own.call("POST", "/execute", {"code": "1"})
    error(answer, 429, "rate_limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 12
    assert own.api.get("/health").status_code == 200
    assert not Execution.objects.exists()


def test_a_clients_tokens_count_as_its_own_requests(own: Platform) -> None:
    session_id = own.open()
    headers = bearer(own.token(session_id, "viewer"))
    Client.objects.update(requests_per_minute=3)
    read_notifications(own.api)
    own.call("GET", "/sessions")
    path = f"/sessions/{session_id}"
    statuses = [own.api.get(path, headers=headers).status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]


def _let_through(limits: RateLimits, client: KnownClient, requests: int) -> int:
    through = 0
    for _ in range(requests):
        try:
            limits.take(client)
            through += 1
        except RateLimited:
            pass
    return through


def test_several_processes_together_let_no_more_through_than_one(db: None) -> None:
    limit = 600
    client = known(create_client("a", requests_per_minute=limit))
    processes = [RateLimits() for _ in range(4)]
    begun = time.monotonic()
    calls = [lambda each=each: _let_through(each, client, 400) for each in processes]
    through = sum(together(*calls))
    refilled = (time.monotonic() - begun) * limit / 60 + 1
    # What a process has taken and not used is at most a second's worth.
    assert limit - 4 * limit / 60 <= through <= limit + refilled


def test_a_busy_client_asks_the_database_far_less_than_it_calls(db: None) -> None:
    client = known(create_client("a", requests_per_minute=60_000))
    limits = RateLimits()
    with CaptureQueriesContext(connection) as sent:
        assert _let_through(limits, client, 1000) == 1000
    assert len(sent) < 50


def test_a_client_without_a_limit_costs_no_statement(db: None) -> None:
    client = known(create_client("a"))
    with CaptureQueriesContext(connection) as sent:
        RateLimits().take(client)
    assert len(sent) == 0
    assert not ClientAllowance.objects.exists()


def test_permits_come_back_with_time(db: None) -> None:
    row = create_client("a", requests_per_minute=6)
    limits = RateLimits()
    assert _let_through(limits, known(row), 7) == 6
    _execute("UPDATE sessions_app_clientallowance SET counted_at = now() - interval '30 seconds'")
    assert _let_through(RateLimits(), known(row), 7) == 3


def test_the_bound_of_live_sessions_is_exact_under_concurrency(
    python: Environment, this: Node
) -> None:
    client = create_client("a", max_live_sessions=3)
    caller = Caller(client=known(client))

    def open_one() -> bool:
        try:
            open_session(caller=caller)
        except TooManySessions:
            return False
        return True

    def run_one() -> bool:
        try:
            submit_single_run(None, RunRequest(code="1"), caller=caller)
        except TooManySessions:
            return False
        return True

    assert sum(together(*[open_one, run_one] * 4)) == 3
    assert Session.objects.live().filter(client=client).count() == 3


def test_over_the_bound_it_is_a_429_until_a_session_has_ended(own: Platform, work: Work) -> None:
    Client.objects.update(max_live_sessions=1)
    read_notifications(own.api)
    session_id = own.open()
    for path, body in (("/sessions", {}), ("/execute", {"code": "1"})):
        answer = own.call("POST", path, body)
        assert error(answer, 429, "too_many_sessions")["maximum"] == 1
        assert int(answer.headers["retry-after"]) > 0
    own.call("DELETE", f"/sessions/{session_id}")
    work()
    own.open()


def test_a_client_without_a_bound_pays_nothing_for_it(python: Environment, this: Node) -> None:
    caller = Caller(client=known(create_client("a")))
    with CaptureQueriesContext(connection) as unbound:
        open_session(caller=caller)
    with CaptureQueriesContext(connection) as operators:
        open_session(caller=OPERATOR)
    assert len(unbound) == len(operators)


# ---- callers


def test_a_caller_made_of_nothing_sees_nothing_and_may_do_nothing(python: Environment) -> None:
    session = new_session(python)
    nobody = Caller()
    assert not Session.objects.visible_to(nobody).exists()
    assert not nobody.may_see(session.pk, session.client_id)
    assert not any(nobody.has_scope(scope) for scope in Scope)


def test_the_help_names_every_scope() -> None:
    assert {scope.value for scope in Scope} <= set(re.findall(r"^  (\w+) ", EXPLANATION, re.M))
