"""`manage.py check --deploy`, and what browsers are told by which configuration."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from codeexec.checks import check_deployment
from codeexec.configuration import BASE_DIR
from codeexec.http.policies import content_security_policy
from tests.support.api_client import Api
from tests.support.patience import LONG, eventually
from tests.support.stack import free_port

NAME = "code.example.org"
PRODUCTION = {
    "CSRF_TRUSTED_ORIGINS": f"https://{NAME}",
    "ALLOWED_HOSTS": f"{NAME},127.0.0.1",
    "TRUSTED_PROXIES": "127.0.0.1",
    "SECRET_KEY": "",
    "API_AUTH": "key",
}


def check(folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=BASE_DIR,
        env=os.environ | {"DATA_DIR": str(folder)} | settings,
        capture_output=True,
        text=True,
    )


def test_the_production_shape_has_nothing_to_warn_of(tmp_path: Path) -> None:
    done = check(tmp_path, **PRODUCTION)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


# A setting, how it is loosened, the warning, and what it advises. Those of one list are loosened
# together: each of them takes a process its start.
LOOSENED = [
    [
        ("API_DEBUG", "true", "code_executor.W001", "API_DEBUG=false"),
        ("SECRET_KEY", "short", "code_executor.W002", "50 random characters"),
        ("ALLOWED_HOSTS", "*", "code_executor.W003", "ALLOWED_HOSTS"),
        ("CSRF_TRUSTED_ORIGINS", "", "code_executor.W004", "CSRF_TRUSTED_ORIGINS"),
        ("TRUSTED_PROXIES", "0.0.0.0/0", "code_executor.W006", "own address"),
    ],
    [
        ("SECRET_KEY", "changeme" * 9, "code_executor.W002", "50 random characters"),
        ("TRUSTED_PROXIES", "", "code_executor.W005", "TRUSTED_PROXIES"),
        ("API_AUTH", "open", "code_executor.W007", "API_AUTH=key"),
        ("HSTS_SECONDS", "0", "security.W004", "SECURE_HSTS_SECONDS"),
    ],
]


@pytest.mark.parametrize("changes", LOOSENED, ids=["without TLS", "with TLS"])
def test_each_loosening_is_warned_of_with_what_to_do(
    tmp_path: Path, changes: list[tuple[str, str, str, str]]
) -> None:
    done = check(tmp_path, **PRODUCTION | {name: value for name, value, _, _ in changes})
    assert done.returncode == 1
    warnings = {said.partition(")")[0]: said for said in done.stderr.split("\n?: (")[1:]}
    for _, _, warning, advice in changes:
        assert advice in warnings.pop(warning)
    assert not [other for other in warnings if other.startswith("code_executor")]


@contextmanager
def api_process(folder: Path, **settings: str) -> Iterator[httpx.Client]:
    """A real API process."""
    port = free_port()
    environ = {"DATA_DIR": str(folder), "API_HOST": "127.0.0.1", "API_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run_api"],
        cwd=BASE_DIR,
        env=os.environ | environ | settings,
        stdout=subprocess.DEVNULL,
    )
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=LONG, trust_env=False)
    try:
        assert eventually(lambda: process.poll() is not None or _answers(client))
        yield client
    finally:
        client.close()
        process.terminate()
        process.wait(LONG)


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/robots.txt").status_code < 400
    except httpx.TransportError:
        return False


def cookies(answer: httpx.Response) -> dict[str, str]:
    """Attributes by name."""
    lines = answer.headers.get_list("Set-Cookie")
    return {line.split("=", 1)[0]: line for line in lines}


def test_behind_tls_cookies_and_headers_are_for_https_alone(tmp_path: Path) -> None:
    with api_process(tmp_path, **PRODUCTION) as client:
        proxied = {"Host": NAME, "X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
        page = client.get("/admin/login/", headers=proxied)
        assert page.status_code == 200
        cookie = cookies(page)["__Host-csrftoken"]
        assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
        assert page.headers["Strict-Transport-Security"] == "max-age=31536000"
        assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["X-Frame-Options"] == "DENY"
        assert "camera=()" in page.headers["Permissions-Policy"]
        plain = client.get("/admin/login/", headers={"Host": NAME})
        assert plain.status_code == 301
        assert plain.headers["Location"] == f"https://{NAME}/admin/login/"
        assert client.get("/api/v1/environments", headers={"Host": NAME}).status_code != 301
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_nobody_is_believed_who_is_no_trusted_proxy(tmp_path: Path) -> None:
    untrusting = PRODUCTION | {"TRUSTED_PROXIES": "192.0.2.1"}
    with api_process(tmp_path, **untrusting) as client:
        spoofed = {"Host": NAME, "X-Forwarded-Proto": "https"}
        assert client.get("/admin/login/", headers=spoofed).status_code == 301


def test_on_one_machine_without_tls_the_admin_is_reached_by_http(tmp_path: Path) -> None:
    with api_process(tmp_path, CSRF_TRUSTED_ORIGINS="", TRUSTED_PROXIES="") as client:
        page = client.get("/admin/login/")
        assert page.status_code == 200
        assert "Secure" not in cookies(page)["csrftoken"]
        assert "Strict-Transport-Security" not in page.headers


def test_answers_and_error_pages_say_nothing_of_what_made_them(tmp_path: Path) -> None:
    with api_process(tmp_path) as client:
        for path in ("/", "/nothing", "/api/v1/nothing", "/api/v1/health", "/static/none.js"):
            answer = client.get(path)
            assert "Server" not in answer.headers and "X-Powered-By" not in answer.headers, path
            for word in ("Django", "uvicorn", "Python", "Traceback"):
                assert word not in answer.text, path
        robots = client.get("/robots.txt")
        assert robots.text == "User-agent: *\nDisallow: /\n"
        assert robots.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("path", "scripts"),
    [
        ("/", "script-src 'self';"),
        ("/docs", "script-src 'self';"),
        ("/redoc", "script-src 'self';"),
        ("/admin/", "script-src 'self' 'unsafe-eval';"),
        ("/admin/sessions_app/session/", "script-src 'self' 'unsafe-eval';"),
    ],
)
def test_pages_run_the_services_own_scripts_alone(path: str, scripts: str) -> None:
    assert scripts in content_security_policy(path)


@pytest.mark.parametrize("path", ["/api/v1/health", "/api/schema", "/administrator/", "/x/admin/"])
def test_what_is_no_page_may_do_nothing(path: str) -> None:
    policy = content_security_policy(path)
    assert policy.startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in policy
    assert "src 'self'" not in policy


@pytest.mark.parametrize("path", ["/docs", "/api/schema", "/api/v1/environments", "/api/x"])
def test_every_answer_has_its_policy(api: Api, path: str) -> None:
    answer = api.get(path)
    assert answer.headers["Content-Security-Policy"] == content_security_policy(path)
    assert "Permissions-Policy" in answer.headers
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("proxies", "is_told"),
    [
        (["172.16.0.0/12"], True),
        (["10.0.0.5", "172.17.0.0/16"], True),
        (["172.17.0.2"], False),
        (["10.213.87.0/29", "fd00::/8"], False),
        (["0.0.0.0/0"], False),
    ],
)
def test_a_network_of_sandboxes_is_no_proxy(
    proxies: list[str], is_told: bool, settings: Any
) -> None:
    settings.TRUSTED_PROXIES = proxies
    told = {str(message.id) for message in check_deployment(None)}
    assert ("code_executor.W008" in told) == is_told
