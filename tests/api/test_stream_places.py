"""How many event streams there may be, and of whom; and that those of revoked keys end at once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from uuid import uuid4

import pytest

from codeexec.db.notifications import hub
from codeexec.http.serving import Application
from codeexec.http.threads import in_thread
from sessions_app.access.clients import revoke_key
from sessions_app.api import stream_places as module
from sessions_app.api import streams
from sessions_app.api.stream_places import stream_places
from sessions_app.models import Client as ClientRow
from sessions_app.models import Node
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.event_streams import LONG, Watching, watching
from tests.support.patience import SOON, becomes_connected
from tests.support.platforms import Platform, api_key, bearer, platform, read_notifications

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def own(api: Api, this: Node, configure: Configure) -> Iterator[Platform]:
    configure(API_AUTH="key")
    yield platform(api, "own")
    assert not len(stream_places), "a place outlived its stream"
    assert not stream_places._taken


async def opened(
    stack: AsyncExitStack, application: Application, path: str, headers: dict[str, str]
) -> Watching:
    return await stack.enter_async_context(watching(application, path, **headers))


@pytest.mark.parametrize("kind", ["session token", "session", "client"])
def test_nobody_takes_all_places(
    own: Platform, api: Api, application: Application, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(module, f"PER_{kind.rpartition(' ')[2].upper()}", 3)
    first, second = own.open(), own.open()
    viewers = [bearer(own.token(first, role)) for role in ("viewer", "interviewer")]
    others = platform(api, "others")
    read_notifications(api)
    theirs = others.open()
    read_notifications(api)
    full, free = {
        "session token": ((first, viewers[0]), (first, viewers[1])),
        "session": ((first, viewers[1]), (second, api_key(own.key))),
        "client": ((second, api_key(own.key)), (theirs, api_key(others.key))),
    }[kind]

    async def scene() -> None:
        async with AsyncExitStack() as stack:
            path = f"/sessions/{first}/events"
            seen = [await opened(stack, application, path, viewers[0]) for _ in range(3)]
            refused = await opened(stack, application, f"/sessions/{full[0]}/events", full[1])
            assert (refused.status, refused.headers["retry-after"]) == (429, "5")
            body = (await refused.received.get() or b"").decode()
            assert f"This {kind} may have at most 3 open event streams" in body
            assert '"too_many_streams"' in body
            other = await opened(stack, application, f"/sessions/{free[0]}/events", free[1])
            for each in (*seen, other):
                assert (each.status, await each.until("session") != []) == (200, True)
        async with watching(application, f"/sessions/{full[0]}/events", **full[1]) as again:
            assert again.status == 200, "hanging up gave no place back"

    api.run(scene())


def test_a_process_has_so_many_places_in_all(
    own: Platform, api: Api, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IN_ALL", 1)
    path = f"/sessions/{own.open()}/events"
    read_notifications(api)

    async def scene() -> None:
        async with watching(application, path, **api_key(own.key)) as first:
            assert first.status == 200
            async with watching(application, path, **api_key(own.key)) as second:
                assert second.status == 503

    api.run(scene())


def test_hang_ups_at_any_moment_give_all_places_back(
    own: Platform, api: Api, application: Application
) -> None:
    path, headers = f"/sessions/{own.open()}/events", api_key(own.key)
    read_notifications(api)

    async def one(number: int) -> None:
        try:
            async with asyncio.timeout(number % 25 / 500):
                async with watching(application, path, **headers) as viewer:
                    await viewer.until()
        except TimeoutError:
            pass

    async def scene() -> None:
        for begin in range(10):
            await asyncio.gather(*(one(begin + each) for each in range(30)))
        async with asyncio.timeout(LONG):
            while len(stream_places):
                await asyncio.sleep(0.01)

    api.run(scene())


@pytest.mark.parametrize("loses_it", ["its key is revoked", "its client is disabled"])
def test_whose_key_is_revoked_sees_nothing_more_at_once(
    own: Platform,
    api: Api,
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    loses_it: str,
) -> None:
    """Not at the next sign of life, and nobody else's stream ends."""
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 10 * LONG)
    others = platform(api, "others")
    read_notifications(api)
    theirs, session_id = others.open(), own.open()
    read_notifications(api)

    def lose() -> None:
        if loses_it == "its key is revoked":
            revoke_key(own.key)
        else:
            ClientRow.objects.filter(pk=own.client.pk).update(enabled=False)

    async def scene() -> None:
        assert await becomes_connected(hub)
        mine = watching(application, f"/sessions/{session_id}/events", **api_key(own.key))
        other = watching(application, f"/sessions/{theirs}/events", **api_key(others.key))
        async with mine as viewer, other as stranger:
            await viewer.until("session")
            await stranger.until("session")
            await in_thread(lose)
            async with asyncio.timeout(SOON):
                assert await viewer.until() == []
            assert not stranger.task.done()

    api.run(scene())


def test_every_sign_of_life_is_a_look_at_the_permission(
    own: Platform, api: Api, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For changes that nobody was told of: one in two would be twice as long."""
    monkeypatch.setattr(streams, "HEARTBEAT_SECONDS", 0.05)
    looks = []

    async def looked(*_request: object) -> bool:
        looks.append(uuid4())
        return True

    monkeypatch.setattr(streams, "may_still_watch", looked)
    path = f"/sessions/{own.open()}/events"
    read_notifications(api)

    async def scene() -> None:
        async with watching(application, path, **api_key(own.key)) as viewer:
            text = ""
            async with asyncio.timeout(LONG):
                while len(re.findall("still here", text)) < 6:
                    text += (await viewer.received.get() or b"").decode()
            assert len(looks) >= 6

    api.run(scene())
