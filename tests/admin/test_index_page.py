"""The page at `/`, and that no page of ours needs a server other than ours."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse

OWN_TEMPLATES = sorted((settings.BASE_DIR / "templates").rglob("*.html"))


class Page(HTMLParser):
    """What a browser would load, and what a strict content security policy would refuse."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.inline: list[str] = []
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href") if name in given]
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" else []
        self._script = tag == "script"

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._script = False


@pytest.fixture
def page(client: Client) -> Page:
    response = client.get("/")
    assert response.status_code == 200
    return Page(response.content.decode())


def test_it_links_to_the_documentation_the_schema_and_the_console(page: Page) -> None:
    wanted = {reverse(name) for name in ("docs", "redoc", "schema", "admin:index")}
    assert wanted <= set(page.addresses)


def test_a_strict_content_security_policy_would_let_it_work(page: Page) -> None:
    assert page.inline == []


def test_it_needs_no_other_server_and_its_files_are_there(page: Page) -> None:
    assert all(address.startswith("/") for address in page.addresses)
    files = [address for address in page.addresses if address.startswith("/static/")]
    assert len(files) >= 3
    for address in files:
        assert finders.find(address.removeprefix("/static/")), address


def test_it_may_not_be_framed(client: Client) -> None:
    assert client.get("/").headers["X-Frame-Options"] == "DENY"


def test_its_script_writes_text_and_no_markup() -> None:
    script = (settings.BASE_DIR / "static" / "js" / "index.js").read_text()
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)


@pytest.mark.parametrize("template", OWN_TEMPLATES, ids=lambda path: path.name)
def test_no_template_of_ours_loads_from_another_server(template: Path) -> None:
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', template.read_text())
