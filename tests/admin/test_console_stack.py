"""An operator at work during an interview: a real browser, a whole deployment, real containers, and
a candidate who comes by the API. Nothing is loaded again but by clicking.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.support.chromium import PATIENCE_MS, chromium
from tests.support.patience import eventually
from tests.support.stack import Stack, collect_static_files, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.browser, pytest.mark.thorough]

PROGRAM = """
import time
for number in range(250):
    print('line', number, flush=True)
    time.sleep(0.1)
"""


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    collect_static_files()
    with running_stack(tmp_path) as stack:
        yield stack


@pytest.fixture
def console(stack: Stack) -> Iterator[Page]:
    """Logged in as the first operator."""
    made = json.loads(stack.manage("create_admin", "--json"))
    with chromium() as browser:
        page = browser.new_page(
            base_url=f"http://127.0.0.1:{stack.port}", viewport={"width": 1440, "height": 900}
        )
        page.set_default_timeout(PATIENCE_MS)
        page.goto("/admin/")
        page.fill("#id_username", made["username"])
        page.fill("#id_password", made["password"])
        page.click("button[type=submit]")
        expect(page.locator("#dashboard")).to_be_visible()
        yield page


def confirm(console: Page, action: str, answer: str) -> None:
    console.locator(f"[hx-get*={action}]").first.click()
    console.get_by_role("button", name=answer).click()


def run_of(stack: Stack, session_id: str) -> dict[str, Any]:
    timeline = stack.client.call("GET", f"/sessions/{session_id}/executions").body["results"]
    return dict(timeline[-1])


def test_an_operator_watches_an_interview_and_steers_it(stack: Stack, console: Page) -> None:
    console.get_by_role("link", name="Sessions").first.click()
    expect(console.locator("#changelist-form")).to_be_visible()
    for _ in range(2):  # the list refreshes itself while there is nothing in it
        console.wait_for_event("response", lambda response: response.url == console.url)
    session_id = stack.client.open("python")  # and the list that is open shows it
    console.get_by_role("link", name=session_id[:8]).click()
    expect(console.locator("#now")).to_contain_text("READY", ignore_case=True)
    expect(console.locator("[data-figure=memory]")).to_contain_text("of 256")
    expect(console.locator("[hx-get*=extend_this_session]").first).to_be_visible()
    expect(console.locator("[hx-get*=cancel_its_run]").first).to_be_hidden()  # nothing runs
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(stack.client.execute, session_id, PROGRAM)
        output = console.locator("[data-stream]")
        expect(output).to_contain_text("line 5\n")
        assert run_of(stack, session_id)["status"] == "running"
        expect(console.locator("#now")).to_contain_text("EXECUTING", ignore_case=True)
        confirm(console, "cancel_its_run", "End the program")
        result = waiting.result()
    assert (result["status"], result["verdict"]) == ("cancelled", "cancelled")
    assert result["stdout"].startswith("line 0\nline 1\n")
    expect(console.locator("#timeline")).to_contain_text("CANCELLED", ignore_case=True)
    expect(console.locator("#now")).to_contain_text("READY", ignore_case=True)
    assert stack.client.execute(session_id, "print('goes on')")["stdout"] == "goes on\n"
    expect(console.locator("#timeline")).to_contain_text("goes on")
    confirm(console, "stop_this_session", "Stop it")
    expect(console.locator("#now")).to_contain_text("STOPPED", ignore_case=True)
    assert eventually(lambda: not any(session_id in name for name in stack.containers()))
    console.get_by_role("link", name=re.compile("Audit log")).click()
    for action in ("execution.cancel", "session.stop"):
        expect(console.locator("#result_list")).to_contain_text(action)
