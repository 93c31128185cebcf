"""Bodies of requests: a refused caller's is not read, and of the others together no more
than there is room for.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from codeexec.bounds import BODY_BYTES_IN_MEMORY
from codeexec.http import bodies as module
from codeexec.http.bodies import bodies
from sessions_app.access.clients import create_client, create_key
from sessions_app.callers import Scope
from tests.codeexec.test_deployment import api_process
from tests.conftest import Configure, Work
from tests.support.api_client import Api
from tests.support.databases import database_of_its_own, migrated
from tests.support.patience import LONG

pytestmark = pytest.mark.django_db(transaction=True)

SIGN_IN = "http://testserver/admin/login/"
LARGE = 2 * BODY_BYTES_IN_MEMORY
HEAD = b"POST /api/v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n"


def held_bytes() -> int:
    return bodies._held.total()


def received(client: socket.socket) -> bytes:
    """The next answer, whose body has its length."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += client.recv(65536)
    head, _, body = answer.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


class TestRefusedCallers:
    def test_the_refusal_comes_before_the_body_is_sent(self, tmp_path: Path) -> None:
        with (
            database_of_its_own("no_clients", template=migrated()) as url,
            api_process(tmp_path, API_AUTH="key", DATABASE_URL=url) as api,
        ):
            address = ("127.0.0.1", api.base_url.port or 0)
            with socket.create_connection(address, timeout=LONG) as client:
                client.sendall(HEAD % 9_000_000 + b"Expect: 100-continue\r\n\r\n")
                answer = received(client)
                assert answer.startswith(b"HTTP/1.1 401") and b"connection: close" in answer
                assert b'"code":"not_authenticated"' in answer
                assert client.recv(1) == b""
            with socket.create_connection(address, timeout=LONG) as client:
                for _time in range(
                    2
                ):  # a client that sends it all the same may use the connection again
                    client.sendall(HEAD % LARGE + b"\r\n")
                    assert received(client).startswith(b"HTTP/1.1 401")
                    client.sendall(b"x" * LARGE)

    @pytest.mark.parametrize("scopes", [None, [Scope.READ]], ids=["no key", "no scope"])
    def test_the_body_is_not_read(
        self, api: Api, configure: Configure, scopes: list[Scope] | None
    ) -> None:
        configure(API_AUTH="key")
        headers = {}
        if scopes is not None:
            client = create_client("reader", scopes=scopes)
            headers["Authorization"] = f"Api-Key {create_key(client).key}"
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            sent += 1
            yield b"{}"

        for path in ("/sessions", "/execute"):
            answer = api.request("POST", path, content=body(), headers=headers)
            assert answer.status_code == (401 if scopes is None else 403)
        assert sent == 0


class Sending:
    """Requests whose bodies begin, and end when `end` is set."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.end = asyncio.Event()

    async def body(self) -> AsyncIterator[bytes]:
        yield b" " * LARGE
        await self.end.wait()
        yield b"{}"

    def begin(
        self, path: str = "/sessions", headers: dict[str, str] | None = None
    ) -> asyncio.Task[httpx.Response]:
        return asyncio.ensure_future(
            self.api.send("POST", path, content=self.body(), headers=headers or {})
        )


async def begun(size: int) -> None:
    async with asyncio.timeout(LONG):
        while held_bytes() != size:
            await asyncio.sleep(0.01)


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """For four large bodies, two of one client's."""
    monkeypatch.setattr(module, "BODIES_BYTES", 4 * LARGE + 8)
    monkeypatch.setattr(module, "BODIES_OF_MOST_SIZE", 0)


@pytest.mark.usefixtures("little_room")
class TestRoom:
    def test_without_room_a_request_is_refused_until_there_is_some(self, api: Api) -> None:
        async def test() -> None:
            sending = Sending(api)
            tasks = [sending.begin() for _ in range(2)]
            await begun(2 * LARGE)
            refused = await api.send("POST", "/sessions", content=b" " * LARGE)
            assert (refused.status_code, refused.json()["code"]) == (503, "no_capacity")
            assert refused.headers["Retry-After"] == "5"
            small = await api.send("POST", "/sessions", json={"environment": "none"})
            assert small.json()["code"] == "unknown_environment"  # a small one is always read
            sending.end.set()
            answers = await asyncio.gather(*tasks)
            assert all(answer.status_code < 503 for answer in answers)
            assert held_bytes() == 0
            assert (await api.send("POST", "/sessions", content=b" " * LARGE)).status_code < 503

        api.run(test())

    def test_another_client_finds_the_other_half(self, api: Api, configure: Configure) -> None:
        configure(API_AUTH="key")
        keys = [create_key(create_client(name)).key for name in ("one", "two")]

        async def test() -> None:
            statuses = []
            for key in keys:
                headers = {"Authorization": f"Api-Key {key}", "content-type": "application/json"}
                sending = Sending(api)
                sent = [
                    asyncio.ensure_future(
                        api.send("POST", "/sessions", content=sending.body(), headers=headers)
                    )
                    for _ in range(3)
                ]
                done, waiting = await asyncio.wait(sent, return_when=asyncio.FIRST_COMPLETED)
                statuses += [task.result().status_code for task in done]
                assert len(waiting) == 2
                for task in waiting:
                    task.cancel()
            assert statuses == [503, 503]
            await begun(0)

        api.run(test())

    def test_bodies_for_the_sign_in_page_take_no_room_of_clients(
        self, api: Api, configure: Configure
    ) -> None:
        configure(API_AUTH="key")
        key = {"Authorization": f"Api-Key {create_key(create_client('one')).key}"}

        async def test() -> None:
            sending = Sending(api)
            tasks = [sending.begin(SIGN_IN) for _ in range(2)]
            await begun(2 * LARGE)
            refused = await api.send("POST", SIGN_IN, content=b" " * LARGE)
            assert (refused.status_code, refused.json()["code"]) == (503, "no_capacity")
            small = await api.send("POST", SIGN_IN, data={"username": "operator"})
            assert small.status_code == 403  # without its token: it was read
            as_client = await api.send("POST", "/sessions", content=b" " * LARGE, headers=key)
            assert as_client.status_code < 503
            sending.end.set()
            assert {each.status_code for each in await asyncio.gather(*tasks)} == {403}
            assert held_bytes() == 0

        api.run(test())

    def test_a_client_that_leaves_gives_its_room_back(self, api: Api) -> None:
        async def test() -> None:
            for _time in range(5):
                tasks = [Sending(api).begin() for _ in range(2)]
                await begun(2 * LARGE)
                for task in tasks:
                    task.cancel()
                await begun(0)

        api.run(test())

    def test_a_run_that_waits_keeps_none(self, api: Api, work: Work) -> None:
        session_id = api.post("/sessions", {"environment": "python"}).json()["session_id"]
        work()
        held: list[int] = []
        run: dict[str, Any] = {"code": "print(1)", "files": {"a.txt": "a" * LARGE}}

        def look_and_work() -> None:
            held.append(held_bytes())
            work()

        answer = api.post_while(f"/sessions/{session_id}/execute", run, look_and_work)
        assert answer.json()["stdout"] == "1\n"
        assert held == [0]
