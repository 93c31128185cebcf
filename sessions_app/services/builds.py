"""Builds of environments: requesting, promoting and rolling back.

A build is made on every node that is up, each with its own Docker Engine, under a name that no
session uses. Promoting it is one change of the environment's row: all nodes follow at once.
"""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.errors import ServiceError
from environments_app import validators
from environments_app.models import Environment, EnvironmentBuild, EnvironmentRevision, NodeBuild
from environments_app.services import add_revision
from sessions_app.models import Node, Sandbox
from sessions_app.services.warm_sandboxes import retire_warm_sandbox


class BuildRefused(ServiceError):
    """A build, a promotion or a roll back is refused; the text explains why."""

    code = "build_refused"
    http_status = 409


def dockerfile_of(environment: Environment) -> str:
    """The Dockerfile of its image: the promoted text, or that of its folder. Empty: neither."""
    if environment.build is not None:
        return environment.build.dockerfile
    path: Path = settings.CODE_EXECUTOR["ENVIRONMENTS_DIR"] / environment.name / "Dockerfile"
    return path.read_text() if path.is_file() else ""


@transaction.atomic
def request_build(environment: Environment, dockerfile: str, *, by: Actor) -> EnvironmentBuild:
    """Have every usable node build the image. Raises BuildRefused."""
    text = dockerfile.replace("\r\n", "\n")
    try:
        validators.dockerfile(text)
    except ValidationError as error:
        raise BuildRefused(" ".join(error.messages)) from error
    nodes = list(Node.objects.usable())
    if not nodes:
        raise BuildRefused(
            "No worker node is up to build it; start one with `manage.py run_worker`."
        )
    build = EnvironmentBuild.objects.create(environment=environment, dockerfile=text)
    NodeBuild.objects.bulk_create(NodeBuild(build=build, node=node.name) for node in nodes)
    changed = text != dockerfile_of(environment)
    record(by, "environment.build", environment, build=build.pk, dockerfile_changed=changed)
    return build


@transaction.atomic
def cancel_build(build: EnvironmentBuild, *, by: Actor) -> bool:
    """Queued builds end at once, running ones within a second. False: all had ended."""
    now = timezone.now()
    queued = build.nodes.all().queued().update(status=NodeBuild.Status.CANCELLED, finished_at=now)
    running = build.nodes.all().running().update(cancel_requested_at=now)
    if queued + running:
        record(by, "environment.cancel_build", build.environment, build=build.pk)
    return bool(queued + running)


@transaction.atomic
def repeat_build(build: EnvironmentBuild, *, by: Actor) -> bool:
    """Build again on the nodes where it failed or was cancelled. False: there is none."""
    again = [each.node for each in build.nodes.all() if each.repeat()]
    if again:
        record(by, "environment.build", build.environment, build=build.pk, again_on=again)
    return bool(again)


def obstacles(build: EnvironmentBuild) -> list[str]:
    """Why a build should not be promoted, node by node. Empty: it passed on every active node."""
    found = {each.node: each for each in build.nodes.all()}
    reasons = []
    for name in Node.objects.active().order_by("name").values_list("name", flat=True):
        made = found.get(name)
        if made is None:
            reasons.append(f"{name}: not built there")
        elif made.status != NodeBuild.Status.PASSED:
            reasons.append(f"{name}: {made.get_status_display()} {made.reason}".rstrip())
    return reasons


@transaction.atomic
def promote(build: EnvironmentBuild, *, by: Actor, reason: str = "") -> None:
    """Sessions get its image from now on; those that are open keep theirs. Raises BuildRefused.

    `reason`: why it is promoted in spite of obstacles, for the audit log. A build without an image
    can't be promoted.
    """
    environment = Environment.objects.select_for_update().get(pk=build.environment_id)
    against = obstacles(build)
    if against and not reason.strip():
        raise BuildRefused(f"The build can't be promoted without a reason: {'; '.join(against)}.")
    images = list(build.nodes.all().with_image())
    if not images:
        raise BuildRefused("The build can't be promoted: no node has its image.")
    environment.build = build
    made = [(each.node, each.image_id, each.size_bytes) for each in images]
    _put(environment, made, cause=f"build {build.pk} promoted")
    record(by, "environment.promote", environment, build=build.pk, forced=reason, despite=against)


@transaction.atomic
def roll_back(revision: EnvironmentRevision, *, by: Actor) -> None:
    """Sessions get the image, the commands and the limits of an earlier revision, as a new one.
    Raises BuildRefused.
    """
    environment = Environment.objects.select_for_update().get(pk=revision.environment_id)
    problem = irreversible(revision)
    if problem:
        raise BuildRefused(problem)
    for name, value in (revision.columns or {}).items():
        setattr(environment, name, value)
    environment.build = revision.build
    _put(environment, _images(revision), cause=f"rolled back to revision {revision.number}")
    record(by, "environment.roll_back", environment, to=revision.number)


def irreversible(revision: EnvironmentRevision) -> str:
    """Why a revision can't be rolled back to. Empty: it can."""
    if revision.columns is None:
        return "Its definition was not stored: it was made by an earlier version of this service."
    ids = {image_id for node, image_id, _ in _images(revision) if node == revision.node}
    return "" if revision.image_id in ids else "Its image is no longer there."


def _images(revision: EnvironmentRevision) -> list[tuple[str, str, int]]:
    """Node, image id and size for each node that has the image of the revision's build; or, if it
    has no build, that has last built the environment's folder."""
    if revision.build is not None:
        rows = revision.build.nodes.all().with_image()
        return list(rows.values_list("node", "image_id", "size_bytes"))
    same = EnvironmentRevision.objects.filter(environment=revision.environment_id, build=None)
    return list(same.latest_of_nodes().values_list("node", "image_id", "size_bytes"))


def _put(environment: Environment, images: list[tuple[str, str, int]], *, cause: str) -> None:
    """Write the environment and the nodes' revisions, and retire their idle sandboxes."""
    names = [*environment.defining_columns(), "build", "updated_at"]
    environment.save(update_fields=names)
    for image in images:
        add_revision(environment, *image, cause=cause)
    for sandbox in Sandbox.objects.idle().filter(environment=environment):
        retire_warm_sandbox(sandbox)
