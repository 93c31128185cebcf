"""Clients and keys in the operators' console."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.sessions.models import Session as Login
from django.test import Client as Browser
from django.urls import reverse
from django.utils import timezone

from sessions_app.access.clients import KEY_PATTERN, create_client, create_key, digest_of
from sessions_app.callers import SCOPES
from sessions_app.models import ApiKey, Client
from sessions_app.models.client import usual_scopes
from tests.support.console_fixtures import staff

pytestmark = pytest.mark.django_db

READS = ("view_client", "view_apikey")
WRITES = ("add_client", "change_client", "add_apikey", "change_apikey")


@pytest.fixture
def client_row() -> Client:
    return create_client("acme")


@pytest.fixture
def operator() -> Browser:
    return staff(*READS, *WRITES)


def new_key_page(client: Client) -> str:
    return reverse("admin:sessions_app_client_new_key", args=(client.pk,))


def page_of(row: Client | ApiKey) -> str:
    model = row._meta.model_name
    return reverse(f"admin:sessions_app_{model}_change", args=(row.pk,))


def test_a_client_is_made_with_scopes_and_limits(operator: Browser) -> None:
    form = {
        "name": "acme",
        "enabled": "on",
        "scopes": ["read", "execute"],
        "requests_per_minute": "60",
        "max_live_sessions": "",
        "keys-TOTAL_FORMS": "0",
        "keys-INITIAL_FORMS": "0",
    }
    answer = operator.post(reverse("admin:sessions_app_client_add"), form)
    assert answer.status_code == 302, answer.content.decode()
    client = Client.objects.get()
    assert (client.scopes, client.requests_per_minute) == (["read", "execute"], 60)
    assert client.max_live_sessions is None


def test_a_new_client_has_the_usual_scopes_unless_others_are_chosen(operator: Browser) -> None:
    form = operator.get(reverse("admin:sessions_app_client_add")).content.decode()
    boxes = re.findall(r'<input[^>]*name="scopes"[^>]*>', form)
    chosen = "".join(box for box in boxes if re.search(r"\schecked[\s/>]", box))
    assert len(boxes) == len(SCOPES)
    assert re.findall(r'value="(\w+)"', chosen) == usual_scopes()


def test_a_new_key_is_shown_on_one_page_and_nowhere_else(
    client_row: Client, operator: Browser
) -> None:
    assert operator.get(new_key_page(client_row)).status_code == 200
    assert not ApiKey.objects.exists()
    answer = operator.post(new_key_page(client_row))
    shown = KEY_PATTERN.search(answer.content.decode())
    assert shown is not None
    row = ApiKey.objects.get()
    assert bytes(row.digest) == digest_of(shown[0])
    assert "no-store" in answer["cache-control"]
    secret = shown[0][13:]
    for page in (page_of(client_row), page_of(row), new_key_page(client_row)):
        later = operator.get(page)
        assert later.status_code == 200
        assert secret not in later.content.decode()
    kept = [*(login.get_decoded() for login in Login.objects.all()), operator.cookies.output()]
    kept += LogEntry.objects.values_list("change_message", "object_repr")
    assert secret not in repr(kept)


def test_making_a_key_is_written_down(client_row: Client, operator: Browser) -> None:
    operator.post(new_key_page(client_row))
    prefix = ApiKey.objects.get().prefix
    said = " ".join(LogEntry.objects.values_list("change_message", flat=True))
    assert prefix in said


def test_a_key_is_revoked_for_ever_and_that_is_written_down(
    client_row: Client, operator: Browser
) -> None:
    key = create_key(client_row).row
    address = reverse("admin:sessions_app_apikey_changelist")
    form = {"action": "revoke_keys", "_selected_action": [str(key.pk)]}
    assert operator.post(address, form).status_code == 302
    key.refresh_from_db()
    assert key.state == "revoked"
    assert LogEntry.objects.get().change_message == "Revoked by an operator."
    operator.post(address, form)
    assert LogEntry.objects.count() == 1


def test_the_button_on_a_keys_page_revokes_it(client_row: Client, operator: Browser) -> None:
    key = create_key(client_row).row
    page = operator.get(page_of(key)).content.decode()
    address = reverse("admin:sessions_app_apikey_revoke_this_key", args=(key.pk,))
    assert address in page
    operator.post(address, {"_form_submitted": "True"})
    key.refresh_from_db()
    assert key.state == "revoked"


def test_who_may_only_look_makes_and_revokes_nothing(client_row: Client) -> None:
    key = create_key(client_row).row
    looker = staff(*READS)
    assert looker.get(page_of(client_row)).status_code == 200
    assert looker.post(new_key_page(client_row)).status_code in (302, 403)
    for name in ("revoke_this_key",):
        address = reverse(f"admin:sessions_app_apikey_{name}", args=(key.pk,))
        assert looker.post(address, {"_form_submitted": "True"}).status_code in (302, 403)
    listed = reverse("admin:sessions_app_apikey_changelist")
    looker.post(listed, {"action": "revoke_keys", "_selected_action": [str(key.pk)]})
    assert [row.state for row in ApiKey.objects.all()] == ["valid"]


def test_who_may_change_clients_but_make_no_keys_makes_none(client_row: Client) -> None:
    changer = staff("view_client", "change_client")
    assert changer.post(new_key_page(client_row)).status_code in (302, 403)
    assert not ApiKey.objects.exists()


def test_a_key_can_not_be_changed_or_made_by_hand(client_row: Client, operator: Browser) -> None:
    key = create_key(client_row).row
    assert operator.get(reverse("admin:sessions_app_apikey_add")).status_code == 403
    operator.post(page_of(key), {"prefix": "00000000"})
    key.refresh_from_db()
    assert re.fullmatch("[0-9a-f]{8}", key.prefix)
    assert key.prefix != "00000000"


def test_a_key_may_be_given_an_end(client_row: Client, operator: Browser) -> None:
    shown = operator.get(new_key_page(client_row)).content.decode()
    assert 'name="expires_in"' in shown
    for wrong in ("0", "-1", "soon", "1e9", "36501"):
        assert operator.post(new_key_page(client_row), {"expires_in": wrong}).status_code == 200
    assert not ApiKey.objects.exists()
    text = operator.post(new_key_page(client_row), {"expires_in": "90"}).content.decode()
    key = ApiKey.objects.get()
    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=5)
    assert f"{key.expires_at:%Y-%m-%d %H:%M} UTC" in text
    operator.post(new_key_page(client_row), {"expires_in": ""})
    assert ApiKey.objects.filter(expires_at=None).count() == 1
