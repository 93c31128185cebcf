"""Viewers of event streams: of the application in this process, and over a real connection."""

from __future__ import annotations

import asyncio
import codecs
import http.client
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from codeexec.http.serving import Application

LONG = 20.0


@dataclass(frozen=True, kw_only=True)
class Event:
    id: str
    name: str
    data: dict[str, Any]


def parsed(block: str) -> Event | None:
    """None: a comment, or the time until a browser comes back."""
    fields = dict(line.split(": ", 1) for line in block.split("\n") if line[:1] != ":")
    if "event" not in fields:
        return None
    return Event(id=fields["id"], name=fields["event"], data=json.loads(fields["data"]))


def texts(events: list[Event], stream: str = "stdout", stage: str = "run") -> str:
    """The output that was streamed, joined."""
    return "".join(
        event.data["text"]
        for event in events
        if event.name == stream and event.data["stage"] == stage
    )


def names_of(events: list[Event]) -> list[str]:
    """The names of events, and of statuses what they say."""
    return [each.data["status"] if each.name == "status" else each.name for each in events]


@dataclass
class Watching:
    """What one viewer has received. The stream continues while the test awaits something."""

    task: asyncio.Task[None]
    status: int
    headers: dict[str, str]
    received: asyncio.Queue[bytes | None]
    blocks: list[str] = field(default_factory=list)
    """Comments as well."""
    _rest: str = ""
    _decoder: codecs.IncrementalDecoder = field(
        default_factory=codecs.getincrementaldecoder("utf-8")
    )

    async def next(self) -> Event | None:
        """Waited for; None at the stream's end."""
        while True:
            while "\n\n" in self._rest:
                block, _, self._rest = self._rest.partition("\n\n")
                self.blocks.append(block)
                if (event := parsed(block)) is not None:
                    return event
            async with asyncio.timeout(LONG):
                piece = await self.received.get()
            if piece is None:
                return None
            self._rest += self._decoder.decode(piece)

    async def until(self, *names: str) -> list[Event]:
        """The events up to the first with one of these names; all, without any."""
        events: list[Event] = []
        while (event := await self.next()) is not None:
            events.append(event)
            if names_of([event])[0] in names:
                break
        return events


@asynccontextmanager
async def watching(application: Application, path: str, **headers: str) -> AsyncIterator[Watching]:
    """`headers`: with underscores for hyphens. A viewer that goes away at the end."""
    address = urlsplit(path if path.startswith("/admin") else f"/api/v1{path}")
    started: asyncio.Future[tuple[int, dict[str, str]]] = asyncio.get_running_loop().create_future()
    received: asyncio.Queue[bytes | None] = asyncio.Queue()
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            heads = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            if not started.done():  # else its viewer has hung up
                started.set_result((message["status"], heads))
        else:
            if message.get("body"):
                received.put_nowait(message["body"])
            if not message.get("more_body"):
                received.put_nowait(None)

    given = {"host": "testserver", **{name.replace("_", "-"): v for name, v in headers.items()}}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": address.path,
        "raw_path": address.path.encode(),
        "query_string": address.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("testserver", 80),
    }
    task = asyncio.create_task(application(scope, receive, send))
    try:
        async with asyncio.timeout(LONG):
            status, heads = await started
        yield Watching(task=task, status=status, headers=heads, received=received)
    finally:
        gone.set()
        await asyncio.wait([task], timeout=LONG)


def follow(port: int, path: str, **headers: str) -> Iterator[Event]:
    """Events over a connection of its own, until the stream ends or the caller does."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/api/v1{path}", headers=headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    block: list[str] = []
    try:
        for line in response:
            text = line.decode().rstrip("\n")
            if text:
                block.append(text)
                continue
            if (event := parsed("\n".join(block))) is not None:
                yield event
            block = []
    finally:
        connection.close()
