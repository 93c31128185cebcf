"""An environment's Dockerfile is changed in the console: a real browser, API, worker and Engine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from codeexec.sandbox.docker.runner_image import runner_version
from tests.support.chromium import PATIENCE_MS, chromium
from tests.support.patience import eventually
from tests.support.sandboxes import configured_image
from tests.support.stack import Stack, collect_static_files, docker, running_stack

pytestmark = [pytest.mark.stack, pytest.mark.docker, pytest.mark.browser, pytest.mark.thorough]

CHANGE = "ENV CHANGED=yes"
PROGRAM = "import os; print(os.environ.get('CHANGED'))"


@pytest.fixture
def prefix() -> Iterator[str]:
    """Names of images for this test alone: no other deployment's builds have them."""
    prefix = f"code-executor-{secrets.token_hex(4)}"
    for image in ("python", "python-ml", "node", "rust", f"runner:{runner_version()}"):
        docker("tag", configured_image(image), f"{prefix}-{image}")
    yield prefix
    docker("rmi", *docker("images", "--format", "{{.Repository}}:{{.Tag}}", f"{prefix}-*"))
    docker("volume", "rm", "--force", f"{prefix}-runner")


@pytest.fixture
def stack(tmp_path: Path, prefix: str) -> Iterator[Stack]:
    collect_static_files()
    with running_stack(tmp_path, DOCKER_IMAGE_PREFIX=prefix) as stack:
        yield stack


@pytest.fixture
def operator(stack: Stack) -> Iterator[Page]:
    admin = json.loads(stack.manage("create_admin", "--json"))
    with chromium() as browser:
        tab = browser.new_page(base_url=f"http://127.0.0.1:{stack.port}")
        tab.set_default_timeout(PATIENCE_MS)
        tab.goto("/admin/")
        tab.fill("#id_username", admin["username"])
        tab.fill("#id_password", admin["password"])
        tab.click("button[type=submit]")
        yield tab


def run_once(stack: Stack) -> tuple[Any, ...]:
    """In a new session: what it printed, with which revision and image."""
    session_id = stack.client.open("python")
    answer = stack.client.execute(session_id, PROGRAM)
    stack.client.stop(session_id)
    return answer["stdout"], answer["revision"], answer["image_digest"]


def image_id(reference: str) -> str:
    return docker("image", "inspect", "--format", "{{.Id}}", reference)[0]


def test_a_dockerfile_is_changed_built_tested_promoted_and_taken_back(
    operator: Page, stack: Stack, prefix: str
) -> None:
    tab, problems = operator, list[str]()
    tab.on("pageerror", lambda error: problems.append(str(error)))
    before = image_id(f"{prefix}-python")
    assert eventually(lambda: stack.rows("SELECT 1 FROM environments_app_environmentrevision"))
    tab.goto("/admin/environments_app/environment/")
    tab.get_by_role("link", name="python", exact=True).click()
    tab.get_by_text("Builds and revisions").click()
    dockerfile = tab.locator("#dockerfile")
    dockerfile.fill(f"{dockerfile.input_value()}{CHANGE}\n")
    tab.get_by_role("button", name="Build a candidate").click()
    expect(tab.locator("#build pre")).to_contain_text(CHANGE)  # without a reload
    expect(tab.locator("#build pre")).to_contain_text("Smoke test passed")
    tab.get_by_role("button", name="Promote").click()
    tab.locator("[name=confirmed]").click()
    expect(tab.get_by_text("Sessions of python get")).to_be_visible()
    candidate = image_id(f"{prefix}-python:build-1")
    assert candidate != before
    assert run_once(stack) == ("yes\n", 2, candidate)
    tab.get_by_role("button", name="Roll back").click()
    tab.locator("[name=confirmed]").click()
    expect(tab.get_by_text("is as it was in revision 1")).to_be_visible()
    assert run_once(stack) == ("None\n", 3, before)
    assert not problems
