"""Who sees what in the console, and who may do what."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import Group, User
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils.text import capfirst
from django_q.models import Success

from environments_app.models import Environment
from sessions_app.models import Node
from tests.support.console_fixtures import (
    EXECUTION,
    HISTORY,
    SESSION,
    act,
    history,
    list_page,
    page,
    shown,
    staff,
    text_of,
)


@pytest.fixture
def rows(this: Node, python: Environment) -> dict[str, Any]:
    return history(this, python)


@pytest.mark.parametrize("model", HISTORY)
def test_an_owner_sees_the_list_and_the_page(
    admin_client: Client, rows: dict[str, Any], model: str
) -> None:
    assert shown(admin_client, model) == {str(rows[model].pk)}
    assert admin_client.get(page(rows[model])).status_code == 200


@pytest.mark.parametrize("model", HISTORY)
def test_not_even_an_owner_adds_changes_or_deletes(
    admin_client: Client, rows: dict[str, Any], model: str
) -> None:
    row = rows[model]
    before = type(row).objects.filter(pk=row.pk).values().get()
    delete = reverse(f"admin:{model}_delete", args=[row.pk])
    assert admin_client.get(reverse(f"admin:{model}_add")).status_code == 403
    assert admin_client.post(page(row), {"func": "os.abort", "status": "lost"}).status_code == 403
    assert admin_client.post(delete, {"post": "yes"}).status_code == 403
    act(admin_client, "delete_selected", [row])
    assert type(row).objects.filter(pk=row.pk).values().get() == before


@pytest.mark.parametrize("model", HISTORY)
def test_staff_without_the_permission_see_nothing(rows: dict[str, Any], model: str) -> None:
    client = staff()
    assert client.get(list_page(model)).status_code == 403
    assert client.get(page(rows[model])).status_code == 403


@pytest.mark.parametrize("model", HISTORY)
def test_staff_with_the_view_permission_see_it(rows: dict[str, Any], model: str) -> None:
    client = staff(f"view_{model.rpartition('_')[2]}")
    assert client.get(list_page(model)).status_code == 200
    assert client.get(page(rows[model])).status_code == 200


@pytest.mark.parametrize("model", HISTORY)
def test_anonymous_visitors_are_asked_to_log_in(
    client: Client, rows: dict[str, Any], model: str
) -> None:
    response = client.get(page(rows[model]))
    assert response.status_code == 302
    assert response.headers["Location"].startswith(reverse("admin:login"))


def test_successful_tasks_have_no_page() -> None:
    with pytest.raises(NoReverseMatch):
        reverse(f"admin:django_q_{Success._meta.model_name}_changelist")


def test_the_sidebar_has_what_its_reader_may_see(rows: dict[str, Any]) -> None:
    text = text_of(staff("view_session"), reverse("admin:index"))
    assert list_page(SESSION) in text
    assert list_page(EXECUTION) not in text
    assert reverse("admin:auth_user_changelist") not in text


def test_the_sidebar_calls_a_list_what_its_page_is_called() -> None:
    groups = settings.UNFOLD["SIDEBAR"]["navigation"][1:]
    titles = {str(item["link"]): item["title"] for group in groups for item in group["items"]}
    lists = {
        list_page(f"{model._meta.app_label}_{model._meta.model_name}"): model
        for model in admin.site._registry
    }
    named = {link: str(capfirst(lists[link]._meta.verbose_name_plural)) for link in titles}
    assert titles == named | {list_page("audit_auditentry"): "Audit log"}


# Users and groups


def test_an_owner_makes_a_user_and_a_group(admin_client: Client) -> None:
    password = "correct horse battery staple"
    user = {"username": "ada", "usable_password": "true"}
    passwords = {"password1": password, "password2": password}
    answer = admin_client.post(reverse("admin:auth_user_add"), user | passwords)
    made = User.objects.get(username="ada")
    assert answer.headers["Location"] == page(made)
    assert made.check_password(password)
    assert not made.is_staff
    admin_client.post(reverse("admin:auth_group_add"), {"name": "operators"})
    for url in (page(made), page(Group.objects.get(name="operators"))):
        assert admin_client.get(url).status_code == 200
    assert "ada" in text_of(admin_client, list_page("auth_user"))


def test_users_are_for_those_who_may_see_them(db: None) -> None:
    assert staff("view_session").get(list_page("auth_user")).status_code == 403
    assert staff("view_user").get(list_page("auth_user")).status_code == 200
