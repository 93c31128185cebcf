"""The operators' pages of environments, through Django's test client."""

import html
import re

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from codeexec.audit.models import AuditEntry
from codeexec.sandbox.types import ImageInfo, Primed
from environments_app.exporting import environments_yaml
from environments_app.models import Environment, EnvironmentRevision
from environments_app.seeding import seed
from environments_app.services import record_image, record_prestart
from sessions_app.models import Node
from sessions_app.monitoring.health import check_health
from tests.environments.test_seeding import NODE, PYTHON, file
from tests.support.cast import new_session
from tests.support.sandboxes import configured_image

pytestmark = pytest.mark.django_db
MIB = 1024 * 1024
LIST = "admin:environments_app_environment_changelist"


@pytest.fixture(autouse=True)
def environments() -> None:
    seed(file(PYTHON, NODE))


def page(name: str) -> str:
    pk = Environment.objects.get(name=name).pk
    return reverse("admin:environments_app_environment_change", args=[pk])


def delete_page(name: str) -> str:
    pk = Environment.objects.get(name=name).pk
    return reverse("admin:environments_app_environment_delete", args=[pk])


def form_values(client: Client, url: str) -> dict[str, object]:
    """What a browser would send back from an untouched form."""
    response = client.get(url)
    assert response.status_code == 200
    form = response.context["adminform"].form
    values = {name: form[name].value() for name in form.fields}
    formsets = [each.formset for each in response.context["inline_admin_formsets"]]
    for formset in formsets:
        management = formset.management_form
        values |= {
            management.add_prefix(name): management[name].value() for name in management.fields
        }
    values |= {name: form.fields[name].prepare_value(values[name]) for name in form.fields}
    return {
        name: "" if value is None else value for name, value in values.items() if value is not False
    }


def save(client: Client, environment: str, **changes: object) -> str:
    """Send the form with changes; the errors that the page shows, or nothing."""
    values = form_values(client, page(environment)) | changes
    values = {key: value for key, value in values.items() if value is not None}
    response = client.post(page(environment), values)
    if response.status_code == 302:
        return ""
    form = response.context["adminform"].form
    return html.unescape(form.errors.as_text())


def image() -> ImageInfo:
    return ImageInfo(
        reference=configured_image("python"),
        image_id="sha256:abcdef0123",
        size_bytes=114_000_000,
        created_at="2026-01-01",
    )


def test_the_list_shows_what_an_operator_asks_for(admin_client: Client) -> None:
    record_image(Environment.objects.get(name="python"), image())
    text = admin_client.get(reverse(LIST)).content.decode()
    assert "256m · 0.5 CPU · 256 processes · 30 s · 64m workspace" in text
    assert "256m · 1 CPU · 80 processes · 30 s · 64m workspace" in text
    assert "not built" in text


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("q=nod", ["node"]),
        ("q=file_path", ["node", "python"]),
        ("enabled__exact=0", []),
        ("enabled__exact=1", ["node", "python"]),
    ],
)
def test_the_list_is_searched_and_filtered(
    admin_client: Client, query: str, names: list[str]
) -> None:
    response = admin_client.get(f"{reverse(LIST)}?{query}")
    assert [row.name for row in response.context["cl"].result_list] == names


def test_the_lists_queries_do_not_grow_with_its_rows(
    admin_client: Client, django_assert_max_num_queries
) -> None:
    for number in range(20):
        columns = PYTHON.columns() | {"image": f"i{number}"}
        record_image(Environment.objects.create(name=f"e{number}", **columns), image())
    with django_assert_max_num_queries(12):
        admin_client.get(reverse(LIST))


def test_an_untouched_form_changes_nothing(admin_client: Client) -> None:
    before = Environment.objects.values().get(name="node")
    assert save(admin_client, "node") == ""
    after = Environment.objects.values().get(name="node")
    assert after | {"updated_at": None} == before | {"updated_at": None}


def test_sizes_are_written_as_an_operator_writes_them(admin_client: Client) -> None:
    assert save(admin_client, "node", memory_bytes="512m", max_memory_bytes="1.5g") == ""
    node = Environment.objects.get(name="node")
    assert (node.memory_bytes, node.max_memory_bytes) == (512 * MIB, 1536 * MIB)
    text = admin_client.get(page("node")).content.decode()
    assert re.search(r'name="memory_bytes"[^>]*value="512m"|value="512m"[^>]*name="memory_b', text)
    assert 'value="1536m"' in text


def test_an_emptied_limit_is_the_settings_again(admin_client: Client) -> None:
    assert save(admin_client, "node", pids="", cpus="") == ""
    node = Environment.objects.get(name="node")
    assert (node.pids, node.cpus) == (None, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"memory_bytes": "12x"}, "'12x' is wrong; allowed: a size such as 64m"),
        ({"memory_bytes": "1m"}, "16m or more"),
        ({"cpus": "many"}, "'many' is wrong; allowed: a number of cores"),
        ({"timeout_seconds": "60", "max_timeout_seconds": "30"}, "within its maximum"),
        ({"max_memory_bytes": "128m"}, "Below the limit, which is CONTAINER_MEMORY_LIMIT = 256m"),
        ({"run_command": "python {path}"}, "{path} is not a placeholder; allowed: {file_path}"),
        ({"compile_command": 'sh -c "x'}, "its quotes are not balanced"),
        ({"executor_user": "root"}, "'root' is wrong; allowed: a user's name"),
        ({"workspace_dir": "/usr/x"}, "not below a folder of the system"),
        ({"title": "a\tb"}, "is wrong; allowed: one line of 100 characters"),
        ({"version": "1" * 51}, "at most 50 characters"),
        ({"editor_mode": "a b"}, "allowed: a name that editors know"),
        ({"sample": "x" * 16_385}, "allowed: 16384 characters at most"),
        ({"enabled": None}, "The default environment must be enabled"),
        ({"warm_pool_size": "101"}, "The warm pool holds 100 at most"),
        ({"warm_pool_max": "0"}, "The warm pool's maximum must be at least its size"),
        ({"warm_pool_max": "101"}, "and 100 at most"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    admin_client: Client, changes: dict[str, object], expected: str
) -> None:
    before = Environment.objects.values().get(name="python")
    assert expected in save(admin_client, "python", **changes)
    assert Environment.objects.values().get(name="python") == before


def test_a_change_is_kept_by_seeding_and_shown_as_such(admin_client: Client) -> None:
    save(admin_client, "node", description="Our Node", pids="90")
    assert "processes" in seed_report()
    text = admin_client.get(page("node")).content.decode()
    assert "description, processes" in text


def seed_report() -> str:
    (node,) = [each for each in seed(file(PYTHON, NODE)) if each.name == "node"]
    assert node.outcome == "kept"
    labels = {field.name: str(field.verbose_name) for field in Environment._meta.fields}
    return ", ".join(labels[name] for name in node.fields)


def test_changed_commands_make_a_revision(admin_client: Client) -> None:
    record_image(Environment.objects.get(name="python"), image())
    save(admin_client, "python", run_command="python -X dev {file_path}")
    save(admin_client, "python", description="no new revision")
    numbers = EnvironmentRevision.objects.order_by("number").values_list("number", flat=True)
    assert list(numbers) == [1, 2]
    text = admin_client.get(page("python")).content.decode()
    assert "run_command: python {file_path} → python -X dev {file_path}" in text


def test_the_name_stays_as_it_was_made(admin_client: Client) -> None:
    save(admin_client, "node", name="deno")
    assert Environment.objects.filter(name="node").exists()


def test_an_environment_is_added(admin_client: Client) -> None:
    url = reverse("admin:environments_app_environment_add")
    values = form_values(admin_client, url)
    values |= {
        "name": "go",
        "image": "go",
        "default_filename": "main.go",
        "file_extension": ".go",
        "run_command": 'sh -c "go build -o {output_path} {file_path} && {output_path}"',
        "memory_bytes": "1g",
    }
    assert admin_client.post(url, values).status_code == 302
    go = Environment.objects.get(name="go")
    assert (go.enabled, go.is_default, go.seeded, go.memory_bytes) == (
        False,
        False,
        None,
        1024 * MIB,
    )


def act(client: Client, action: str, *names: str) -> str:
    keys = Environment.objects.filter(name__in=names).values_list("pk", flat=True)
    data = {"action": action, "_selected_action": [str(key) for key in keys]}
    response = client.post(reverse(LIST), data, follow=True)
    return " ".join(str(message) for message in response.context["messages"])


def test_environments_are_disabled_and_enabled_together(admin_client: Client) -> None:
    said = act(admin_client, "disable", "python", "node")
    assert "Disabled: 1." in said
    assert "The default environment stays enabled." in said
    assert list(Environment.objects.enabled().values_list("name", flat=True)) == ["python"]
    assert "node has no image yet" in act(admin_client, "enable", "node")
    assert Environment.objects.enabled().count() == 1
    record_image(Environment.objects.get(name="node"), image())
    assert "Enabled: 1." in act(admin_client, "enable", "node")
    assert Environment.objects.enabled().count() == 2


def test_another_environment_is_made_the_default(admin_client: Client) -> None:
    assert "exactly one" in act(admin_client, "choose_as_default", "node", "python")
    assert "node has no image yet" in act(admin_client, "choose_as_default", "node")
    record_image(Environment.objects.get(name="node"), image())
    assert "node is the default now." in act(admin_client, "choose_as_default", "node")
    assert Environment.objects.get(is_default=True).name == "node"


def test_the_default_is_not_deleted(admin_client: Client) -> None:
    assert admin_client.post(delete_page("python"), {"post": "yes"}).status_code == 403
    act(admin_client, "delete_selected", "python")
    assert Environment.objects.filter(name="python").exists()


def test_an_environment_without_history_can_be_deleted(admin_client: Client) -> None:
    assert admin_client.post(delete_page("node"), {"post": "yes"}).status_code == 302
    assert not Environment.objects.filter(name="node").exists()


def test_one_that_had_sessions_is_kept_whatever_their_number(admin_client: Client) -> None:
    node = Environment.objects.get(name="node")
    for _ in range(3):
        new_session(node)
    with CaptureQueriesContext(connection) as asked:
        text = admin_client.get(delete_page("node")).content.decode()
    assert "The sessions of node. Disable it instead." in text
    statements = [each["sql"] for each in asked.captured_queries]
    of_sessions = [sql for sql in statements if sql.startswith('SELECT 1 AS "a" FROM')]
    assert [sql.endswith("LIMIT 1") for sql in of_sessions] == [True]
    assert not any('"sessions_app_session"."id"' in sql for sql in statements)
    admin_client.post(delete_page("node"), {"post": "yes"})
    act(admin_client, "delete_selected", "node")
    assert Environment.objects.filter(name="node").exists()


def test_history_is_shown_and_cannot_be_changed(admin_client: Client) -> None:
    revision = record_image(Environment.objects.get(name="python"), image())
    text = admin_client.get(page("python")).content.decode()
    assert "abcdef0123" in text
    assert "first build" in text
    assert "114 MB" in text
    assert 'name="revisions-0-number"' not in text
    values = {
        "revisions-TOTAL_FORMS": "1",
        "revisions-INITIAL_FORMS": "1",
        "revisions-0-id": str(revision.pk),
        "revisions-0-number": "9",
        "revisions-0-DELETE": "on",
    }
    save(admin_client, "python", **values)
    revision.refresh_from_db()
    assert revision.number == 1


def test_a_page_tells_why_nothing_is_prestarted(admin_client: Client) -> None:
    Environment.objects.filter(name="python").update(prestart="python", preload="x")
    revision = record_image(Environment.objects.get(name="python"), image())
    assert "not tried yet" in admin_client.get(page("python")).content.decode()
    record_prestart(revision, Primed(problem="preload: <x> can't be imported"))
    shown = admin_client.get(page("python")).content.decode()
    problem = "no: preload: &lt;x&gt; can&#x27;t be imported"
    assert shown.count(problem) == 2, "of the environment, and of the revision"


def test_strangers_see_nothing(client: Client) -> None:
    response = client.get(reverse(LIST))
    assert response.status_code == 302
    assert "login" in response["Location"]


def test_what_a_smoke_test_must_print_is_kept_exactly(admin_client: Client) -> None:
    """Its output ends with a line end, which a form must not take away; browsers send CR LF."""
    Environment.objects.filter(name="node").update(smoke_program="a\nb\n", smoke_stdout="2\n")
    sent = {"smoke_program": "a\r\nb\r\n", "smoke_stdout": "2\r\n"}
    assert save(admin_client, "node", **sent) == ""
    assert not AuditEntry.objects.filter(details__has_key="fields").exists()
    assert save(admin_client, "node", **sent | {"smoke_stdout": " \r\n3\r\n"}) == ""
    node = Environment.objects.get(name="node")
    assert (node.smoke_program, node.smoke_stdout) == ("a\nb\n", " \n3\n")


def test_whoever_changes_an_environment_is_in_the_audit_log(admin_client: Client) -> None:
    record_image(Environment.objects.get(name="node"), image())
    chosen = {"_selected_action": [Environment.objects.get(name="node").pk]}
    for action in ("disable", "enable", "choose_as_default"):
        admin_client.post(reverse(LIST), {"action": action, **chosen})
    assert save(admin_client, "node", description="Changed.") == ""
    entries = AuditEntry.objects.order_by("pk")
    assert {(each.action, each.target_name, each.actor_name) for each in entries} == {
        ("environment.change", "node", "admin")
    }
    assert [each.details for each in entries] == [
        {"enabled": False, "changes": {"enabled": [True, False]}},
        {"enabled": True, "changes": {"enabled": [False, True]}},
        {"is_default": True, "changes": {"default": ["python", "node"]}},
        {
            "fields": ["Description"],
            "changes": {"description": [NODE.description, "Changed."]},
        },
    ]


def test_the_export_is_what_seeding_takes_back(admin_client: Client) -> None:
    answer = admin_client.get(reverse("admin:environments_app_environment_export"))
    assert answer.content.decode() == environments_yaml()
    assert 'filename="environments.yaml"' in answer.headers["Content-Disposition"]


def test_a_new_environment_is_enabled_once_it_has_an_image(admin_client: Client) -> None:
    url = reverse("admin:environments_app_environment_add")
    assert 'name="enabled"' not in admin_client.get(url).content.decode()
    values = form_values(admin_client, url) | {
        "name": "go",
        "image": "go",
        "default_filename": "main.go",
        "file_extension": ".go",
        "run_command": "go run {file_path}",
        "enabled": "on",
    }
    said = admin_client.post(url, values, follow=True).content.decode()
    assert "go has no image yet: build it under Builds and revisions, then enable it." in said
    assert not Environment.objects.get(name="go").enabled
    assert check_health().checks["environments"].startswith("not built yet: node, python. ")
    assert "no image yet" in save(admin_client, "go", enabled="on")
    record_image(Environment.objects.get(name="go"), image())
    assert save(admin_client, "go", enabled="on") == ""
    assert Environment.objects.get(name="go").enabled


def test_a_runtime_that_no_node_has_is_refused(admin_client: Client, this: Node) -> None:
    Node.objects.update(runtimes=["runc", "runsc"])
    refused = save(admin_client, "node", runtime="kata")
    assert "'kata' can't be used: no node's Docker Engine has it; they have runc, runsc." in refused
    assert save(admin_client, "node", runtime="runsc") == ""
    Node.objects.update(runtimes=["runc"])
    assert save(admin_client, "node", description="Its runtime stays as it is.") == ""
    Node.objects.all().delete()
    assert save(admin_client, "node", runtime="kata") == ""  # the first node is still to come


@pytest.mark.parametrize("command", ["python", "python -c 1", "sh -c 'echo ${HOME}'"])
def test_a_command_that_names_no_file_is_refused(admin_client: Client, command: str) -> None:
    refused = save(admin_client, "node", run_command=command, compile_command="")
    assert "it doesn't name the program's file; write {file_path} where it belongs" in refused
    compiled = {"compile_command": "javac {filename}", "run_command": "java Main"}
    assert save(admin_client, "node", **compiled) == ""
