"""Environments for the rest of the service: finding, changing and recording them."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID, uuid4

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from codeexec.audit.actors import Actor
from codeexec.audit.record import record
from codeexec.errors import UnknownEnvironment
from codeexec.sandbox.driver import Driver
from codeexec.sandbox.errors import SandboxError
from codeexec.sandbox.types import ImageInfo, Prestart, PrestartKind, Primed, SandboxSpec
from environments_app.models import Environment, EnvironmentRevision
from environments_app.run_commands import build_commands
from environments_app.sandbox_users import spare_uid

logger = logging.getLogger(__name__)


def find_environment(name: str | None) -> Environment:
    """An enabled environment by name, or the default one. Raises UnknownEnvironment."""
    enabled = Environment.objects.enabled()
    chosen = enabled.default() if name is None else enabled.filter(name=name)
    environment = chosen.first()
    if environment is None:
        raise _unknown(name)
    return environment


def _unknown(name: str | None) -> UnknownEnvironment:
    known = list(Environment.objects.enabled().values_list("name", flat=True))
    missing = (
        "There is no default environment" if name is None else f"There is no environment {name!r}"
    )
    there = f"there are: {', '.join(known)}" if known else "no environment is enabled"
    return UnknownEnvironment(f"{missing}; {there}.", environments=known, field="environment")


def sandbox_spec(
    environment: Environment,
    *,
    sandbox_id: UUID | str,
    node: str,
    max_idle_seconds: int,
    image: str = "",
    image_id: str = "",
    runtime: str = "",
    uid: int | None = None,
    prestart_bytes: int | None = None,
    wait_until_primed: bool = False,
) -> SandboxSpec:
    """What the driver needs to start a sandbox of this environment.

    `image`: instead of the one that sessions get. `image_id`: its id, if it is known. `runtime`:
    instead of the environment's own. `uid`: the user of programs, if the sandbox has a row.
    `prestart_bytes`: of its revision, if it was measured. `wait_until_primed`: the start takes
    until a run can begin at once.
    """
    return SandboxSpec(
        sandbox_id=str(sandbox_id),
        node=node,
        environment=environment.name,
        image=image or environment.image_reference,
        image_id=image_id,
        user=environment.executor_user,
        uid=spare_uid() if uid is None else uid,
        workspace_dir=environment.workspace_dir,
        limits=environment.limits().for_sandbox(),
        runtime=runtime or environment.runtime,
        network=environment.network_enabled,
        no_new_privileges=settings.CODE_EXECUTOR["NO_NEW_PRIVILEGES"],
        max_idle_seconds=max_idle_seconds,
        labels=settings.CODE_EXECUTOR["CONTAINER_LABELS"],
        prestart=_prestart(environment, prestart_bytes or 0),
        wait_until_primed=wait_until_primed,
    )


_PRESTART_KINDS = {"python": PrestartKind.FORK, "node": PrestartKind.ONCE}


def _prestart(environment: Environment, memory_bytes: int) -> Prestart | None:
    """What a sandbox keeps ready: the program of a run that names no file of its own."""
    if not environment.prestart:
        return None
    return Prestart(
        kind=_PRESTART_KINDS[environment.prestart],
        argv=build_commands(environment, environment.default_filename).run,
        preload=environment.preloaded_modules,
        memory_bytes=memory_bytes,
    )


_MOST_PROBLEM = 300


def try_prestart(driver: Driver, environment: Environment, image: ImageInfo) -> str:
    """Start a sandbox of the environment's current revision once, unless its interpreter was
    measured already: so it is known before the first session. Returns the revision's state.
    """
    revision = record_image(environment, image)
    if environment.prestart and (revision.prestart_bytes is None or revision.prestart_problem):
        spec = sandbox_spec(
            environment,
            sandbox_id=uuid4(),
            node=f"build-{revision.node}",
            max_idle_seconds=_TRIED_SECONDS,
            image_id=image.image_id,
            wait_until_primed=True,
        )
        try:
            primed = driver.start(spec).primed
        except SandboxError as error:
            primed = Primed(problem=f"no sandbox could be started: {error}".rstrip("."))
        finally:
            driver.destroy(spec.sandbox_id)
        if primed is not None:
            record_prestart(revision, primed)
    return revision.prestart_state


_TRIED_SECONDS = 120
"""A sandbox that is tried ends itself after that, should this process be killed."""


def record_prestart(revision: EnvironmentRevision, primed: Primed) -> None:
    """Keep what its started interpreter takes, or why there is none, where that has changed. The
    log has a problem once.
    """
    before = (revision.prestart_bytes, revision.prestart_problem)
    known, measured = revision.prestart_bytes, primed.memory_bytes
    if not primed.problem and (known is None or abs(measured - known) > known // 10):
        revision.prestart_bytes = measured
    revision.prestart_problem = primed.problem[:_MOST_PROBLEM]
    if (revision.prestart_bytes, revision.prestart_problem) == before:
        return
    revision.save(update_fields=["prestart_bytes", "prestart_problem"])
    if primed.problem:
        logger.warning(
            "environment %s, revision %d: its programs are not pre-started, so they begin later: "
            "%s",
            revision.environment,
            revision.number,
            primed.problem,
        )


@transaction.atomic
def make_default(environment: Environment, *, by: Actor) -> None:
    """Enable this environment, and use it from now on for clients that name none."""
    before = Environment.objects.default().values_list("name", flat=True).first()
    Environment.objects.exclude(pk=environment.pk).default().update(is_default=False)
    Environment.objects.filter(pk=environment.pk).update(is_default=True, enabled=True)
    changes = {"default": [before, environment.name]}
    record(by, "environment.change", environment, is_default=True, changes=changes)


@transaction.atomic
def set_enabled(environments: QuerySet[Environment], enabled: bool, *, by: Actor) -> int:
    """Let sessions be opened in them, or no longer. Returns how many environments have changed."""
    chosen = Environment.objects.filter(pk__in=environments.values("pk"))
    changed = list(chosen.exclude(enabled=enabled).select_for_update())
    for environment in changed:
        environment.enabled = enabled
        environment.save(update_fields=["enabled", "updated_at"])
        changes = {"enabled": [not enabled, enabled]}
        record(by, "environment.change", environment, enabled=enabled, changes=changes)
    return len(changed)


@transaction.atomic
def record_image(environment: Environment, image: ImageInfo) -> EnvironmentRevision:
    """The environment's current revision on this node: a new one if the image or the definition has
    changed since the last one.
    """
    locked = Environment.objects.select_for_update().get(pk=environment.pk)
    node = settings.CODE_EXECUTOR["NODE_NAME"]
    revisions = locked.revisions.filter(node=node).order_by("-number")
    if image.reference != locked.image_reference:  # another was promoted meanwhile
        earlier = revisions.filter(image_id=image.image_id).first()
        if earlier is not None:
            return earlier
    current = revisions.first()
    definition = locked.definition()
    if current and (current.image_id, current.definition) == (image.image_id, definition):
        if current.columns is None:  # it was made before columns were kept
            current.columns = locked.defining_columns()
            current.save(update_fields=["columns"])
        return current
    return add_revision(locked, node, image.image_id, image.size_bytes)


@transaction.atomic
def record_definition(environment: Environment) -> EnvironmentRevision | None:
    """Make a new revision for each node where commands or limits have changed but the image has
    not. Returns the latest of all; None before the first build.
    """
    locked = Environment.objects.select_for_update().get(pk=environment.pk)
    definition = locked.definition()
    for latest in list(locked.revisions.latest_of_nodes()):
        if latest.definition != definition:
            add_revision(locked, latest.node, latest.image_id, latest.size_bytes)
    return locked.current_revision


def add_revision(
    environment: Environment, node: str, image_id: str, size_bytes: int, *, cause: str = ""
) -> EnvironmentRevision:
    """The environment's next revision. The caller has locked the environment's row."""
    current = environment.current_revision
    definition = environment.definition()
    return EnvironmentRevision.objects.create(
        environment=environment,
        number=current.number + 1 if current else 1,
        node=node,
        image_id=image_id,
        size_bytes=size_bytes,
        definition=definition,
        build_id=environment.build_id,
        columns=environment.defining_columns(),
        prestart_bytes=_prestart_bytes(environment, image_id, definition),
        cause=cause,
    )


_MEASURED_WITH = ("prestart", "preload", "run_command", "runtime")
"""What decides, besides the image, how much a started interpreter takes."""


def _prestart_bytes(
    environment: Environment, image_id: str, definition: dict[str, Any]
) -> int | None:
    """What an earlier revision with the same interpreter was measured with, so that the first
    sandboxes of a new one have it already.
    """
    same = {f"definition__{name}": definition[name] for name in _MEASURED_WITH}
    earlier = environment.revisions.filter(image_id=image_id, **same).exclude(prestart_bytes=None)
    found: int | None = earlier.order_by("-number").values_list("prestart_bytes", flat=True).first()
    return found
