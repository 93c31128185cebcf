"""The results of isolation checks, and queueing new ones."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from environments_app.models import Environment, EnvironmentRevision
from sessions_app.models import IsolationCheck, Node
from sessions_app.services.runtimes import choosable

DEFAULT_RUNTIME = "runc"
"""What the Docker Engine uses where an environment names none."""

OVERDUE_AFTER = 2
"""Intervals of ISOLATION_CHECK_HOURS without a check."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The last isolation check of an environment in one runtime on one node."""

    node: Node
    environment: Environment
    runtime: str
    last: IsolationCheck | None
    """The last complete check; None: there was none yet."""
    overdue: bool

    @property
    def failed(self) -> bool:
        return self.last is not None and not self.last.ok and not self.last.host_was_busy

    @property
    def host_was_busy(self) -> bool:
        return self.last is not None and self.last.host_was_busy


def runtimes_of(environment: Environment, node: Node) -> list[str]:
    """The runtimes to check there: the environment's own, and for the default environment also
    those that sessions may choose. Checking them takes minutes, and the image makes no difference.
    """
    own, *others = obtainable(environment, node)
    return [own, *others] if environment.is_default else [own]


def obtainable(environment: Environment, node: Node) -> list[str]:
    """The runtimes that its sessions may get there, the environment's own first."""
    own = environment.runtime or next(iter(node.runtimes), DEFAULT_RUNTIME)
    return list(dict.fromkeys([own, *choosable(environment, [node])]))


def queue_check(environment: Environment, runtime: str, node: Node) -> bool:
    """Have the node check it. False: the check is queued already."""
    _, created = IsolationCheck.objects.queued().get_or_create(
        node=node, environment=environment, runtime=runtime
    )
    return created


def built_on(node: Node) -> list[Environment]:
    """Enabled environments that have an image there."""
    built = Environment.objects.enabled().filter(revisions__node=node.name)
    return list(built.distinct().order_by("name"))


def current_checks() -> list[IsolationCheck]:
    """The last complete ones of all that a session can get now, on nodes that are alive."""
    current = IsolationCheck.objects.current().filter(node__in=Node.objects.alive())
    return [
        check
        for check in current.select_related("environment", "node")
        if check.runtime in obtainable(check.environment, check.node)
    ]


def standings() -> list[Standing]:
    """Of all nodes that are alive, the worst first."""
    current = IsolationCheck.objects.current().select_related("environment", "node")
    last = {(check.node_id, check.environment_id, check.runtime): check for check in current}
    built = set(
        EnvironmentRevision.objects.order_by().values_list("node", "environment").distinct()
    )
    environments = list(Environment.objects.enabled().order_by("name"))
    found = [
        _standing(node, environment, runtime, last.get((node.pk, environment.pk, runtime)))
        for node in Node.objects.alive().order_by("name")
        for environment in environments
        if (node.name, environment.pk) in built
        for runtime in runtimes_of(environment, node)
    ]
    return sorted(
        found, key=lambda each: (not each.failed, not each.host_was_busy, not each.overdue)
    )


def _standing(
    node: Node, environment: Environment, runtime: str, last: IsolationCheck | None
) -> Standing:
    newest = last.finished_at if last else node.started_at
    longest = timedelta(hours=settings.CODE_EXECUTOR["ISOLATION_CHECK_HOURS"] * OVERDUE_AFTER)
    late = newest is not None and newest < timezone.now() - longest
    return Standing(
        node=node,
        environment=environment,
        runtime=runtime,
        last=last,
        overdue=late and bool(longest),
    )
