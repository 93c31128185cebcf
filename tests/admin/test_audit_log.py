"""Who did what: an entry comes with what is done, names its actor for good, and stays as it is."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.db import IntegrityError, transaction
from django.test import Client
from django.urls import reverse

from codeexec.audit.actors import Actor, ActorKind, command_actor
from codeexec.audit.models import AuditEntry
from codeexec.audit.record import record
from environments_app.models import Environment
from sessions_app.access.clients import create_client, create_key
from sessions_app.callers import OPERATOR, Caller, KnownClient
from sessions_app.models import Node
from tests.environments.test_admin import form_values
from tests.support.console_fixtures import list_page, page, staff, text_of

pytestmark = pytest.mark.django_db
LIST = "audit_auditentry"


def test_what_is_undone_has_no_entry(this: Node) -> None:
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        record(command_actor("drain_node"), "node.drain", this)
        raise ZeroDivisionError
    assert not AuditEntry.objects.exists()


def test_what_it_was_done_to_and_by_whom_can_be_read_when_both_are_gone(this: Node) -> None:
    client = KnownClient(
        id=7,
        name="interviews",
        enabled=True,
        scopes=frozenset(),
        requests_per_minute=None,
        max_live_sessions=None,
    )
    record(Caller(client=client).actor, "node.drain", this, reason="a test")
    name = this.name
    this.delete()
    entry = AuditEntry.objects.get()
    assert (entry.actor_kind, entry.actor_name, entry.actor_id) == ("client", "interviews", "7")
    assert (entry.target_type, entry.target_name) == ("node", name)
    shown = text_of(staff("view_auditentry"), page(entry))
    assert "interviews" in shown
    assert name in shown
    assert "a test" in shown


def test_a_call_that_needs_no_key_is_anybodys() -> None:
    assert OPERATOR.actor.kind == ActorKind.ANYBODY


def test_names_that_are_too_long_are_cut_and_not_lost() -> None:
    entry = record(Actor(kind=ActorKind.USER, name="n" * 999), "user.add")
    entry.refresh_from_db()
    assert entry.actor_name == "n" * 150


def test_an_action_is_a_thing_and_a_verb() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        record(command_actor("x"), "Stopped it")


def test_forms_of_the_console_are_recorded_with_the_fields_that_were_changed(
    admin_client: Client, python: Environment
) -> None:
    form = form_values(admin_client, page(python)) | {"description": "changed"}
    answer = admin_client.post(page(python), form, REMOTE_ADDR="192.0.2.7")
    assert answer.status_code == 302
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.target_name) == ("environment.change", "python")
    assert (entry.actor_kind, entry.actor_name) == ("user", "admin")
    assert entry.address == "192.0.2.7"
    assert entry.details == {
        "fields": ["Description"],
        "changes": {"description": [python.description, "changed"]},
    }
    assert "→ changed" in text_of(staff("view_auditentry"), list_page(LIST))


def test_users_that_are_added_and_deleted_are_recorded(admin_client: Client) -> None:
    password = "correct horse battery staple"
    new = {"username": "new", "password1": password, "password2": password}
    admin_client.post(reverse("admin:auth_user_add"), new | {"usable_password": "true"})
    user = User.objects.get(username="new")
    admin_client.post(reverse("admin:auth_user_delete", args=(user.pk,)), {"post": "yes"})
    actions = AuditEntry.objects.order_by("at").values_list("action", "target_name")
    assert list(actions) == [("user.add", "new"), ("user.delete", "new")]
    assert password not in repr(list(AuditEntry.objects.values()))


def test_the_list_shows_who_and_finds_by_action_and_target(this: Node) -> None:
    record(command_actor("drain_node"), "node.drain", this)
    record(command_actor("drain_node"), "node.resume", this)
    viewer = staff("view_auditentry")
    everything = text_of(viewer, list_page(LIST))
    assert "node.drain" in everything
    assert "node.resume" in everything
    found = text_of(viewer, list_page(LIST), q="node.drain")
    assert "node.resume" not in found
    assert this.name in found


def test_entries_are_told_in_words(db: None) -> None:
    key = create_key(create_client("acme"), by=command_actor("create_key")).row
    record(command_actor("create_client"), "client.create", key.client, scopes=["read", "execute"])
    viewer = staff("view_auditentry")
    everything = text_of(viewer, list_page(LIST))
    assert f"API key {key}" in everything
    assert "scopes: read, execute" in everything
    entry = AuditEntry.objects.get(action="client.create")
    assert "such as session.stop" not in text_of(viewer, page(entry))


def test_nobody_changes_or_deletes_an_entry(admin_client: Client, this: Node) -> None:
    entry = record(command_actor("drain_node"), "node.drain", this)
    before = list(AuditEntry.objects.values())
    for address in (page(entry), reverse("admin:audit_auditentry_delete", args=(entry.pk,))):
        assert admin_client.post(address, {"action": "x", "post": "yes"}).status_code == 403
    assert list(AuditEntry.objects.values()) == before
