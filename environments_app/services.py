"""What the rest of the service asks of environments."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.db import transaction

from codeexec.errors import UnknownEnvironment
from codeexec.sandbox.types import ImageInfo, SandboxSpec
from environments_app.models import Environment, EnvironmentRevision


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
    missing = "There is no default environment" if name is None else f"There is no '{name}'"
    there = f"the environments are: {', '.join(known)}" if known else "no environment is enabled"
    return UnknownEnvironment(f"{missing}; {there}.", environments=known)


def sandbox_spec(
    environment: Environment,
    *,
    sandbox_id: UUID | str,
    node: str,
    max_idle_seconds: int,
    runtime: str = "",
) -> SandboxSpec:
    """What the driver needs to start a sandbox of this environment.

    `runtime` takes the place of the environment's own.
    """
    return SandboxSpec(
        sandbox_id=str(sandbox_id),
        node=node,
        environment=environment.name,
        image=environment.image_reference,
        user=environment.executor_user,
        workspace_dir=environment.workspace_dir,
        limits=environment.limits().for_sandbox(),
        runtime=runtime or environment.runtime,
        network=environment.network_enabled,
        no_new_privileges=settings.CODE_EXECUTOR["NO_NEW_PRIVILEGES"],
        max_idle_seconds=max_idle_seconds,
        labels=settings.CODE_EXECUTOR["CONTAINER_LABELS"],
    )


@transaction.atomic
def make_default(environment: Environment) -> None:
    """Let clients that name no environment mean this one from now on, which is enabled."""
    Environment.objects.exclude(pk=environment.pk).default().update(is_default=False)
    Environment.objects.filter(pk=environment.pk).update(is_default=True, enabled=True)


@transaction.atomic
def record_image(environment: Environment, image: ImageInfo) -> EnvironmentRevision:
    """The environment's current revision, a new one where the image or the definition changed."""
    locked = Environment.objects.select_for_update().get(pk=environment.pk)
    current = locked.current_revision
    definition = locked.definition()
    if current and (current.image_id, current.definition) == (image.image_id, definition):
        return current
    return EnvironmentRevision.objects.create(
        environment=locked,
        number=current.number + 1 if current else 1,
        image_id=image.image_id,
        size_bytes=image.size_bytes,
        definition=definition,
    )


@transaction.atomic
def record_definition(environment: Environment) -> EnvironmentRevision | None:
    """A new revision where commands or limits changed under the same image; None without one."""
    locked = Environment.objects.select_for_update().get(pk=environment.pk)
    current = locked.current_revision
    if current is None or current.definition == locked.definition():
        return current
    return EnvironmentRevision.objects.create(
        environment=locked,
        number=current.number + 1,
        image_id=current.image_id,
        size_bytes=current.size_bytes,
        definition=locked.definition(),
    )
