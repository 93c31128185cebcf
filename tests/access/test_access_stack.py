"""Keys and tokens where several processes serve one API, as they really run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.first_program import run_first_program
from tests.support.stack import ROOT, Answer, Client, eventually, free_port, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.thorough]


def test_every_process_of_the_api_honours_a_key_and_its_end(tmp_path: Path) -> None:
    with running_stack(tmp_path, API_AUTH="key") as stack:
        second = Client(free_port())
        stack.start("api2", "run_api", API_PORT=str(second.port))
        assert eventually(lambda: _answers(second))
        made = json.loads(stack.manage("create_client", "tests", "--json"))
        key = f"Api-Key {made['key']}"

        def statuses(path: str = "/sessions") -> set[int]:
            return {
                _get(client, path, key).status for client in (stack.client, second) for _ in "12"
            }

        assert eventually(lambda: statuses() == {200})
        assert run_first_program(f"http://127.0.0.1:{second.port}/api/v1", "python", made["key"])
        opened = _call(stack.client, "POST", "/sessions", key, {"environment": "python"}).body
        session = f"/sessions/{opened['session_id']}"
        token = _call(second, "POST", f"{session}/tokens", key, {"role": "viewer"}).body["token"]
        assert _get(stack.client, f"{session}?token={token}", "").status == 200
        assert _get(second, session, f"Bearer {token}").status == 200
        _benchmark_asks_for_the_key(stack.port, made["key"])
        stack.manage("revoke_key", made["prefix"])
        assert statuses() == {401}  # at once: no waiting here
        for name in ("api", "api2"):
            assert made["key"][13:] not in stack.log(name)
            assert token[:60] not in stack.log(name)


def _benchmark_asks_for_the_key(port: int, key: str) -> None:
    """And tells why where it has none."""
    program = (
        "from benchmark.service import Caller\n"
        f"print(Caller('http://127.0.0.1:{port}').call('GET', '/environments').body)\n"
    )
    for variables, said in (({"CODE_EXECUTOR_API_KEY": key}, "python"), ({}, "needs a key")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env=os.environ | variables,
            capture_output=True,
            text=True,
        )
        assert said in done.stdout + done.stderr


def _answers(client: Client) -> bool:
    try:
        return client.call("GET", "/health").status in (200, 503)
    except OSError:
        return False


def _get(client: Client, path: str, authorization: str) -> Answer:
    return _call(client, "GET", path, authorization)


def _call(
    client: Client, method: str, path: str, authorization: str, body: object = None
) -> Answer:
    headers = {"Authorization": authorization} if authorization else {}
    return client.call(method, path, body, headers)
