"""A client whose lists take long delays neither other clients nor its own other calls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psycopg
import pytest

from codeexec.db.postgres import connection_parameters
from codeexec.http import shares
from codeexec.http.threads import threads
from sessions_app.access.clients import create_client, create_key
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.patience import LONG

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def slow_lists() -> Iterator[None]:
    with psycopg.connect(**connection_parameters("test")) as holding:
        holding.execute("LOCK TABLE sessions_app_session IN ACCESS EXCLUSIVE MODE")
        yield


@pytest.fixture
def keys(configure: Configure) -> list[dict[str, str]]:
    configure(API_AUTH="key", DATABASE_TIMEOUT=LONG)
    made = [create_key(create_client(name)).key for name in ("busy", "another")]
    return [{"Authorization": f"Api-Key {key}"} for key in made]


def test_others_are_answered_and_so_are_its_other_calls(
    api: Api, keys: list[dict[str, str]]
) -> None:
    async def test() -> list[httpx.Response]:
        with slow_lists():
            lists = [
                asyncio.ensure_future(
                    api.send("GET", "/sessions", params={"metadata.x": "y"}, headers=keys[0])
                )
                for _ in range(2 * threads.limit)
            ]
            await asyncio.sleep(0.5)
            for headers in keys:
                for _time in range(3):
                    answer = await api.send("GET", "/environments", headers=headers)
                    assert answer.status_code == 200
            assert not any(each.done() for each in lists)
        return await asyncio.gather(*lists)

    assert {answer.status_code for answer in api.run(test())} == {200}
    assert not shares._all_places


def test_a_request_that_waits_too_long_for_a_place_is_refused(
    api: Api, keys: list[dict[str, str]], configure: Configure
) -> None:
    configure(DATABASE_TIMEOUT=1)

    async def test() -> list[httpx.Response]:
        with slow_lists():
            asked = (
                api.send("GET", "/sessions", headers=keys[0]) for _ in range(2 * threads.limit)
            )
            return await asyncio.gather(*asked)

    answers = api.run(test())
    assert {(each.status_code, each.json()["code"]) for each in answers} == {
        (503, "database_away"),
        (503, "no_capacity"),
    }
    assert all(each.headers["Retry-After"] for each in answers)
