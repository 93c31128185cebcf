"""Logging in to the console with wrong passwords."""

from __future__ import annotations

import asyncio
import re
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client, RequestFactory
from django.utils import timezone

from codeexec.http import shares
from codeexec.http.client_address import client_address
from codeexec.http.serving import Application
from sessions_app.access.console_login import ThrottledBackend
from sessions_app.models import FailedLogin
from sessions_app.models.failed_login import ADDRESS_ATTEMPTS, ATTEMPTS, COOL_OFF, KEPT
from tests.codeexec.test_deployment import api_process
from tests.support.api_client import Api
from tests.support.console_fixtures import act, list_page, messages, staff, text_of
from tests.support.patience import LONG

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery staple"
HERE, ELSEWHERE = "198.51.100.7", "203.0.113.9"
LOGIN = "/admin/login/?next=/admin/"


HASHERS = [f"django.contrib.auth.hashers.{each}PasswordHasher" for each in ("MD5", "PBKDF2")]


@pytest.fixture(autouse=True)
def quick_hashes(settings: Any) -> None:
    """For passwords that this process looks at: there are many."""
    settings.PASSWORD_HASHERS = HASHERS


@pytest.fixture
def operator() -> User:
    return User.objects.create_superuser("operator", password=PASSWORD)


def log_in(password: str, address: str = HERE, name: str = "operator") -> Any:
    fields = {"username": name, "password": password}
    return Client().post(LOGIN, fields, REMOTE_ADDR=address)


def lock(address: str = HERE) -> None:
    for _ in range(ATTEMPTS):
        assert log_in("wrong", address).status_code == 200


def test_the_right_password_lets_in_and_leaves_no_trace(operator: User) -> None:
    log_in("wrong")
    assert log_in(PASSWORD).status_code == 302
    assert not FailedLogin.objects.exists()


def test_after_five_wrong_ones_the_right_one_is_refused_and_it_is_said_until_when(
    operator: User,
) -> None:
    lock()
    answer = log_in(PASSWORD)
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= COOL_OFF.total_seconds()
    assert "Too many wrong passwords. Try again at" in answer.content.decode()
    assert "in 15 minutes" in answer.content.decode()


def test_waiting_is_not_made_longer_by_trying(operator: User) -> None:
    lock()
    first = log_in(PASSWORD).headers["Retry-After"]
    FailedLogin.objects.update(tried_at=timezone.now() - timedelta(minutes=10))
    assert int(log_in("wrong").headers["Retry-After"]) <= int(first) - 590
    assert FailedLogin.objects.count() == ATTEMPTS


def test_who_is_locked_out_here_gets_in_from_elsewhere(operator: User) -> None:
    lock()
    assert log_in(PASSWORD, ELSEWHERE).status_code == 302
    assert log_in(PASSWORD).status_code == 429


def test_a_name_that_nobody_has_is_refused_alike(operator: User) -> None:
    for _ in range(ATTEMPTS):
        assert log_in("wrong", name="nobody").status_code == 200
    assert log_in("wrong", name="nobody").status_code == 429
    assert log_in(PASSWORD).status_code == 302


def test_the_time_passes(operator: User) -> None:
    lock()
    FailedLogin.objects.update(tried_at=timezone.now() - COOL_OFF)
    assert log_in(PASSWORD).status_code == 302


def test_one_password_for_many_names_is_stopped_as_well(operator: User) -> None:
    attempts = [FailedLogin(username=f"user{n}", address=HERE) for n in range(ADDRESS_ATTEMPTS)]
    FailedLogin.objects.bulk_create(attempts)
    assert log_in(PASSWORD).status_code == 429
    assert log_in(PASSWORD, ELSEWHERE).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_however_many_are_tried_at_once_no_more_are_looked_at(operator: User) -> None:
    def attempt(_: int) -> int:
        try:
            return int(log_in("wrong").status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(attempt, range(16)))
    assert sorted(statuses) == [200] * ATTEMPTS + [429] * (16 - ATTEMPTS)


def test_what_is_old_is_deleted(operator: User) -> None:
    FailedLogin.objects.create(username="a", address="b", tried_at=timezone.now() - KEPT * 2)
    log_in("wrong")
    assert FailedLogin.objects.get().username == "operator"


def test_an_operator_is_unlocked_by_command(operator: User, capsys: Any) -> None:
    lock()
    lock(ELSEWHERE)
    call_command("unlock_login", "operator", address=HERE)
    assert capsys.readouterr().out == "operator: 5 failed attempts forgotten\n"
    assert log_in(PASSWORD).status_code == 302
    assert log_in(PASSWORD, ELSEWHERE).status_code == 429
    call_command("unlock_login", "operator")
    assert log_in(PASSWORD, ELSEWHERE).status_code == 302


def test_an_operator_is_unlocked_in_the_admin(operator: User) -> None:
    lock()
    rows = list(FailedLogin.objects.all())
    assert HERE in text_of(staff("view_failedlogin"), list_page("sessions_app_failedlogin"))
    act(staff("view_failedlogin"), "forgive", rows)
    assert log_in(PASSWORD).status_code == 429
    answer = act(staff("change_failedlogin"), "forgive", rows)
    assert messages(answer) == ["Attempts that count no more: 5."]
    assert log_in(PASSWORD).status_code == 302


@pytest.mark.parametrize(
    ("given", "counted"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("", ""),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(given: str, counted: str) -> None:
    assert client_address(RequestFactory().get("/", REMOTE_ADDR=given)) == counted


def test_what_a_client_says_of_its_address_is_nothing_to_go_by(operator: User) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR=HERE, HTTP_X_FORWARDED_FOR=ELSEWHERE)
    assert client_address(request) == HERE


@pytest.fixture
def database_url(transactional_db: None) -> str:
    """Its address, for a process of its own."""
    database = connection.settings_dict
    names = {"USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    given = {names[key]: str(database[key]) for key in names if database[key]}
    return f"postgresql:///{database['NAME']}?{urlencode(given)}"


@pytest.fixture
def known_elsewhere(operator: User) -> None:
    """The operator's password is kept as the service does."""
    operator.password = make_password(PASSWORD, hasher="pbkdf2_sha256")
    operator.save(update_fields=["password"])


def log_in_for_real(client: httpx.Client, password: str, address: str) -> int:
    """By the form's own page, as a browser does, through a proxy that says who asks."""
    token = form_token(client)
    return sign_in(client, token, "operator", password, address).status_code


def form_token(client: httpx.Client) -> str:
    return token_of(client.get("/admin/login/").text)


def token_of(page: str) -> str:
    (token, *_) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    return str(token)


def sign_in(
    client: httpx.Client, token: str, name: str, password: str, address: str
) -> httpx.Response:
    fields = {"username": name, "password": password, "csrfmiddlewaretoken": token}
    proxied = {"X-Forwarded-For": address}
    return client.post("/admin/login/?next=/admin/", data=fields, headers=proxied)


def one_left(address: str) -> None:
    """Of the operator's attempts from there: the process takes half a second for each."""
    for _ in range(ATTEMPTS - 1):
        FailedLogin.objects.create(username="operator", address=address)


def test_behind_a_trusted_proxy_addresses_are_those_that_it_says(
    database_url: str, known_elsewhere: None, tmp_path: Path
) -> None:
    one_left(HERE)
    with api_process(tmp_path, DATABASE_URL=database_url, TRUSTED_PROXIES="127.0.0.1") as client:
        statuses = [log_in_for_real(client, "wrong", HERE) for _ in range(2)]
        assert statuses == [200, 429]
        pretended = f"{ELSEWHERE}, {HERE}"  # the client's own word, and then the proxy's
        assert log_in_for_real(client, PASSWORD, pretended) == 429
        assert log_in_for_real(client, PASSWORD, ELSEWHERE) == 302


def test_without_one_nobody_gets_more_attempts_by_pretending(
    database_url: str, known_elsewhere: None, tmp_path: Path
) -> None:
    one_left("127.0.0.1")
    with api_process(tmp_path, DATABASE_URL=database_url, TRUSTED_PROXIES="") as client:
        statuses = [log_in_for_real(client, "wrong", address) for address in (HERE, ELSEWHERE)]
    assert statuses == [200, 429]
    assert set(FailedLogin.objects.values_list("address", flat=True)) == {"127.0.0.1"}


CROWD = 60
"""Sign-ins at once: far more than the API has threads."""


ADDRESSES = pytest.mark.parametrize(
    "addresses", [1, CROWD], ids=["of one address", "of as many addresses"]
)


@ADDRESSES
def test_a_crowd_that_signs_in_waits_without_threads_and_is_refused(
    addresses: int,
    api: Api,
    application: Application,
    operator: User,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checking, go_on = threading.Event(), threading.Event()
    check = ThrottledBackend.authenticate

    def slow(backend: ThrottledBackend, request: Any, **fields: Any) -> Any:
        if not request.sign_in_refused:
            checking.set()
            assert go_on.wait(LONG)
        return check(backend, request, **fields)

    monkeypatch.setattr(ThrottledBackend, "authenticate", slow)
    monkeypatch.setattr(shares, "SIGN_IN_SECONDS", 0.5)
    page = api.get("http://testserver/admin/login/")
    fields = {"password": "wrong", "csrfmiddlewaretoken": token_of(page.text)}

    async def sign_in_from(number: int) -> httpx.Response:
        transport = httpx.ASGITransport(application, client=(f"198.51.100.{number % addresses}", 1))
        async with httpx.AsyncClient(
            transport=transport, base_url="http://testserver", cookies=page.cookies, timeout=LONG
        ) as client:
            return await client.post(LOGIN, data=fields | {"username": f"name{number}"})

    async def scene() -> list[httpx.Response]:
        crowd = [asyncio.ensure_future(sign_in_from(number)) for number in range(CROWD)]
        await asyncio.to_thread(checking.wait, LONG)
        (await api.send("GET", "/environments")).raise_for_status()
        answers = asyncio.as_completed(crowd)
        refused = [await next(answers) for _ in range(CROWD - 1)]
        go_on.set()
        return [*refused, await next(answers)]

    *refused, tried = api.run(scene())
    assert tried.status_code == 200
    for each in refused:
        assert each.status_code == 503
        assert "Too many people are signing in right now. Try again in a few" in each.text
        assert each.headers["Retry-After"] == "5"
    # Those that were refused have tried no password: they don't count.
    assert FailedLogin.objects.filter(username__startswith="name").count() == 1


@pytest.mark.thorough
@pytest.mark.alone
@ADDRESSES
def test_a_crowd_that_signs_in_is_not_felt_by_others(
    addresses: int, database_url: str, known_elsewhere: None, tmp_path: Path
) -> None:
    with (
        api_process(tmp_path, DATABASE_URL=database_url, TRUSTED_PROXIES="127.0.0.1") as client,
        ThreadPoolExecutor(CROWD) as crowd,
    ):
        client.headers["Connection"] = "close"  # a socket for each
        token = form_token(client)
        alone = seconds_of(lambda: sign_in(client, token, "nobody", "wrong", ELSEWHERE))

        def one_of_them(number: int) -> httpx.Response:
            address = f"198.51.100.{number % addresses}"
            return sign_in(client, token, f"name{number}", "wrong", address)

        sent = [crowd.submit(one_of_them, number) for number in range(CROWD)]
        time.sleep(alone)
        others = [
            seconds_of(lambda: client.get("/api/v1/environments").raise_for_status())
            for _ in range(10)
        ]
        assert not all(each.done() for each in sent)
        if addresses == 1:
            assert sign_in(client, token, "operator", PASSWORD, ELSEWHERE).status_code == 302
        answers = [each.result() for each in sent]
    assert max(others) < alone, f"{others}, while a sign-in takes {alone}"
    assert statistics.median(others) < alone / 4
    refused = [each for each in answers if each.status_code == 503]
    assert len(refused) > CROWD / 2
    assert {each.status_code for each in answers} == {200, 503}
    for each in refused:
        assert "Too many people are signing in right now. Try again in a few" in each.text
        assert each.headers["Retry-After"] == "5"
    # Whoever was refused has tried no password: it doesn't count.
    assert FailedLogin.objects.filter(username__startswith="name").count() == CROWD - len(refused)


def seconds_of(call: Callable[[], Any]) -> float:
    start = time.monotonic()
    call()
    return time.monotonic() - start
