"""How far the console takes somebody who is no superuser: not to code on a host, nor to powers that
he doesn't have. Every page of every model is tried, so that a new one can't be forgotten.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.db.models import Model
from django.test import Client
from django.urls import NoReverseMatch, reverse

from codeexec.audit.actors import command_actor
from codeexec.audit.record import record
from environments_app.admin import ISOLATION_FIELDS
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from sessions_app import models
from sessions_app.access.clients import create_key
from sessions_app.models import FailedLogin, Node
from tests.environments.test_admin import form_values
from tests.support.console_fixtures import history, list_page, page, staff

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery staple"
HOSTILE_VALUES: dict[str, Any] = {
    "is_superuser": "on",
    "is_staff": "on",
    "func": "os.abort",
    "args": "1",
    "schedule_type": "O",
    "image": "evil",
    "runtime": "runc-privileged",
    "network": "true",
    "executor_user": "0",
    "workspace_dir": "/proc",
    "memory_bytes": "100g",
    "max_memory_bytes": "100g",
    "pids": "100000",
    "run_command": "sh -c reboot",
    "code": "changed",
    "status": "lost",
    "name": "changed",
    "username": "changed",
    "token": "changed",
    "password": "changed",
    "post": "yes",
    "_save": "Save",
}
LOOSER: dict[str, Any] = {
    "image": "other",
    "runtime": "other",
    "network": "True",
    "executor_user": "daemon",
    "workspace_dir": "/srv/other",
    "memory_bytes": "8g",
    "max_memory_bytes": "16g",
    "pids": "5000",
    "max_pids": "5000",
}
"""What a superuser may make of an environment."""


@pytest.fixture
def rows(this: Node, python: Environment) -> dict[str, Model]:
    """One of each model that has pages."""
    everything: dict[str, Model] = dict(history(this, python))
    everything["environments_app_environment"] = python
    python.builds.create(dockerfile="FROM nothing\n")
    everything["auth_user"] = User.objects.create_superuser("owner", password=PASSWORD)
    everything["auth_group"] = Group.objects.create(name="operators")
    everything["sessions_app_failedlogin"] = FailedLogin.objects.create(username="a", address="b")
    everything["sessions_app_isolationcheck"] = models.IsolationCheck.objects.create(
        node=this, environment=python, runtime="runc"
    )
    everything["audit_auditentry"] = record(command_actor("drain_node"), "node.drain", this)
    platform = models.Client.objects.create(name="interviews")
    everything["sessions_app_client"] = platform
    everything["sessions_app_apikey"] = create_key(platform).row
    return everything


def with_all_permissions(verb: str = "") -> tuple[Client, User]:
    """All permissions, or all to `view`; no superuser."""
    user = User.objects.create_user("staff", password=PASSWORD, is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__startswith=verb))
    client = Client()
    client.force_login(user)
    return client, user


def contents() -> dict[str, list[dict[str, Any]]]:
    """All rows of all models that have pages, and which permissions hang on which."""
    models = [
        *admin.site._registry,
        EnvironmentBuild,
        NodeBuild,
        User.groups.through,
        User.user_permissions.through,
    ]
    models.append(Group.permissions.through)
    found = {m._meta.label: list(m._default_manager.order_by("pk").values()) for m in models}
    for user in found["auth.User"]:
        del user["last_login"]
    return found


def addresses(rows: dict[str, Model]) -> list[str]:
    """Every page of every registered model that can be addressed by its row."""
    found = []
    builds = EnvironmentBuild.objects.values_list("pk", flat=True)
    for model_admin in admin.site._registry.values():
        name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}"
        for pattern in model_admin.get_urls():
            if not (named := getattr(pattern, "name", None)):
                continue
            for arguments in ([], [rows[name].pk], [rows[name].pk, *builds]):
                try:
                    found.append(reverse(f"admin:{named}", args=arguments))
                except NoReverseMatch:
                    continue
    return found


def test_there_is_a_row_of_every_model_that_has_pages(rows: dict[str, Model]) -> None:
    registered = {m._meta.label_lower.replace(".", "_") for m in admin.site._registry}
    assert registered == set(rows)


def test_whoever_may_only_look_changes_nothing_whatever_is_sent(rows: dict[str, Model]) -> None:
    client, _ = with_all_permissions("view_")
    before, tried = contents(), addresses(rows)
    assert len(tried) > 4 * len(rows)
    for address in tried:
        client.post(address, HOSTILE_VALUES)
    of_builds = [address for address in tried if "/builds/" in address]
    assert len(of_builds) == 2
    for address in of_builds:
        for step in ("build", "roll_back", "cancel", "repeat", "promote"):
            client.post(address, {"step": step, "dockerfile": "FROM evil", "revision": "1"})
    for model_admin in admin.site._registry.values():
        name = f"{model_admin.opts.app_label}_{model_admin.opts.model_name}"
        chosen = {"_selected_action": [str(rows[name].pk)], "post": "yes"}
        for action in ["delete_selected", *(getattr(model_admin, "actions", None) or ())]:
            client.post(list_page(name), chosen | {"action": action})
    assert contents() == before
    assert not LogEntry.objects.exists()


KEYS = ["0", "no-such"]
RARE_KEYS = [pytest.param(key, marks=pytest.mark.thorough) for key in ("no/such", "-1", "9" * 30)]


@pytest.mark.parametrize("key", [*KEYS, *RARE_KEYS])
def test_a_key_that_no_row_has_is_no_error(key: str, rows: dict[str, Model]) -> None:
    owner = Client()
    owner.force_login(User.objects.get(username="owner"))
    before = contents()
    for model_admin in admin.site._registry.values():
        for pattern in model_admin.get_urls():
            if "object_id" not in pattern.pattern.converters or pattern.name is None:
                continue
            try:
                address = reverse(f"admin:{pattern.name}", args=[key])
            except NoReverseMatch:
                continue
            for answer in (owner.get(address), owner.post(address, {"post": "yes"})):
                assert answer.status_code < 500, address
    assert contents() == before


def test_all_permissions_together_make_no_superuser_and_loosen_no_sandbox(
    rows: dict[str, Model], python: Environment
) -> None:
    client, user = with_all_permissions()
    isolation = Environment.objects.filter(pk=python.pk).values(*ISOLATION_FIELDS).get()
    history_rows = {
        label: found
        for label, found in contents().items()
        if label.startswith(("django_q.", "sessions_app.Execution", "sessions_app.Sandbox"))
    }
    for address in addresses(rows):
        # To recycle a pool is what `recycle_node` is for.
        if "/delete/" not in address and "recycle" not in address:
            client.post(address, HOSTILE_VALUES)
    # The same by forms that are right in all else, as a superuser could send them.
    assert send(client, user, **HOSTILE_VALUES) == 302
    assert client.post(page(python), form_values(client, page(python)) | LOOSER).status_code == 302
    assert list(User.objects.filter(is_superuser=True).values_list("username", flat=True)) == [
        "owner"
    ]
    user.refresh_from_db()
    assert not user.is_superuser
    assert Environment.objects.filter(pk=python.pk).values(*ISOLATION_FIELDS).get() == isolation
    after = contents()
    assert {label: after[label] for label in history_rows} == history_rows


# Environments


def test_what_isolates_is_for_superusers_and_the_rest_for_whoever_may_change_it(
    python: Environment,
) -> None:
    client = staff("change_environment", "view_environment")
    before = Environment.objects.filter(pk=python.pk).values(*ISOLATION_FIELDS).get()
    form = client.get(page(python)).context["adminform"].form
    assert not set(ISOLATION_FIELDS) & set(form.fields)
    values = form_values(client, page(python)) | {"description": "Changed."}
    assert client.post(page(python), values | LOOSER).status_code == 302
    python.refresh_from_db()
    assert python.description == "Changed."
    assert Environment.objects.filter(pk=python.pk).values(*ISOLATION_FIELDS).get() == before


def test_a_superuser_changes_what_isolates(admin_client: Client, python: Environment) -> None:
    values = form_values(admin_client, page(python)) | LOOSER
    assert admin_client.post(page(python), values).status_code == 302
    python.refresh_from_db()
    assert (python.image, python.runtime, python.network) == ("other", "other", True)
    assert (python.executor_user, python.pids) == ("daemon", 5000)


def test_only_a_superuser_adds_an_environment(admin_client: Client, python: Environment) -> None:
    add = reverse("admin:environments_app_environment_add")
    assert staff("add_environment", "view_environment").get(add).status_code == 403
    assert admin_client.get(add).status_code == 200


def test_looking_at_environments_switches_none_off(python: Environment) -> None:
    chosen = {"action": "disable", "_selected_action": [python.pk]}
    Environment.objects.update(is_default=False)
    staff("view_environment").post(list_page("environments_app_environment"), chosen)
    assert Environment.objects.get(pk=python.pk).enabled
    staff("change_environment").post(list_page("environments_app_environment"), chosen)
    assert not Environment.objects.get(pk=python.pk).enabled


# Users and groups


def administrator(*more: str) -> tuple[Client, User]:
    """May change users and groups, and has some permissions besides."""
    names = ("view_user", "change_user", "add_user", "delete_user")
    names += ("view_group", "change_group", "add_group", "delete_group")
    client = staff(*names, *more)
    return client, User.objects.get(pk=client.session["_auth_user_id"])


def permission(codename: str) -> Permission:
    return Permission.objects.get(codename=codename, content_type__app_label="sessions_app")


def send(client: Client, row: Model, **changes: Any) -> int:
    """A page's form with changes; the answer's status."""
    answer = client.get(page(row))
    if "adminform" not in answer.context or not answer.context["has_change_permission"]:
        return int(client.post(page(row), changes).status_code)
    form = answer.context["adminform"].form
    values = {
        name: value
        for name in form.fields
        if (value := form[name].value()) not in (None, False) and name not in ("password",)
    }
    for name in ("last_login", "date_joined"):
        values |= {f"{name}_0": "2026-01-01", f"{name}_1": "00:00:00"}
    return int(client.post(page(row), values | changes).status_code)


def test_an_administrator_of_users_makes_nobody_a_superuser_least_of_all_himself() -> None:
    client, user = administrator()
    ada = User.objects.create_user("ada")
    for each in (user, ada):
        assert send(client, each, is_superuser="on", is_staff="on", first_name="A") == 302
        each.refresh_from_db()
        assert (each.is_superuser, each.first_name) == (False, "A")


def test_an_administrator_grants_what_he_holds_and_nothing_else() -> None:
    client, user = administrator("view_session")
    held, other = permission("view_session"), permission("change_session")
    ada = User.objects.create_user("ada")
    assert send(client, ada, user_permissions=[held.pk]) == 302
    assert send(client, ada, user_permissions=[held.pk, other.pk]) == 200  # says why not
    assert send(client, user, user_permissions=[other.pk]) == 200
    assert list(ada.user_permissions.all()) == [held]
    assert not user.user_permissions.filter(pk=other.pk).exists()


def test_an_administrator_puts_nobody_into_a_group_that_may_more_than_he() -> None:
    client, user = administrator("view_session")
    strong, weak = Group.objects.create(name="strong"), Group.objects.create(name="weak")
    strong.permissions.set([permission("change_session")])
    weak.permissions.set([permission("view_session")])
    assert send(client, user, groups=[strong.pk]) == 200
    assert send(client, user, groups=[weak.pk]) == 302
    assert list(user.groups.all()) == [weak]


def test_an_administrator_gives_a_group_nothing_that_he_lacks() -> None:
    client, user = administrator("view_session")
    group = Group.objects.create(name="own")
    user.groups.add(group)
    assert send(client, group, permissions=[permission("change_session").pk]) == 200
    assert send(client, group, permissions=[permission("view_session").pk]) == 302
    assert list(group.permissions.all()) == [permission("view_session")]
    group.permissions.add(permission("change_node"))
    assert send(client, User.objects.create_user("b"), groups=[]) == 302


@pytest.mark.parametrize("stronger", ["superuser", "inactive superuser", "permission", "group"])
def test_an_administrator_touches_nobody_who_may_do_more(stronger: str) -> None:
    client, _ = administrator()
    other = User.objects.create_user("other", password=PASSWORD, is_staff=True)
    if stronger == "permission":
        other.user_permissions.add(permission("change_session"))
    elif stronger == "group":
        other.groups.add(Group.objects.create(name="strong"))
        other.groups.get().permissions.add(permission("change_session"))
    else:
        active = stronger == "superuser"
        User.objects.filter(pk=other.pk).update(is_superuser=True, is_active=active)
    passwords = {"password1": "taken over by me", "password2": "taken over by me"}
    password_page = reverse("admin:auth_user_password_change", args=[other.pk])
    assert send(client, other, is_active="") == 403
    assert client.post(password_page, passwords | {"usable_password": "true"}).status_code == 403
    assert client.post(page(other).replace("change", "delete"), {"post": "yes"}).status_code == 403
    chosen = {"action": "delete_selected", "_selected_action": [other.pk], "post": "yes"}
    client.post(list_page("auth_user"), chosen)
    other.refresh_from_db()
    assert other.check_password(PASSWORD)


def test_a_group_that_may_more_is_out_of_an_administrators_reach() -> None:
    client, _ = administrator()
    group = Group.objects.create(name="strong")
    group.permissions.add(permission("change_session"))
    assert send(client, group, name="changed") == 403
    assert client.post(page(group).replace("change", "delete"), {"post": "yes"}).status_code == 403
    assert Group.objects.get(pk=group.pk).name == "strong"


def test_a_superuser_grants_everything(admin_client: Client) -> None:
    ada = User.objects.create_user("ada")
    every = permission("change_session")
    assert send(admin_client, ada, is_superuser="on", user_permissions=[every.pk]) == 302
    ada.refresh_from_db()
    assert ada.is_superuser
