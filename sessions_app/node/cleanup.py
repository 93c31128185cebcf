"""Cleanup: expired sessions are stopped, and containers without a row are removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta

from django.conf import settings
from django.utils import timezone
from django_q.models import Schedule

from codeexec.audit.actors import Actor
from codeexec.sandbox.types import SandboxInfo
from environments_app.current_driver import get_driver
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.services.sessions import expire_session, stop_session
from sessions_app.services.task_names import CLEAN_UP_TASK

YOUNG = timedelta(minutes=2)
"""A container this young may belong to a row that is being written."""


@dataclass(kw_only=True)
class Report:
    """What was removed, or would be removed."""

    sessions: list[str] = field(default_factory=list)
    containers: list[SandboxInfo] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.sessions or self.containers)

    def __str__(self) -> str:
        return f"{len(self.sessions)} sessions stopped, {len(self.containers)} containers removed"


def clean_up(*, everything: bool = False, dry_run: bool = False, by: Actor | None = None) -> Report:
    """Stop expired sessions and remove orphaned containers of this node.

    `everything`: all open sessions, and all sandboxes of this node, warm ones too. Containers of
    other deployments on the same Docker Engine are never touched. `by`: the actor that ends
    sessions that have not expired. Raises EngineUnavailable.
    """
    report = Report()
    sessions = Session.objects.open() if everything else Session.objects.expired()
    for session in sessions.order_by("created_at"):
        if not dry_run and everything:
            stop_session(session.pk, Session.StopReason.OPERATOR, by=by)
        if dry_run or everything or expire_session(session):
            report.sessions.append(str(session.pk))
    node = Node.objects.filter(name=settings.CODE_EXECUTOR["NODE_NAME"]).first()
    if node is not None:
        report.containers = _orphans(node, everything=everything)
        if not dry_run:
            for container in report.containers:
                get_driver().destroy(container.sandbox_id)
    if everything and not dry_run:
        _finish_stopping(node)
    return report


def _orphans(node: Node, *, everything: bool) -> list[SandboxInfo]:
    """Containers of this node that no row needs."""
    # The list comes first: a container that is being started has its row before it is listed.
    there = get_driver().list_sandboxes(node=str(node.pk))
    rows = Sandbox.objects.none() if everything else Sandbox.objects.filter(node=node)
    needed = {str(pk) for pk in rows.values_list("pk", flat=True)}
    newest = (timezone.now() - YOUNG).timestamp()
    return [
        container
        for container in there
        if container.sandbox_id not in needed
        and (everything or not container.running or container.created_at < newest)
    ]


def _finish_stopping(node: Node | None) -> None:
    """End runs and sessions here, since no worker may be left that does it."""
    for execution in Execution.objects.running().filter(session__status="stopping"):
        execution.cancel()
    for session in Session.objects.stopping().filter(node=node):
        session.mark_stopped()
    Sandbox.objects.filter(node=node).delete()


def schedule_clean_up() -> None:
    """The django-q2 schedule: every five minutes, on whichever node takes it."""
    Schedule.objects.update_or_create(
        name="cleanup_sessions",
        defaults={
            "func": CLEAN_UP_TASK,
            "schedule_type": Schedule.MINUTES,
            "minutes": 5,
            "repeats": -1,
        },
    )
