"""Recovery: the work of a process of this node, or of its whole cluster, that has died is given to
others at once. Its leases need not expire first, because it is known to have died.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from django.utils import timezone
from django_q.models import OrmQ
from django_q.signing import SignedPackage

from environments_app.models import NodeBuild
from sessions_app.models import Execution, Node, Sandbox, Session
from sessions_app.models.sandbox import SandboxQuerySet
from sessions_app.models.session import MAX_STARTS
from sessions_app.node.isolation_checks import requeue_interrupted_checks
from sessions_app.node.registration import this_node, worker_name
from sessions_app.services.execution_end import end_as_died
from sessions_app.services.sessions import fail_session, restart_session
from sessions_app.services.task_names import BUILD_TASK, CHECK_TASK
from sessions_app.services.warm_sandboxes import retire_warm_sandbox

logger = logging.getLogger(__name__)


def take_back_everything(node: Node) -> None:
    """Take back the work of the node's last cluster, of which no process is left."""
    for execution in Execution.objects.running().filter(session__node=node):
        end_as_died(execution)
    _start_again(Sandbox.objects.filter(node=node))
    requeue_interrupted_checks(node)
    for node_build in NodeBuild.objects.running().filter(node=node.name):
        node_build.requeue()


def take_back(process_id: int, message_id: int) -> None:
    """Take back the work of a task process of this cluster. `message_id`: its message, or 0 for
    none. Each message is given back once: one that kills its process again waits until its lock
    expires.
    """
    logger.warning("a task process died: another one does its task")
    _start_again(Sandbox.objects.filter(node=this_node(), starter=worker_name(process_id)))
    message = OrmQ.objects.filter(pk=message_id).first()
    if message is None or message_id in _given_back:
        return
    call = SignedPackage.loads(message.payload)
    prepare = _PREPARATIONS.get(call["func"])
    if prepare is not None:
        prepare(*call["args"])
    OrmQ.objects.filter(pk=message_id).update(lock=timezone.now())
    _given_back.add(message_id)


_given_back: set[int] = set()


def _start_again(sandboxes: SandboxQuerySet) -> None:
    """Replace warm sandboxes that were being started, and start those of sessions again."""
    for sandbox in sandboxes.filter(status=Sandbox.Status.WARMING):
        retire_warm_sandbox(sandbox)
    starting = sandboxes.filter(status=Sandbox.Status.IN_USE).values("pk")
    for session in Session.objects.in_status(Session.Status.CREATING).filter(pk__in=starting):
        if session.starts >= MAX_STARTS:
            fail_session(session, f"Its sandbox did not start in {session.starts} attempts.")
        else:
            restart_session(session)


def _build_again(node_build_id: str) -> None:
    for node_build in NodeBuild.objects.running().filter(pk=node_build_id):
        node_build.requeue()


_PREPARATIONS: dict[str, Callable[[str], None]] = {
    CHECK_TASK: lambda _check_id: requeue_interrupted_checks(this_node()),
    BUILD_TASK: _build_again,
}
"""By task: what must be done to the row so that the message has an effect again."""
