"""Which session's sandbox is started next."""

from __future__ import annotations

from collections import Counter

from codeexec.taskqueue.enqueue import SHARED_QUEUE, enqueue, node_queue
from sessions_app.models import Sandbox, Session
from sessions_app.services.task_names import START_TASK


def more_urgent(session: Session) -> Session | None:
    """The oldest pending session of a client with fewer running starts than this one's client has.
    So however many sessions of one client wait, another's first waits for none of them. None: there
    is none.
    """
    starting = Session.objects.in_status(Session.Status.CREATING)
    going_on: Counter[int | None] = Counter(starting.values_list("client", flat=True))
    own = going_on.pop(session.client_id, 0)
    if own == 0:
        return None
    pending = Session.objects.in_status(Session.Status.PENDING).order_by("created_at", "pk")
    oldest: dict[int | None, Session] = {}
    for each in pending.exclude(client=session.client_id).select_related("environment"):
        oldest.setdefault(each.client_id, each)
    urgent = [each for client, each in oldest.items() if going_on[client] < own]
    return min(urgent, key=lambda each: going_on[each.client_id], default=None)


def send_again(session: Session) -> None:
    """Another session was started instead: send its message to the end of its queue again."""
    replaced = Sandbox.objects.filter(pk=session.pk).select_related("node").first()
    queue = node_queue(replaced.node.name) if replaced else SHARED_QUEUE
    enqueue(START_TASK, str(session.pk), queue=queue)
