"""Environments changed in the console: built on each node, tested, promoted, and taken back."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from codeexec.audit.actors import command_actor
from codeexec.audit.models import AuditEntry
from codeexec.sandbox.types import Primed
from environments_app.models import Environment, EnvironmentBuild, NodeBuild
from environments_app.services import record_definition, record_image
from sessions_app.models import Node, Sandbox
from sessions_app.node import upkeep
from sessions_app.node.image_builds import remove_old_images, start_queued_build
from sessions_app.node.sandboxes import reserve_warm_sandbox, start_sandbox
from sessions_app.node.tasks import build_image, start_session
from sessions_app.services.builds import (
    BuildRefused,
    cancel_build,
    dockerfile_of,
    obstacles,
    promote,
    repeat_build,
    request_build,
    roll_back,
)
from sessions_app.services.sessions import open_session
from tests.support.fake_driver import FakeDriver
from tests.support.sandboxes import configured_image

pytestmark = pytest.mark.django_db
BY = command_actor("tests")
TEXT = "FROM debian\nRUN echo another\n"
S = NodeBuild.Status
CONFIRMED = {"confirmed": "yes"}


@pytest.fixture
def python(python: Environment, driver: FakeDriver) -> Environment:
    """As it is once its image was looked at: with a revision that one can go back to."""
    python.revisions.all().delete()
    record_image(python, driver.inspect_image(python.image_reference))
    return python


def built(environment: Environment, text: str = TEXT) -> EnvironmentBuild:
    build = request_build(environment, text, by=BY)
    for each in build.nodes.all():
        build_image(str(each.pk))
    return build


def node_build(build: EnvironmentBuild) -> NodeBuild:
    return build.nodes.get()


def test_a_candidate_is_built_and_tested_and_no_session_gets_it(
    python: Environment, this: Node
) -> None:
    made = node_build(built(python))
    assert (made.status, made.node, made.reason) == (S.PASSED, this.name, "")
    log = "".join(made.output.values_list("text", flat=True))
    assert "RUN echo another\n" in log
    assert "Smoke test\n" in log
    assert log.endswith("Smoke test passed\npassed\n")
    python.refresh_from_db()
    assert python.image_reference == configured_image("python")
    assert python.current_revision.number == 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("primed", "line"),
    [
        (Primed(memory_bytes=7_300_000), "Programs are pre-started, which takes 7 MB.\n"),
        (
            Primed(problem="preload: x can't be imported"),
            "Warning: programs are not pre-started, so they begin later: preload: x can't be "
            "imported.\n",
        ),
    ],
)
def test_its_smoke_test_shows_whether_programs_are_prestarted(
    python: Environment, this: Node, driver: FakeDriver, primed: Primed, line: str
) -> None:
    driver.primed = primed
    made = node_build(built(python))
    assert made.status == S.PASSED
    assert line in "".join(made.output.values_list("text", flat=True))


def test_promoted_it_is_a_revision_and_waiting_sandboxes_give_way(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    Environment.objects.filter(pk=python.pk).update(warm_pool_size=1)
    warm = reserve_warm_sandbox(this)
    assert warm is not None
    start_sandbox(warm)
    build = built(python)
    promote(build, by=BY)
    assert not Sandbox.objects.exists()
    python.refresh_from_db()
    revision = python.current_revision
    assert revision is not None
    assert (revision.number, revision.image_id) == (2, node_build(build).image_id)
    assert dockerfile_of(python) == TEXT
    warm = reserve_warm_sandbox(this)
    assert warm is not None
    assert start_sandbox(warm) == revision
    assert driver.started[-1].image == python.image_reference


def test_a_roll_back_takes_image_commands_and_limits_back(python: Environment, this: Node) -> None:
    first = python.current_revision
    assert first is not None
    Environment.objects.filter(pk=python.pk).update(pids=77, run_command="python -O {file_path}")
    record_definition(python)
    promote(built(python), by=BY)
    roll_back(first, by=BY)
    python.refresh_from_db()
    latest = python.current_revision
    assert latest is not None
    assert (latest.number, latest.image_id) == (4, first.image_id)
    assert (python.pids, python.run_command) == (None, "python {file_path}")
    assert latest.definition == first.definition


def test_a_roll_back_to_an_image_that_was_built_anew_is_refused(
    python: Environment, this: Node, driver: FakeDriver, tmp_path: Path
) -> None:
    first = python.current_revision
    assert first is not None
    (tmp_path / "Dockerfile").write_text(TEXT)
    record_image(python, driver.build_image(tmp_path, python.image_reference))
    with pytest.raises(BuildRefused, match="no longer there"):
        roll_back(first, by=BY)


def test_what_fails_its_smoke_test_is_promoted_only_for_a_reason(
    python: Environment, this: Node
) -> None:
    Environment.objects.filter(pk=python.pk).update(smoke_stdout="something else")
    build = built(python)
    made = node_build(build)
    assert (made.status, "something else" in made.reason) == (S.FAILED, True)
    with pytest.raises(BuildRefused, match="instead of exit code 0"):
        promote(build, by=BY)
    promote(build, by=BY, reason="the test is wrong")
    entry = AuditEntry.objects.get(action="environment.promote")
    assert entry.details["forced"] == "the test is wrong"


def test_an_environment_without_a_smoke_test_passes_none(python: Environment, this: Node) -> None:
    Environment.objects.filter(pk=python.pk).update(smoke_program="")
    assert "no smoke test" in node_build(built(python)).reason


def test_it_must_pass_on_every_node_that_is_up(
    python: Environment, this: Node, other: Node
) -> None:
    build = request_build(python, TEXT, by=BY)
    build_image(str(build.nodes.get(node=this.name).pk))
    assert obstacles(build) == ["other: queued"]


def test_a_node_that_was_away_builds_what_was_promoted(
    python: Environment, this: Node, other: Node
) -> None:
    build = EnvironmentBuild.objects.create(environment=python, dockerfile=TEXT)
    NodeBuild.objects.create(
        build=build,
        node=other.name,
        status=S.PASSED,
        image_id="sha256:1",
        finished_at=timezone.now(),
    )
    Node.objects.filter(pk=this.pk).update(heartbeat_at=timezone.now() - timedelta(hours=1))
    promote(build, by=BY)
    upkeep.queue_promoted(this)
    made = build.nodes.get(node=this.name)
    build_image(str(made.pk))
    upkeep.queue_promoted(this)
    made.refresh_from_db()
    latest = python.revisions.filter(node=this.name).order_by("-number").first()
    assert latest is not None
    assert (latest.build_id, latest.image_id) == (build.pk, made.image_id)


def test_a_session_waits_where_the_promoted_image_is_not_there_yet(
    python: Environment, this: Node
) -> None:
    build = built(python)
    promote(build, by=BY)
    python.refresh_from_db()
    assert Node.objects.with_room().with_image_of(python).get() == this
    NodeBuild.objects.update(image_removed_at=timezone.now())
    opened = open_session(environment_name="python")
    start_session(str(opened.pk))
    opened.refresh_from_db()
    assert (opened.status, opened.node) == ("pending", None)
    NodeBuild.objects.update(image_removed_at=None)
    start_session(str(opened.pk))
    opened.refresh_from_db()
    assert (opened.status, opened.node) == ("ready", this)


def test_a_revision_of_an_earlier_version_can_be_gone_back_to(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    python.revisions.update(columns=None)
    first = record_image(python, driver.inspect_image(python.image_reference))
    promote(built(python), by=BY)
    roll_back(first, by=BY)
    python.refresh_from_db()
    assert (first.number, python.build_id, python.revisions.count()) == (1, None, 3)


@pytest.mark.parametrize("text", ["", "RUN true", "FROM a\0", "FROM a\n" + "#" * 70_000])
def test_what_no_engine_would_build_is_refused(python: Environment, this: Node, text: str) -> None:
    with pytest.raises(BuildRefused):
        request_build(python, text, by=BY)
    assert not EnvironmentBuild.objects.exists()


def test_a_build_is_cancelled_and_repeated(python: Environment, this: Node) -> None:
    build = request_build(python, TEXT, by=BY)
    assert node_build(build).start()
    assert cancel_build(build, by=BY)
    assert not node_build(build).beat()
    node_build(build).finish(S.CANCELLED)
    assert repeat_build(build, by=BY)
    build_image(str(node_build(build).pk))
    assert node_build(build).status == S.PASSED


def test_a_build_whose_process_is_gone_has_failed(python: Environment, this: Node) -> None:
    build = request_build(python, TEXT, by=BY)
    assert node_build(build).start()
    NodeBuild.objects.update(beat_at=timezone.now() - timedelta(minutes=1))
    start_queued_build(this)
    assert (node_build(build).status, "ended during it" in node_build(build).reason) == (
        S.FAILED,
        True,
    )


def test_images_that_nobody_goes_back_to_are_removed(
    python: Environment, this: Node, driver: FakeDriver
) -> None:
    oldest = built(python)
    for _ in range(5):
        built(python)
    remove_old_images(this)
    assert node_build(oldest).image_removed_at is not None
    assert NodeBuild.objects.with_image().count() == 5


# ---- in the console


def overview(environment: Environment) -> str:
    return reverse("admin:environments_app_environment_builds", args=[environment.pk])


def test_an_operator_builds_promotes_and_rolls_back(
    admin_client: Client, python: Environment, this: Node
) -> None:
    answer = admin_client.post(overview(python), {"step": "build", "dockerfile": TEXT})
    build = EnvironmentBuild.objects.get()
    build_image(str(node_build(build).pk))
    page = admin_client.get(answer["Location"]).content.decode()
    assert "RUN echo another" in page
    assert "Smoke test passed" in page
    admin_client.post(answer["Location"], {"step": "promote"} | CONFIRMED)
    assert Environment.objects.get(pk=python.pk).build_id == build.pk
    admin_client.post(overview(python), {"step": "roll_back", "revision": "1"} | CONFIRMED)
    assert Environment.objects.get(pk=python.pk).build_id is None
    assert python.revisions.count() == 3
    actions = AuditEntry.objects.order_by("pk").values_list("action", flat=True)
    assert list(actions) == ["environment.build", "environment.promote", "environment.roll_back"]


@pytest.mark.parametrize(
    ("step", "needed"),
    [
        ({"step": "build", "dockerfile": TEXT}, {"build_environment", "edit_dockerfile"}),
        ({"step": "roll_back", "revision": "1"} | CONFIRMED, {"promote_environment"}),
        ({"step": "promote"} | CONFIRMED, {"promote_environment"}),
        ({"step": "cancel"}, {"build_environment"}),
        ({"step": "repeat"}, {"build_environment"}),
    ],
)
def test_each_step_asks_for_its_own_permission(
    step: dict[str, str], needed: set[str], python: Environment, this: Node, client: Client
) -> None:
    build = built(python)
    address = reverse("admin:environments_app_build", args=[python.pk, build.pk])
    if step["step"] in ("build", "roll_back"):
        address = overview(python)
    everything = Permission.objects.filter(content_type__app_label="environments_app")
    for lacking in needed:
        user = User.objects.create_user(f"lacks {lacking}", is_staff=True)
        user.user_permissions.set(everything.exclude(codename=lacking))
        client.force_login(user)
        assert client.post(address, step).status_code == 403
    user = User.objects.create_user("has them", is_staff=True)
    user.user_permissions.set(everything.filter(codename__in=[*needed, "view_environment"]))
    client.force_login(user)
    assert client.post(address, step).status_code == 302


@pytest.mark.parametrize("step", ["promote", "roll_back"])
def test_what_sessions_get_is_changed_after_a_question(
    step: str, admin_client: Client, python: Environment, this: Node
) -> None:
    promoted = built(python)
    promote(promoted, by=BY)
    build = built(python, TEXT + "# again\n")
    address = overview(python)
    if step == "promote":
        address = reverse("admin:environments_app_build", args=[python.pk, build.pk])
    before = list(python.revisions.values_list("pk", flat=True))
    asked = admin_client.post(address, {"step": step, "revision": "1", "reason": "it <b>must</b>"})
    text = asked.content.decode()
    assert asked.status_code == 200
    assert ("Promote " if step == "promote" else "back to revision 1?") in text
    assert list(python.revisions.values_list("pk", flat=True)) == before
    kept = dict(
        re.findall(r'<input type="hidden" name="(step|revision|reason)" value="([^"]*)"', text)
    )
    assert kept == {"step": step, "revision": "1", "reason": "it &lt;b&gt;must&lt;/b&gt;"}
    assert admin_client.post(address, kept | CONFIRMED).status_code == 302
    assert python.revisions.count() == len(before) + 1


def test_each_revision_says_what_made_it(python: Environment, this: Node) -> None:
    first, build = python.current_revision, built(python)
    assert first is not None
    promote(build, by=BY)
    roll_back(first, by=BY)
    promoted, rolled_back = python.revisions.filter(number__gt=1).order_by("number")
    assert promoted.changes()[0] == f"build {build.pk} promoted"
    assert rolled_back.changes()[0] == "rolled back to revision 1"
    assert "image built anew" not in [*promoted.changes(), *rolled_back.changes()]


def test_a_text_that_no_engine_would_build_stays_in_the_editor(
    admin_client: Client, python: Environment, this: Node
) -> None:
    typed = "RUN echo hours of work <&>\r\n"
    answer = admin_client.post(overview(python), {"step": "build", "dockerfile": typed})
    text = answer.content.decode()
    assert answer.status_code == 200
    assert "It has no FROM" in text
    assert "RUN echo hours of work &lt;&amp;&gt;\n</textarea>" in text
    assert not EnvironmentBuild.objects.exists()


def test_the_text_of_a_build_that_failed_is_gone_on_with(
    admin_client: Client, python: Environment, this: Node, driver: FakeDriver
) -> None:
    build = request_build(python, TEXT + "RUN false # typed\n", by=BY)
    node_build(build).finish(S.FAILED, "it failed")
    text = admin_client.get(overview(python)).content.decode()
    assert "RUN false # typed" in text
    assert f"The text of build {build.pk}, which is not promoted." in text
    promoted = admin_client.get(f"{overview(python)}?promoted").content.decode()
    assert "RUN false # typed" not in promoted
    promote(built(python), by=BY)
    assert "RUN false # typed" not in admin_client.get(overview(python)).content.decode()
