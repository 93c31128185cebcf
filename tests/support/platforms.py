"""Two interview platforms, each with a key, a session and an execution in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx

from codeexec.db.notifications import hub, publish
from codeexec.http.threads import in_thread
from sessions_app.access.clients import create_client, create_key
from sessions_app.models import Client
from tests.conftest import Work
from tests.support.api_client import Api
from tests.support.patience import LONG


@dataclass(frozen=True, kw_only=True)
class Platform:
    """Calls with its key."""

    api: Api
    client: Client
    key: str

    def call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return call(self.api, method, path, body, api_key(self.key))

    def open(self, **fields: Any) -> str:
        answer = self.call("POST", "/sessions", {"environment": "python", **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["session_id"])

    def run(self, session_id: str, work: Work) -> str:
        """The id of an execution that has ended."""
        path = f"/sessions/{session_id}/execute?wait=false"
        answer = self.call("POST", path, {"code": "print('a secret')"})
        assert answer.status_code == 202, answer.text
        work()
        return str(answer.json()["execution_id"])

    def token(self, session_id: str, role: str, **fields: Any) -> str:
        answer = self.call("POST", f"/sessions/{session_id}/tokens", {"role": role, **fields})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["token"])


def platform(api: Api, name: str, **columns: Any) -> Platform:
    client = create_client(name, **columns)
    return Platform(api=api, client=client, key=create_key(client).key)


def api_key(key: str) -> dict[str, str]:
    return {"authorization": f"Api-Key {key}"}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def call(api: Api, method: str, path: str, body: Any, headers: dict[str, str]) -> httpx.Response:
    given = {} if body is None else {"json": body}
    return api.request(method.upper(), path, headers=headers, **given)


def read_notifications(api: Api) -> None:
    """Has the API's event loop, which stands still between a test's requests, read
    all notifications that the database has sent so far.
    """
    api.run(_read())


async def _read() -> None:
    last = uuid4()
    with hub.subscribe(last) as waiter:
        await in_thread(publish, last)
        assert await waiter.wait(LONG)
