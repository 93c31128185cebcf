"""`scripts/audit.py`, which `scripts/lint` runs last, against an index of the test's own."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from scripts import audit
from scripts.audit import Release, ask_index, installed, known_vulnerabilities, look_up
from tests.support.patience import LONG, SOON

PAGE = {
    "files": [
        {"filename": "some_thing-1.0-py3-none-any.whl", "yanked": "broke everything"},
        {"filename": "some_thing-1.0.tar.gz", "yanked": True},
        {"filename": "some_thing-1.0.1-py3-none-any.whl", "yanked": False},
        {"filename": "some_thing-1.1.tar.gz", "yanked": True},
        {"filename": "some_thing-1.1-py3-none-any.whl"},
    ]
}


HANGING = threading.Event()
"""Until it is set, what is slow isn't answered."""


class _Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/slow/":
            HANGING.wait(LONG)
        found = self.path in ("/some-thing/", "/slow/")
        if self.path == "/private/":
            found = self.headers["Authorization"] == "Basic bWU6c2VjcmV0IQ=="  # me:secret!
        body = json.dumps(PAGE).encode() if found else b"<html>"
        self.send_response(200 if found or self.path == "/html/" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- its name there
        pass


@pytest.fixture
def index() -> Iterator[str]:
    HANGING.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    HANGING.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("name", "version", "withdrawn"),
    [
        ("some-thing", "1.0", True),
        ("some-thing", "1.0.1", False),
        ("some-thing", "1.1", False),  # one of its files can still be had
        ("some-thing", "2.0", None),
        ("none-such", "1.0", None),
        ("html", "1.0", None),
    ],
)
def test_the_index_says_what_was_withdrawn(
    index: str, name: str, version: str, withdrawn: bool | None
) -> None:
    assert look_up(index, Release(name=name, version=version)) is withdrawn


def test_an_indexs_password_is_sent_to_it_and_told_nobody(
    index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    private = index.replace("//", "//me:secret%21@")
    releases = [Release(name=name, version="1.0.1") for name in ("private", "none-such")]
    assert run(monkeypatch, private, None, *releases) == 0
    said = capsys.readouterr().out
    assert "1 of 2 releases" in said
    assert "secret" not in said


def test_an_index_that_answers_late_is_not_waited_for(
    index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "INDEX_SECONDS", 2)
    late, prompt = Release(name="slow", version="1.0"), Release(name="some-thing", version="1.0")
    start = time.monotonic()
    assert ask_index(index, [late, prompt]) == {late: None, prompt: True}
    assert time.monotonic() - start < SOON


def run(monkeypatch: pytest.MonkeyPatch, index: str, advisories: Any, *releases: Release) -> int:
    monkeypatch.setattr(audit, "ask_advisories", lambda: advisories)
    monkeypatch.setattr(audit, "installed", lambda: list(releases))
    monkeypatch.setenv("PIP_INDEX_URL", f"{index}/")
    return audit.main()


def test_a_withdrawn_release_fails_and_the_output_says_what_was_not_done(
    index: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    releases = [Release(name="some-thing", version=version) for version in ("1.0", "1.0.1", "3")]
    assert run(monkeypatch, index, None, *releases) == 1
    said = capsys.readouterr().out
    assert "known vulnerabilities were NOT looked for" in said
    assert "2 of 3 releases, 1 of them withdrawn" in said
    assert "withdrawn: some-thing 1.0\n" in said
    assert "Not in the index, or no answer in 10 s: some-thing 3" in said
    assert run(monkeypatch, index, None, *releases[1:]) == 0


def test_a_known_vulnerability_fails(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    assert run(monkeypatch, index, ["a 1.0: CVE-1, fixed in 1.1"]) == 1
    assert run(monkeypatch, index, []) == 0


def test_what_pip_audit_says_is_understood_and_what_it_skips_is_no_clean_bill() -> None:
    flaw = {"id": "PYSEC-1", "fix_versions": ["1.1"], "aliases": []}
    sound = {"name": "b", "version": "2.0", "vulns": []}
    flawed = {"name": "a", "version": "1.0", "vulns": [flaw]}
    skipped = {"name": "c", "skip_reason": "Dependency not found on PyPI"}
    assert known_vulnerabilities({"dependencies": [sound, flawed, skipped]}) == [
        "a 1.0: PYSEC-1, fixed in 1.1"
    ]
    assert known_vulnerabilities({"dependencies": [skipped, skipped, sound]}) is None


def test_installed_releases_have_the_names_of_an_index() -> None:
    names = {release.name for release in installed()}
    assert {"django", "djangorestframework", "psycopg-binary"} <= names
    assert not [name for name in names if name != name.lower() or "_" in name]
