"""The console's pages: where a login ends, what a count links to, one history, pages for errors."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from codeexec.audit.actors import command_actor
from codeexec.audit.models import AuditEntry
from environments_app.models import Environment
from sessions_app.access.clients import create_client, create_key
from sessions_app.models import Execution, Node, Session
from sessions_app.monitoring.period_figures import PERIODS
from sessions_app.services.sessions import stop_session
from tests.conftest import Configure
from tests.support.api_client import Api
from tests.support.console_fixtures import (
    EXECUTION,
    UNSTARTED,
    count_anew,
    execution,
    page,
    session,
    shown,
    staff,
    text_of,
)

pytestmark = pytest.mark.django_db
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PASSWORD = "correct horse battery staple"


def test_a_login_without_an_aim_ends_on_the_dashboard(client: Client) -> None:
    User.objects.create_superuser("operator", password=PASSWORD)
    fields = {"username": "operator", "password": PASSWORD}
    answer = client.post("/admin/login/", fields)
    assert (answer.status_code, answer["Location"]) == (302, reverse("admin:index"))
    assert client.get(answer["Location"]).status_code == 200


@pytest.mark.parametrize("period", list(PERIODS))
def test_a_count_links_to_the_rows_that_it_counts(
    period: str, admin_client: Client, python: Environment, this: Node
) -> None:
    begins = PERIODS[period].begins(timezone.now())[0]
    ran = session(python, this)
    inside = [execution(ran, queued_at=begins + timedelta(seconds=1)) for _ in range(2)]
    execution(ran, queued_at=begins - timedelta(seconds=1))
    failed = execution(ran, verdict="runtime_error", exit_code=1, queued_at=begins)
    query = {"verdict__exact": "ok", "queued_at_within": period}
    assert shown(admin_client, EXECUTION, **query) == {str(each.pk) for each in inside}
    found = shown(admin_client, EXECUTION, queued_at_within=period)
    assert found == {str(each.pk) for each in (*inside, failed)}


def test_the_dashboards_counts_have_their_period(
    admin_client: Client, python: Environment, this: Node
) -> None:

    execution(session(python, this), queued_at=timezone.now())
    count_anew()
    text = text_of(admin_client, reverse("admin:index"), period="day")
    assert "?verdict__exact=ok&amp;queued_at_within=day" in text
    assert "?queued_at_within=day" in text


def test_no_page_is_kept_by_a_cache(admin_client: Client, python: Environment, this: Node) -> None:
    ran = session(python, this, status="stopped", stop_reason="client")
    parts = ("change", "history", "now", "timeline", "workspace", "workspace_file", "archive")
    own = [f"sessions_app_session_{part}" for part in (*parts, "figures")]
    pages = [reverse(f"admin:{name}", args=[ran.pk]) for name in own]
    builds = reverse("admin:environments_app_environment_builds", args=[python.pk])
    key = reverse("admin:sessions_app_client_new_key", args=[create_client("tests").pk])
    for address in (*pages, builds, key, reverse("admin:index"), "/admin/dashboard/now"):
        answer = admin_client.get(address)
        assert answer.status_code in (200, 400, 404), address
        assert "no-store" in answer["Cache-Control"], address


def test_only_what_runs_can_be_cancelled(
    admin_client: Client, python: Environment, this: Node
) -> None:
    idle = session(python, this)
    assert "data-has-run" not in text_of(admin_client, page(idle))
    execution(idle, **UNSTARTED)
    Session.objects.filter(pk=idle.pk).update(status="executing", last_sequence=1)
    assert "data-has-run" in text_of(admin_client, page(idle))


def test_a_row_has_one_history_which_knows_everything(
    admin_client: Client, python: Environment, this: Node
) -> None:
    ran = session(python, this)
    stop_session(ran.pk, by=command_actor("tests"))
    history = reverse("admin:sessions_app_session_history", args=(ran.pk,))
    text = text_of(admin_client, history)
    assert "session.stop" in text
    assert "command tests" in text
    nobody = history.replace(str(ran.pk), "00000000-0000-4000-8000-000000000000")
    assert admin_client.get(nobody).status_code == 404
    assert staff("view_execution").get(history).status_code == 403
    assert staff("view_session").get(history).status_code == 200
    assert Client().get(history).status_code == 302


@pytest.mark.parametrize("address", ["/nothing", "/admin/nothing/", "/static/nothing.css"])
def test_what_is_not_there_is_a_page_in_a_browser(address: str, admin_client: Client) -> None:
    answer = admin_client.get(address, headers=BROWSER)
    assert answer.status_code == 404
    assert answer["content-type"].startswith("text/html")
    text = answer.content.decode()
    assert "Not found" in text
    assert "style-src 'self'" in answer["content-security-policy"]
    assert admin_client.get(address).json()["code"] == "not_found"


def test_what_may_not_be_seen_is_a_page_in_a_browser() -> None:
    answer = staff("view_session").get("/admin/auth/user/", headers=BROWSER)
    assert answer.status_code == 403
    assert "Not allowed" in answer.content.decode()


def test_addresses_are_text_on_such_a_page(admin_client: Client) -> None:
    text = admin_client.get("/<script>alert(1)</script>", headers=BROWSER).content.decode()
    assert "<script>alert" not in text


@pytest.mark.django_db(transaction=True)
def test_the_apis_errors_are_json_whatever_a_browser_accepts(api: Api) -> None:
    answer = api.get("/nothing", headers=BROWSER)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.django_db(transaction=True)
def test_the_audit_log_knows_address_and_key_or_token(
    api: Api, configure: Configure, python: Environment, this: Node
) -> None:
    configure(API_AUTH="key")
    key = create_key(create_client("acme"))
    authorized = {"Authorization": f"Api-Key {key.key}"}
    opened = api.request("POST", "/sessions", json={}, headers=authorized).json()
    path = f"/sessions/{opened['session_id']}"
    asked = {"role": "interviewer"}
    token = api.request("POST", f"{path}/tokens", json=asked, headers=authorized).json()["token"]
    api.request("PATCH", path, json={"ttl": 77}, headers=authorized)
    api.request("DELETE", path, headers={"Authorization": f"Bearer {token}"})
    extended, stopped = AuditEntry.objects.filter(action__startswith="session.").order_by("pk")
    assert extended.credential == f"key cex_{key.row.prefix}_…"
    assert extended.details["changes"] == {"ttl": [3600, 77]}
    assert stopped.credential == "token of the role interviewer"
    assert {extended.address, stopped.address} == {"127.0.0.1"}
    assert key.key not in repr(list(AuditEntry.objects.values()))
    assert token not in repr(list(AuditEntry.objects.values()))


def test_a_users_password_is_no_value_of_the_audit_log(admin_client: Client) -> None:
    user = User.objects.create_user("ada", password=PASSWORD)
    address = reverse("admin:auth_user_password_change", args=(user.pk,))
    fields: dict[str, Any] = {"password1": PASSWORD + "2", "password2": PASSWORD + "2"}
    answer = admin_client.post(address, fields | {"usable_password": "true"})
    assert answer.status_code == 302
    assert PASSWORD not in repr(list(AuditEntry.objects.values()))
    assert Execution.objects.count() == 0
